use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use weft_types::SystemClock;

use super::*;

const CAPACITY: Capacity = Capacity { slots: 2, kv_tokens: 100, batch_tokens: 64 };

/// A decoding sequence of band 1 that holds 10 tokens.
fn sequence(id: u64, now: Instant) -> Sequence {
    Sequence {
        id,
        band: 1,
        arrived: id,
        deadline: Deadline::after(now, Duration::from_secs(60)),
        place: Place::Running,
        paused: false,
        left: 1,
        shared: 0,
        source: None,
        saved: 0,
        exclusive: 10,
        growth: 5,
    }
}

fn waiting(id: u64, left: u32, now: Instant) -> Sequence {
    Sequence { place: Place::Outside, left, exclusive: 0, ..sequence(id, now) }
}

/// The ids that have a slot, with their tokens.
fn turns_of(plan: &Plan) -> Vec<(u64, u32)> {
    plan.turns.iter().map(|turn| (turn.id, turn.tokens)).collect()
}

fn decide(capacity: Capacity, free: u32, sequences: &[Sequence], prefixes: &[Prefix], now: Instant) -> Plan {
    plan(&Snapshot { capacity, free, sequences, prefixes }, &Pace::default(), now)
}

#[test]
fn a_more_urgent_one_takes_the_place_of_the_last() {
    let now = SystemClock::now();
    let urgent = Sequence { band: 0, ..waiting(3, 1, now) };
    let plan = decide(CAPACITY, 50, &[sequence(1, now), sequence(2, now), urgent], &[], now);
    assert_eq!((turns_of(&plan), plan.parked.clone(), plan.saved), (vec![(3, 1), (1, 1)], vec![2], vec![]));
    let same = decide(CAPACITY, 50, &[sequence(1, now), sequence(2, now), waiting(0, 1, now)], &[], now);
    assert_eq!((turns_of(&same), same.parked), (vec![(1, 1), (2, 1)], vec![]), "its own band keeps its slots");
}

#[test]
fn memory_comes_from_prefixes_first_and_then_from_the_least_urgent() {
    let now = SystemClock::now();
    let urgent = Sequence { band: 0, ..waiting(3, 40, now) };
    let prefixes = [Prefix { id: 10, used: 2, exclusive: 20 }, Prefix { id: 11, used: 1, exclusive: 20 }];
    // It needs 40 and 5 to grow.
    let plan = decide(CAPACITY, 30, &[sequence(1, now), urgent], &prefixes, now);
    assert_eq!((plan.evicted, plan.saved), (vec![11], vec![]));
    let plan = decide(CAPACITY, 0, &[sequence(1, now), sequence(2, now), urgent], &prefixes, now);
    assert_eq!((&plan.evicted, &plan.saved, &plan.parked), (&vec![11, 10], &vec![2], &vec![]));
    assert_eq!(turns_of(&plan)[0].0, 3);
}

#[test]
fn what_is_shared_is_neither_needed_nor_given_back() {
    let now = SystemClock::now();
    let prefixes = [Prefix { id: 10, used: 1, exclusive: 50 }, Prefix { id: 11, used: 2, exclusive: 40 }];
    let new = Sequence { shared: 50, source: Some(10), ..waiting(1, 60, now) };
    let plan = decide(CAPACITY, 10, &[new], &prefixes, now);
    assert_eq!(
        (turns_of(&plan), plan.evicted),
        (vec![(1, 10)], vec![11]),
        "10 and 5 more are needed, and 10 is in use"
    );
    let running = Sequence { exclusive: 45, ..sequence(0, now) };
    let plan = decide(CAPACITY, 5, &[running, new], &prefixes[..1], now);
    assert_eq!(turns_of(&plan), vec![(0, 1)], "what it shares does not make room for the rest of it");
}

#[test]
fn who_waits_for_memory_is_not_overtaken() {
    let now = SystemClock::now();
    let running = Sequence { exclusive: 60, ..sequence(1, now) };
    let plan = decide(CAPACITY, 40, &[running, waiting(2, 70, now), waiting(3, 5, now)], &[], now);
    assert_eq!(turns_of(&plan), vec![(1, 1)]);
}

#[test]
fn somebody_runs_although_all_is_held_together() {
    let now = SystemClock::now();
    let parked = Sequence { place: Place::Parked, exclusive: 0, ..sequence(1, now) };
    let plan = decide(CAPACITY, 0, &[parked, Sequence { arrived: 2, id: 2, ..parked }], &[], now);
    assert_eq!((turns_of(&plan), plan.saved), (vec![(1, 1)], vec![2]));
}

