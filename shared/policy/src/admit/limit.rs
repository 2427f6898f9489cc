//! How many calls may be under way at once: the fewest with which the replicas answer as much as they can.
//!
//! Throughput rises with the calls under way until everything that can work does; beyond, they only wait for each other. Gradient and
//! Vegas limits look for that knee by latency, against the least that was ever seen; a replica that batches then looks congested as soon as it
//! batches, and the least drifts. So throughput itself is compared (Uber's Cinnamon guards its Vegas in the same way), and only while
//! calls wait for the limit: then the calls under way are as many as it says, and by Little's law throughput is their number over what a
//! call takes, which is exact over few calls, where counts of answers are not. The search brackets the knee and stays there, and looks
//! again after a while, and at once when throughput changes by itself.
//!
//! Replicas tell how long one more call would wait ([`Sample::wait`]). Where they are shared, more calls always bring one caller more
//! throughput, at the cost of the others: a wait that is most of a call's time ends the growth, and one beyond that brings the limit down.

use std::time::{Duration, Instant};

/// Per replica: one that runs, and one that is on its way.
const MIN: f64 = 2.0;
/// Per replica: more is not kept under way by anything that one process holds.
const MAX: f64 = 4_096.0;
/// Per replica, before anything is known. Too many wait at the replica, which orders and refuses them as well; too few leave it idle.
const START: f64 = 64.0;
/// What a higher limit must bring to be kept, and what of the peak a lower one may cost.
const GAIN: f64 = 1.07;
const KEEP: f64 = 0.95;
/// The knee is bracketed as closely as this.
const FINE: f64 = 1.06;
/// How far the search reaches up to see whether the knee has moved.
const REACH: f64 = 1.5;
/// A change of throughput at the same limit beyond these means that the replicas have changed.
const SAME: (f64, f64) = (0.8, 1.25);
/// As long as calls take no longer than this, in seconds, and succeed, it is not worth keeping them back.
const HARMLESS: f64 = 0.005;
/// The share of a call's time that is a wait at the replica: above the first no growth, above the second fewer calls.
const CROWDED: (f64, f64) = (0.67, 0.8);
/// A replica at which one more call waits for less than this share of a call's time has room: it need not be shown that more calls bring more.
const ROOM: f64 = 0.1;
/// A window takes at least so long and so many calls.
const WINDOW: Duration = Duration::from_millis(20);
const CALLS: (u32, u32) = (16, 1_024);
/// Between two looks around pass at most so many windows, but not less time than this: a look upward makes calls wait.
const PATIENCE: u32 = 64;
const PAUSE: Duration = Duration::from_secs(10);
/// After so long without a call that waited, what was measured before is not compared with what comes.
const STALE: Duration = Duration::from_secs(1);

/// A call that ended while others waited for its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it got its place.
    pub began: Instant,
    /// How many were under way at its end, itself included.
    pub in_flight: u32,
    /// Whether it was answered; otherwise it came too late or its replica had no room. Other ends tell nothing and are no samples.
    pub is_good: bool,
    /// How long one more call would wait at the replica, in seconds, if it told.
    pub wait: Option<f32>,
}

/// The limit on calls to the replicas of one model version.
#[derive(Clone, Debug)]
pub struct Limit {
    replicas: u32,
    /// What holds, per replica: [`Self::good`], or what is being tried.
    tested: f64,
    /// The least that is known to do.
    good: f64,
    /// The most that is known not to do.
    poor: f64,
    /// The throughput that it is measured by, per replica and second.
    peak: f64,
    search: Search,
    patience: u32,
    /// Calls in a row whose replica had room.
    roomy: u32,
    window: Window,
    /// When the limit last changed, and when the first call that began after that has ended. Calls that began in between found the
    /// replicas as the last limit had left them: they say nothing about this one.
    changed: Instant,
    settled: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// More is tried.
    Up,
    /// Less is tried.
    Down,
    /// Nothing is tried. So many windows have passed since.
    Hold(u32),
}

/// What has been seen at one limit.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    calls: u32,
    good: u32,
    seconds: f64,
    in_flight: f64,
    told: u32,
    wait: f64,
    last: Option<Instant>,
}

