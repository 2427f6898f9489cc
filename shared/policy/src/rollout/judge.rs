//! Whether a canary is worse than the version beside it: exact tests, for as many looks as there may be.
//!
//! Errors and deadline misses are proportions: the baseline's gets an upper confidence bound, the allowed increase is added, and the
//! canary is worse when so many failures as it has would be all but impossible below that (Berger and Boos, "P Values Maximized Over a
//! Confidence Set for the Nuisance Parameter", 1994). Latency is a proportion as well: of the canary's calls that took longer than
//! the baseline's p90 or p99 times the allowed ratio. How likely a call exceeds an order statistic of the baseline has the same bound, whatever
//! the distribution of latencies is (Beta; Wilks, "Determination of Sample Sizes for Setting Tolerance Limits", 1941).
//!
//! Looking again and again would find something in the end. So a look is only taken when the canary's calls have grown by a quarter, or by
//! any for a minute, and the `j`-th one may be wrong with `alpha / (j (j + 1))`, which add up to no more than `alpha` however many there are.
//! When looks are taken depends on the time and the number of calls alone, not on how they ended.
//!
//! What a canary did for an hour would hide what it has become since. So a stage that lasts is looked at twice each time: as a whole,
//! which also tells of a canary that is seldom called, and over its last minutes.

use std::time::{Duration, Instant};

use super::distribution::Distribution;
use super::exact::{at_least, upper_bound};

/// Calls of the canary before the first look: fewer prove nothing, even if all fail.
const FIRST_LOOK: u64 = 8;
/// After so long a look is taken even where calls have hardly grown.
const AGAIN: Duration = Duration::from_secs(60);
/// The tests at each look.
const TESTS: f64 = 4.0;
/// Of so many calls the slowest one is compared: the 90th percentile tells soon, the 99th also of a tail.
const SLOWEST: [u64; 2] = [10, 100];

/// What is held against a canary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How much larger the share of failed calls may be than the baseline's: 0 to 1.
    pub max_error_increase: f64,
    /// How much larger the share of calls that miss their deadline may be: 0 to 1.
    pub max_miss_increase: f64,
    /// How many times longer calls may take, by the 90th and by the 99th percentile: at least 1.
    pub max_latency_ratio: f64,
    /// Calls that each version must have answered before a stage counts as passed.
    pub min_calls: u64,
    /// The probability that a canary which is as good as the baseline is not rolled back, over the whole rollout: below 1.
    pub confidence: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_error_increase: 0.01,
            max_miss_increase: 0.01,
            max_latency_ratio: 1.25,
            min_calls: 100,
            confidence: 0.99,
        }
    }
}

/// What one version did over a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Calls that ended.
    pub calls: u64,
    /// Those that failed, other than by their deadline or their caller's wish.
    pub errors: u64,
    /// Those that missed their deadline.
    pub misses: u64,
    /// How long they took.
    pub durations: Distribution,
}

impl Sample {
    fn plus(&self, other: &Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            errors: self.errors.saturating_add(other.errors),
            misses: self.misses.saturating_add(other.misses),
            durations: self.durations.plus(&other.durations),
        }
    }
}

/// What both did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The baseline.
    pub stable: Sample,
    /// The version that is judged.
    pub canary: Sample,
}

impl Evidence {
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self { stable: self.stable.plus(&other.stable), canary: self.canary.plus(&other.canary) }
    }
}

/// What is to be said of a canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known.
    Unknown,
    /// Nothing speaks against it.
    Fine,
    /// Nothing speaks against it, and too few calls for it: so many of those that are wanted.
    TooFew {
        /// Of the version that has fewer.
        calls: u64,
        /// Of each.
        wanted: u64,
    },
    /// It is worse, for this reason.
    Worse(String),
}

/// By what a stage is judged, and when.
pub(super) struct Terms<'a> {
    pub(super) limits: &'a Limits,
    /// Among how many stages the chance to be wrong is shared.
    pub(super) stages: usize,
    /// Whether the stage could end: where enough calls were seen, what came since the last look counts, too.
    pub(super) ending: bool,
    pub(super) now: Instant,
}

