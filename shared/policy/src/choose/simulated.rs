//! The choice against round robin, against what it replaced and against Prequal's rule, in virtual time: calls arrive by Poisson's law, replicas serve in order
//! with as many at once as they can, and every run of a seed is the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt as _, SeedableRng as _};

use super::{Candidate, Latency, NOISE, Quickest, Reported, Terms, choose};

const SECOND: u64 = 1_000_000;
/// How long calls arrive.
const SPAN: u64 = 40 * SECOND;

/// How a call's time on a replica is drawn.
#[derive(Clone, Copy)]
enum Service {
    /// The same for all, in microseconds.
    Fixed(u64),
    /// Generated texts: most short, a few very long (a Pareto law with exponent 1.5, the least in microseconds, cut at 500 times that).
    Texts(u64),
}

#[derive(Clone, Copy)]
struct Replica {
    service: Service,
    slots: usize,
    fails: bool,
    /// Calls per second that another router sends there.
    others: f64,
}

impl Replica {
    const fn new(us: u64) -> Self {
        Self { service: Service::Fixed(us), slots: 1, fails: false, others: 0.0 }
    }
}

/// Who chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Policy {
    RoundRobin,
    /// Of two, the one with the lower product of latency and requests, as Finagle and linkerd have it.
    Product,
    /// Of two, by Prequal's rule: where one has more requests than most, the one with fewer, else the quicker one.
    HotCold,
    /// What serves.
    Now,
}

/// What came of the calls of the router that chooses.
#[derive(Default, Debug)]
struct Outcome {
    taken: Vec<u64>,
    /// In microseconds, in order.
    times: Vec<u64>,
    /// Of those, how many ended in time.
    met: usize,
}

impl Outcome {
    fn share(&self, replica: usize) -> f64 {
        self.taken[replica] as f64 / self.taken.iter().sum::<u64>() as f64
    }

    fn quantile(&self, share: f64) -> f64 {
        self.times[((self.times.len() - 1) as f64 * share) as usize] as f64
    }

    fn met_share(&self) -> f64 {
        self.met as f64 / self.times.len() as f64
    }

    fn mean(&self) -> f64 {
        self.times.iter().sum::<u64>() as f64 / self.times.len() as f64
    }
}

/// A call that is under way. The order is that of the ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Running {
    end: u64,
    began: u64,
    replica: usize,
    is_own: bool,
}

struct World {
    replicas: Vec<Replica>,
    per_second: f64,
    /// What calls have, in microseconds, in turn.
    limits: Vec<u64>,
    policy: Policy,
}

/// What the router knows of a replica, and what is so.
#[derive(Clone)]
struct State {
    free: Vec<u64>,
    latency: Latency,
    others: Reported,
    wait: Reported,
    quickest: Quickest,
    own: u64,
    all: u64,
}

impl World {
    fn run(&self) -> Outcome {
        let mut rng = StdRng::seed_from_u64(3);
        let mut states: Vec<State> = self
            .replicas
            .iter()
            .map(|replica| State {
                free: vec![0; replica.slots],
                latency: Latency::default(),
                others: Reported::default(),
                wait: Reported::default(),
                quickest: Quickest::default(),
                own: 0,
                all: 0,
            })
            .collect();
        let mut outcome = Outcome { taken: vec![0; self.replicas.len()], ..Outcome::default() };
        let mut running = BinaryHeap::new();
        let mut turn = 0;
        let mut seen = Seen::default();
        for (now, to) in self.arrivals(&mut rng) {
            while running.peek().is_some_and(|Reverse(next): &Reverse<Running>| next.end <= now) {
                let Some(Reverse(ended)) = running.pop() else { break };
                self.end(ended, &mut states[ended.replica]);
            }
            let chosen = to.unwrap_or_else(|| self.choose(&states, (turn, now), &mut seen, &mut rng));
            let replica = &self.replicas[chosen];
            let state = &mut states[chosen];
            let slot = (0..state.free.len()).min_by_key(|slot| state.free[*slot]).unwrap_or(0);
            let end = state.free[slot].max(now) + replica.service.draw(&mut rng);
            state.free[slot] = end;
            state.all += 1;
            let is_own = to.is_none();
            if is_own {
                state.own += 1;
                outcome.taken[chosen] += 1;
                outcome.times.push(end - now);
                outcome.met += usize::from(end - now <= self.limit(turn));
                turn += 1;
            }
            running.push(Reverse(Running { end, began: now, replica: chosen, is_own }));
        }
        outcome.times.sort_unstable();
        outcome
    }

