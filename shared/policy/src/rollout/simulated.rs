//! Whole rollouts in virtual time: calls come at some rate, each is drawn for a version by the share of the moment, and the figures are told
//! once a second, over the windows that are asked for. Every run of a seed is the same.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_types::SystemClock;

use super::distribution::Distribution;
use super::judge::{Evidence, Sample};
use super::tests::plan;
use super::{Gathered, Intent, Memory, Phase, Plan, Seen, Status, Step, decide};

const SEEDS: u64 = 400;
/// Of runs that last for long.
const FEW_SEEDS: u64 = 25;
const HOUR: usize = 3600;
/// Buckets per doubling: as many as the workers' histograms have for such a range.
const PER_DOUBLING: f64 = 8.0;
/// The first bucket ends at a sixteenth of a millisecond, the last one at a second.
const FIRST_BUCKET: i32 = -112;
const BUCKETS: usize = 112;

/// What a version does to its calls.
#[derive(Clone, Copy)]
struct Version {
    /// The part that fails.
    errors: f64,
    /// The mean duration in seconds, of an exponential distribution.
    mean: f64,
}

const BASELINE: Version = Version { errors: 0.02, mean: 0.010 };
const FAILING: Version = Version { errors: 5.0 * BASELINE.errors, ..BASELINE };
const SLOW: Version = Version { mean: 2.0 * BASELINE.mean, ..BASELINE };

/// What a version did since the run began.
#[derive(Clone)]
struct Tally {
    calls: u64,
    errors: u64,
    buckets: [u64; BUCKETS],
}

impl Tally {
    const NOTHING: Self = Self { calls: 0, errors: 0, buckets: [0; BUCKETS] };

    fn call(&mut self, version: Version, rng: &mut StdRng) {
        self.calls += 1;
        self.errors += u64::from(rng.random::<f64>() < version.errors);
        let seconds = -version.mean * rng.random::<f64>().max(1e-12).ln() + 0.001;
        let bucket = (seconds.log2() * PER_DOUBLING).floor() as i32 - FIRST_BUCKET;
        self.buckets[usize::try_from(bucket).expect("no call is so short").min(BUCKETS - 1)] += 1;
    }

    fn since(&self, before: &Self) -> Sample {
        let counts = self.buckets.iter().zip(&before.buckets).map(|(now, before)| now - before).collect();
        let durations = Distribution::try_new(3, FIRST_BUCKET, counts, 0).expect("sound");
        Sample { calls: self.calls - before.calls, errors: self.errors - before.errors, misses: 0, durations }
    }
}

/// What happens.
struct Scene {
    plan: Plan,
    intent: Intent,
    /// Calls per second, by the second.
    rate: fn(usize) -> f64,
    /// The canary, by the second.
    canary: fn(usize) -> Version,
    /// When the metrics service forgets everything.
    restarted: usize,
}

impl Scene {
    /// A hundred calls a second to a canary like this.
    fn steady(canary: fn(usize) -> Version) -> Self {
        Self { plan: plan(), intent: Intent::Run, rate: |_| 100.0, canary, restarted: 0 }
    }

    /// Half of the calls go to the canary, until somebody says otherwise.
    fn paused(canary: fn(usize) -> Version) -> Self {
        let steps = vec![Step { percent: 50, pause: Duration::ZERO }];
        Self { plan: Plan { steps, ..plan() }, intent: Intent::Pause, ..Self::steady(canary) }
    }
}

/// How it ended, when, and how many calls the canary took.
struct Outcome {
    phase: Phase,
    second: usize,
    of_canary: u64,
}

fn run(scene: &Scene, seed: u64) -> Outcome {
    let (mut rng, start) = (StdRng::seed_from_u64(seed), SystemClock::now());
    let (mut status, mut memory, mut gathered) = (Status::default(), Memory::new(start), Gathered::new(start));
    let (mut calls, mut second) = (0.0, 0);
    // Of both versions, at the beginning of each second.
    let mut tallies = vec![[Tally::NOTHING; 2]];
    while second < HOUR {
        let now = start + Duration::from_secs(second as u64);
        let latest = tallies[second].clone();
        if let Some(window) = gathered.window(now) {
            let forgotten = if second > scene.restarted { scene.restarted } else { 0 };
            let before = &tallies[(second - window.as_secs() as usize).max(forgotten)];
            let [stable, canary] = [0, 1].map(|version| latest[version].since(&before[version]));
            gathered.tell(Evidence { stable, canary }, window, now);
        }
        let (figures, lately) = (Some(gathered.whole()), gathered.lately());
        let seen = Seen { wanted: 2, stable_ready: 2, canary_ready: 2, figures, lately, ..Seen::default() };
        let intent = if status.phase == Phase::Loading { Intent::Run } else { scene.intent };
        let next = decide(&scene.plan, (intent, &status), &mut memory, &seen, now);
        if (next.phase, next.step) != (status.phase, status.step) {
            (memory, gathered) = (Memory::new(now), Gathered::new(now));
        }
        status = next;
        if status.phase.is_over() {
            break;
        }
        let mut after = latest;
        calls += (scene.rate)(second);
        while calls >= 1.0 {
            calls -= 1.0;
            if rng.random_range(0..100) < status.traffic.canary_percent {
                after[1].call((scene.canary)(second), &mut rng);
            } else {
                after[0].call(BASELINE, &mut rng);
            }
        }
        tallies.push(after);
        second += 1;
    }
    Outcome { phase: status.phase, second, of_canary: tallies[second][1].calls }
}

