//! The only place that reads the machine's clocks.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Where time comes from. Policies never ask it: they are given `now`.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time: deadlines, leases and latencies are measured on it.
    fn now(&self) -> Instant;
    /// Wall-clock time: for records that people read, never for a decision.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// Monotonic time without a handle, for code at the edge of the process.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that every other module is told to use")]
    pub fn now() -> Instant {
        Instant::now()
    }

    /// Wall-clock time without a handle.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that every other module is told to use")]
    pub fn wall() -> SystemTime {
        SystemTime::now()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Self::now()
    }

    fn wall(&self) -> SystemTime {
        Self::wall()
    }
}

/// A clock that moves only when told to, for tests and simulation.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    elapsed: Mutex<Duration>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { start: SystemClock::now(), elapsed: Mutex::new(Duration::ZERO) }
    }
}

impl ManualClock {
    /// Moves both clocks forward by `by`.
    pub fn advance(&self, by: Duration) {
        // A poisoned lock only means that a test thread failed while it held a plain number: the number is still right.
        *self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += by;
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.elapsed()
    }
}
