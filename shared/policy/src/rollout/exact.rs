//! Exact tests of proportions: no approximation that fails where there are few calls or few errors.

/// Steps of the bisection: beyond the precision of a float.
const BISECTIONS: usize = 60;

/// The probability that of `trials` at least `successes` succeed, each with probability `chance`.
pub(super) fn at_least(trials: u64, successes: u64, chance: f64) -> f64 {
    if successes == 0 || chance >= 1.0 {
        return 1.0;
    }
    if successes > trials || chance <= 0.0 {
        return 0.0;
    }
    let (n, k) = (trials as f64, successes as f64);
    let ln_choose = ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0);
    let mut term = (ln_choose + k * chance.ln() + (n - k) * (-chance).ln_1p()).exp();
    // So far below the middle that the first term is no number to go on from: all but nothing of the sum lies above.
    if term < f64::MIN_POSITIVE && k < n * chance {
        return 1.0;
    }
    let (mut sum, odds) = (term, chance / (1.0 - chance));
    for at in successes..trials {
        let at = at as f64;
        let ratio = (n - at) / (at + 1.0) * odds;
        term *= ratio;
        sum += term;
        if ratio < 1.0 && term < sum * 1e-15 {
            break;
        }
    }
    sum.min(1.0)
}

/// An upper bound of a chance of which `successes` of `trials` were seen, wrong with a probability of at most `error` (Clopper and
/// Pearson, "The Use of Confidence or Fiducial Limits", 1934).
pub(super) fn upper_bound(trials: u64, successes: u64, error: f64) -> f64 {
    if successes >= trials {
        return 1.0;
    }
    let (mut low, mut high) = (successes as f64 / trials as f64, 1.0);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        // At most `successes` succeed when at least the others fail.
        if at_least(trials, trials - successes, 1.0 - middle) > error { low = middle } else { high = middle }
    }
    high
}

/// The logarithm of the gamma function for `x >= 1`: Stirling's series, from where it is exact to a float's precision.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square * (1.0 / 1680.0)))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn agrees_with_what_is_known() {
        for (n, factorial) in [(1.0, 1.0), (2.0, 1.0), (6.0, 120.0), (11.0, 3_628_800.0_f64)] {
            assert!((ln_gamma(n) - f64::ln(factorial)).abs() < 1e-10, "{n}");
        }
        // Summed in exact fractions.
        for ((trials, successes, chance), known) in [
            ((10, 5, 0.3), 0.150_268_333),
            ((1000, 30, 0.02), 0.020_696_518),
            ((10, 11, 0.5), 0.0),
            ((10, 0, 0.5), 1.0),
        ] {
            let found = at_least(trials, successes, chance);
            assert!((found - known).abs() < 1e-8, "{trials} {successes} {chance}: {found}");
        }
        for ((trials, successes), known) in [((100, 0), 0.036_216_7), ((50, 3), 0.165_481_9), ((7, 7), 1.0)] {
            let found = upper_bound(trials, successes, 0.025);
            assert!((found - known).abs() < 1e-6, "{trials} {successes}: {found}");
        }
    }

    proptest! {
        /// Sums over all outcomes, where they can be told.
        #[test]
        fn tails_are_sums(trials in 1u64..60, successes in 0u64..61, chance in 0.0f64..1.0) {
            let choose = |k: u64| (0..k).fold(1.0, |c, i| c * (trials - i) as f64 / (i + 1) as f64);
            let mass = |k: u64| choose(k) * chance.powi(k as i32) * (1.0 - chance).powi((trials - k) as i32);
            let sum: f64 = (successes..=trials).map(mass).sum();
            prop_assert!((at_least(trials, successes, chance) - sum).abs() < 1e-9);
        }

        /// Large numbers neither hang nor leave the range. Of a term of millions of trials some seven digits are right, those that are left of its
        /// logarithms.
        #[test]
        fn tails_are_chances(trials in 0u64..3_000_000, part in 0.0f64..1.0, chance in -0.5f64..1.5) {
            let successes = (part * trials as f64) as u64;
            let tail = at_least(trials, successes, chance);
            prop_assert!((0.0..=1.0).contains(&tail));
            prop_assert!(at_least(trials, successes + 1, chance) <= tail + 1e-7);
        }
    }
}
