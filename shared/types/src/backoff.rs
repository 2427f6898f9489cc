//! Exponential backoff with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).

use std::time::Duration;

/// The wait before each attempt: uniform in `[0, min(cap, base * 2^attempt)]`.
///
/// Randomness is passed in, so that two runs with one seed wait alike.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// A backoff that starts at `base` and never waits longer than `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// The next wait, given `unit` uniform in `[0, 1)`; each call doubles the ceiling.
    pub fn next(&mut self, unit: f64) -> Duration {
        let ceiling = self.base.saturating_mul(2u32.saturating_pow(self.attempt.min(30))).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(unit.clamp(0.0, 1.0))
    }

    /// Starts again at the base, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_resets() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<u128> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(0.5).as_millis(), 50);
    }
}