/// The looks taken in a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    taken: u32,
    /// The canary's calls at the last one.
    calls: u64,
    /// When that was.
    at: Option<Instant>,
}

impl Looks {
    /// Judges by all that was seen in the stage and, where it has lasted for long, by what was seen lately.
    pub(super) fn judge(&mut self, terms: &Terms<'_>, whole: &Evidence, lately: Option<&Evidence>) -> Verdict {
        let calls = whole.canary.calls;
        let (fewer, wanted) = (calls.min(whole.stable.calls), terms.limits.min_calls);
        let ending = terms.ending && fewer >= wanted;
        // Whoever tells the figures has begun anew: from there on, calls are new ones.
        self.calls = self.calls.min(calls);
        let grown = calls >= self.calls.saturating_add(self.calls / 4);
        let due = self.at.is_some_and(|at| terms.now.saturating_duration_since(at) >= AGAIN);
        if calls > self.calls && (ending || (calls >= FIRST_LOOK && (grown || due))) {
            (self.calls, self.at) = (calls, Some(terms.now));
            if let Some(why) = self.look(terms, whole).or_else(|| self.look(terms, lately?)) {
                return Verdict::Worse(why);
            }
        }
        if fewer < wanted {
            return Verdict::TooFew { calls: fewer, wanted };
        }
        Verdict::Fine
    }

    /// One look.
    fn look(&mut self, terms: &Terms<'_>, evidence: &Evidence) -> Option<String> {
        self.taken = self.taken.saturating_add(1);
        let look = f64::from(self.taken);
        let alpha = (1.0 - terms.limits.confidence) / terms.stages.max(1) as f64 / (look * (look + 1.0));
        worse(terms.limits, evidence, alpha / TESTS)
    }
}

/// Why the canary is worse, wrongly with a probability of at most `alpha` for each of the tests.
fn worse(limits: &Limits, evidence: &Evidence, alpha: f64) -> Option<String> {
    let Evidence { stable, canary } = evidence;
    let exceeds = |of_stable: u64, of_canary: u64, increase: f64| {
        let bound = upper_bound(stable.calls, of_stable, alpha / 2.0) + increase;
        // Whoever tells of more failures than calls is not believed beyond the calls.
        at_least(canary.calls, of_canary.min(canary.calls), bound) <= alpha / 2.0
    };
    let shares = |of_stable: u64, of_canary: u64| {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let (canary_share, stable_share) = (share(of_canary, canary.calls), share(of_stable, stable.calls));
        format!(
            "{canary_share:.2} % of its {} calls, {stable_share:.2} % of the stable version's {}",
            canary.calls, stable.calls
        )
    };
    if exceeds(stable.errors, canary.errors, limits.max_error_increase) {
        return Some(format!("errors: {}", shares(stable.errors, canary.errors)));
    }
    if exceeds(stable.misses, canary.misses, limits.max_miss_increase) {
        return Some(format!("deadline misses: {}", shares(stable.misses, canary.misses)));
    }
    SLOWEST.into_iter().find_map(|part| slow(evidence, (part, limits.max_latency_ratio), alpha))
}

/// Whether more of the canary's calls than one of `part` take longer than all but that part of the baseline's, times `ratio`.
fn slow(Evidence { stable, canary }: &Evidence, (part, ratio): (u64, f64), alpha: f64) -> Option<String> {
    let (measured, of_stable) = (canary.durations.count(), stable.durations.count());
    // Rounded down: then at least the wanted part lies below.
    let slowest = of_stable / part;
    let limit = stable.durations.exceeded_by(slowest) * ratio;
    let slow = canary.durations.above(limit);
    let bound = upper_bound(of_stable, slowest, alpha / 2.0);
    (at_least(measured, slow, bound) <= alpha / 2.0).then(|| {
        let share = 100.0 * slow as f64 / measured.max(1) as f64;
        let (allowed, limit) = (100 / part, limit * 1000.0);
        format!("latency: {share:.2} % of its {measured} calls took longer than {limit:.1} ms, where {allowed} % may")
    })
}
