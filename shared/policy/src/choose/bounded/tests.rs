use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::super::{Candidate, Terms, choose, identity, led};
use super::*;

fn all(loads: &[(u16, u64)]) -> Vec<Candidate> {
    let candidate = |(name, in_flight): &(u16, u64)| Candidate {
        identity: identity(&format!("w-{name}")),
        in_flight: *in_flight,
        ..Candidate::default()
    };
    loads.iter().map(candidate).collect()
}

fn loads() -> impl Strategy<Value = Vec<(u16, u64)>> {
    proptest::collection::btree_map(any::<u16>(), 0u64..40, 1..16).prop_map(|loads| loads.into_iter().collect())
}

fn bound() -> impl Strategy<Value = Bound> {
    (1.001f64..=Bound::MAX).prop_filter_map("out of range", Bound::new)
}

fn taken(all: &[Candidate], key: u64, bound: Bound, seed: u64) -> usize {
    let terms = Terms { affinity: Some(Affinity::of("m", key)), bound: Some(bound), remaining: None };
    choose(all.iter().copied(), terms, &mut StdRng::seed_from_u64(seed)).expect("there are candidates")
}

proptest! {
    /// Whatever there is to begin with, the one that takes a call then has at most the average times the factor, rounded up.
    #[test]
    fn nobody_gets_more_than_the_bound(loads in loads(), key: u64, bound in bound()) {
        let all = all(&loads);
        let total: u64 = loads.iter().map(|(_, load)| load).sum();
        let average = (total + 1) as f64 / loads.len() as f64;
        let chosen = taken(&all, key, bound, 0);
        prop_assert!(loads[chosen].1 < (bound.0 * average).ceil() as u64, "{chosen} of {loads:?}");
    }

    /// However calls come and go, all within the bound of the moment at which they came.
    #[test]
    fn the_bound_holds_at_all_times(steps in proptest::collection::vec((0u64..3, any::<bool>()), 1..150), bound in bound()) {
        let mut all = all(&[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
        let mut calls = VecDeque::new();
        for (key, ends) in steps {
            if ends && let Some(oldest) = calls.pop_front() {
                let ended: &mut Candidate = &mut all[oldest];
                ended.in_flight -= 1;
            }
            let chosen = taken(&all, key, bound, 0);
            all[chosen].in_flight += 1;
            calls.push_back(chosen);
            let limit = (bound.0 * calls.len() as f64 / 5.0).ceil() as u64;
            prop_assert!(all[chosen].in_flight <= limit, "{} of at most {limit}", all[chosen].in_flight);
        }
    }

    /// It is the first of the key's own order that is below the bound: neither chance nor the order of listing decides.
    #[test]
    fn calls_go_to_the_first_in_order_that_has_room(loads in loads(), key: u64, bound in bound(), turn in 0usize..16, seed: u64) {
        let all = all(&loads);
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|index| Reverse(Affinity::of("m", key).preference(all[*index].identity)));
        let limit = bound.limit(loads.iter().map(|(_, load)| load).sum(), loads.len());
        let first = order.iter().find(|index| loads[**index].1 < limit).copied().expect("one has room");
        prop_assert_eq!(taken(&all, key, bound, seed), first);
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len());
        prop_assert_eq!(turned[taken(&turned, key, bound, seed.wrapping_add(1))].identity, all[first].identity);
        let led = led(&all, Affinity::of("m", key), Some(bound));
        prop_assert_eq!(led, Some(Led { taken: first, preferred: order[0], limit: Some(limit) }));
    }

    /// Where nobody is busy, only the keys of the one that goes move, and they are back when it is.
    #[test]
    fn only_the_keys_of_the_one_that_goes_move(loads in loads(), gone: prop::sample::Index, key: u64, bound in bound()) {
        let idle: Vec<(u16, u64)> = loads.iter().map(|(name, _)| (*name, 0)).collect();
        prop_assume!(idle.len() > 1);
        let gone = gone.index(idle.len());
        let left: Vec<(u16, u64)> = idle.iter().copied().filter(|one| *one != idle[gone]).collect();
        let (before, after) = (idle[taken(&all(&idle), key, bound, 0)], left[taken(&all(&left), key, bound, 0)]);
        prop_assert!(before == idle[gone] || before == after, "{before:?} to {after:?}");
    }

    /// Foreign figures are no reason to lose a call.
    #[test]
    fn any_figures_are_survived(others in proptest::collection::vec(any::<f32>(), 1..6), in_flight: u64, key: u64) {
        let odd = [f32::NAN, f32::INFINITY, -1.0].into_iter().chain(others);
        let all: Vec<_> = odd.map(|others| Candidate { others, in_flight, ..Candidate::default() }).collect();
        prop_assert!(taken(&all, key, Bound::default(), 0) < all.len());
    }
}

