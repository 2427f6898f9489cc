//! A limit on how often something is said.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one through in each interval: for log lines that much of what runs would write over and over.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    last: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// A limit of one in an interval, the first one at once.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, last: Mutex::new(None) }
    }

    /// Whether one may pass at `now`.
    pub fn allows(&self, now: Instant) -> bool {
        // A panic elsewhere cannot have left it half changed.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let allows = last.is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if allows {
            *last = Some(now);
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    #[test]
    fn one_passes_in_each_interval() {
        let (start, limit) = (SystemClock::now(), RateLimit::new(Duration::from_secs(60)));
        let allowed = [0, 1, 59, 60, 61, 119, 120].map(|at| limit.allows(start + Duration::from_secs(at)));
        assert_eq!(allowed, [true, false, false, true, false, false, true]);
    }
}
