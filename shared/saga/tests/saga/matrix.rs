//! Every step of some shapes fails in every way, and every undo once, twice and for ever.

use std::collections::BTreeSet;

use weft_saga::{Definition, Direction, Event, JobState, Join, Ruling, Step, Wanted};

use crate::build::{definition, example, external, last, pivot, post, reserve, step};
use crate::judge::judge;
use crate::world::{Fate, World};

const FAILURES: [Fate; 7] = [
    Fate::Refused { retryable: false },
    Fate::NotSent,
    Fate::AnswerLost,
    Fate::Delayed,
    Fate::Hangs,
    Fate::CrashAfter,
    Fate::CrashBefore,
];

fn shapes() -> Vec<(&'static str, Definition)> {
    let diamond = vec![
        external("top", &[]),
        external("left", &[0]),
        external("right", &[0]),
        step("bottom", &[1, 2]),
        external("charge", &[3]),
    ];
    let list = vec![
        reserve("gpu", &[]),
        Step { is_ruled: true, parallelism: 2, ..external("each", &[0]) },
        step("sum", &[1]),
        Step { has_probe: true, ..external("store", &[2]) },
        pivot("publish", &[3]),
        post("index", &[4]),
        post("mail", &[4]),
    ];
    let hedged = vec![
        external("load-a", &[]),
        external("load-b", &[]),
        step("infer-a", &[0]),
        step("infer-b", &[1]),
        Step { join: Join::Any, ..step("first", &[2, 3]) },
        external("publish", &[4]),
        last("unload", &[]),
    ];
    vec![
        ("example", example()),
        ("diamond", definition(diamond)),
        ("list", definition(list)),
        ("hedged", definition(hedged)),
    ]
}

/// One attempt under way, or what else is next: each attempt meets the fate that is asked for.
fn go(world: &mut World, mut fate: impl FnMut(&World, &Wanted) -> Fate) {
    world.apply(Event::Tick).unwrap();
    for _ in 0..1_000 {
        if world.job.state.has_ended() || world.job.stuck.is_some() {
            break;
        }
        let wants = world.job.wants(&world.definition, world.now);
        if let Some(wanted) = world.in_flight().first() {
            let fate = fate(world, wanted);
            world.meet(0, fate);
        } else if let Some(&(step, item)) = wants.reservations.first() {
            world.reserve(step, item, true);
        } else if let Some(&step) = wants.rulings.first() {
            world.rule(step, Ruling::Run(3));
        } else {
            world.sleep();
        }
    }
}

fn assert_right(world: &World, what: &str) {
    let breaches = judge(world);
    assert!(breaches.is_empty(), "{what}: {}\n{:#?}", breaches.join("\n"), world.ledger);
}

/// Every attempt of a shape's clean course.
fn attempts(definition: &Definition) -> BTreeSet<(usize, usize)> {
    let mut all = BTreeSet::new();
    let mut world = World::new(definition.clone());
    go(&mut world, |_, wanted| {
        all.insert((wanted.step, wanted.item));
        Fate::Succeeds
    });
    assert_eq!(world.job.state, JobState::Completed);
    assert_right(&world, "all goes well");
    all
}

#[test]
fn every_step_fails_in_every_way() {
    let mut fired = BTreeSet::new();
    let mut planned = 0;
    for (name, definition) in shapes() {
        for (step, item) in attempts(&definition) {
            for (failure, times) in FAILURES.into_iter().flat_map(|failure| [1, 2, 5].map(|times| (failure, times))) {
                planned += 1;
                let mut left = times;
                let mut world = World::new(definition.clone());
                go(&mut world, |_, wanted| {
                    let hit = (wanted.step, wanted.item) == (step, item) && wanted.direction == Direction::Action;
                    if !hit || left == 0 {
                        return Fate::Succeeds;
                    }
                    left -= 1;
                    fired.insert((name, step, item, failure, times));
                    failure
                });
                world.heal();
                assert_right(&world, &format!("{name}: step {step}, item {item}: {failure:?} {times} times"));
            }
        }
    }
    assert_eq!(fired.len(), planned, "each was met");
}

#[test]
fn every_undo_fails_once_and_twice_and_for_ever() {
    let mut undone = BTreeSet::new();
    let mut expected = BTreeSet::new();
    for (name, definition) in shapes() {
        let is_undoable = |step: &&(usize, usize)| definition.steps[step.0].has_undo;
        // The last step before there is no way back brings the job down.
        let undoable: Vec<(usize, usize)> = attempts(&definition).iter().filter(is_undoable).copied().collect();
        let culprit = definition.steps.iter().position(|step| step.name == "publish" || step.name == "charge").unwrap();
        for (step, item) in undoable.into_iter().filter(|(step, _)| *step != culprit) {
            for (failure, times) in FAILURES.into_iter().flat_map(|failure| [1, 2, 1_000].map(|times| (failure, times)))
            {
                expected.insert((name, step, item, failure, times));
                let mut left = times;
                let mut world = World::new(definition.clone());
                go(&mut world, |_, wanted| {
                    if wanted.direction == Direction::Action && wanted.step == culprit {
                        return Fate::Refused { retryable: false };
                    }
                    let hit = (wanted.step, wanted.item) == (step, item) && wanted.direction == Direction::Undo;
                    if !hit || left == 0 {
                        return Fate::Succeeds;
                    }
                    left -= 1;
                    undone.insert((name, step, item, failure, times));
                    failure
                });
                let what = format!("{name}: undo of step {step}, item {item}: {failure:?} {times} times");
                // What succeeds behind a lost answer or a crash is repeated, and what hangs as well: only a person knows that it is done.
                assert_eq!(world.job.stuck.is_some(), times == 1_000, "{what}: {:?}", world.job);
                if times == 1_000 && !matches!(failure, Fate::CrashAfter | Fate::CrashBefore) {
                    world.by_hand(step, item);
                }
                world.heal();
                assert_eq!(world.job.state, JobState::Compensated, "{what}");
                assert_right(&world, &what);
            }
        }
    }
    assert_eq!(undone, expected, "each was met");
}
