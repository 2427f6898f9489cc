//! Records and events that nobody should have written.

use proptest::prelude::*;

use weft_saga::{
    Changed, Definition, Direction, Event, Fault, Item, Job, JobState, Kind, Outcome, Ruling, StepState, Verb,
};

use crate::shapes::{Choices, any_definition};
use crate::world::without_pauses;

const STATES: [StepState; 10] = [
    StepState::Idle,
    StepState::Started,
    StepState::Probing,
    StepState::Done,
    StepState::FailedClean,
    StepState::Unknown,
    StepState::Skipped,
    StepState::Undoing,
    StepState::Undone,
    StepState::Stuck,
];

const TIMES: [u64; 6] = [0, 1, 1_000, 1_000_000, u64::MAX - 1, u64::MAX];

fn time(choices: &mut Choices) -> u64 {
    TIMES[choices.pick(TIMES.len())]
}

fn count(choices: &mut Choices) -> u32 {
    [0, 1, 2, 19, 20, 21, u32::MAX][choices.pick(7)]
}

/// A definition whose indices may point anywhere.
fn spoil_definition(definition: &mut Definition, choices: &mut Choices) {
    let steps = definition.steps.len();
    definition.undo_budget = time(choices);
    for step in &mut definition.steps {
        match choices.pick(12) {
            1 => step.needs.push(choices.pick(steps + 3)),
            2 => step.needs.clear(),
            3 => step.timeout = time(choices),
            4 => step.kind = Kind::Release(choices.pick(steps + 3)),
            5 => step.parallelism = count(choices),
            6 => step.deadline_weight = count(choices),
            7 => step.join = weft_saga::Join::Quorum(count(choices)),
            8 => (step.retry.initial_backoff, step.retry.max_backoff) = (time(choices), time(choices)),
            9 => step.retry.max_attempts = count(choices),
            10 => step.has_undo = !step.has_undo,
            _ => {}
        }
    }
}

fn spoil_job(job: &mut Job, choices: &mut Choices) {
    job.state = [JobState::Running, JobState::Compensating, JobState::Completed][choices.pick(3)];
    job.revision = time(choices);
    job.deadline = time(choices);
    job.decided = choices.pick(2) == 1;
    job.paused = choices.pick(5) == 1;
    job.takeovers = count(choices);
    job.undo_since = Some(time(choices)).filter(|since| *since > 0);
    for node in &mut job.steps {
        node.ruled = choices.pick(4) > 0;
        node.items.resize(choices.pick(4), Item::default());
        for item in &mut node.items {
            item.state = STATES[choices.pick(STATES.len())];
            (item.attempts, item.undo_attempts) = (count(choices), count(choices));
            item.failures = count(choices);
            (item.not_before, item.until) = (time(choices), time(choices));
            item.unknown = choices.pick(2) == 1;
        }
    }
    if choices.pick(10) == 1 {
        job.steps.pop();
    }
}

fn any_event(choices: &mut Choices) -> Event {
    let (step, item) = (choices.pick(14), choices.pick(4));
    let fault = Fault::new("UNAVAILABLE", "é".repeat(200));
    let reason = String::new();
    match choices.pick(13) {
        0 => Event::TakenOver,
        1 => Event::Ruled { step, ruling: Ruling::Run(count(choices)) },
        2 => Event::Ruled { step, ruling: Ruling::Invalid(fault) },
        3 => Event::Reserved { step, item, holds: Vec::new() },
        4 => Event::NoSlots { step, item, fault },
        5 => Event::Cancel { reason },
        6 => Event::Resolve(Verb::Retry(Some(step).filter(|step| *step > 0))),
        7 => Event::Resolve(Verb::Skip { step, item, reason }),
        8 => Event::Resolve(Verb::Abandon { reason }),
        9 => Event::Signal { name: format!("pre{step}"), value: weft_saga::Payload::Inline(Vec::new()) },
        10 | 11 => {
            let direction = [Direction::Action, Direction::Undo, Direction::Probe][choices.pick(3)];
            let outcomes =
                [Outcome::Done(None), Outcome::Absent, Outcome::FailedClean(fault.clone()), Outcome::Unknown(fault)];
            let outcome = outcomes[choices.pick(4)].clone();
            Event::Ended { step, item, direction, attempt: count(choices), outcome, place: None }
        }
        _ => Event::Tick,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing panics or runs for ever, and what is refused changes nothing.
    #[test]
    fn foreign_records_and_events_are_survived(bytes in proptest::collection::vec(any::<u8>(), 60..400)) {
        let mut choices = Choices::new(bytes);
        let mut definition = any_definition(&mut choices);
        let mut job = Job::new(&definition, 0, 1_000);
        if choices.pick(2) == 1 {
            spoil_definition(&mut definition, &mut choices);
        }
        spoil_job(&mut job, &mut choices);
        let _mistakes = definition.check();
        while !choices.is_exhausted() {
            let (event, now) = (any_event(&mut choices), time(&mut choices));
            let before = job.clone();
            match job.apply(&definition, &event, now, now) {
                Ok(Changed::Yes) => {}
                Ok(Changed::Later) => prop_assert_eq!(without_pauses(&job), without_pauses(&before)),
                Ok(Changed::No) | Err(_) => prop_assert_eq!(&job, &before),
            }
            let _wants = job.wants(&definition, now);
        }
    }
}