    fn limit(&self, turn: usize) -> u64 {
        self.limits.get(turn % self.limits.len().max(1)).copied().unwrap_or(u64::MAX)
    }

    /// When calls arrive, and where those of the other router go.
    fn arrivals(&self, rng: &mut StdRng) -> Vec<(u64, Option<usize>)> {
        let mut all = Vec::new();
        let mut poisson = |per_second: f64, to: Option<usize>| {
            let mut now = 0.0;
            while per_second > 0.0 && now < SPAN as f64 {
                now -= (1.0 - rng.random::<f64>()).ln() / per_second * SECOND as f64;
                all.push((now as u64, to));
            }
        };
        poisson(self.per_second, None);
        for (index, replica) in self.replicas.iter().enumerate() {
            poisson(replica.others, Some(index));
        }
        all.sort_unstable();
        all
    }

    fn end(&self, ended: Running, state: &mut State) {
        let clock = (ended.end / 1_000) as u32;
        let took = Duration::from_micros(ended.end - ended.began);
        state.all -= 1;
        if ended.is_own {
            state.own -= 1;
            let fails = self.replicas[ended.replica].fails;
            state.latency = if fails { state.latency.fail(took, clock) } else { state.latency.observe(took, clock) };
            let free = state.free.iter().min().copied().unwrap_or(0).saturating_sub(ended.end);
            if !fails {
                state.quickest = state.quickest.observe(took, clock);
            }
            state.wait = Reported::wait(free as f64 / 1e3, clock);
            state.others = Reported::others(state.all as f64, state.own, clock);
        }
    }

    fn choose(&self, states: &[State], (turn, now): (usize, u64), seen: &mut Seen, rng: &mut StdRng) -> usize {
        let clock = (now / 1_000) as u32;
        match self.policy {
            Policy::RoundRobin => turn % states.len(),
            Policy::Now => {
                let remaining = (!self.limits.is_empty()).then(|| Duration::from_micros(self.limit(turn)));
                let candidates = states.iter().map(|state| state.candidate(clock));
                choose(candidates, Terms { remaining, ..Terms::default() }, rng).unwrap_or(0)
            }
            Policy::Product | Policy::HotCold => {
                let one = rng.random_range(0..states.len());
                let other = (one + 1 + rng.random_range(0..states.len() - 1)) % states.len();
                let latency = |of: usize, beside: usize| {
                    let known = |index: usize| states[index].latency.seconds(clock);
                    known(of).or(known(beside)).unwrap_or(NOISE).max(NOISE)
                };
                let (of_one, of_other) = (latency(one, other), latency(other, one));
                // Prequal knows from its probes how many there are, whoever sent them.
                let is_better = if self.policy == Policy::Product {
                    let most = of_one.min(of_other) * 16.0;
                    let cost = |index: usize, latency: f32| (states[index].own as f32 + 1.0) * latency.min(most);
                    cost(one, of_one) <= cost(other, of_other)
                } else {
                    states.iter().for_each(|state| seen.note(state.all));
                    let (of_one, of_other) = ((states[one].all, of_one), (states[other].all, of_other));
                    let any_hot = of_one.0.max(of_other.0) > seen.quantile(0.84);
                    if any_hot { of_one.0 <= of_other.0 } else { of_one.1 <= of_other.1 }
                };
                if is_better { one } else { other }
            }
        }
    }
}

impl State {
    fn candidate(&self, clock: u32) -> Candidate {
        Candidate {
            in_flight: self.own,
            others: self.others.faded(clock),
            wait: self.wait.seconds_left(clock),
            latency: self.latency.seconds(clock),
            quickest: self.quickest.seconds(clock),
            ..Candidate::default()
        }
    }
}

/// How many requests replicas have lately had.
#[derive(Default)]
struct Seen(VecDeque<u64>);

impl Seen {
    fn note(&mut self, requests: u64) {
        self.0.push_back(requests);
        if self.0.len() > 128 {
            self.0.pop_front();
        }
    }

    fn quantile(&self, share: f64) -> u64 {
        let mut sorted: Vec<u64> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted[((sorted.len() - 1) as f64 * share) as usize]
    }
}

impl Service {
    fn draw(self, rng: &mut impl Rng) -> u64 {
        match self {
            Self::Fixed(us) => us,
            Self::Texts(least) => {
                let pareto = (1.0 - rng.random::<f64>()).powf(-1.0 / 1.5);
                (least as f64 * pareto.min(500.0)) as u64
            }
        }
    }
}

