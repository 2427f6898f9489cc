//! What a replica's own load report (ORCA, gRFC A51) adds to what this process knows: the requests that others have sent there.
//!
//! A report comes with an answer, so it is of the moment when that answer left. Of the requests that it tells, this process's own are
//! subtracted, as it knows better at any time how many of those there are; what is left fades while no report comes in, so that a
//! replica which was busy for others is looked at again.

use std::time::Duration;

/// After so long without a report, about a third of what others had there is thought to be left.
const DECAY: Duration = Duration::from_secs(2);
/// Older reports count for nothing (the `weight_expiration_period` of gRFC A58).
const EXPIRATION: Duration = Duration::from_secs(180);

/// Something that a report told, as it was then. It fits into one word, as [`super::Latency`] does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reported {
    value: f32,
    /// In milliseconds of a clock of the owner's that wraps around.
    at: u32,
}

impl Reported {
    /// The requests of others, where the replica told of `requests` while `own` of this process were there.
    pub fn others(requests: f64, own: u64, now: u32) -> Self {
        Self::new(requests - own as f64, now)
    }

    /// How long one more request would wait, in milliseconds.
    pub fn wait(ms: f64, now: u32) -> Self {
        Self::new(ms, now)
    }

    fn new(value: f64, at: u32) -> Self {
        Self { value: if value > 0.0 && value.is_finite() { value as f32 } else { 0.0 }, at }
    }

    /// What may be left of a number of requests.
    pub fn faded(self, now: u32) -> f32 {
        match self.age(now) {
            Some(age) if self.value > 0.0 => self.value * (-age.as_secs_f32() / DECAY.as_secs_f32()).exp(),
            _ => 0.0,
        }
    }

    /// What is left of a wait, in seconds: time has passed since.
    pub fn seconds_left(self, now: u32) -> f32 {
        self.age(now).map_or(0.0, |age| (self.value / 1e3 - age.as_secs_f32()).max(0.0))
    }

    /// How old it is; `None` where it has expired.
    fn age(self, now: u32) -> Option<Duration> {
        let age = now.wrapping_sub(self.at);
        // A clock that was read by another thread may be a little behind.
        let age = Duration::from_millis(if age > u32::MAX / 2 { 0 } else { age.into() });
        (age < EXPIRATION).then_some(age)
    }

    /// As one word.
    pub const fn pack(self) -> u64 {
        ((self.value.to_bits() as u64) << 32) | self.at as u64
    }

    /// From the word.
    pub const fn unpack(word: u64) -> Self {
        Self { value: f32::from_bits((word >> 32) as u32), at: word as u32 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_requests_are_not_those_of_others_and_reports_age() {
        let told = Reported::others(12.0, 4, 1_000);
        assert_eq!((told.faded(1_000), told.faded(999)), (8.0, 8.0));
        assert!((told.faded(3_000) / 8.0 - (-1f32).exp()).abs() < 1e-3);
        assert_eq!(Reported::others(3.0, 4, 0).faded(0), 0.0);
        assert_eq!(told.faded(1_000 + 180_000), 0.0);
        let wait = Reported::wait(500.0, u32::MAX);
        assert!((wait.seconds_left(199) - 0.3).abs() < 1e-6);
        assert_eq!((wait.seconds_left(600), Reported::wait(1e9, 0).seconds_left(180_000)), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn whatever_is_told_can_be_counted_with(requests: f64, own: u64, at: u32, now: u32) {
            let told = Reported::others(requests, own, at);
            prop_assert!(told.faded(now) >= 0.0 && !told.faded(now).is_nan());
            prop_assert!(Reported::wait(requests, at).seconds_left(now) >= 0.0);
            prop_assert_eq!(Reported::unpack(told.pack()), told);
        }
    }
}