#[test]
fn a_prompt_goes_in_parts_beside_those_that_decode() {
    let now = SystemClock::now();
    let mut pace = Pace::default();
    // Decoding takes 10 ms and each token of a prompt 1 ms: 4 of them stay within 1.45 times, but 8 is the least.
    for _ in 0..20 {
        pace.observe(1, 0, Duration::from_millis(10));
        pace.observe(1, 10, Duration::from_millis(20));
        pace.observe(0, 100, Duration::from_millis(50));
    }
    assert_eq!((pace.chunk(1), pace.chunk(0)), (8, 800));
    pace.observe(2, 0, Duration::from_millis(65));
    assert_eq!(pace.chunk(2), 29);
    assert_eq!(pace.chunk(5), 29, "as the next smaller number that is known");
    let running = [Sequence { left: 90, ..waiting(2, 90, now) }, sequence(1, now)];
    let snapshot = Snapshot { capacity: CAPACITY, free: 90, sequences: &running, prefixes: &[] };
    assert_eq!(turns_of(&plan(&snapshot, &pace, now)), vec![(1, 1)], "90 tokens and 5 do not fit beside 10");
    let running = [Sequence { left: 60, ..waiting(2, 60, now) }, sequence(1, now)];
    let snapshot = Snapshot { sequences: &running, ..snapshot };
    assert_eq!(turns_of(&plan(&snapshot, &pace, now)), vec![(1, 1), (2, 8)]);
}

#[test]
fn the_tail_of_a_prompt_is_not_put_off_while_nobody_decodes() {
    let now = SystemClock::now();
    let mut pace = Pace::default();
    pace.observe(0, 10, Duration::from_millis(40));
    assert_eq!(pace.chunk(0), 100);
    let capacity = Capacity { slots: 4, kv_tokens: 1000, batch_tokens: 512 };
    let prompts = |tokens: &[u32], capacity| {
        let all: Vec<Sequence> = (1u64..).zip(tokens).map(|(id, left)| waiting(id, *left, now)).collect();
        let snapshot = Snapshot { capacity, free: 1000, sequences: &all, prefixes: &[] };
        plan(&snapshot, &pace, now).turns.iter().map(|turn| turn.tokens).collect::<Vec<u32>>()
    };
    assert_eq!(prompts(&[125], capacity), [125]);
    assert_eq!(prompts(&[126], capacity), [100]);
    assert_eq!(prompts(&[110, 20, 9], capacity), [110, 0, 9], "all of them together exceed it by a quarter at most");
    assert_eq!(prompts(&[90, 20, 20], capacity), [90, 20, 0]);
    assert_eq!(prompts(&[125], Capacity { batch_tokens: 110, ..capacity }), [100], "a batch is never larger");
    let decoding = [sequence(1, now), waiting(2, 9, now)];
    let snapshot = Snapshot { capacity, free: 1000, sequences: &decoding, prefixes: &[] };
    assert_eq!(turns_of(&plan(&snapshot, &pace, now)), [(1, 1), (2, 8)], "who decodes waits no longer");
}

#[test]
fn what_nobody_waits_for_goes_before_all_else() {
    let now = SystemClock::now();
    let late = Sequence { deadline: Deadline::after(now, Duration::ZERO), ..sequence(2, now) };
    let plan = decide(CAPACITY, 50, &[sequence(1, now), late], &[], now);
    assert_eq!(plan, Plan { expired: vec![2], ..Plan::default() });
}

/// A small model of the memory: every sequence holds its own tokens, nothing is shared.
#[derive(Clone, Debug)]
struct Held {
    sequence: Sequence,
    tokens: u32,
    /// Tokens in all, when it ends.
    total: u32,
}

fn held() -> impl Strategy<Value = (u64, u32, u32, bool)> {
    (1u64..4, 1u32..60, 0u32..30, proptest::bool::weighted(0.2))
}

