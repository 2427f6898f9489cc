//! How long a model takes for a number of rows, learned while it runs.

use std::time::{Duration, Instant};

use weft_types::Deadline;

/// Sizes are told apart by powers of two: 1, 2..3, 4..7, and so on; the last cell takes every larger one.
const CELLS: usize = 16;
/// A slower sample moves the estimate half of the way: a model that has become slow must not miss many deadlines first. But no
/// sample counts for more than the scatter allows, since it may be the machine that stalled.
const RISE: f64 = 0.5;
/// A faster one moves it an eighth of the way, so that one lucky sample does not admit what cannot be met.
const FALL: f64 = 0.125;
/// For this long an estimate stands without being confirmed.
const FRESH: Duration = Duration::from_secs(5);
/// Afterwards it halves over each of these: less and less is refused for it.
const FADE: Duration = Duration::from_secs(1);

/// Executions scatter around the estimate. The bounds of that go half of the way to a sample beyond them, and from
/// there come back by this share of the way with each sample, so that a single slow execution is forgotten.
const SETTLE: f64 = 0.03;
/// What the bounds are kept within, so that one stall of the machine does not make everything uncertain.
const SCATTER: (f64, f64) = (0.5, 2.0);

/// One class of sizes.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The average size of its samples, so that interpolation has a true point to start from.
    rows: f64,
    seconds: f64,
    seen: Instant,
}

/// An online estimate of execution time by rows: an average per class of sizes that rises fast and falls slowly, with
/// straight lines between the classes.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    cells: [Option<Cell>; CELLS],
    scatter: Scatter,
}

/// The fastest and the slowest of late, in proportion to the estimate.
#[derive(Clone, Copy, Debug)]
struct Scatter {
    low: f64,
    high: f64,
}

/// What stands between a new request and its execution.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    /// Rows of the requests that are queued before it.
    pub rows: usize,
    /// How long until an executor is free, as far as that is known; zero when one is idle.
    pub busy: Duration,
    /// How many executions run at once; 0 counts as 1.
    pub executors: usize,
    /// The most rows of one execution; 0 when each request is executed alone.
    pub max_batch_rows: usize,
    /// Whether nothing waits and an executor is idle. Then an estimate refuses nobody: one that is too high would never be
    /// corrected, and to be wrong costs one execution at a time when there is nothing else to do.
    pub idle: bool,
}

fn class(rows: usize) -> usize {
    (rows.max(1).ilog2() as usize).min(CELLS - 1)
}

impl Latency {
    /// Learns from an execution of `rows` that took `took` and ended at `now`.
    pub fn observe(&mut self, rows: usize, took: Duration, now: Instant) {
        let (seconds, slot) = (took.as_secs_f64(), class(rows));
        // Only where the size was seen before: what is derived from other sizes may be far off. And unfaded: after a pause
        // it is not the execution that is out of the ordinary.
        if self.cells[slot].is_some() {
            self.scatter.observe(seconds / self.line(rows, |cell| cell.seconds).unwrap_or(seconds));
        }
        self.learn(rows, seconds, now);
    }

    /// Learns that an execution of `rows` was stopped at `now` after `took`: it would have taken longer.
    ///
    /// Without this a size that never ends in time would be tried for ever.
    pub fn observe_stopped(&mut self, rows: usize, took: Duration, now: Instant) {
        let (seconds, expected) = (took.as_secs_f64(), self.expect(rows, now));
        if let Some(expected) = expected.filter(|_| self.cells[class(rows)].is_some()) {
            // At least as slow as was thought.
            self.scatter.observe((seconds / expected.as_secs_f64()).max(1.0));
        }
        if expected.is_none_or(|expected| expected < took) {
            self.learn(rows, seconds, now);
        }
    }

    fn learn(&mut self, rows: usize, seconds: f64, now: Instant) {
        let (slot, rows) = (&mut self.cells[class(rows)], rows.max(1) as f64);
        *slot = Some(slot.map_or(Cell { rows, seconds, seen: now }, |cell| cell.toward(rows, seconds, now)));
    }