impl Limit {
    /// A limit of which nothing is known.
    pub const fn new(replicas: u32, now: Instant) -> Self {
        Self {
            replicas,
            tested: START,
            good: START,
            poor: 0.0,
            peak: 0.0,
            search: Search::Down,
            patience: 1,
            roomy: 0,
            window: Window { calls: 0, good: 0, seconds: 0.0, in_flight: 0.0, told: 0, wait: 0.0, last: None },
            changed: now,
            settled: None,
        }
    }

    /// How many calls may be under way.
    pub fn calls(&self) -> u32 {
        (self.tested * f64::from(self.replicas.max(1))).ceil() as u32
    }

    /// There are so many replicas now.
    pub fn resize(&mut self, replicas: u32, now: Instant) {
        if self.replicas != replicas {
            self.replicas = replicas;
            self.restart(now);
        }
    }

    fn restart(&mut self, now: Instant) {
        (self.window, self.changed, self.settled) = (Window::default(), now, None);
    }

    /// Learns from a call that ended at `now` while others waited. Calls that began before the replicas had settled at this limit are
    /// passed over.
    pub fn observe(&mut self, sample: &Sample, now: Instant) {
        if self.has_room(sample, now) {
            return;
        }
        match self.settled {
            None if sample.began >= self.changed => return self.settled = Some(now),
            Some(settled) if sample.began >= settled => {}
            _ => return,
        }
        let pause = self.window.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        if pause > STALE.max(self.window.mean().saturating_mul(8)) {
            self.window = Window::default();
        }
        self.window.add(sample, now);
        let enough = self.calls().saturating_mul(2).clamp(CALLS.0, CALLS.1);
        if self.window.calls < enough || now.saturating_duration_since(self.changed) < WINDOW {
            return;
        }
        let window = std::mem::take(&mut self.window);
        let before = self.tested;
        self.judge(&window, now);
        self.tested = self.tested.clamp(MIN, MAX);
        if self.tested != before {
            self.restart(now);
        }
    }

    /// Where replicas say that they have room while calls wait here, more are let through at once.
    fn has_room(&mut self, sample: &Sample, now: Instant) -> bool {
        let took = now.saturating_duration_since(sample.began).as_secs_f64();
        let is_roomy = sample.is_good && sample.wait.is_some_and(|wait| (0.0..ROOM * took).contains(&f64::from(wait)));
        self.roomy = if is_roomy { self.roomy + 1 } else { 0 };
        if self.roomy < (self.calls() / 4).clamp(CALLS.0, CALLS.1) || self.tested >= MAX {
            return false;
        }
        // What had room until now hardly does: the knee is looked for above it.
        (self.roomy, self.poor, self.search, self.patience) = (0, self.tested / GAIN, Search::Down, 1);
        self.tested = (self.tested * 2.0).min(MAX);
        self.good = self.tested;
        self.restart(now);
        true
    }

    fn judge(&mut self, window: &Window, now: Instant) {
        let throughput = window.throughput() / f64::from(self.replicas.max(1));
        let harmless = window.is_harmless();
        if window.crowding() > CROWDED.1 && !harmless && self.tested > MIN {
            // For all who share the replicas alike, so that each comes to its share (AIMD).
            self.good = (self.tested * 0.75).max(MIN);
            (self.poor, self.peak) = (0.0, throughput);
            return self.settle(true);
        }
        match self.search {
            Search::Up => {
                let gains = (throughput > self.peak * GAIN || harmless) && window.crowding() <= CROWDED.0;
                self.peak = self.peak.max(throughput);
                if gains && self.tested < MAX {
                    (self.poor, self.good, self.patience) = (self.good, self.tested, 1);
                    self.tested *= 2.0;
                } else {
                    self.search = Search::Down;
                    self.next_down();
                }
            }
            Search::Down => {
                let does = throughput >= self.peak * KEEP;
                self.peak = self.peak.max(throughput);
                let found = if does { &mut self.good } else { &mut self.poor };
                *found = self.tested;
                if does && harmless { self.settle(false) } else { self.next_down() }
            }
            Search::Hold(passed) => self.hold(throughput, passed + 1, now),
        }
    }

