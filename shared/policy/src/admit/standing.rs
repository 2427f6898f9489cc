//! Whether a queue stands. CoDel (Nichols & Jacobson, RFC 8289) tells a burst, which passes by itself, from a queue that only adds to
//! everybody's wait by the least wait over an interval.
//!
//! The wait is taken from the queue's length by Little's law, and not from who is served: the order of service is not that of arrival, and the
//! one who has waited longest need never be served.

use std::time::{Duration, Instant};

/// As many targets make an interval, as in RFC 8289's range (its target is 5 to 10 % of the interval) but quicker: a deadline is
/// passed before a longer one is over.
const INTERVAL: u32 = 4;

/// A pace is known from at least so many calls, and at first from as many as may be under way: none of them could end before.
const ENOUGH: usize = 8;
/// What is left of a pace with each new one that is less: to wait in vain costs a call less than to be refused in error.
const FADE: f64 = 0.9;
/// A pace is not remembered for longer than nobody has waited.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// The least wait of late.
#[derive(Clone, Debug)]
pub struct Standing {
    target: Duration,
    since: Instant,
    last: Instant,
    /// The fewest that waited at any time in the interval.
    least: usize,
    /// How many were served since the pace was last taken, and in how much time in which others waited: only then are all free places
    /// given to those who wait, so that the pace is that of the replicas.
    served: usize,
    busy: Duration,
    enough: usize,
    places: usize,
    /// Served per second, lately.
    pace: f64,
    /// The best of them, fading.
    best: f64,
    stands: bool,
}

/// How many waited until now, and what happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// So many waited when one more comes.
    Came(usize),
    /// So many are left after one was served.
    Served(usize),
    /// So many are left after one went away.
    Left(usize),
}

impl Standing {
    /// Nothing waits yet, and so many calls may be under way. A queue stands in which everybody waits for longer than `target`.
    pub const fn new(target: Duration, places: usize, now: Instant) -> Self {
        let (busy, enough) = (Duration::ZERO, places);
        Self {
            target,
            since: now,
            last: now,
            least: 0,
            served: 0,
            busy,
            enough,
            places,
            pace: 0.0,
            best: 0.0,
            stands: false,
        }
    }

    pub(super) fn observe(&mut self, step: Step, now: Instant) {
        let (before, after) = match step {
            Step::Came(waiting) => (waiting, waiting),
            Step::Served(waiting) | Step::Left(waiting) => (waiting + 1, waiting),
        };
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        if before > 0 {
            self.busy += passed;
        } else if passed > FORGOTTEN {
            self.forget_pace(self.places);
        }
        if now.saturating_duration_since(self.since) >= self.target.saturating_mul(INTERVAL) {
            self.take_pace();
            self.stands = self.least as f64 > self.pace * self.target.as_secs_f64();
            (self.since, self.least) = (now, after);
        }
        self.least = self.least.min(after);
        self.served += usize::from(matches!(step, Step::Served(_)));
    }

    /// Nothing is known any more; so many calls may be under way.
    pub(super) fn forget_pace(&mut self, places: usize) {
        (self.pace, self.best, self.served, self.busy) = (0.0, 0.0, 0, Duration::ZERO);
        (self.places, self.enough) = (places, places);
    }

    /// Nothing is known of the pace while few are served.
    fn take_pace(&mut self) {
        if self.served >= self.enough.max(ENOUGH) && self.busy >= self.target {
            self.pace = self.served as f64 / self.busy.as_secs_f64();
            self.best = self.pace.max(self.best * FADE);
            (self.served, self.busy, self.enough) = (0, Duration::ZERO, ENOUGH);
        }
    }

    /// Whether the queue stood in the last interval.
    pub const fn stands(&self) -> bool {
        self.stands
    }

