//! One model with one executor in virtual time: what comes, what runs, and how many deadlines are met.
//!
//! The deciding code is the production code; only time, arrivals and the model are made up, from a seed.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_policy::Latency;
use weft_policy::batch::{self, Beside, Decision, Settings, Waiting};
use weft_policy::learn::Ahead;
use weft_types::{Deadline, SystemClock};

/// The most rows of one execution, in every scenario.
pub(crate) const MAX_ROWS: usize = 32;
/// An execution takes up to this share more or less than its curve says.
const NOISE: f64 = 0.1;
/// When executions become slow, where they do, and for how long.
const SLOW_FROM: Duration = Duration::from_secs(1);
const SLOW_FOR: Duration = Duration::from_millis(200);
/// Like the worker: so many times a full batch is looked at.
const DEPTH: usize = 8 * MAX_ROWS + 1;

/// How long a model takes for a number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    /// 10 ms and 1 ms a row.
    Linear,
    /// A classifier of a few kilobytes: 60 us and 4 us a row.
    Digits,
    /// A sentence encoder on a processor: 4 ms and 3 ms a row, so a batch saves little.
    Encoder,
    /// An accelerator that a batch does not fill: 8 ms whatever the rows, almost.
    Flat,
}

impl Curve {
    pub(crate) const ALL: [Self; 4] = [Self::Linear, Self::Digits, Self::Encoder, Self::Flat];

    pub(crate) fn seconds(self, rows: usize) -> f64 {
        let (fixed, row) = match self {
            Self::Linear => (10e-3, 1e-3),
            Self::Digits => (60e-6, 4e-6),
            Self::Encoder => (4e-3, 3e-3),
            Self::Flat => (8e-3, 10e-6),
        };
        fixed + row * rows as f64
    }

    /// The service time of a full batch: the unit of deadlines, and with [`MAX_ROWS`] the capacity.
    pub(crate) fn full(self) -> Duration {
        Duration::from_secs_f64(self.seconds(MAX_ROWS))
    }
}

/// An open-loop Poisson load of requests with one row each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) curve: Curve,
    /// Arrivals in proportion to the capacity at full batches.
    pub(crate) load: f64,
    /// The deadlines, in service times of a full batch after the arrival, in equal shares.
    pub(crate) deadlines: &'static [f64],
    pub(crate) requests: usize,
    pub(crate) seed: u64,
    pub(crate) trouble: Trouble,
}

/// What happens besides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    None,
    /// What begins in the 200 ms after the first second takes so many times as long, and is not stopped: a caller has the time.
    Slow(f64),
    /// So many requests come at once, before the first; what one row takes is known by then.
    Burst(usize),
}

impl Trouble {
    /// Until when it counts: only what comes later is judged.
    fn over(self, curve: Curve) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Slow(_) => SLOW_FROM + Duration::from_secs(1),
            Self::Burst(_) => curve.full() * 20,
        }
    }
}

/// What decides when which requests run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Batcher {
    /// The production policy, which learns the model's times while it runs; with `admits` behind the production admission.
    Learned { max_delay: Duration, admits: bool },
    /// Triton's dynamic batcher: in the order of arrival; a full batch, or a preferred size, or what waits once the first has
    /// waited for `delay`. What has waited for `timeout` is rejected.
    Fixed { delay: Duration, preferred: usize, timeout: Option<Duration> },
}

/// The share of requests whose deadline was met.
///
/// An execution is stopped at the last deadline of its batch, as the worker does.
pub(crate) fn met(scenario: &Scenario, batcher: Batcher) -> f64 {
    // Far enough from the clock's origin that instants before it exist.
    let start = SystemClock::now() + Duration::from_secs(3600);
    let arrivals = arrivals(scenario, start);
    let counts = |request: &Waiting| request.queued_at >= start + scenario.trouble.over(scenario.curve);
    let mut model = Model::new(scenario, start);
    let mut queue: Vec<Waiting> = Vec::new();
    let (mut now, mut next, mut met, mut free_at) = (start, 0, 0usize, start);
    loop {
        while let Some(request) = arrivals.get(next).filter(|request| request.queued_at <= now) {
            let place = match batcher {
                Batcher::Learned { .. } => queue.partition_point(|other| other.deadline <= request.deadline),
                Batcher::Fixed { .. } => queue.len(),
            };
            next += 1;
            let ahead = Ahead {
                rows: place,
                busy: free_at.saturating_duration_since(request.queued_at),
                executors: 1,
                max_batch_rows: MAX_ROWS,
                idle: queue.is_empty() && request.queued_at >= model.ended,
            };
            if !matches!(batcher, Batcher::Learned { admits: true, .. })
                || model.latency.admits(&ahead, 1, request.deadline, request.queued_at)
            {
                queue.insert(place, *request);
            }
        }
        let coming = arrivals.get(next).map(|request| request.queued_at);
        match batcher.decide(&queue, &model.latency, now) {
            Decision::Run(count) => {
                free_at = now + model.latency.expect(count, now).unwrap_or_default();
                let batch: Vec<Waiting> = queue.drain(..count).collect();
                now = model.run(&batch, now);
                let answered = batch.iter().filter(|request| model.is_whole && request.deadline.instant() >= now);
                met += answered.filter(|request| counts(request)).count();
            }
            Decision::GiveUp(indices) => indices.into_iter().rev().for_each(|index| {
                queue.remove(index);
            }),
            Decision::WaitUntil(until) => now = coming.map_or(until, |coming| coming.min(until)),
            Decision::Idle => match coming {
                Some(coming) => now = coming,
                None => return met as f64 / arrivals.iter().filter(|request| counts(request)).count() as f64,
            },
        }
    }
}

