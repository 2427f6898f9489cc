//! Every small graph, with every course of it, and a crash after every transition.

use weft_saga::{Definition, Direction, Effect, Event, Join, Phase, Step, Wanted};

use crate::build::{external, step};
use crate::judge::judge;
use crate::world::{Fate, World};

const WORST: [Fate; 5] =
    [Fate::Succeeds, Fate::Refused { retryable: false }, Fate::AnswerLost, Fate::Delayed, Fate::CrashAfter];

/// Graphs of so many steps, by the edges that they have: of each two steps the later may wait for the earlier. Each with every choice of effects;
/// joins wait for one where they may; and where it fits with the last step as the pivot.
fn definitions(count: usize) -> Vec<Definition> {
    let pairs: Vec<(usize, usize)> =
        (0..count).flat_map(|later| (0..later).map(move |earlier| (earlier, later))).collect();
    let mut all = Vec::new();
    for choice in 0..1_usize << (pairs.len() + count + 2) {
        let bit = |at: usize| choice >> at & 1 == 1;
        let (any, with_pivot) = (bit(pairs.len() + count), bit(pairs.len() + count + 1));
        let mut steps: Vec<Step> = Vec::new();
        for index in 0..count {
            let edges = pairs.iter().enumerate().filter(|(at, (_, later))| *later == index && bit(*at));
            let needs: Vec<usize> = edges.map(|(_, (earlier, _))| *earlier).collect();
            let name = format!("s{index}");
            let mut one = if bit(pairs.len() + index) { external(&name, &needs) } else { step(&name, &needs) };
            one.retry.max_attempts = 1 + index as u32 % 2;
            if any && needs.len() > 1 && needs.iter().all(|&need| steps[need].effect == Effect::Pure) {
                one.join = Join::Any;
            }
            if with_pivot && index + 1 == count {
                one = Step { phase: Phase::Pivot, has_undo: false, has_probe: one.effect == Effect::External, ..one };
            }
            steps.push(one);
        }
        let definition = Definition { steps, undo_budget: 600_000 };
        let chosen = !any || definition.steps.iter().any(|step| step.join == Join::Any);
        if chosen && definition.check().is_empty() {
            all.push(definition);
        }
    }
    all
}

/// One course: the first attempt of each step meets its fate, and later ones succeed.
fn course(definition: &Definition, fates: &[Fate], crash_after: Option<usize>) -> World {
    let mut world = World::new(definition.clone());
    world.crash_after = crash_after;
    world.apply(Event::Tick).unwrap();
    let first = |wanted: &Wanted| wanted.direction == Direction::Action && wanted.attempt == 1;
    let mut turns = 0;
    while !world.job.state.has_ended() {
        turns += 1;
        assert!(turns < 500, "{definition:#?} does not end with {fates:?}");
        match world.in_flight().first() {
            Some(wanted) if first(wanted) => world.meet(0, fates[wanted.step]),
            Some(_) => world.meet(0, Fate::Succeeds),
            None => world.sleep(),
        }
        if world.strays() > 3 {
            world.land(0, false);
        }
    }
    world.heal();
    world
}

/// How many courses there were.
fn all_courses(definition: &Definition, fates: &[Fate]) -> usize {
    let mut courses = 0;
    let mut crash_after = None;
    loop {
        let world = course(definition, fates, crash_after);
        courses += 1;
        let breaches = judge(&world);
        assert!(breaches.is_empty(), "{}\n{definition:#?}\n{fates:?} {crash_after:?}", breaches.join("\n"));
        let next = crash_after.map_or(1, |last| last + 1);
        if next > world.log.len() {
            return courses;
        }
        crash_after = Some(next);
    }
}

#[test]
fn every_graph_of_three_steps_with_every_fate_of_each() {
    let mut courses = 0;
    for definition in (1..=3).flat_map(definitions) {
        let count = definition.steps.len();
        for choice in 0..WORST.len().pow(count as u32) {
            let fates: Vec<Fate> =
                (0..count).map(|step| WORST[choice / WORST.len().pow(step as u32) % WORST.len()]).collect();
            courses += all_courses(&definition, &fates);
        }
    }
    assert!(courses > 50_000, "{courses}");
}

#[test]
fn every_graph_of_four_steps_with_every_step_failing() {
    let mut courses = 0;
    for definition in definitions(4) {
        for step in 0..4 {
            for fate in [Fate::Refused { retryable: false }, Fate::Delayed] {
                let mut fates = [Fate::Succeeds; 4];
                fates[step] = fate;
                courses += all_courses(&definition, &fates);
            }
        }
    }
    assert!(courses > 50_000, "{courses}");
}
