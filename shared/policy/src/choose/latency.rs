//! Peak-sensitive moving average of a replica's latency (Finagle's Peak EWMA): what is slower than the average counts at once and
//! in full, what is faster brings it down over some seconds. While nothing comes in it fades, so that a replica which was slow is
//! looked at again.
//!
//! A replica that fails fast must not look like a fast one, or it would draw the calls of all others: a failure counts as a multiple
//! of what is known, and several in a row as that multiple again.

use std::time::Duration;

/// After so long without a sample, about a third of an average is left, and a sample replaces two thirds of it.
const DECAY: Duration = Duration::from_secs(10);
/// What a failure counts as, in multiples of the average.
const FAILURE: f32 = 10.0;
/// The least and the most that a failure counts as.
const FAILURE_BOUNDS: (f32, f32) = (0.001, 5.0);

/// The average as it stood at a moment. It fits into one word, so that callers on all threads share it without a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Seconds; zero when nothing is known.
    seconds: f32,
    /// When it was right, in milliseconds of a clock of the owner's that wraps around.
    at: u32,
}

impl Latency {
    /// The average in seconds at this moment; `None` when nothing is known.
    pub fn seconds(self, now: u32) -> Option<f32> {
        (self.seconds > 0.0).then(|| self.seconds * self.kept(now))
    }

    /// With an answer that took so long.
    #[must_use]
    pub fn observe(self, took: Duration, now: u32) -> Self {
        // What takes no time at all would read as unknown.
        let sample = took.as_secs_f32().max(f32::MIN_POSITIVE);
        let seconds = if sample >= self.seconds {
            sample
        } else {
            let kept = self.kept(now);
            self.seconds * kept + sample * (1.0 - kept)
        };
        Self { seconds, at: now }
    }

    /// With a failure that came after so long.
    #[must_use]
    pub fn fail(self, took: Duration, now: u32) -> Self {
        let known = self.seconds(now).unwrap_or(0.0).max(took.as_secs_f32());
        let (least, most) = FAILURE_BOUNDS;
        let counted = (known * FAILURE).clamp(least, most).max(took.as_secs_f32());
        Self { seconds: counted, at: now }
    }

    /// With a call that was given up after so long: it took at least that.
    #[must_use]
    pub fn give_up(self, took: Duration, now: u32) -> Self {
        if self.seconds(now).is_some_and(|known| took.as_secs_f32() <= known) { self } else { self.observe(took, now) }
    }

    /// How much of the average is left.
    fn kept(self, now: u32) -> f32 {
        let age = now.wrapping_sub(self.at);
        // A clock that was read by another thread may be a little behind.
        if age > u32::MAX / 2 { 1.0 } else { (-(age as f32) / (DECAY.as_millis() as f32)).exp() }
    }

    /// As one word.
    pub const fn pack(self) -> u64 {
        ((self.seconds.to_bits() as u64) << 32) | self.at as u64
    }

    /// From the word.
    pub const fn unpack(word: u64) -> Self {
        Self { seconds: f32::from_bits((word >> 32) as u32), at: word as u32 }
    }
}

/// What the quickest calls take: the opposite of [`Latency`], in that what is faster counts at once and in full, and what is slower
/// brings it up over some seconds. An average of calls that differ says little of the next one; that it takes less than any of
/// late is not to be expected. While nothing comes in it fades, too.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quickest(Latency);

impl Quickest {
    /// The time in seconds at this moment; `None` when nothing is known.
    pub fn seconds(self, now: u32) -> Option<f32> {
        self.0.seconds(now)
    }

    /// With a call that succeeded after so long.
    #[must_use]
    pub fn observe(self, took: Duration, now: u32) -> Self {
        let (known, sample) = (self.0, took.as_secs_f32().max(f32::MIN_POSITIVE));
        let kept = known.kept(now);
        let is_less = known.seconds <= 0.0 || sample <= known.seconds;
        let seconds = if is_less { sample } else { known.seconds * kept + sample * (1.0 - kept) };
        Self(Latency { seconds, at: now })
    }

    /// As one word.
    pub const fn pack(self) -> u64 {
        self.0.pack()
    }

    /// From the word.
    pub const fn unpack(word: u64) -> Self {
        Self(Latency::unpack(word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(samples: &[(u32, Duration)]) -> Latency {
        samples.iter().fold(Latency::default(), |latency, (now, took)| latency.observe(*took, *now))
    }

    #[test]
    fn slower_counts_at_once_and_faster_little_by_little() {
        let at = |latency: Latency, now| latency.seconds(now).expect("known");
        assert_eq!(Latency::default().seconds(5), None);
        let slow = after(&[(0, MS), (1, MS), (2, 50 * MS)]);
        assert_eq!(at(slow, 2), 0.05);
        let soon = slow.observe(MS, 102);
        assert!(at(soon, 102) > 0.049, "{soon:?}");
        let late = slow.observe(MS, 2 + 30_000);
        assert!(at(late, 30_002) < 0.004, "{late:?}");
        // Untouched it fades, whatever the clock stands at.
        assert!((at(slow, 10_002) / 0.05 - (-1f32).exp()).abs() < 1e-3);
        let wrapped = Latency::default().observe(50 * MS, u32::MAX - 5);
        assert!((at(wrapped, 9_994) / 0.05 - (-1f32).exp()).abs() < 1e-3);
        assert_eq!(at(wrapped, u32::MAX - 9), 0.05, "a reader that is a little behind");
    }

    #[test]
    fn failures_add_up_within_a_bound_and_are_forgotten() {
        let known = after(&[(0, 2 * MS)]);
        let once = known.fail(MS / 10, 0);
        assert!((once.seconds(0).expect("known") - 0.02).abs() < 1e-6);
        let often = (0..20).fold(known, |latency, _| latency.fail(MS / 10, 0));
        assert_eq!(often.seconds(0), Some(5.0));
        assert!(often.seconds(80_000).expect("known") < 0.002);
        assert_eq!(Latency::default().fail(Duration::ZERO, 7).seconds(7), Some(0.001));
        assert_eq!(known.fail(9_000 * MS, 0).seconds(0), Some(9.0));
    }

    #[test]
    fn the_quickest_counts_at_once_and_slower_little_by_little() {
        let at = |quickest: Quickest, now| quickest.seconds(now).expect("known");
        assert_eq!(Quickest::default().seconds(0), None);
        let quick = Quickest::default().observe(50 * MS, 0).observe(2 * MS, 1);
        assert_eq!(at(quick, 1), 0.002);
        let soon = quick.observe(50 * MS, 101);
        assert!(at(soon, 101) < 0.003, "{soon:?}");
        assert!(at(quick.observe(50 * MS, 30_001), 30_001) > 0.047);
        assert!((at(quick, 10_001) / 0.002 - (-1f32).exp()).abs() < 1e-3);
        assert_eq!(Quickest::unpack(quick.pack()), quick);
    }

    #[test]
    fn what_was_given_up_took_at_least_so_long() {
        let known = after(&[(0, 2 * MS)]);
        assert_eq!(known.give_up(MS, 0), known);
        assert_eq!(known.give_up(3 * MS, 0).seconds(0), Some(0.003));
    }

    proptest! {
        #[test]
        fn one_word_holds_it(millis in 0u64..100_000, now: u32) {
            let latency = Latency::default().observe(Duration::from_millis(millis), now);
            prop_assert_eq!(Latency::unpack(latency.pack()), latency);
        }
    }
}