/// What comes of the same calls under each policy: round robin, the product, hot and cold, and what serves.
fn compare(replicas: &[Replica], per_second: f64, limits: &[u64]) -> [Outcome; 4] {
    [Policy::RoundRobin, Policy::Product, Policy::HotCold, Policy::Now]
        .map(|policy| World { replicas: replicas.to_vec(), per_second, limits: limits.to_vec(), policy }.run())
}

/// One of four is fifty times slower: nearly no call meets it, as under the product; the hot rule sends it calls whenever the others
/// have a few.
#[test]
fn one_of_four_is_fifty_times_slower() {
    let replicas = [vec![Replica::new(2_000); 3], vec![Replica::new(100_000)]].concat();
    let [turns, product, hot_cold, now] = compare(&replicas, 600.0, &[]);
    let p99 = |outcome: &Outcome| outcome.quantile(0.99);
    assert!(now.share(3) < 0.002 && p99(&now) < 1.1 * p99(&product));
    assert!(10.0 * p99(&now) < p99(&hot_cold) && 100.0 * p99(&now) < p99(&turns));
}

/// Another router keeps one of four nearly busy. Only what the replica itself tells shows it before calls have waited.
#[test]
fn one_of_four_is_busy_for_another_router() {
    let replica = |others| Replica { slots: 8, others, ..Replica::new(50_000) };
    let replicas = [vec![replica(50.0); 3], vec![replica(140.0)]].concat();
    let [turns, product, hot_cold, now] = compare(&replicas, 300.0, &[]);
    let p99 = |outcome: &Outcome| outcome.quantile(0.99);
    assert!(p99(&now) < 0.65 * p99(&product) && p99(&now) < 0.8 * p99(&hot_cold) && 50.0 * p99(&now) < p99(&turns));
    assert!(now.share(3) < 0.7 * product.share(3));
}

#[test]
fn one_of_four_fails_fast() {
    let replicas = [vec![Replica::new(5_000); 3], vec![Replica { fails: true, ..Replica::new(100) }]].concat();
    let [turns, product, _, now] = compare(&replicas, 300.0, &[]);
    assert!(now.share(3) < 0.002 && turns.share(3) > 0.2);
    assert!(now.quantile(0.99) < 1.1 * product.quantile(0.99));
}

/// Two are twice as fast as the others: both are used, and the load is higher than either pair could carry.
#[test]
fn two_of_four_are_twice_as_fast() {
    let replicas = [vec![Replica::new(5_000); 2], vec![Replica::new(10_000); 2]].concat();
    let [turns, product, hot_cold, now] = compare(&replicas, 480.0, &[]);
    let p99 = |outcome: &Outcome| outcome.quantile(0.99);
    assert!(p99(&now) < 1.1 * p99(&product) && p99(&now) < p99(&hot_cold) && 20.0 * p99(&now) < p99(&turns));
}

/// Texts differ in length by far more than replicas in speed: what the last calls took says nothing of the next, and who follows it
/// piles calls up where the last texts happened to be short.
#[test]
fn what_differs_is_the_calls() {
    let replicas = vec![Replica { slots: 8, service: Service::Texts(33_000), ..Replica::new(0) }; 4];
    let [_, product, hot_cold, now] = compare(&replicas, 290.0, &[]);
    assert!(now.mean() < 0.8 * product.mean() && now.mean() < 0.4 * hot_cold.mean());
    assert!(now.quantile(0.99) < 0.85 * product.quantile(0.99));
}

/// Calls in a hurry go where they can end in time, and leave the slow replicas to those that are not.
#[test]
fn deadlines_are_kept() {
    let replicas = [vec![Replica::new(5_000); 2], vec![Replica::new(30_000); 2]].concat();
    let [turns, product, _, now] = compare(&replicas, 250.0, &[20_000, 500_000]);
    assert!(1.0 - now.met_share() < 0.2 * (1.0 - product.met_share()) && turns.met_share() < 0.6);
    // Where nothing can be known of a call beforehand, knowing its deadline does no harm.
    let texts = vec![Replica { slots: 8, service: Service::Texts(33_000), ..Replica::new(0) }; 4];
    let [_, product, _, now] = compare(&texts, 310.0, &[200_000, 400_000]);
    assert!(now.met_share() >= product.met_share());
}

#[test]
fn a_seed_says_it_all() {
    let replicas = vec![Replica { service: Service::Texts(5_000), ..Replica::new(0) }; 3];
    let run = || compare(&replicas, 100.0, &[50_000]).map(|outcome| (outcome.taken, outcome.times));
    assert_eq!(run(), run());
}