    /// How long so many take to be served at least; zero while the pace is not known.
    pub fn wait(&self, waiting: usize) -> Duration {
        let seconds = if self.best > 0.0 { waiting as f64 / self.best } else { 0.0 };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Whether so many wait for longer than the target.
    pub fn is_over(&self, waiting: usize) -> bool {
        self.wait(waiting) > self.target
    }
}

#[cfg(test)]
mod tests {
    use weft_types::SystemClock;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// 1,000 are served per second while `waiting` gives how many wait at each millisecond.
    fn after(waiting: impl Fn(u32) -> usize) -> Standing {
        let start = SystemClock::now();
        let mut standing = Standing::new(10 * MS, 1, start);
        (0..200).for_each(|step| standing.observe(Step::Served(waiting(step)), start + MS * step));
        standing
    }

    #[test]
    fn a_burst_passes_and_a_queue_stands() {
        assert!(!after(|step| if step % 20 == 0 { 0 } else { 500 }).stands());
        assert!(after(|_| 20).stands());
        assert!(!after(|_| 5).stands(), "5 ms of wait");
        let standing = after(|_| 20);
        assert_eq!((standing.is_over(5), standing.is_over(20)), (false, true));
        assert!(standing.wait(100).abs_diff(100 * MS) < 5 * MS);
    }

    #[test]
    fn what_is_not_served_stands() {
        let start = SystemClock::now();
        let mut standing = Standing::new(10 * MS, 1, start);
        (0..200).for_each(|step| standing.observe(Step::Came(3), start + MS * step));
        assert!(standing.stands() && standing.wait(3) == Duration::ZERO);
    }

    /// The pace is what is served while others wait: time in which nobody does says nothing of it, however long it is.
    #[test]
    fn a_queue_that_is_mostly_empty_is_as_fast_as_a_full_one() {
        let start = SystemClock::now();
        let mut standing = Standing::new(10 * MS, 1, start);
        // Every 500 ms, ten come at once and are served within 10 ms.
        for burst in 0..4 {
            let at = start + 500 * MS * burst;
            (0..10).for_each(|waiting| standing.observe(Step::Came(waiting), at));
            (0..10).for_each(|served| standing.observe(Step::Served(9 - served), at + MS * (served as u32 + 1)));
        }
        standing.observe(Step::Came(0), start + 2_000 * MS);
        let wait = standing.wait(100);
        assert!((90 * MS..=110 * MS).contains(&wait), "{wait:?}");
        // After a pause nobody knows any more.
        standing.observe(Step::Came(0), start + 3_100 * MS);
        assert_eq!(standing.wait(100), Duration::ZERO);
    }

    /// Of calls that begin together and take long, the first ones to end say nothing of how many end per second.
    #[test]
    fn a_pace_is_not_taken_from_the_first_of_many() {
        let start = SystemClock::now();
        let mut standing = Standing::new(10 * MS, 100, start);
        let serve = |standing: &mut Standing, from: Instant| {
            standing.observe(Step::Came(500), from);
            (0..100)
                .map(|call| {
                    standing.observe(Step::Served(500 - call), from + 500 * MS + 5 * MS * call as u32);
                    standing.wait(500)
                })
                .collect::<Vec<_>>()
        };
        let known = |waits: Vec<Duration>| waits.into_iter().take_while(|wait| wait.is_zero()).count();
        assert!(known(serve(&mut standing, start)) >= 99);
        // After a pause it is the same.
        standing.observe(Step::Left(0), start + 1_100 * MS);
        standing.observe(Step::Came(0), start + 3_000 * MS);
        assert!(known(serve(&mut standing, start + 3_000 * MS)) >= 99);
    }

    /// One slow interval is no reason to refuse.
    #[test]
    fn a_slow_moment_is_not_the_pace() {
        let start = SystemClock::now();
        let mut standing = Standing::new(10 * MS, 1, start);
        (0..200).for_each(|step| standing.observe(Step::Served(50), start + MS * step));
        // 9 in the next 90 ms.
        (1..10).for_each(|step| standing.observe(Step::Served(50), start + 200 * MS + 10 * MS * step));
        assert!(standing.wait(100) < 130 * MS, "{:?}", standing.wait(100));
    }
}
