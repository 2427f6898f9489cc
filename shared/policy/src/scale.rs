//! Autoscaling: how many replicas a model's demand needs.
//!
//! The need follows Little's law (J. D. C. Little, "A Proof for the Queuing Formula L = λW", 1961): calls that arrive λ times a second
//! and take W seconds each keep λ·W executions busy, and each replica brings so many executions, of which a share is to be used. Where
//! calls wait or miss their deadlines nevertheless, there shall be twice as many, and for some time more than were too few.
//!
//! More replicas come at once, within the limits of Kubernetes' HorizontalPodAutoscaler: at most four more or twice as many within
//! [`STEP`]. Fewer come only as far as everything within the last [`STABILIZATION`] could have done with them, as its stabilization window
//! has it; Knative's panic mode is the same seen from the other side. A band between the two keeps a steady demand from going to and
//! fro. What is not known changes nothing.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// For so long, what was needed before is still kept.
pub const STABILIZATION: Duration = Duration::from_secs(60);
/// Over so long, growth is limited.
pub const STEP: Duration = Duration::from_secs(15);
/// A model that nobody has called for so long may give way to others. What is known of calls is up to two seconds old.
pub const IDLE: Duration = Duration::from_secs(3);
/// For so long it may be unknown when a model was called, as when a scheduler has just begun to lead, before it counts as a call.
const UNKNOWN: Duration = Duration::from_secs(10);
/// So long, a number that was too small is not tried again.
const TOO_FEW: Duration = Duration::from_secs(600);
/// The growth that [`STEP`] allows in any case; beyond, it is a doubling.
const STEP_REPLICAS: u32 = 4;
/// By how much less must be needed than would be for growth, so that noise around a boundary changes nothing.
const BAND: f64 = 0.9;
/// The share of calls that may miss their deadlines.
const MISSES: f64 = 0.01;
/// What is remembered of the past is told apart by so much.
const GRAIN: Duration = Duration::from_millis(500);

/// What an operator allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The fewest replicas; 0 lets the model go while nobody calls it.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// The share of a replica's time that calls shall take, above 0 and at most 1.
    pub utilization: f64,
    /// After so long without a call, a model whose `min` is 0 goes.
    pub idle_after: Duration,
}

/// What was measured of a version, over all of its replicas, lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Executions under way on average: Little's L.
    pub busy: f64,
    /// Executions that one replica runs at once.
    pub concurrency: f64,
    /// Seconds that an execution takes on average; 0 where that is not known.
    pub service: f64,
    /// Seconds that all but a hundredth of the calls waited at most.
    pub wait: f64,
    /// The share of calls that missed their deadlines.
    pub missed: f64,
}

/// What is known at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// The demand; `None` where it is not known.
    pub demand: Option<Demand>,
    /// Whether it is known when the model was called last. Where it is not, it may have been called just now, and keeps what it has.
    pub calls_known: bool,
    /// How far back the demand was measured.
    pub window: Duration,
    /// Workers that shall hold the model, or hold it.
    pub placed: u32,
    /// Replicas that serve.
    pub ready: u32,
}

/// Why there shall be so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing has asked for a change yet.
    Begun,
    /// A call waits for a replica.
    Woken,
    /// The calls take so many.
    Demand,
    /// Calls wait for longer than they take, or miss their deadlines.
    Late,
    /// Fewer were enough for a while.
    Surplus,
    /// Nobody has called it for long.
    Idle,
    /// It gave way to others, and nobody has called it since.
    Evicted,
    /// The operator's bounds say so.
    Bounds,
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Begun => "it has as many as it had when autoscaling began",
            Self::Woken => "a call waits for a replica",
            Self::Demand => "the calls keep so many replicas busy",
            Self::Late => "calls wait for longer than they take, or miss their deadlines",
            Self::Surplus => "fewer were enough for a while",
            Self::Idle => "nobody has called it for long",
            Self::Evicted => "it gave way to others, and nobody has called it since",
            Self::Bounds => "the bounds have changed",
        })
    }
}

/// How many replicas there shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The number.
    pub target: u32,
    /// Why it is not the one before; for one that stands, why it came.
    pub why: Why,
}

/// What is remembered of one model.
#[derive(Clone, Debug)]
pub struct Scaler {
    now: Decision,
    last_call: Instant,
    /// Since when it is not known whether it was called.
    unknown: Option<Instant>,
    /// A call has waited for a replica since the last decision.
    woken: bool,
    /// When there were too few last, and how many were more than that.
    late: Option<(Instant, u32)>,
    /// What each moment of the last [`STABILIZATION`] could not have done without, oldest first.
    needs: VecDeque<(Instant, u32)>,
    /// The target of each moment of the last [`STEP`], oldest first.
    targets: VecDeque<(Instant, u32)>,
}

impl Scaler {
    /// A model that has `target` replicas and was called last at `last_call`. What led to the target is taken to be needed still.
    pub fn new(target: u32, last_call: Instant, now: Instant) -> Self {
        Self {
            now: Decision { target, why: Why::Begun },
            last_call,
            unknown: None,
            woken: false,
            late: None,
            needs: VecDeque::from([(now, target)]),
            targets: VecDeque::from([(now, target)]),
        }
    }

    /// It was called at `at`.
    pub fn called(&mut self, at: Instant) {
        self.last_call = self.last_call.max(at);
    }

    /// A call waits for a replica.
    pub fn wake(&mut self, at: Instant) {
        self.called(at);
        self.woken = true;
    }