    /// How long an execution of `rows` will take; `None` before anything was learned.
    ///
    /// Between two known sizes the line between them counts; below the smallest its own time; above the largest the line
    /// through the two largest goes on, but no steeper than in proportion, and from a single size none: a size that is
    /// thought to be too slow would never be tried, and so never be known. No size takes longer than a larger one is known
    /// to have taken just now.
    pub fn expect(&self, rows: usize, now: Instant) -> Option<Duration> {
        let rows = rows.max(1);
        let seconds = self.line(rows, |cell| cell.faded(now))?;
        let larger = self.cells.iter().flatten().filter(|cell| cell.rows >= rows as f64 && cell.is_fresh(now));
        let seconds = larger.fold(seconds, |least, cell| least.min(cell.seconds));
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// The time in seconds on the lines between what `time` says of each known size.
    fn line(&self, rows: usize, time: impl Fn(&Cell) -> f64) -> Option<f64> {
        let rows = rows.max(1) as f64;
        let points = || self.cells.iter().flatten();
        let below = points().rev().find(|cell| cell.rows <= rows);
        let above = points().find(|cell| cell.rows > rows);
        match (below, above) {
            (Some(below), Some(above)) => {
                let (low, high) = (time(below), time(above));
                Some(low + (high - low) * (rows - below.rows) / (above.rows - below.rows))
            }
            (Some(last), None) => {
                let (end, before) = (time(last), points().rev().nth(1));
                let slope = before.map_or(0.0, |before| (end - time(before)) / (last.rows - before.rows));
                Some(end + slope.clamp(0.0, end / last.rows) * (rows - last.rows))
            }
            (None, above) => above.map(time),
        }
    }

    /// The least that an execution of `rows` will take: what has less time left is not answered in time.
    pub fn at_least(&self, rows: usize, now: Instant) -> Option<Duration> {
        Some(stretch(self.expect(rows, now)?, self.scatter.low))
    }

    /// The most that an execution of `rows` will take, as far as the past tells.
    pub fn at_most(&self, rows: usize, now: Instant) -> Option<Duration> {
        Some(stretch(self.expect(rows, now)?, self.scatter.high))
    }

    /// The least and the most that an execution takes, in proportion to [`Latency::expect`].
    pub fn scatter(&self) -> (f64, f64) {
        (self.scatter.low, self.scatter.high)
    }

    /// How long a request of `rows` will take from now to its answer; `None` before anything was learned.
    ///
    /// What waits before it runs in full batches, shared among the executors; it then runs with what is left over.
    pub fn estimate(&self, ahead: &Ahead, rows: usize, now: Instant) -> Option<Duration> {
        let rows = rows.max(1);
        let batch = if ahead.max_batch_rows == 0 { rows } else { ahead.max_batch_rows.max(rows) };
        let own = (ahead.rows % batch).saturating_add(rows).min(batch);
        let rounds = (ahead.rows / batch) as f64 / ahead.executors.max(1) as f64;
        let queue = Duration::try_from_secs_f64(self.expect(batch, now)?.as_secs_f64() * rounds);
        let queue = queue.unwrap_or(Duration::MAX);
        Some(ahead.busy.saturating_add(queue).saturating_add(self.expect(own, now)?))
    }

    /// Whether a request of `rows` is to be taken: it can be answered by its deadline, or it finds the executors idle. Before
    /// anything was learned every live one is.
    pub fn admits(&self, ahead: &Ahead, rows: usize, deadline: Deadline, now: Instant) -> bool {
        let needed = self.estimate(ahead, rows, now).unwrap_or_default();
        !deadline.expired(now) && (ahead.idle || needed <= deadline.remaining(now))
    }
}

fn stretch(time: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

impl Default for Scatter {
    fn default() -> Self {
        Self { low: 1.0, high: 1.0 }
    }
}

impl Scatter {
    /// Learns that an execution took `ratio` of what was expected.
    fn observe(&mut self, ratio: f64) {
        if !ratio.is_finite() {
            return;
        }
        let ratio = ratio.clamp(SCATTER.0, SCATTER.1);
        let toward = |from: f64, beyond: bool| from + (ratio - from) * if beyond { 0.5 } else { SETTLE };
        self.low = if ratio < self.low { ratio } else { toward(self.low, false) };
        self.high = toward(self.high, ratio > self.high);
    }
}

impl Cell {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) <= FRESH
    }

    /// Moved by a sample. What was not confirmed has become a range, from what it has faded to up to what it was: a sample
    /// within replaces it.
    fn toward(self, rows: f64, seconds: f64, now: Instant) -> Self {
        let from = seconds.clamp(self.faded(now).min(self.seconds), self.seconds);
        let weight = if seconds > from { RISE } else { FALL };
        let toward = |from: f64, to: f64| from + (to - from) * weight;
        let seconds = seconds.min(from * SCATTER.1);
        Self { rows: toward(self.rows, rows), seconds: toward(from, seconds), seen: now }
    }

