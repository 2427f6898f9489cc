//! Base-2 exponential histograms (OpenTelemetry's data model, "ExponentialHistogram"): they need no boundaries, and two of them
//! merge into what one would have held, at the coarser of their scales.
//!
//! At scale `s`, bucket `i` holds the values in `(base^i, base^(i+1)]` with `base = 2^(2^-s)`. Lowering the scale by one joins
//! buckets in pairs.

use std::ops::RangeInclusive;

/// As many buckets as the SDK keeps: with them a range of one to a million is told apart by 9 %.
pub(crate) const MAX_BUCKETS: usize = 160;
/// The scales that the SDK may use.
pub(crate) const SCALES: RangeInclusive<i32> = -10..=20;

/// A distribution of values that are not negative.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    scale: i32,
    /// The index of the first of `counts`.
    offset: i32,
    counts: Vec<u64>,
    zeros: u64,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            scale: *SCALES.end(),
            offset: 0,
            counts: Vec::new(),
            zeros: 0,
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: 0.0,
        }
    }
}

/// What a histogram holds, as it comes from the wire.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) scale: i32,
    pub(crate) offset: i32,
    pub(crate) counts: &'a [u64],
    pub(crate) zeros: u64,
    pub(crate) sum: f64,
    pub(crate) range: Option<(f64, f64)>,
}

impl Histogram {
    /// Checks and takes over foreign parts; `None` when they are out of bounds. The count is counted, not believed.
    pub(crate) fn try_new(parts: &Parts<'_>) -> Option<Self> {
        let sound = SCALES.contains(&parts.scale)
            && parts.counts.len() <= 4 * MAX_BUCKETS
            && index_range(parts.scale).contains(&i64::from(parts.offset))
            && parts.sum.is_finite()
            && parts.sum >= 0.0;
        if !sound {
            return None;
        }
        let first = parts.counts.iter().position(|count| *count > 0).unwrap_or(parts.counts.len());
        let last = parts.counts.iter().rposition(|count| *count > 0).map_or(first, |last| last + 1);
        let counts = parts.counts[first..last].to_vec();
        let count = counts.iter().try_fold(parts.zeros, |sum, count| sum.checked_add(*count))?;
        let offset = parts.offset.checked_add(i32::try_from(first).ok()?)?;
        let mut histogram =
            Self { scale: parts.scale, offset, counts, zeros: parts.zeros, count, sum: parts.sum, ..Self::default() };
        (histogram.min, histogram.max) = match parts.range {
            Some((min, max)) if min.is_finite() && max.is_finite() && (0.0..=max).contains(&min) => (min, max),
            _ => histogram.outer_bounds(),
        };
        histogram.fit();
        Some(histogram)
    }

