//! One absolute instant per call, which only ever moves closer.

use std::time::{Duration, Instant};

/// What every hop keeps for itself at the least: the network trip back and its own overhead.
pub const MIN_RESERVE: Duration = Duration::from_millis(1);

/// The instant by which the caller must have its answer, on this process's monotonic clock.
///
/// It crosses a process boundary as a duration (`grpc-timeout`), so clocks need not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `timeout` after `now`; an unrepresentably late one saturates at a century.
    pub fn after(now: Instant, timeout: Duration) -> Self {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Self(now.checked_add(timeout).unwrap_or(now + CENTURY))
    }

    /// The instant itself, for timers.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// What is left at `now`; zero once expired.
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether nothing is left at `now`.
    pub fn expired(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// The earlier of two deadlines: a bound can be added, never lifted.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }

    /// The deadline that the next hop gets: this one less a reserve of `learned` overhead, at least [`MIN_RESERVE`] and
    /// otherwise at most a tenth of what remains. `None` when nothing would be left to work with.
    #[must_use]
    pub fn for_next_hop(self, now: Instant, learned: Duration) -> Option<Self> {
        let remaining = self.remaining(now);
        let reserve = learned.min(remaining / 10).max(MIN_RESERVE);
        (remaining > reserve).then(|| Self(now + (remaining - reserve)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;
    use proptest::prelude::*;

    proptest! {
        /// A child's deadline is always earlier than its parent's, by at least the minimum reserve.
        #[test]
        fn a_child_is_earlier_than_its_parent(timeout_us in 0u64..10_000_000_000, learned_us in 0u64..10_000_000) {
            let now = SystemClock::now();
            let parent = Deadline::after(now, Duration::from_micros(timeout_us));
            match parent.for_next_hop(now, Duration::from_micros(learned_us)) {
                Some(child) => {
                    let kept = parent.instant() - child.instant();
                    prop_assert!(kept >= MIN_RESERVE);
                    prop_assert!(kept <= MIN_RESERVE.max(parent.remaining(now) / 10));
                    prop_assert!(!child.expired(now));
                }
                None => prop_assert!(parent.remaining(now) <= MIN_RESERVE),
            }
        }
    }

    #[test]
    fn an_absurd_timeout_saturates() {
        let now = SystemClock::now();
        assert!(!Deadline::after(now, Duration::MAX).expired(now));
    }
}