    /// The time in seconds, less what it lost by not being confirmed.
    fn faded(&self, now: Instant) -> f64 {
        let stale = now.saturating_duration_since(self.seen).saturating_sub(FRESH);
        if stale.is_zero() {
            return self.seconds;
        }
        self.seconds * 0.5f64.powf(stale.as_secs_f64() / FADE.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_types::SystemClock;

    const MS: Duration = Duration::from_millis(1);

    fn learned(samples: &[(usize, u32)], now: Instant) -> Latency {
        let mut latency = Latency::default();
        for (rows, ms) in samples {
            latency.observe(*rows, MS * *ms, now);
        }
        latency
    }

    #[test]
    fn lines_between_what_was_seen() {
        let now = SystemClock::now();
        let latency = learned(&[(2, 10), (8, 40), (32, 64)], now);
        let table = [(1, 10), (2, 10), (5, 25), (8, 40), (20, 52), (32, 64), (64, 96), (0, 10)];
        for (rows, ms) in table {
            assert_eq!(latency.expect(rows, now).map(|took| took.as_millis()), Some(ms), "{rows}");
        }
        assert_eq!(Latency::default().expect(1, now), None);
    }

    /// What is thought of sizes that were never run must not keep them from being run.
    #[test]
    fn beyond_the_largest_size_no_more_than_its_proportion() {
        let now = SystemClock::now();
        let expect = |samples: &[(usize, u32)]| learned(samples, now).expect(32, now).map(|took| took.as_millis());
        assert_eq!(expect(&[(1, 10)]), Some(10));
        assert_eq!(expect(&[(1, 10), (8, 17)]), Some(41));
        assert_eq!(expect(&[(1, 10), (8, 160)]), Some(640));
        assert_eq!(expect(&[(1, 10), (8, 9)]), Some(9));
    }

    #[test]
    fn the_bounds_take_in_what_was_seen_and_close_again() {
        let now = SystemClock::now();
        let mut latency = learned(&[(1, 10); 20], now);
        let bounds = |latency: &Latency| (latency.at_least(1, now), latency.at_most(1, now));
        assert_eq!(bounds(&latency), (Some(10 * MS), Some(10 * MS)));
        latency.observe(1, 8 * MS, now);
        latency.observe(1, 14 * MS, now);
        let (least, most) = bounds(&latency);
        assert!(least < Some(10 * MS) && most > Some(13 * MS), "{least:?} {most:?}");
        (0..200).for_each(|_| latency.observe(1, 10 * MS, now));
        let (least, most) = bounds(&latency);
        assert!(least > Some(9900 * MS / 1000) && most < Some(10100 * MS / 1000), "{least:?} {most:?}");
        latency.observe(1, 10_000 * MS, now);
        assert!(latency.scatter().1 <= SCATTER.1);
    }

    #[test]
    fn rises_fast_and_falls_slowly() {
        let now = SystemClock::now();
        let mut latency = learned(&[(1, 10)], now);
        latency.observe(1, 100 * MS, now);
        assert_eq!(latency.expect(1, now), Some(15 * MS), "one stall is not the whole truth");
        latency.observe(1, 25 * MS, now);
        assert_eq!(latency.expect(1, now), Some(20 * MS));
        latency.observe(1, 12 * MS, now);
        assert_eq!(latency.expect(1, now), Some(19 * MS));
    }

    /// After a pause an execution as long as ever leaves everything as it was; one that is shorter is believed at once.
    #[test]
    fn a_sample_after_a_pause_replaces_what_has_faded() {
        let now = SystemClock::now();
        let later = now + FRESH + 3 * FADE;
        for (ms, expected) in [(100, 100), (30, 30), (200, 150), (1000, 150)] {
            let mut latency = learned(&[(1, 100)], now);
            latency.observe(1, ms * MS, later);
            assert_eq!(latency.expect(1, later), Some(expected * MS));
        }
        let mut latency = learned(&[(1, 100); 2], now);
        latency.observe(1, 100 * MS, later);
        assert_eq!(latency.scatter(), (1.0, 1.0));
    }

    #[test]
    fn no_size_takes_longer_than_a_larger_one_just_took() {
        let now = SystemClock::now();
        let latency = learned(&[(1, 100), (8, 20), (32, 60)], now);
        let expect = |rows, at| latency.expect(rows, at).map(|took| took.as_millis());
        assert_eq!([1, 4, 8, 32].map(|rows| expect(rows, now)), [Some(20), Some(20), Some(20), Some(60)]);
        // What has faded says nothing of others.
        let mut latency = learned(&[(8, 20)], now);
        latency.observe(1, 100 * MS, now + FRESH + 4 * FADE);
        assert_eq!(latency.expect(1, now + FRESH + 4 * FADE), Some(100 * MS));
    }

    #[test]
    fn a_stopped_execution_raises_and_never_lowers() {
        let now = SystemClock::now();
        let mut latency = learned(&[(1, 10)], now);
        latency.observe_stopped(16, 50 * MS, now);
        assert_eq!((latency.expect(1, now), latency.expect(16, now)), (Some(10 * MS), Some(50 * MS)));
        latency.observe_stopped(16, 20 * MS, now);
        assert_eq!(latency.expect(16, now), Some(50 * MS));
        latency.observe_stopped(16, 60 * MS, now);
        assert_eq!(latency.expect(16, now), Some(55 * MS));
    }

    #[test]
    fn an_idle_executor_tries_what_is_thought_too_slow() {
        let now = SystemClock::now();
        let (latency, idle) = (learned(&[(1, 100)], now), Ahead { idle: true, ..Ahead::default() });
        assert!(latency.admits(&idle, 1, Deadline::after(now, 10 * MS), now));
        assert!(!latency.admits(&idle, 1, Deadline::after(now, Duration::ZERO), now));
        assert!(!latency.admits(&Ahead::default(), 1, Deadline::after(now, 10 * MS), now));
    }

    #[test]
    fn an_estimate_that_nothing_confirms_fades() {
        let now = SystemClock::now();
        let latency = learned(&[(1, 1000)], now);
        let deadline = |at: Instant| Deadline::after(at, 100 * MS);
        let ahead = Ahead::default();
        assert!(!latency.admits(&ahead, 1, deadline(now + FRESH), now + FRESH));
        let later = now + FRESH + 4 * FADE;
        assert!(latency.admits(&ahead, 1, deadline(later), later));
    }

    #[test]
    fn what_waits_ahead_counts() {
        let now = SystemClock::now();
        let latency = learned(&[(1, 10), (8, 40)], now);
        let single = Ahead { rows: 3, busy: 5 * MS, executors: 1, max_batch_rows: 0, idle: false };
        assert_eq!(latency.estimate(&single, 1, now), Some(45 * MS));
        let batched = Ahead { rows: 16, max_batch_rows: 8, ..single };
        assert_eq!(latency.estimate(&batched, 1, now), Some(95 * MS));
        let wide = Ahead { executors: 2, ..batched };
        assert_eq!(latency.estimate(&wide, 1, now), Some(55 * MS));
        assert!(latency.admits(&wide, 1, Deadline::after(now, 55 * MS), now));
        assert!(!latency.admits(&wide, 1, Deadline::after(now, 54 * MS), now));
    }

    #[test]
    fn an_expired_deadline_is_never_admitted() {
        let now = SystemClock::now();
        assert!(!Latency::default().admits(&Ahead::default(), 1, Deadline::after(now, Duration::ZERO), now));
        assert!(Latency::default().admits(&Ahead::default(), 1, Deadline::after(now, MS), now));
    }

    proptest! {
        /// Estimates stay within what was seen, and nothing, however large, overflows.
        #[test]
        fn stays_within_the_samples(
            samples in proptest::collection::vec((1usize..5000, 1u32..10_000), 1..64),
            rows in 1usize..5000,
            ahead: usize,
        ) {
            let now = SystemClock::now();
            let latency = learned(&samples, now);
            let (least, most) = (samples.iter().map(|sample| sample.1).min(), samples.iter().map(|sample| sample.1).max());
            let largest = samples.iter().map(|sample| sample.0).max().unwrap_or(1);
            let expected = latency.expect(rows, now).expect("samples were given");
            prop_assert!(expected + MS >= MS * least.unwrap_or(0));
            // Above the largest average of a class the time grows in proportion; an average is at least half of its class.
            let growth = (rows as f64 / largest as f64 * 2.0).max(1.0);
            prop_assert!(expected <= (MS * most.unwrap_or(0)).mul_f64(growth * 2.0) + MS);
            let queue = Ahead { rows: ahead / 2, max_batch_rows: 8, executors: 0, busy: Duration::MAX, idle: false };
            prop_assert_eq!(latency.estimate(&queue, rows, now), Some(Duration::MAX));
        }
    }
}