/// The model with what is learned of it.
struct Model {
    curve: Curve,
    latency: Latency,
    noise: StdRng,
    /// From when on executions are slow, and by how much.
    slow: Option<(Instant, f64)>,
    /// When the last execution ended.
    ended: Instant,
    /// Whether that one was not stopped.
    is_whole: bool,
}

impl Model {
    fn new(scenario: &Scenario, start: Instant) -> Self {
        let mut latency = Latency::default();
        if let Trouble::Burst(_) = scenario.trouble {
            latency.observe(1, Duration::from_secs_f64(scenario.curve.seconds(1)), start);
        }
        let slow = match scenario.trouble {
            Trouble::Slow(factor) => Some((start + SLOW_FROM, factor)),
            Trouble::None | Trouble::Burst(_) => None,
        };
        let noise = StdRng::seed_from_u64(!scenario.seed);
        Self { curve: scenario.curve, latency, noise, slow, ended: start, is_whole: true }
    }

    /// Executes a batch of single rows, and says when that has ended.
    fn run(&mut self, batch: &[Waiting], now: Instant) -> Instant {
        let slow =
            self.slow.filter(|(from, _)| (*from..*from + SLOW_FOR).contains(&now)).map_or(1.0, |(_, factor)| factor);
        let noise = 1.0 + NOISE * self.noise.random_range(-1.0..1.0);
        let whole = now + Duration::from_secs_f64(self.curve.seconds(batch.len()) * noise * slow);
        let last = batch.iter().map(|request| request.deadline.instant()).max().unwrap_or(whole);
        self.is_whole = whole <= last || slow > 1.0;
        self.ended = if self.is_whole { whole } else { last };
        let (took, rows) = (self.ended.saturating_duration_since(now), batch.len());
        match self.is_whole {
            true => self.latency.observe(rows, took, self.ended),
            false => self.latency.observe_stopped(rows, took, self.ended),
        }
        self.ended
    }
}

fn arrivals(scenario: &Scenario, start: Instant) -> Vec<Waiting> {
    let mut random = StdRng::seed_from_u64(scenario.seed);
    let full = scenario.curve.full();
    let rate = scenario.load * MAX_ROWS as f64 / full.as_secs_f64();
    let mut at = start;
    let mut arrive = |_| {
        at += Duration::from_secs_f64(-random.random_range(f64::MIN_POSITIVE..1.0).ln() / rate);
        let factor = scenario.deadlines[random.random_range(0..scenario.deadlines.len())];
        Waiting { rows: 1, band: 1, deadline: Deadline::after(at, full.mul_f64(factor)), queued_at: at }
    };
    let mut arrivals: Vec<Waiting> = (0..scenario.requests).map(&mut arrive).collect();
    if let Trouble::Burst(count) = scenario.trouble {
        let first = arrivals[0];
        arrivals.splice(..0, std::iter::repeat_n(first, count));
    }
    arrivals
}

impl Batcher {
    fn decide(&self, queue: &[Waiting], latency: &Latency, now: Instant) -> Decision {
        match self {
            Self::Learned { max_delay, .. } => {
                let settings =
                    Settings { max_batch_rows: MAX_ROWS, preferred: Vec::new(), max_queue_delay: *max_delay };
                batch::decide(
                    &settings,
                    queue.iter().take(DEPTH).copied(),
                    latency,
                    Beside { executors: 1, others: 0 },
                    now,
                )
            }
            Self::Fixed { delay, preferred, timeout } => {
                let Some(first) = queue.first() else { return Decision::Idle };
                let patience =
                    |request: &Waiting| timeout.map_or(request.deadline.instant(), |most| request.queued_at + most);
                if let Some(index) = queue.iter().take(MAX_ROWS).position(|request| patience(request) <= now) {
                    return Decision::GiveUp(vec![index]);
                }
                match queue.len() {
                    waiting if waiting >= MAX_ROWS => Decision::Run(MAX_ROWS),
                    waiting if waiting >= *preferred => Decision::Run(*preferred),
                    waiting if now >= first.queued_at + *delay => Decision::Run(waiting),
                    _ => Decision::WaitUntil(first.queued_at + *delay),
                }
            }
        }
    }

    /// What one would configure by hand: no delay, a small one, half a service time, and that with a preferred size. None gives up on
    /// a request before its deadline.
    pub(crate) fn fixed(curve: Curve) -> [Self; 4] {
        let half = curve.full() / 2;
        let delays =
            [(Duration::ZERO, MAX_ROWS), (Duration::from_millis(1), MAX_ROWS), (half, MAX_ROWS), (half, MAX_ROWS / 2)];
        delays.map(|(delay, preferred)| Self::Fixed { delay, preferred, timeout: None })
    }

    /// The production policy with one setting for everything: it may wait as long as the longest of the fixed delays.
    pub(crate) fn learned(curve: Curve, admits: bool) -> Self {
        Self::Learned { max_delay: curve.full() / 2, admits }
    }
}

/// The mean over `seeds`.
pub(crate) fn mean(scenario: &Scenario, batcher: Batcher, seeds: u64) -> f64 {
    (1..=seeds).map(|seed| met(&Scenario { seed, ..*scenario }, batcher)).sum::<f64>() / seeds as f64
}