    fn hold(&mut self, throughput: f64, passed: u32, now: Instant) {
        let pause = PAUSE * self.patience / PATIENCE;
        let is_due = passed >= self.patience && now.saturating_duration_since(self.changed) >= pause;
        let has_changed = throughput < self.peak * SAME.0 || throughput > self.peak * SAME.1;
        // Slowly: a single window is not what the replicas can do.
        self.peak = if has_changed { throughput } else { self.peak * 0.9 + throughput * 0.1 };
        if has_changed || is_due {
            self.patience = if has_changed { 1 } else { self.patience };
            self.poor = self.good / REACH;
            self.tested = self.good * REACH;
            self.search = Search::Up;
        } else {
            self.search = Search::Hold(passed);
        }
    }

    /// Tries the middle between what does and what does not.
    fn next_down(&mut self) {
        if self.good <= MIN || self.good <= self.poor * FINE {
            return self.settle(false);
        }
        self.tested = if self.poor < 1.0 { self.good / 2.0 } else { (self.good * self.poor).sqrt() }.max(MIN);
    }

    /// Stays with what does, each time for longer, unless it was found anew.
    fn settle(&mut self, is_new: bool) {
        self.tested = self.good;
        self.patience = if is_new { 1 } else { (self.patience * 2).min(PATIENCE) };
        self.search = Search::Hold(0);
    }
}

impl Window {
    fn add(&mut self, sample: &Sample, now: Instant) {
        self.calls += 1;
        self.good += u32::from(sample.is_good);
        self.seconds += now.saturating_duration_since(sample.began).as_secs_f64();
        self.in_flight += f64::from(sample.in_flight);
        if let Some(wait) = sample.wait.filter(|wait| *wait >= 0.0 && wait.is_finite()) {
            self.told += 1;
            self.wait += f64::from(wait);
        }
        self.last = Some(now);
    }

    fn share_of_good(&self) -> f64 {
        f64::from(self.good) / f64::from(self.calls.max(1))
    }