fn outcomes(scene: &Scene, seeds: u64) -> Vec<Outcome> {
    (0..seeds).map(|seed| run(scene, seed)).collect()
}

fn rolled_back(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.phase == Phase::RolledBack).count()
}

#[test]
fn a_canary_as_good_as_the_baseline_is_promoted() {
    let outcomes = outcomes(&Scene::steady(|_| BASELINE), SEEDS);
    let wrongly = rolled_back(&outcomes);
    assert!(wrongly * 100 <= outcomes.len(), "{wrongly} of {} rolled back", outcomes.len());
    let promoted = outcomes.iter().filter(|outcome| outcome.phase == Phase::Promoted).count();
    assert_eq!(promoted + wrongly, outcomes.len());
}

#[test]
fn a_canary_with_five_times_the_errors_or_twice_the_latency_is_rolled_back() {
    const MOST: u64 = 2_500;
    for scene in [Scene::steady(|_| FAILING), Scene::steady(|_| SLOW)] {
        let outcomes = outcomes(&scene, SEEDS);
        let rightly = rolled_back(&outcomes);
        assert!(rightly * 100 >= 99 * outcomes.len(), "{rightly} of {} rolled back", outcomes.len());
        let mut calls: Vec<u64> = outcomes.iter().map(|outcome| outcome.of_canary).collect();
        calls.sort_unstable();
        let (median, worst) = (calls[calls.len() / 2], calls[calls.len() * 99 / 100]);
        assert!(worst <= MOST, "the canary took {median} calls in the middle and {worst} at the 99th percentile");
    }
}

/// Looked at for an hour, some sixty times: the looks' errors still add up to no more than was allowed.
#[test]
fn a_good_canary_that_stays_in_its_stage_is_kept() {
    let outcomes = outcomes(&Scene::paused(|_| BASELINE), FEW_SEEDS);
    assert_eq!(rolled_back(&outcomes), 0);
}

/// Between turning bad in the given second and the end.
fn found_after(scene: &Scene, turned: usize) -> Vec<usize> {
    let outcomes = outcomes(scene, FEW_SEEDS);
    assert_eq!(rolled_back(&outcomes), outcomes.len(), "some stayed");
    assert!(outcomes.iter().all(|outcome| outcome.second >= turned), "some went before");
    outcomes.iter().map(|outcome| outcome.second - turned).collect()
}

#[test]
fn a_canary_that_turns_bad_late_in_its_stage_is_rolled_back() {
    let turns: [fn(usize) -> Version; 2] =
        [|second| if second < 1800 { BASELINE } else { FAILING }, |second| if second < 1800 { BASELINE } else { SLOW }];
    for canary in turns {
        let found = found_after(&Scene::paused(canary), 1800);
        assert!(found.iter().all(|seconds| *seconds <= 400), "{found:?}");
    }
}

#[test]
fn a_canary_that_turns_bad_while_calls_become_few_is_rolled_back() {
    let canary = |second| if second < 700 { BASELINE } else { Version { errors: 0.5, ..BASELINE } };
    let rate = |second| if second < 700 { 100.0 } else { 2.0 };
    let found = found_after(&Scene { rate, ..Scene::paused(canary) }, 700);
    assert!(found.iter().all(|seconds| *seconds <= 900), "{found:?}");
}

#[test]
fn a_canary_that_turns_bad_when_the_metrics_service_begins_anew_is_rolled_back() {
    let canary = |second| if second < 280 { BASELINE } else { FAILING };
    let found = found_after(&Scene { restarted: 280, ..Scene::paused(canary) }, 280);
    assert!(found.iter().all(|seconds| *seconds <= 200), "{found:?}");
}

/// A call in ten seconds to each version: the calls that a stage wants take longer than figures are kept.
#[test]
fn a_canary_that_is_seldom_called_is_judged_by_all_of_its_calls() {
    let seldom = |canary| {
        let scene = Scene { rate: |_| 0.2, intent: Intent::Run, ..Scene::paused(canary) };
        outcomes(&scene, FEW_SEEDS)
    };
    let good = seldom(|_| BASELINE);
    assert_eq!(good.iter().filter(|outcome| outcome.phase == Phase::Promoted).count(), good.len());
    assert!(good.iter().all(|outcome| outcome.second > 600), "too soon for a hundred calls of each");
    let bad = seldom(|_| Version { errors: 1.0, ..BASELINE });
    assert_eq!(rolled_back(&bad), bad.len());
}