#[test]
fn a_factor_that_cannot_be_meant_is_none() {
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -2.0, 0.0, 1.0, 10.001] {
        assert_eq!(Bound::new(wrong), None, "{wrong}");
    }
    assert!(Bound::new(1.001).is_some() && Bound::new(10.0).is_some());
}

/// A spilled key comes back as soon as its own replica has room; one that another process keeps busy is passed over as well.
#[test]
fn a_spilled_key_comes_back() {
    let mut all = all(&[(0, 1), (1, 1), (2, 1), (3, 1)]);
    let own = taken(&all, 7, Bound::default(), 0);
    all[own].in_flight = 9;
    let next = taken(&all, 7, Bound::default(), 0);
    assert_ne!(next, own);
    (all[own].in_flight, all[own].others) = (1, 8.0);
    assert_eq!(taken(&all, 7, Bound::default(), 0), next);
    all[own].others = 0.0;
    assert_eq!(taken(&all, 7, Bound::default(), 0), own);
}

/// A prompt: its system's text, and the conversation that it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Prompt {
    system: u64,
    conversation: u64,
}

#[derive(Clone, Copy)]
enum Rule {
    /// Two are drawn, and prompts do not matter.
    Drawn,
    /// The system's text leads, within the bound.
    System(Option<Bound>),
    /// The conversation leads, within the bound.
    Conversation(Bound),
    /// The replica that a router remembers to have sent the longest part of the prompt to, within the bound; else by the system.
    Remembered(Bound),
}

/// Replicas that keep what prompts begin with, as language models do: a prompt takes 100 ms that has nothing in common with those kept,
/// 40 where its system's text is kept, and 10 where the conversation is.
struct Fleet {
    free: Vec<[f64; 4]>,
    kept: Vec<VecDeque<(u64, Option<u64>)>>,
    running: BinaryHeap<Reverse<(u64, usize)>>,
    in_flight: Vec<u64>,
}

#[derive(Debug)]
struct Outcome {
    /// Shares of the calls that found their system's text, and their conversation.
    systems: f64,
    conversations: f64,
    p99_ms: f64,
    /// Replicas that got a hundredth of the calls with the hottest text or more.
    spread: usize,
}

/// As many beginnings as one replica keeps.
const KEPT: usize = 24;
const REPLICAS: usize = 8;

impl Fleet {
    fn new() -> Self {
        let free = vec![[0.0; 4]; REPLICAS];
        Self { free, kept: vec![VecDeque::new(); REPLICAS], running: BinaryHeap::new(), in_flight: vec![0; REPLICAS] }
    }

    /// What a prompt takes there, which keeps it from now on.
    fn compute(&mut self, replica: usize, prompt: Prompt) -> f64 {
        let kept = &mut self.kept[replica];
        let mut touch = |key: (u64, Option<u64>)| {
            let found = kept.iter().position(|known| *known == key);
            found.map(|at| kept.remove(at));
            kept.push_front(key);
            kept.truncate(KEPT);
            found.is_some()
        };
        match (touch((prompt.system, None)), touch((prompt.system, Some(prompt.conversation)))) {
            (_, true) => 10.0,
            (true, false) => 40.0,
            (false, false) => 100.0,
        }
    }

    fn send(&mut self, now: f64, replica: usize, ms: f64) -> f64 {
        let slots = &mut self.free[replica];
        let slot = (0..slots.len()).min_by(|one, other| slots[*one].total_cmp(&slots[*other])).unwrap_or(0);
        slots[slot] = slots[slot].max(now) + ms;
        self.in_flight[replica] += 1;
        self.running.push(Reverse(((slots[slot] * 1e3) as u64, replica)));
        slots[slot] - now
    }

    fn end_before(&mut self, now: f64) {
        while self.running.peek().is_some_and(|Reverse((end, _))| *end as f64 <= now * 1e3) {
            let Some(Reverse((_, replica))) = self.running.pop() else { return };
            self.in_flight[replica] -= 1;
        }
    }
}