    /// How long nobody has called it.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_call)
    }

    /// What was decided last.
    pub const fn decision(&self) -> Decision {
        self.now
    }

    /// When it was called last, as far as that is known.
    pub const fn last_call(&self) -> Instant {
        self.last_call
    }

    /// How many replicas there shall be from now on.
    pub fn decide(&mut self, bounds: &Bounds, seen: &Seen, now: Instant) -> Decision {
        self.unknown = if seen.calls_known { None } else { Some(self.unknown.unwrap_or(now)) };
        // A model that sleeps goes on sleeping: a call would have woken it.
        let may_be_called = self.unknown.filter(|_| self.now.target > 0);
        if may_be_called.is_some_and(|since| now.saturating_duration_since(since) >= UNKNOWN) {
            self.called(now);
        }
        let woken = std::mem::take(&mut self.woken);
        let target = self.now.target;
        let floor = self.floor(bounds, seen, now);
        let (need, spare, why) = self.needs(bounds, seen, now);
        self.note((spare, target), now);
        let next = match floor {
            None => Decision { target: 0, why: if seen.placed == 0 { Why::Evicted } else { Why::Idle } },
            Some(floor) => {
                let lasting = self.needs.iter().map(|(_, need)| *need).max().unwrap_or(0);
                let up = need.max(floor).min(self.limit());
                let down = lasting.max(floor);
                let next = if up > target { up } else { target.min(down) };
                let grown = if woken && target == 0 { Why::Woken } else { why };
                Decision { target: next, why: if next > target { grown } else { Why::Surplus } }
            }
        };
        let bounded = next.target.clamp(bounds.min.min(bounds.max), bounds.max);
        let why = if bounded == next.target { next.why } else { Why::Bounds };
        if bounded != target {
            self.now = Decision { target: bounded, why };
        }
        self.now
    }

    /// The fewest that there must be; `None` where the model may go.
    fn floor(&self, bounds: &Bounds, seen: &Seen, now: Instant) -> Option<u32> {
        let unknown = !seen.calls_known && self.now.target > 0;
        if bounds.min > 0 || unknown {
            return Some(bounds.min.max(1));
        }
        let idle = self.idle(now);
        let given_way = seen.placed == 0 && idle >= IDLE;
        if idle >= bounds.idle_after || given_way { None } else { Some(1) }
    }

    /// What is needed now, what could not be done without, and why.
    fn needs(&mut self, bounds: &Bounds, seen: &Seen, now: Instant) -> (u32, u32, Why) {
        let target = self.now.target;
        let Some(demand) = seen.demand.filter(Demand::is_sound) else { return (target, target, Why::Demand) };
        let utilization = if bounds.utilization > 0.0 { bounds.utilization.min(1.0) } else { 1.0 };
        let replicas = |utilization: f64| ceil(demand.busy / (demand.concurrency.max(1.0) * utilization), bounds.max);
        let (need, spare) = (replicas(utilization), replicas(utilization * BAND));
        // What was measured before the last doubling tells nothing of what came of it, nor while replicas are still to come.
        let shown = self.late.is_none_or(|(at, _)| now.saturating_duration_since(at) >= seen.window);
        let settled = shown && seen.ready >= target;
        // Calls that wait although replicas have nothing to do wait for something else, such as a batch to fill.
        let used = need.saturating_mul(2) >= target;
        let late = demand.missed > MISSES || (demand.service > 0.0 && demand.wait > demand.service);
        if settled && used && late {
            self.late = Some((now, target.saturating_add(1)));
        }
        let too_few = self.late.filter(|(at, _)| now.saturating_duration_since(*at) < TOO_FEW);
        let spare = spare.max(too_few.map_or(0, |(_, enough)| enough));
        // How much is missing is not known: replicas do no more than they can, whatever comes.
        match self.late {
            Some((at, _)) if at == now => {
                let twice = need.max(target.saturating_mul(2));
                (twice, spare.max(twice), Why::Late)
            }
            _ => (need, spare, Why::Demand),
        }
    }

    /// The most that there may be: so many more than the fewest of the last [`STEP`].
    fn limit(&self) -> u32 {
        let base = self.targets.iter().map(|(_, target)| *target).min().unwrap_or(0);
        base.saturating_add(STEP_REPLICAS.max(base))
    }

    fn note(&mut self, (need, target): (u32, u32), now: Instant) {
        let keep = |kept: &mut VecDeque<(Instant, u32)>, entry: u32, pick: fn(u32, u32) -> u32, length: Duration| {
            match kept.back_mut() {
                // Looks that follow each other closely count as one, which bounds what is kept.
                Some((at, last)) if now.saturating_duration_since(*at) < GRAIN => *last = pick(*last, entry),
                _ => kept.push_back((now, entry)),
            }
            while kept.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= length) {
                kept.pop_front();
            }
        };
        keep(&mut self.needs, need, u32::max, STABILIZATION);
        keep(&mut self.targets, target, u32::min, STEP);
    }
}

impl Demand {
    /// Whether every figure is a number that can be: one that cannot makes all of them doubtful.
    fn is_sound(&self) -> bool {
        let all = [self.busy, self.concurrency, self.service, self.wait, self.missed];
        all.iter().all(|figure| figure.is_finite() && *figure >= 0.0)
    }
}

/// The next whole number, at most `most`. A trace above a whole number is that number.
fn ceil(replicas: f64, most: u32) -> u32 {
    // A cast of what is too large, or no number, saturates.
    ((replicas - 1e-9).ceil() as u32).min(most)
}
