//! Definitions at random, and courses of the world at random.

use weft_saga::{Definition, Effect, Event, Fault, Join, Phase, Ruling, Step, Verb};

use crate::build::{definition, external, last, pivot, post, release, reserve, step, wait};
use crate::world::{FATES, Fate, World};

/// A source of choices. When it is exhausted each is the first, which is always the harmless one.
pub(crate) struct Choices {
    bytes: Vec<u8>,
    next: usize,
}

impl Choices {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, next: 0 }
    }

    /// Below `count`.
    pub(crate) fn pick(&mut self, count: usize) -> usize {
        let byte = self.bytes.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        usize::from(byte) % count.max(1)
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.next >= self.bytes.len()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.pick(count) == count - 1
    }

    /// Some of a list: none where there are none.
    fn some_of(&mut self, all: &[usize]) -> Vec<usize> {
        all.iter().copied().filter(|_| self.pick(3) == 1).collect()
    }
}

/// Up to twelve steps: reservations, signals, lists, conditions, joins of each kind, perhaps a pivot with steps after it, perhaps final steps.
pub(crate) fn any_definition(choices: &mut Choices) -> Definition {
    let mut steps: Vec<Step> = Vec::new();
    let before = 1 + choices.pick(6);
    for index in 0..before {
        let earlier: Vec<usize> = (0..index).collect();
        let needs = choices.some_of(&earlier);
        let name = format!("pre{index}");
        let plain = match choices.pick(8) {
            0..=2 => step(&name, &needs),
            3 | 4 => external(&name, &needs),
            5 => Step { has_probe: true, ..external(&name, &needs) },
            6 => reserve(&name, &needs),
            _ => wait(&name, &needs),
        };
        steps.push(with_join(plain, &steps, choices));
    }
    if choices.pick(3) > 0 {
        let is_last = |index: &usize| steps.iter().all(|step| !step.needs.contains(index));
        let needs: Vec<usize> = (0..before).filter(is_last).collect();
        let decisive = Step { has_probe: choices.one_in(2), ..pivot("pivot", &needs) };
        let effect = if choices.one_in(6) { Effect::Pure } else { Effect::External };
        steps.push(with_join(
            Step { has_probe: decisive.has_probe && effect == Effect::External, effect, ..decisive },
            &steps,
            choices,
        ));
        for index in 0..choices.pick(4) {
            let after: Vec<usize> = (before + 1..before + 1 + index).collect();
            let mut needs = choices.some_of(&after);
            if needs.is_empty() || choices.one_in(2) {
                needs.insert(0, before);
            }
            let name = format!("post{index}");
            let after = match choices.pick(5) {
                3 => Step { phase: Phase::Post, ..wait(&name, &needs) },
                4 => Step { phase: Phase::Post, ..step(&name, &needs) },
                _ => post(&name, &needs),
            };
            steps.push(with_join(after, &steps, choices));
        }
    }
    for index in 0..choices.pick(3) {
        let reserving: Vec<usize> = (0..before).filter(|&step| steps[step].effect == Effect::Reserve).collect();
        let name = format!("final{index}");
        steps.push(match reserving.get(choices.pick(reserving.len() + 1)) {
            Some(&of) => release(&name, of),
            None => Step { is_ruled: choices.one_in(3), ..last(&name, &[0]) },
        });
    }
    definition(steps)
}

fn with_join(step: Step, before: &[Step], choices: &mut Choices) -> Step {
    let pure = step.needs.iter().all(|&need| before[need].effect == Effect::Pure);
    let join = match choices.pick(3) {
        1 if pure && !step.needs.is_empty() => Join::Any,
        2 if pure && !step.needs.is_empty() => Join::Quorum(1 + choices.pick(step.needs.len()) as u32),
        _ => Join::All,
    };
    let is_ruled = step.phase != Phase::Pivot && step.effect != Effect::Reserve && choices.one_in(5);
    let parallelism = 1 + choices.pick(2) as u32;
    let mut step = Step { join, is_ruled, parallelism, ..step };
    step.retry.max_attempts = 1 + choices.pick(3) as u32;
    step
}

/// The world takes its course until the choices are exhausted.
pub(crate) fn take_course(world: &mut World, choices: &mut Choices) {
    world.apply(Event::Tick).unwrap();
    while !choices.is_exhausted() && !world.job.state.has_ended() {
        let under_way = world.in_flight().len();
        match choices.pick(16) {
            0..=7 if under_way > 0 => {
                let index = choices.pick(under_way);
                let fate = FATES[choices.pick(FATES.len() + 4).saturating_sub(4)];
                world.meet(index, fate);
            }
            8 if world.strays() > 0 => {
                let index = choices.pick(world.strays());
                world.land(index, choices.one_in(2));
            }
            9 => world.crash_ahead([0, 0, 1_000, 10_800_000][choices.pick(4)]),
            10 => ask_for(world, choices),
            11 => trouble(world, choices),
            _ => grant(world, choices),
        }
    }
}

fn grant(world: &mut World, choices: &mut Choices) {
    let wants = world.job.wants(&world.definition, world.now);
    if let Some(&(step, item)) = wants.reservations.first() {
        world.reserve(step, item, choices.pick(3) < 2);
    } else if let Some(&step) = wants.rulings.first() {
        let invalid = Ruling::Invalid(Fault::new("INVALID_ARGUMENT", "cannot be compared"));
        let rulings = [Ruling::Run(1), Ruling::Run(3), Ruling::Run(0), Ruling::Skip, Ruling::Run(2), invalid];
        world.rule(step, rulings[choices.pick(rulings.len())].clone());
    } else {
        world.sleep();
    }
}

/// What callers and operators do.
fn ask_for(world: &mut World, choices: &mut Choices) {
    let (step, reason) = (choices.pick(world.job.steps.len()), "because".to_owned());
    let _refused = match choices.pick(8) {
        0 => world.apply(Event::Resolve(Verb::Pause)),
        1 | 2 => world.apply(Event::Resolve(Verb::Resume)),
        3 => world.apply(Event::Resolve(Verb::Retry(None))),
        4 => world.apply(Event::Resolve(Verb::Retry(Some(step)))),
        5 => {
            world.by_hand(step, 0);
            Ok(weft_saga::Changed::No)
        }
        6 if choices.one_in(3) => world.apply(Event::Resolve(Verb::Abandon { reason })),
        6 => match world.definition.steps[step].signal.clone() {
            Some(name) => {
                world.signal(&name);
                Ok(weft_saga::Changed::No)
            }
            None => Ok(weft_saga::Changed::No),
        },
        _ => world.apply(Event::Cancel { reason }),
    };
}

/// The same thing fails again and again.
fn trouble(world: &mut World, choices: &mut Choices) {
    let Some(first) = world.in_flight().first().copied() else { return world.sleep() };
    let fate = [Fate::NotSent, Fate::Delayed, Fate::AnswerLost][choices.pick(3)];
    for _ in 0..60 {
        let same = |wanted: &weft_saga::Wanted| (wanted.step, wanted.item) == (first.step, first.item);
        match world.in_flight().iter().position(same) {
            Some(index) => world.meet(index, fate),
            None => world.sleep(),
        }
        if world.job.state.has_ended() || world.job.stuck.is_some() {
            break;
        }
    }
}