/// `systems` texts with `conversations` each; the first text begins `hot` of all prompts.
fn serve(rule: Rule, (systems, conversations, hot): (u64, u64, f64), per_second: f64) -> Outcome {
    const CALLS: usize = 20_000;
    let mut rng = StdRng::seed_from_u64(5);
    let (mut fleet, mut now) = (Fleet::new(), 0.0);
    let mut remembered: HashMap<Prompt, usize> = HashMap::new();
    let (mut times, mut found, mut of_hot) = (Vec::new(), (0, 0), [0u32; REPLICAS]);
    for _ in 0..CALLS {
        now -= (1.0 - rng.random::<f64>()).ln() / per_second * 1e3;
        fleet.end_before(now);
        let system = if rng.random_bool(hot) { 0 } else { rng.random_range(0..systems) };
        let prompt = Prompt { system, conversation: rng.random_range(0..conversations) };
        let seen: Vec<Candidate> = all(&(0..).zip(fleet.in_flight.iter().copied()).collect::<Vec<_>>());
        let leads = |key: u64, bound| Terms { affinity: Some(Affinity::of("m", key)), bound, remaining: None };
        let of_conversation = system * 1_000_000 + prompt.conversation;
        let terms = match rule {
            Rule::Drawn => Terms::default(),
            Rule::System(bound) => leads(system, bound),
            Rule::Conversation(bound) => leads(of_conversation, Some(bound)),
            Rule::Remembered(bound) => leads(system, Some(bound)),
        };
        let known = match rule {
            Rule::Remembered(bound) => remembered
                .get(&prompt)
                .copied()
                .filter(|replica| fleet.in_flight[*replica] < bound.limit(fleet.in_flight.iter().sum(), REPLICAS)),
            _ => None,
        };
        let replica = known.or_else(|| choose(seen.iter().copied(), terms, &mut rng)).expect("candidates");
        remembered.insert(prompt, replica);
        let ms = fleet.compute(replica, prompt);
        (found.0, found.1) = (found.0 + u32::from(ms < 100.0), found.1 + u32::from(ms < 40.0));
        times.push(fleet.send(now, replica, ms));
        of_hot[replica] += u32::from(system == 0);
    }
    times.sort_by(f64::total_cmp);
    let share = |count: u32| f64::from(count) / CALLS as f64;
    let total: u32 = of_hot.iter().sum();
    let spread = of_hot.iter().filter(|count| **count * 100 >= total).count();
    Outcome { systems: share(found.0), conversations: share(found.1), p99_ms: times[CALLS * 99 / 100], spread }
}

/// Sixty texts that no replica could keep all of: drawn calls find theirs by chance, led ones nearly always.
#[test]
fn prompts_with_a_common_beginning_meet_on_few_replicas() {
    let work = (60, 10_000, 0.0);
    let drawn = serve(Rule::Drawn, work, 330.0);
    let led = serve(Rule::System(Some(Bound::default())), work, 330.0);
    assert!(drawn.systems < 0.25 && led.systems > 0.5, "{drawn:?} {led:?}");
    assert!(led.p99_ms < 0.75 * drawn.p99_ms, "{drawn:?} {led:?}");
}

/// One text begins two thirds of all prompts, more than a replica can compute: without a bound its callers wait without end.
#[test]
fn a_hot_beginning_spreads() {
    let work = (30, 10_000, 0.66);
    let endless = serve(Rule::System(None), work, 300.0);
    let led = serve(Rule::System(Some(Bound::default())), work, 300.0);
    assert_eq!(endless.spread, 1);
    assert!(led.spread >= 5 && 20.0 * led.p99_ms < endless.p99_ms, "{endless:?} {led:?}");
}

/// Remembering where each prompt went finds conversations that the system's text does not tell apart; where the key is the
/// conversation itself, nothing has to be remembered for it.
#[test]
fn a_longer_key_does_what_a_memory_would() {
    let (work, bound) = ((4, 30, 0.5), Bound::default());
    let by_system = serve(Rule::System(Some(bound)), work, 300.0);
    let by_memory = serve(Rule::Remembered(bound), work, 300.0);
    let by_key = serve(Rule::Conversation(bound), work, 300.0);
    assert!(by_memory.conversations > by_system.conversations + 0.1, "{by_system:?} {by_memory:?}");
    assert!(by_key.conversations > by_memory.conversations - 0.05, "{by_memory:?} {by_key:?}");
}
