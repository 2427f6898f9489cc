//! How much there is of something per second: an exponentially weighted rate, counted without a lock and forgotten over some seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After so long without anything, about a third of a rate is left.
pub const DECAY: Duration = Duration::from_secs(10);

/// A rate that many threads add to.
#[derive(Debug)]
pub struct Rate {
    /// Per second as an `f32`, and since when in milliseconds of a clock that wraps around, in one word.
    word: AtomicU64,
    since: Instant,
}

impl Rate {
    /// A rate of zero.
    pub fn new(now: Instant) -> Self {
        Self { word: AtomicU64::new(0), since: now }
    }

    /// Counts `amount` more; what is negative or no number is not counted.
    pub fn add(&self, amount: f32, now: Instant) {
        let clock = self.clock(now);
        let next = |word: u64| (amount > 0.0).then(|| pack(left(word, clock) + amount / DECAY.as_secs_f32(), clock));
        // Declined only where there is nothing to count.
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// What there is of it per second. After `n` at once it is `n` tenths, fading; at a steady pace it comes to that pace.
    pub fn per_second(&self, now: Instant) -> f32 {
        left(self.word.load(Ordering::Relaxed), self.clock(now))
    }

    fn clock(&self, now: Instant) -> u32 {
        // Rates are told from each other over seconds; the clock may wrap around.
        now.saturating_duration_since(self.since).as_millis() as u32
    }
}

const fn pack(per_second: f32, at: u32) -> u64 {
    ((per_second.to_bits() as u64) << 32) | at as u64
}

/// What is left of a rate.
fn left(word: u64, clock: u32) -> f32 {
    let (per_second, at) = (f32::from_bits((word >> 32) as u32), word as u32);
    let age = clock.wrapping_sub(at);
    // A clock that was read by another thread may be a little behind.
    if age == 0 || age > u32::MAX / 2 {
        return per_second;
    }
    per_second * (-(age as f32) / (DECAY.as_millis() as f32)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::SystemClock;

    #[test]
    fn comes_to_a_steady_pace_and_fades() {
        let start = SystemClock::now();
        let rate = Rate::new(start);
        assert_eq!(rate.per_second(start), 0.0);
        for call in 0..12_000u32 {
            rate.add(1.0, start + Duration::from_millis(5) * call);
        }
        let end = start + Duration::from_secs(60);
        let steady = rate.per_second(end);
        assert!((steady - 200.0).abs() < 4.0, "{steady}");
        let faded = rate.per_second(end + DECAY);
        assert!((faded / steady - (-1f32).exp()).abs() < 0.01, "{faded}");
        assert!(rate.per_second(end + 20 * DECAY) < 1e-3);
    }

    #[test]
    fn a_reader_that_is_behind_and_what_is_no_number_change_nothing() {
        let start = SystemClock::now();
        let rate = Rate::new(start);
        rate.add(10.0, start + DECAY);
        for nothing in [0.0, -1.0, f32::NAN] {
            rate.add(nothing, start + DECAY);
        }
        assert_eq!(rate.per_second(start + DECAY), 1.0);
        assert_eq!(rate.per_second(start + DECAY - Duration::from_millis(5)), 1.0);
    }
}
