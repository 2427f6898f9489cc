//! Whether a queue stands. CoDel (Nichols & Jacobson, RFC 8289) tells a burst, which passes by itself, from a queue that only adds to
//! everybody's wait by the least wait over an interval.
//!
//! The wait is taken from the queue's length by Little's law, and not from who is served: the order of service is not that of arrival, and the
//! one who has waited longest need never be served.

use std::time::{Duration, Instant};

/// As many targets make an interval, as in RFC 8289's range (its target is 5 to 10 % of the interval) but quicker: a deadline is
/// passed before a longer one is over.
const INTERVAL: u32 = 4;

/// The least wait of late.
#[derive(Clone, Debug)]
pub struct Standing {
    target: Duration,
    since: Instant,
    /// The fewest that waited at any time in the interval, and how many were served in it.
    least: usize,
    served: usize,
    /// Served per second, in the last interval that any were.
    rate: f64,
    stands: bool,
}

impl Standing {
    /// Nothing waits yet. A queue stands in which everybody waits for longer than `target`.
    pub const fn new(target: Duration, now: Instant) -> Self {
        Self { target, since: now, least: 0, served: 0, rate: 0.0, stands: false }
    }

    /// So many wait now, one more having been served or not.
    pub fn observe(&mut self, waiting: usize, is_served: bool, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= self.target.saturating_mul(INTERVAL) {
            let rate = self.served as f64 / elapsed.as_secs_f64();
            self.stands = self.least as f64 > rate * self.target.as_secs_f64();
            // Nothing is known of the pace while nothing is served.
            self.rate = if self.served > 0 { rate } else { self.rate };
            (self.since, self.least, self.served) = (now, waiting, 0);
        }
        self.least = self.least.min(waiting);
        self.served += usize::from(is_served);
    }

    /// Whether the queue stood in the last interval.
    pub const fn stands(&self) -> bool {
        self.stands
    }

    /// How long so many take to be served; zero while the pace is not known.
    pub fn wait(&self, waiting: usize) -> Duration {
        let seconds = if self.rate > 0.0 { waiting as f64 / self.rate } else { 0.0 };
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
        let mut standing = Standing::new(10 * MS, start);
        (0..200).for_each(|step| standing.observe(waiting(step), true, start + MS * step));
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
        let mut standing = Standing::new(10 * MS, start);
        (0..200).for_each(|step| standing.observe(3, false, start + MS * step));
        assert!(standing.stands() && standing.wait(3) == Duration::ZERO);
    }
}
