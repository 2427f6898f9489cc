//! How long calls took: exponential buckets (OpenTelemetry's data model, "ExponentialHistogram").

/// As fine and as coarse as buckets are told.
const SCALES: std::ops::RangeInclusive<i32> = -10..=20;
/// More buckets than this nobody tells.
const MAX_BUCKETS: usize = 640;

/// Values that are not negative. With `base = 2^(2^-scale)`, the count at place `i` is of those in
/// `(base^(offset + i), base^(offset + i + 1)]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    scale: i32,
    offset: i32,
    counts: Vec<u64>,
    zeros: u64,
}

impl Distribution {
    /// Checks foreign parts; `None` when they are out of bounds.
    pub fn try_new(scale: i32, offset: i32, counts: Vec<u64>, zeros: u64) -> Option<Self> {
        let sound = SCALES.contains(&scale) && counts.len() <= MAX_BUCKETS;
        counts.iter().try_fold(zeros, |sum, count| sum.checked_add(*count)).filter(|_| sound)?;
        Some(Self { scale, offset, counts, zeros })
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.zeros
    }

    /// A value that no more than `rest` of the values exceed: the upper end of a bucket.
    pub(super) fn exceeded_by(&self, rest: u64) -> f64 {
        let mut left = self.count().saturating_sub(rest);
        left = left.saturating_sub(self.zeros);
        if left == 0 {
            return 0.0;
        }
        let last = self.counts.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        self.end(last.unwrap_or(self.counts.len()) as f64 + 1.0)
    }

    /// Values that are certainly above `limit`.
    pub(super) fn above(&self, limit: f64) -> u64 {
        // A hair of tolerance: the same end, computed at two scales, may differ in its last digit.
        let is_above = |place: usize| self.end(place as f64) >= limit * (1.0 - 1e-9);
        self.counts.iter().enumerate().filter(|(place, _)| is_above(*place)).map(|(_, count)| count).sum()
    }

    fn end(&self, place: f64) -> f64 {
        ((f64::from(self.offset) + place) * f64::from(-self.scale).exp2()).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_tails_are_on_the_safe_side() {
        // (1, 2], (2, 4], (4, 8], (8, 16]
        let told = Distribution::try_new(0, 0, vec![90, 9, 0, 1], 0).expect("sound");
        assert_eq!(
            (told.count(), told.exceeded_by(0), told.exceeded_by(1), told.exceeded_by(10)),
            (100, 16.0, 4.0, 2.0)
        );
        assert_eq!((told.above(4.0), told.above(4.1), told.above(0.0), told.above(8.0)), (1, 1, 100, 1));
        assert_eq!((told.above(2.5), told.above(9.0)), (1, 0), "a bucket that holds the limit may be below it");
        let finer = Distribution::try_new(1, 4, vec![5, 5], 3).expect("sound");
        assert_eq!((finer.count(), finer.above(4.0), finer.exceeded_by(12)), (13, 10, 0.0));
        assert_eq!(Distribution::default().exceeded_by(0), 0.0);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(Distribution::try_new(21, 0, vec![], 0), None);
        assert_eq!(Distribution::try_new(0, 0, vec![1; 641], 0), None);
        assert_eq!(Distribution::try_new(0, 0, vec![u64::MAX, 1], 0), None);
        let far = Distribution::try_new(-10, i32::MAX, vec![1], 0).expect("odd, and bounded");
        assert_eq!(far.above(1.0), 1);
    }
}