    /// What it holds, as it goes to the wire.
    pub(crate) fn parts(&self) -> Parts<'_> {
        let range = (self.count > 0).then_some((self.min, self.max));
        Parts { scale: self.scale, offset: self.offset, counts: &self.counts, zeros: self.zeros, sum: self.sum, range }
    }

    /// Adds one value that occurred `times` times. What is negative or not a number counts as zero.
    pub(crate) fn record(&mut self, value: f64, times: u64) {
        let value = if value.is_finite() { value.max(0.0) } else { 0.0 };
        let mut one = Self { count: times, sum: value * times as f64, min: value, max: value, ..Self::default() };
        match value > 0.0 {
            true => (one.offset, one.counts) = (index_of(value, one.scale), vec![times]),
            false => one.zeros = times,
        }
        self.merge(&one);
    }

    /// Adds what the other holds, at the finest scale that holds both within [`MAX_BUCKETS`].
    pub(crate) fn merge(&mut self, other: &Self) {
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.counts.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            (self.scale, self.offset, self.counts) = (other.scale, other.offset, other.counts.clone());
            return;
        }
        let mut scale = self.scale.min(other.scale);
        let span = |scale: i32| {
            let (low, high) = (self.at(scale), other.at(scale));
            (low.0.min(high.0), low.1.max(high.1))
        };
        let (mut first, mut last) = span(scale);
        while i64::from(last) - i64::from(first) >= MAX_BUCKETS as i64 {
            scale -= 1;
            (first, last) = span(scale);
        }
        let mut counts = vec![0u64; (last - first) as usize + 1];
        for part in [&*self, other] {
            for (index, count) in part.buckets() {
                let slot = &mut counts[((index >> (part.scale - scale)) - first) as usize];
                *slot = slot.saturating_add(count);
            }
        }
        (self.scale, self.offset, self.counts) = (scale, first, counts);
    }

    /// The value below which the share `q` of all values lies; `None` when there are none.
    ///
    /// It is the geometric middle of the bucket that holds it, which is off by at most `sqrt(base) - 1` (4.4 % at scale 3)
    /// whatever the values are; interpolating inside the bucket could be off by twice that.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let rank = (q * self.count as f64).ceil().clamp(1.0, self.count as f64) as u64;
        let mut seen = self.zeros;
        if rank <= seen {
            return Some(0.0);
        }
        for (index, count) in self.buckets() {
            seen = seen.saturating_add(count);
            if rank <= seen {
                return Some(self.middle(index).clamp(self.min, self.max));
            }
        }
        Some(self.max)
    }

    /// How many values lie in each of the ranges that end at `bounds` (inclusive), and in the one above them all.
    pub(crate) fn classic(&self, bounds: &[f64]) -> Vec<u64> {
        let mut classic = vec![0u64; bounds.len() + 1];
        classic[0] = self.zeros;
        for (index, count) in self.buckets() {
            // A bucket that straddles a bound goes to the side of its middle: at most half a bucket is on the wrong side.
            let middle = self.middle(index).clamp(self.min, self.max);
            let slot = &mut classic[bounds.partition_point(|bound| *bound < middle)];
            *slot = slot.saturating_add(count);
        }
        classic
    }

    /// The same distribution with a sum that is known better.
    pub(crate) fn with_sum(self, sum: f64) -> Self {
        Self { sum, ..self }
    }

    /// How many values there are.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub(crate) const fn sum(&self) -> f64 {
        self.sum
    }

    /// How much memory it takes, in buckets.
    pub(crate) const fn cells(&self) -> usize {
        // The fixed part is about as large as eight buckets.
        self.counts.len() + 8
    }

    fn buckets(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        (self.offset..).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// The first and last index at a scale that is not finer.
    fn at(&self, scale: i32) -> (i32, i32) {
        let shift = self.scale - scale;
        (self.offset >> shift, (self.offset + (self.counts.len() as i32 - 1)) >> shift)
    }

    /// Lowers the scale until the buckets fit.
    fn fit(&mut self) {
        if self.counts.len() > MAX_BUCKETS {
            let wide = std::mem::take(self);
            // Merging with its own first bucket goes through the one place that chooses the scale.
            let half = wide.counts.len() / 2;
            let (low, high) = wide.counts.split_at(half);
            let (low, high) = (low.to_vec(), high.to_vec());
            *self = Self { counts: low, ..wide.clone() };
            self.merge(&Self { offset: wide.offset + half as i32, counts: high, zeros: 0, count: 0, sum: 0.0, ..wide });
        }
    }

    fn middle(&self, index: i32) -> f64 {
        power(f64::from(index) + 0.5, self.scale)
    }

    /// The widest range that the buckets allow, for a source that does not tell.
    fn outer_bounds(&self) -> (f64, f64) {
        let Some(last) = self.counts.len().checked_sub(1) else {
            return (if self.zeros > 0 { 0.0 } else { f64::INFINITY }, 0.0);
        };
        let low = if self.zeros > 0 { 0.0 } else { power(f64::from(self.offset), self.scale) };
        (low, power(f64::from(self.offset) + last as f64 + 1.0, self.scale))
    }
}

/// `base^exponent` at a scale.
fn power(exponent: f64, scale: i32) -> f64 {
    (exponent * f64::from(-scale).exp2()).exp2()
}

fn index_of(value: f64, scale: i32) -> i32 {
    ((value.log2() * f64::from(scale).exp2()).ceil() - 1.0) as i32
}

