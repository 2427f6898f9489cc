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
        self.counts.iter().fold(self.zeros, |sum, count| sum.saturating_add(*count))
    }

    /// The values of both, as finely as the coarser one has them, and more coarsely where they would take too many buckets.
    pub(super) fn plus(&self, other: &Self) -> Self {
        let parts = [self, other].into_iter().filter(|part| !part.counts.is_empty());
        let mut scale = parts.clone().map(|part| part.scale).min().unwrap_or_default();
        let at = |part: &Self, scale: i32, place: usize| {
            // Two buckets become one with each scale: the arithmetic shift rounds down, for negative places as well.
            let place = i64::from(part.offset).saturating_add(i64::try_from(place).unwrap_or(i64::MAX));
            place >> (part.scale - scale).clamp(0, 63)
        };
        let ends = |scale| {
            let ends = parts.clone().flat_map(|part| [0, part.counts.len() - 1].map(|place| at(part, scale, place)));
            ends.clone().min().zip(ends.max()).unwrap_or_default()
        };
        while ends(scale).1 - ends(scale).0 >= MAX_BUCKETS as i64 {
            scale -= 1;
        }
        let (first, last) = ends(scale);
        let length =
            if parts.clone().next().is_some() { usize::try_from(last - first).unwrap_or_default() + 1 } else { 0 };
        let mut counts = vec![0u64; length];
        for part in parts.clone() {
            for (place, count) in part.counts.iter().enumerate() {
                if let Some(sum) =
                    usize::try_from(at(part, scale, place) - first).ok().and_then(|at| counts.get_mut(at))
                {
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        // Places shrink with the scale: what an offset could hold, it still does.
        let offset = i32::try_from(first).unwrap_or_default();
        Self { scale, offset, counts, zeros: self.zeros.saturating_add(other.zeros) }
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
        let above = self.counts.iter().enumerate().filter(|(place, _)| is_above(*place));
        above.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
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

    /// Whatever the scales: no value is lost, and none is told on the other side of an end that both know.
    #[test]
    fn what_is_added_keeps_its_place() {
        let (coarse, fine) = (
            Distribution::try_new(0, -2, vec![1, 2, 3, 4], 5).expect("sound"),
            Distribution::try_new(2, -8, vec![1; 16], 7).expect("sound"),
        );
        for sum in [coarse.plus(&fine), fine.plus(&coarse)] {
            // (1/4, 1/2], (1/2, 1], (1, 2], (2, 4]: four of the finer buckets each.
            assert_eq!(sum, Distribution::try_new(0, -2, vec![5, 6, 7, 8], 12).expect("sound"));
        }
        assert_eq!(coarse.plus(&Distribution::default()), coarse);
        let empty = Distribution::default();
        assert_eq!(empty.plus(&empty), empty);
        let far = |offset| Distribution::try_new(20, offset, vec![1], 0).expect("odd, and bounded");
        let sum = far(i32::MIN).plus(&far(i32::MAX));
        assert_eq!((sum.count(), sum.counts.len() <= MAX_BUCKETS), (2, true));
        let most = Distribution::try_new(0, 0, vec![u64::MAX], 0).expect("sound");
        assert_eq!(most.plus(&most).count(), u64::MAX);
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
