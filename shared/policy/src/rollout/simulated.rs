//! Whole rollouts in virtual time: calls come at a steady rate, each is drawn for a version by the share of the moment, and the figures
//! are told once a second. Every run of a seed is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_types::SystemClock;

use super::distribution::Distribution;
use super::judge::{Evidence, Sample};
use super::tests::plan;
use super::{Intent, Memory, Phase, Seen, Status, decide};

/// Calls per second.
const RATE: usize = 100;
const SEEDS: u64 = 400;
/// Buckets per doubling: as many as the workers' histograms have for such a range.
const PER_DOUBLING: f64 = 8.0;

/// What a version does to its calls.
#[derive(Clone, Copy)]
struct Version {
    /// The part that fails.
    errors: f64,
    /// The mean duration in seconds, of an exponential distribution.
    mean: f64,
}

const BASELINE: Version = Version { errors: 0.02, mean: 0.010 };

#[derive(Default)]
struct Tally {
    calls: u64,
    errors: u64,
    buckets: BTreeMap<i32, u64>,
}

impl Tally {
    fn call(&mut self, version: Version, rng: &mut StdRng) {
        self.calls += 1;
        self.errors += u64::from(rng.random::<f64>() < version.errors);
        let seconds = -version.mean * rng.random::<f64>().max(1e-12).ln() + 0.001;
        *self.buckets.entry((seconds.log2() * PER_DOUBLING).floor() as i32).or_default() += 1;
    }

    fn sample(&self) -> Sample {
        let first = self.buckets.keys().next().copied().unwrap_or_default();
        let last = self.buckets.keys().next_back().copied().unwrap_or_default();
        let counts = (first..=last).map(|bucket| self.buckets.get(&bucket).copied().unwrap_or_default()).collect();
        let durations = Distribution::try_new(3, first, counts, 0).expect("sound");
        Sample { calls: self.calls, errors: self.errors, misses: 0, durations }
    }
}

/// How it ended, and how many calls the canary took.
struct Outcome {
    phase: Phase,
    of_canary: u64,
}

fn run(canary: Version, seed: u64) -> Outcome {
    let (mut rng, start) = (StdRng::seed_from_u64(seed), SystemClock::now());
    let (mut status, mut memory) = (Status::default(), Memory::new(start));
    let (mut stable_tally, mut canary_tally, mut of_canary) = (Tally::default(), Tally::default(), 0);
    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        let figures = Some(Evidence { stable: stable_tally.sample(), canary: canary_tally.sample() });
        let seen = Seen { stable_ready: 2, canary_ready: 2, figures, ..Seen::default() };
        let next = decide(&plan(), (Intent::Run, &status), &mut memory, &seen, now);
        if (next.phase, next.step) != (status.phase, status.step) {
            (stable_tally, canary_tally) = Default::default();
        }
        status = next;
        if status.phase.is_over() {
            break;
        }
        for _ in 0..RATE {
            if rng.random_range(0..100) < status.traffic.canary_percent {
                canary_tally.call(canary, &mut rng);
                of_canary += 1;
            } else {
                stable_tally.call(BASELINE, &mut rng);
            }
        }
    }
    Outcome { phase: status.phase, of_canary }
}

fn outcomes(canary: Version) -> Vec<Outcome> {
    (0..SEEDS).map(|seed| run(canary, seed)).collect()
}

fn rolled_back(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.phase == Phase::RolledBack).count()
}

#[test]
fn a_canary_as_good_as_the_baseline_is_promoted() {
    let outcomes = outcomes(BASELINE);
    let wrongly = rolled_back(&outcomes);
    assert!(wrongly * 100 <= outcomes.len(), "{wrongly} of {} rolled back", outcomes.len());
    let promoted = outcomes.iter().filter(|outcome| outcome.phase == Phase::Promoted).count();
    assert_eq!(promoted + wrongly, outcomes.len());
}

#[test]
fn a_canary_with_five_times_the_errors_or_twice_the_latency_is_rolled_back() {
    const MOST: u64 = 2_500;
    for canary in
        [Version { errors: 5.0 * BASELINE.errors, ..BASELINE }, Version { mean: 2.0 * BASELINE.mean, ..BASELINE }]
    {
        let outcomes = outcomes(canary);
        let rightly = rolled_back(&outcomes);
        assert!(rightly * 100 >= 99 * outcomes.len(), "{rightly} of {} rolled back", outcomes.len());
        let mut calls: Vec<u64> = outcomes.iter().map(|outcome| outcome.of_canary).collect();
        calls.sort_unstable();
        let (median, worst) = (calls[calls.len() / 2], calls[calls.len() * 99 / 100]);
        assert!(worst <= MOST, "the canary took {median} calls in the middle and {worst} at the 99th percentile");
    }
}