/// The indices that stand for values a double can hold.
fn index_range(scale: i32) -> RangeInclusive<i64> {
    let limit = (1100.0 * f64::from(scale).exp2()).ceil() as i64;
    -limit..=limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value, 1));
        histogram
    }

    fn exact(values: &[f64], q: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
    }

    /// Latencies between 50 us and 5 s: five decades, spread evenly over the logarithm.
    fn latencies() -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec((0.0f64..5.0).prop_map(|decades| 50e-6 * 10f64.powf(decades)), 1..400)
    }

    proptest! {
        #[test]
        fn quantiles_are_within_five_percent(values in latencies(), q in 0.0f64..=1.0) {
            let histogram = of(&values);
            let (found, exact) = (histogram.quantile(q).expect("not empty"), exact(&values, q));
            prop_assert!((found / exact - 1.0).abs() <= 0.05, "{found} for {exact} at {q}, scale {}", histogram.scale);
        }

        #[test]
        fn merging_is_recording_everything_in_one(values in latencies(), at in 0.0f64..1.0, q in 0.0f64..=1.0) {
            let (left, right) = values.split_at((at * values.len() as f64) as usize);
            let mut merged = of(left);
            merged.merge(&of(right));
            let whole = of(&values);
            prop_assert_eq!(merged.count(), values.len() as u64);
            prop_assert_eq!(merged.counts.iter().sum::<u64>(), values.len() as u64);
            prop_assert_eq!((merged.min, merged.max), (whole.min, whole.max));
            prop_assert!((merged.sum - whole.sum).abs() < 1e-6);
            prop_assert!(merged.counts.len() <= MAX_BUCKETS);
            let (found, exact) = (merged.quantile(q).expect("not empty"), exact(&values, q));
            prop_assert!((found / exact - 1.0).abs() <= 0.05, "{found} for {exact}");
        }

        /// Whatever the wire claims, parts are refused or counted.
        #[test]
        fn foreign_parts_cannot_break_it(
            scale in -12i32..23,
            offset in prop_oneof![any::<i32>(), -2000i32..2000],
            counts in proptest::collection::vec(prop_oneof![0u64..5, any::<u64>()], 0..700),
            zeros in any::<u64>(),
            sum in any::<f64>(),
            range in proptest::option::of(any::<(f64, f64)>()),
            q in 0.0f64..=1.0,
        ) {
            let parts = Parts { scale, offset, counts: &counts, zeros, sum, range };
            if let Some(mut histogram) = Histogram::try_new(&parts) {
                prop_assert!(histogram.counts.len() <= MAX_BUCKETS);
                prop_assert_eq!(histogram.count, histogram.zeros + histogram.counts.iter().sum::<u64>());
                prop_assert!(histogram.quantile(q).is_none_or(|value| value >= 0.0));
                prop_assert_eq!(histogram.classic(&[0.1, 1.0]).iter().sum::<u64>(), histogram.count);
                histogram.merge(&of(&[0.001, 7.0]));
                prop_assert!(histogram.counts.len() <= MAX_BUCKETS);
            }
        }

        #[test]
        fn classic_ranges_hold_what_lies_in_them(values in latencies()) {
            let bounds = [0.001, 0.01, 0.1, 1.0];
            let classic = of(&values).classic(&bounds);
            let mut cumulative = 0;
            for (bound, count) in bounds.iter().zip(&classic) {
                cumulative += count;
                let surely = values.iter().filter(|value| **value <= bound * 0.95).count() as u64;
                let maybe = values.iter().filter(|value| **value <= bound * 1.05).count() as u64;
                prop_assert!((surely..=maybe).contains(&cumulative), "{cumulative} up to {bound}, not {surely}..={maybe}");
            }
            prop_assert_eq!(classic.iter().sum::<u64>(), values.len() as u64);
        }
    }

    #[test]
    fn whole_numbers_stay_under_their_own_bound() {
        let histogram = of(&[1.0, 1.0, 2.0, 4.0, 8.0, 9.0]);
        assert_eq!(histogram.classic(&[1.0, 2.0, 4.0, 8.0]), [2, 1, 1, 1, 1]);
        assert_eq!((histogram.sum(), histogram.quantile(1.0)), (25.0, Some(9.0)));
    }

    #[test]
    fn zeros_count_and_nothing_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let histogram = of(&[0.0, -1.0, f64::NAN, 5.0]);
        assert_eq!((histogram.quantile(0.5), histogram.count()), (Some(0.0), 4));
        assert!(histogram.quantile(0.99).is_some_and(|value| (value - 5.0).abs() < 0.01));
    }
}
