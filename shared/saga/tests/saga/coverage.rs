//! What random worlds have to have met for their silence to mean anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::shapes::{Choices, any_definition, take_course};
use crate::world::World;

/// What can happen to a job that runs and to one that is undone.
const EITHER_WAY: [&str; 15] = [
    "Tick",
    "TakenOver",
    "Ruled",
    "Reserved",
    "NoSlots",
    "Signal",
    "Cancel",
    "Pause",
    "Resume",
    "Retry",
    "Skip",
    "Abandon",
    "Action Done",
    "Action FailedClean",
    "Action Unknown",
];

/// What can happen to the steps.
const STEPS: [&str; 26] = [
    "Started x Action Done",
    "Started x Action FailedClean",
    "Started x Action Unknown",
    "Probing x Probe Done",
    "Probing x Probe Absent",
    "Probing x Probe FailedClean",
    "Probing x Probe Unknown",
    "Undoing x Undo Done",
    "Undoing x Undo FailedClean",
    "Undoing x Undo Unknown",
    "Idle x TakenOver",
    "Started x TakenOver",
    "Probing x TakenOver",
    "Done x TakenOver",
    "FailedClean x TakenOver",
    "Skipped x TakenOver",
    "Undoing x TakenOver",
    "Undone x TakenOver",
    "Stuck x TakenOver",
    "Idle x Cancel",
    "Started x Cancel",
    "Probing x Cancel",
    "Stuck x Tick",
    "Done x Cancel",
    "FailedClean x Cancel",
    "Skipped x Cancel",
];

#[test]
fn random_worlds_meet_every_state_and_event() {
    let mut seen = BTreeSet::new();
    let mut failed: BTreeMap<usize, usize> = BTreeMap::new();
    for seed in 1..=3_000_u64 {
        let mut world = World::new(any_definition(&mut Choices::new(noise(seed, 60))));
        take_course(&mut world, &mut Choices::new(noise(seed << 32, 200)));
        world.heal();
        seen.append(&mut world.seen);
        let culprit = world.job.failure.as_ref().and_then(|fault| fault.message.split('`').nth(1));
        if let Some(step) = world.definition.steps.iter().position(|step| Some(step.name.as_str()) == culprit) {
            *failed.entry(step).or_default() += 1;
        }
    }
    let mut expected: BTreeSet<String> = STEPS.iter().map(|pair| format!("step {pair}")).collect();
    for event in EITHER_WAY {
        expected.insert(format!("job Running x {event}"));
        let never_undone = matches!(event, "Reserved" | "NoSlots");
        if !never_undone {
            expected.insert(format!("job Compensating x {event}"));
            expected.insert(format!("job Running decided x {event}"));
        }
    }
    for event in ["Probe Done", "Probe Absent", "Probe FailedClean", "Probe Unknown"] {
        expected.insert(format!("job Running x {event}"));
    }
    for event in ["Undo Done", "Undo FailedClean", "Undo Unknown"] {
        expected.insert(format!("job Compensating x {event}"));
    }
    let missing: Vec<&String> = expected.difference(&seen).collect();
    assert!(missing.is_empty(), "never met: {missing:#?}\nmet: {seen:#?}");
    let never: Vec<usize> = (0..7).filter(|step| !failed.contains_key(step)).collect();
    assert!(never.is_empty(), "steps that never brought a job down: {never:?} of {failed:?}");
}

/// Bytes that follow from the seed alone (xorshift; Marsaglia, 2003).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