/// Applies a plan as the runner does, and checks what must hold of it.
fn apply(plan: &Plan, all: &mut [Held], capacity: Capacity) -> Result<u32, TestCaseError> {
    let before = all.to_owned();
    for id in &plan.saved {
        let one = all.iter_mut().find(|one| one.sequence.id == *id).expect("known");
        one.sequence = Sequence { place: Place::Outside, saved: one.tokens, exclusive: 0, ..one.sequence };
        one.tokens = 0;
    }
    for id in &plan.parked {
        all.iter_mut().find(|one| one.sequence.id == *id).expect("known").sequence.place = Place::Parked;
    }
    prop_assert!(plan.turns.len() <= capacity.slots as usize);
    let tokens: u32 = plan.turns.iter().map(|turn| turn.tokens).sum();
    prop_assert!(tokens <= capacity.batch_tokens);
    for turn in &plan.turns {
        let one = all.iter_mut().find(|one| one.sequence.id == turn.id).expect("known");
        prop_assert!(!one.sequence.paused && turn.tokens <= one.sequence.left);
        prop_assert!(one.sequence.left > 1 || turn.tokens == 1, "whoever decodes does so in each step");
        one.tokens += turn.tokens + one.sequence.saved;
        let left = (one.sequence.left - turn.tokens).max(1);
        let growth = one.total - (one.tokens + left).min(one.total);
        let place = Place::Running;
        one.sequence = Sequence { place, left, saved: 0, exclusive: one.tokens, growth, ..one.sequence };
    }
    let used: u32 = all.iter().map(|one| one.tokens).sum();
    prop_assert!(used <= capacity.kv_tokens, "{used} tokens held");
    order_holds(plan, &before)?;
    Ok(tokens)
}

/// Nobody without a slot is chosen before one that is more urgent, or of its band and older.
fn order_holds(plan: &Plan, before: &[Held]) -> Result<(), TestCaseError> {
    let chosen: BTreeSet<u64> = plan.turns.iter().map(|turn| turn.id).collect();
    let idle = before.iter().filter(|one| !one.sequence.paused && !chosen.contains(&one.sequence.id));
    for left_out in idle {
        for one in before.iter().filter(|one| chosen.contains(&one.sequence.id)) {
            let (winner, loser) = (&one.sequence, &left_out.sequence);
            prop_assert!(winner.place == Place::Running || winner.band <= loser.band);
            prop_assert!(
                winner.place == Place::Running
                    || winner.band < loser.band
                    || loser.place == Place::Running
                    || winner.arrived <= loser.arrived
            );
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn memory_and_slots_hold_and_everybody_ends(
        given in proptest::collection::vec(held(), 1..12),
        slots in 1u32..5,
        batch in 8u32..40,
    ) {
        let now = SystemClock::now();
        let capacity = Capacity { slots, kv_tokens: 90, batch_tokens: batch };
        let pace = Pace::default();
        let new = |(id, (band, left, growth, paused)): (u64, &(u64, u32, u32, bool))| Held {
            sequence: Sequence { band: *band, paused: *paused, growth: *growth, ..waiting(id, *left, now) },
            tokens: 0,
            total: left + growth,
        };
        let mut all: Vec<Held> = (0u64..).zip(&given).map(new).collect();
        let mut steps = 0;
        while !all.is_empty() {
            let sequences: Vec<Sequence> = all.iter().map(|one| one.sequence).collect();
            let free = capacity.kv_tokens - all.iter().map(|one| one.tokens).sum::<u32>();
            let snapshot = Snapshot { capacity, free, sequences: &sequences, prefixes: &[] };
            let step = plan(&snapshot, &pace, now);
            prop_assert_eq!(&step, &plan(&snapshot, &pace, now), "the same again");
            let tokens = apply(&step, &mut all, capacity)?;
            let can_run = sequences.iter().any(|one| !one.paused);
            prop_assert!(tokens > 0 || !can_run, "somebody can run");
            all.retain(|one| one.tokens < one.total);
            // A reader that is behind catches up when nobody else can run.
            if !can_run {
                all.iter_mut().for_each(|one| one.sequence.paused = false);
            }
            steps += 1;
            prop_assert!(steps < 3_000, "everybody ends");
        }
    }
}

#[test]
fn a_step_yields_to_who_is_more_urgent_than_all_in_it() {
    assert_eq!(yields([(3, 0), (2, 0)].into_iter()), Some(2));
    assert_eq!(yields([(3, 7), (3, 0)].into_iter()), Some(3));
    assert_eq!(yields([(3, 8), (3, 0)].into_iter()), None, "one of them was held up often enough");
    assert_eq!(yields([].into_iter()), None);
}
