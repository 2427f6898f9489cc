//! Hedging in virtual time: calls are spread evenly over four replicas of which one is fifty times slower, always or now and then, so that the
//! choice cannot know. Every run of a seed is the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_types::{Deadline, SystemClock};

use super::{Attempts, Delay, Latencies, MAX_ATTEMPTS};
use crate::retry::{Budget, BudgetSettings};

const CALLS: u32 = 20_000;
/// Between two calls.
const GAP: Duration = Duration::from_millis(5);
const SLOWER: f64 = 50.0;

struct World {
    /// How many of a hundred calls to the last replica are slow.
    slow_percent: u32,
    max_attempts: u32,
    quantile: f32,
    budget: BudgetSettings,
}

#[derive(Debug)]
struct Outcome {
    /// In order.
    times: Vec<Duration>,
    attempts: u32,
}

impl Outcome {
    fn p99(&self) -> Duration {
        self.times[self.times.len() * 99 / 100]
    }

    fn extra(&self) -> f64 {
        f64::from(self.attempts) / self.times.len() as f64 - 1.0
    }
}

impl World {
    fn run(&self) -> Outcome {
        let (mut rng, start) = (StdRng::seed_from_u64(7), SystemClock::now());
        let (mut known, mut budget) = (Latencies::new(start), Budget::new(self.budget, start));
        let mut outcome = Outcome { times: Vec::new(), attempts: 0 };
        // What ends is learned when it ends, not when it begins.
        let mut ends: BinaryHeap<Reverse<(Instant, Duration, bool)>> = BinaryHeap::new();
        for call in 0..CALLS {
            let now = start + GAP * call;
            while ends.peek().is_some_and(|Reverse((end, ..))| *end <= now) {
                let Some(Reverse((end, took, was_beaten))) = ends.pop() else { break };
                if was_beaten { known.observe_longer(took, self.quantile, end) } else { known.observe(took, end) }
            }
            budget.deposit();
            let first = self.draw(call % 4, &mut rng);
            let (took, made) = self.race(first, (call, now), (&mut known, &mut budget), &mut rng);
            ends.push(Reverse((now + took, took, took < first)));
            outcome.times.push(took);
            outcome.attempts += made;
        }
        outcome.times.sort_unstable();
        outcome
    }

    /// How long the call takes, and with how many attempts.
    fn race(
        &self,
        first: Duration,
        (call, began): (u32, Instant),
        (known, budget): (&mut Latencies, &mut Budget),
        rng: &mut StdRng,
    ) -> (Duration, u32) {
        let delay = Delay::Quantile(self.quantile).given(known, began);
        let median = known.quantile(0.5, began);
        let mut attempts = Attempts::begin(self.max_attempts, delay, median, began);
        let deadline = Deadline::after(began, Duration::from_secs(1));
        let mut end = began + first;
        while let Some(due) = attempts.due(deadline).filter(|due| *due < end) {
            if !budget.withdraw(due) {
                break;
            }
            let replica = (call + attempts.made()) % 4;
            attempts.sent(due);
            end = end.min(due + self.draw(replica, rng));
        }
        (end - began, attempts.made())
    }

    /// 1 ms, and as much again on average.
    fn draw(&self, replica: u32, rng: &mut StdRng) -> Duration {
        let seconds = 1e-3 * (1.0 - (1.0 - rng.random::<f64>()).ln());
        let is_slow = replica == 3 && rng.random_range(0..100) < self.slow_percent;
        Duration::from_secs_f64(if is_slow { seconds * SLOWER } else { seconds })
    }
}

/// Some calls take fifty times as long and nobody can know which: hedging after the 95th percentile makes the slowest hundredth of them
/// about as slow as the others, for a twentieth of load.
#[test]
fn rare_slow_calls_are_hedged_away() {
    let run = |max_attempts| {
        World { slow_percent: 10, max_attempts, quantile: 0.95, budget: BudgetSettings::default() }.run()
    };
    let (without, hedged) = (run(1), run(2));
    assert_eq!(without.extra(), 0.0);
    assert!(hedged.p99() * 8 < without.p99(), "{:?} of {:?}", hedged.p99(), without.p99());
    assert!((0.02..0.07).contains(&hedged.extra()), "{}", hedged.extra());
}

/// A quarter of all calls is slow: hedging after the median helps where the budget pays for as many, and never costs more than it.
#[test]
fn the_budget_bounds_the_load_of_hedges() {
    let run = |max_attempts, percent| {
        let budget = BudgetSettings { percent, per_second: 0, cap: 100 };
        World { slow_percent: 100, max_attempts, quantile: 0.7, budget }.run()
    };
    let (without, rich) = (run(1, 0), run(2, 60));
    assert!(rich.p99() * 5 < without.p99(), "{:?} of {:?}", rich.p99(), without.p99());
    for percent in [0, 5, 20] {
        let extra = run(MAX_ATTEMPTS, percent).extra();
        assert!(extra <= f64::from(percent) / 100.0 + 1e-9, "{extra} of {percent} %");
        assert!(extra >= f64::from(percent) / 100.0 * 0.9, "{extra} of {percent} %");
    }
}

#[test]
fn a_seed_says_it_all() {
    let run = || World { slow_percent: 10, max_attempts: 2, quantile: 0.95, budget: BudgetSettings::default() }.run();
    assert_eq!(run().times, run().times);
}