    /// What a call took.
    fn mean(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds / f64::from(self.calls.max(1))).unwrap_or(Duration::MAX)
    }

    /// Good answers per second, by Little's law.
    fn throughput(&self) -> f64 {
        self.share_of_good() * self.in_flight / self.seconds.max(1e-9)
    }

    /// The part of a call's time that the replicas say is a wait; 0 where they do not tell.
    fn crowding(&self) -> f64 {
        let wait = self.wait / f64::from(self.told.max(1));
        wait / self.mean().as_secs_f64().max(1e-9)
    }

    fn is_harmless(&self) -> bool {
        self.mean().as_secs_f64() <= HARMLESS && self.share_of_good() >= KEEP
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_types::SystemClock;

    use super::*;

    /// Calls that wait for their place at all times, on one replica that takes `seconds` with so many under way; returns the limits.
    fn run(limit: &mut Limit, start: Instant, calls: usize, seconds: impl Fn(f64) -> f64) -> Instant {
        let mut now = start;
        for _ in 0..calls {
            let in_flight = limit.calls();
            let took = Duration::from_secs_f64(seconds(f64::from(in_flight)));
            now += took / in_flight;
            let sample = Sample { began: now - took, in_flight, is_good: true, wait: None };
            limit.observe(&sample, now);
        }
        now
    }

    #[test]
    fn finds_what_a_fixed_number_of_slots_takes() {
        for slots in [3.0, 8.0, 30.0, 100.0, 700.0] {
            let start = SystemClock::now();
            let mut limit = Limit::new(1, start);
            run(&mut limit, start, 60_000, |calls| 0.02 * (calls / slots).max(1.0));
            let calls = limit.good.ceil();
            assert!(calls >= slots * 0.94 && calls <= slots * 1.1, "{slots}: {limit:?}");
        }
    }

    /// A batch of n takes 10 ms and n quarters of one; up to 64 run together.
    #[test]
    fn keeps_a_batching_replica_busy() {
        let start = SystemClock::now();
        let seconds = |calls: f64| (0.010 + 0.00025 * calls.min(64.0)) * (calls / 64.0).max(1.0);
        let mut limit = Limit::new(1, start);
        run(&mut limit, start, 60_000, seconds);
        let of = |calls: f64| calls / seconds(calls);
        assert!(of(limit.good) >= 0.9 * of(64.0) && limit.good < 80.0, "{limit:?}");
    }

    #[test]
    fn a_slower_replica_does_not_bring_it_down() {
        let start = SystemClock::now();
        let mut limit = Limit::new(1, start);
        let seconds = |calls: f64| 0.01 * (calls / 40.0).max(1.0);
        let now = run(&mut limit, start, 40_000, seconds);
        let now = run(&mut limit, now, 40_000, |calls| 10.0 * seconds(calls));
        assert!(limit.good > 36.0 && limit.good < 46.0, "{limit:?}");
        run(&mut limit, now, 40_000, seconds);
        assert!(limit.good > 36.0 && limit.good < 46.0, "{limit:?}");
    }

    #[test]
    fn what_comes_too_late_is_no_throughput() {
        let start = SystemClock::now();
        let mut limit = Limit::new(1, start);
        let mut now = start;
        for _ in 0..20_000 {
            let in_flight = limit.calls();
            let took = Duration::from_millis(10) * in_flight.max(8) / 8;
            now += took / in_flight;
            let is_good = took <= Duration::from_millis(20);
            limit.observe(&Sample { began: now - took, in_flight, is_good, wait: None }, now);
        }
        assert!((8.0..=16.0).contains(&limit.good.ceil()), "{limit:?}");
    }

    /// Where replicas are shared, throughput grows with the limit for ever; what they tell of their wait bounds it.
    #[test]
    fn a_wait_that_replicas_tell_bounds_the_growth() {
        let start = SystemClock::now();
        let others = 64.0;
        let with = |tells: bool| {
            let (mut limit, mut now) = (Limit::new(1, start), start);
            for _ in 0..60_000 {
                let in_flight = limit.calls();
                let took = Duration::from_secs_f64(0.01 * ((f64::from(in_flight) + others) / 16.0).max(1.0));
                now += took / in_flight;
                let wait = tells.then_some(took.as_secs_f32() - 0.01);
                limit.observe(&Sample { began: now - took, in_flight, is_good: true, wait }, now);
            }
            limit.calls()
        };
        assert!(with(true) <= 30, "{}", with(true));
        assert!(with(false) > 200, "{}", with(false));
    }

    /// A replica of 1,024 slots is filled before as many calls have ended, though each takes two seconds.
    #[test]
    fn room_that_replicas_tell_is_taken_at_once() {
        let start = SystemClock::now();
        let (mut limit, took) = (Limit::new(1, start), Duration::from_secs(2));
        let mut now = start + took;
        for _ in 0..300 {
            let in_flight = limit.calls();
            now += took / in_flight;
            let wait = if in_flight <= 1_024 { 0.0 } else { 1.0 };
            limit.observe(&Sample { began: now - took, in_flight, is_good: true, wait: Some(wait) }, now);
        }
        assert!((1_024..=2_048).contains(&limit.calls()), "{}", limit.calls());
    }

    proptest! {
        /// Whatever calls bring, it stays within its bounds, and scales with the replicas.
        #[test]
        fn stays_within_bounds(
            samples in proptest::collection::vec((0u64..2_000_000, any::<u32>(), any::<bool>(), proptest::option::of(any::<f32>())), 0..600),
            replicas in 0u32..5_000,
        ) {
            let start = SystemClock::now();
            let (mut limit, mut now) = (Limit::new(1, start), start);
            for (micros, in_flight, is_good, wait) in samples {
                now += Duration::from_micros(micros);
                limit.observe(&Sample { began: now - Duration::from_micros(micros / 2), in_flight, is_good, wait }, now);
                prop_assert!((2..=4_096).contains(&limit.calls()));
            }
            let one = limit.tested;
            limit.resize(replicas, now);
            prop_assert_eq!(limit.calls(), (one * f64::from(replicas.max(1))).ceil() as u32);
        }
    }
}
