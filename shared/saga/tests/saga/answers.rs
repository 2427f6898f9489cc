//! Answers that come late, twice or unasked, and answers that never come.

use weft_saga::{
    Changed, Definition, Direction, Event, Fault, Hold, Job, JobState, Outcome, Refused, Ruling, StepState,
};
use weft_saga::{Join, Step};

use crate::build::{definition, external, pivot, reserve, step};

const START: u64 = 1_000_000;

fn begun(definition: &Definition) -> Job {
    let mut job = Job::new(definition, START, START + 60_000);
    job.apply(definition, &Event::Tick, START, 3).unwrap();
    job
}

fn ended(step: usize, direction: Direction, attempt: u32, outcome: Outcome) -> Event {
    Event::Ended { step, item: 0, direction, attempt, outcome, place: None }
}

fn fault(code: &str) -> Fault {
    Fault::new(code, "as the test wants it")
}

#[test]
fn an_answer_that_comes_late_is_remembered_and_no_more() {
    let plan = definition(vec![external("charge", &[]), pivot("publish", &[0])]);
    let mut job = begun(&plan);
    let clean = ended(0, Direction::Action, 1, Outcome::FailedClean(fault("UNAVAILABLE")));
    job.apply(&plan, &clean, START, 3).unwrap();
    job.apply(&plan, &Event::Tick, START + 200, 3).unwrap();
    assert_eq!(job.steps[0].items[0].attempts, 2);

    assert_eq!(
        job.apply(&plan, &clean, START + 200, 3),
        Ok(Changed::No),
        "a clean failure of an old attempt says nothing"
    );
    let late = ended(0, Direction::Action, 1, Outcome::Done(None));
    assert_eq!(job.apply(&plan, &late, START + 200, 3), Ok(Changed::Yes));
    assert_eq!((job.steps[0].items[0].state, job.steps[0].items[0].unknown), (StepState::Started, true));
    let final_failure = ended(0, Direction::Action, 2, Outcome::FailedClean(fault("NOT_FOUND")));
    job.apply(&plan, &final_failure, START + 200, 3).unwrap();
    assert_eq!(job.steps[0].items[0].state, StepState::Undoing, "the first attempt may have had its effect");
}

#[test]
fn an_end_of_what_never_began_does_not_fit() {
    let plan = definition(vec![external("charge", &[]), reserve("gpu", &[]), pivot("publish", &[0, 1])]);
    let mut job = begun(&plan);
    let before = job.clone();
    let unfit = [
        ended(0, Direction::Action, 2, Outcome::Done(None)),
        ended(0, Direction::Action, 0, Outcome::Done(None)),
        ended(0, Direction::Undo, 1, Outcome::Done(None)),
        ended(0, Direction::Action, 1, Outcome::Absent),
        ended(1, Direction::Action, 1, Outcome::Done(None)),
        ended(9, Direction::Action, 1, Outcome::Done(None)),
        Event::Reserved { step: 0, item: 0, holds: Vec::new() },
        Event::NoSlots { step: 1, item: 1, fault: fault("RESOURCE_EXHAUSTED") },
        Event::Ruled { step: 0, ruling: Ruling::Run(1) },
    ];
    for event in unfit {
        assert_eq!(job.apply(&plan, &event, START, 3), Err(Refused::Misfit), "{event:?}");
    }
    assert_eq!(job, before);
}

#[test]
fn slots_and_rulings_that_are_not_asked_for_any_more_change_nothing() {
    let listed = Step { is_ruled: true, ..step("each", &[]) };
    let plan = definition(vec![reserve("gpu", &[]), listed, pivot("publish", &[0, 1])]);
    let mut job = begun(&plan);
    let ruled = Event::Ruled { step: 1, ruling: Ruling::Run(2) };
    assert_eq!(job.apply(&plan, &Event::Ruled { step: 1, ruling: Ruling::Run(257) }, START, 3), Err(Refused::Misfit));
    assert_eq!(job.apply(&plan, &ruled, START, 3), Ok(Changed::Yes));
    assert_eq!(job.apply(&plan, &ruled, START, 3), Ok(Changed::No));

    let failed = ended(1, Direction::Action, 1, Outcome::FailedClean(fault("INVALID_ARGUMENT")));
    job.apply(&plan, &failed, START, 3).unwrap();
    assert_eq!(job.state, JobState::Compensated);
    let hold = Hold { pool: "gpu".to_owned(), worker: "w".to_owned(), number: 0, confirmed: false };
    let reserved = Event::Reserved { step: 0, item: 0, holds: vec![hold] };
    assert_eq!(job.apply(&plan, &reserved, START, 3), Err(Refused::Ended));

    let plan = definition(vec![reserve("gpu", &[]), external("charge", &[]), pivot("publish", &[0, 1])]);
    let mut job = begun(&plan);
    job.apply(&plan, &Event::Cancel { reason: String::new() }, START, 3).unwrap();
    assert_eq!(job.state, JobState::Compensating);
    assert_eq!(job.apply(&plan, &reserved, START, 3), Ok(Changed::No));
    assert!(job.steps[0].items[0].holds.is_empty());
}

#[test]
fn an_attempt_that_nobody_ends_is_over_a_second_after_its_time() {
    let plan = definition(vec![external("charge", &[]), pivot("publish", &[0])]);
    let mut job = begun(&plan);
    let end = START + 1_000 + 1_000;
    assert_eq!(job.wants(&plan, START).wake_at, Some(end));
    assert_eq!(job.apply(&plan, &Event::Tick, end - 1, 3), Ok(Changed::No));
    assert_eq!(job.apply(&plan, &Event::Tick, end, 3), Ok(Changed::Yes));
    assert!(job.steps[0].items[0].unknown);
}

#[test]
fn any_goes_on_until_none_can_succeed() {
    let first = Step { join: Join::Any, ..step("first", &[0, 1]) };
    let plan = definition(vec![step("a", &[]), step("b", &[]), first]);
    let failed = |step: usize| ended(step, Direction::Action, 1, Outcome::FailedClean(fault("INVALID_ARGUMENT")));
    let mut job = begun(&plan);
    job.apply(&plan, &failed(0), START, 3).unwrap();
    assert_eq!(job.state, JobState::Running);
    let mut other = job.clone();
    other.apply(&plan, &failed(1), START, 3).unwrap();
    assert_eq!(other.state, JobState::Compensated);
    job.apply(&plan, &ended(1, Direction::Action, 1, Outcome::Done(None)), START, 3).unwrap();
    assert_eq!(job.steps[2].items[0].state, StepState::Started);
}

#[test]
fn codes_decide_what_is_worth_another_attempt() {
    let mut choosy = step("infer", &[]);
    choosy.retry.codes = vec!["NOT_FOUND".to_owned()];
    for (plan, code, again) in [
        (step("infer", &[]), "UNAVAILABLE", true),
        (step("infer", &[]), "NOT_FOUND", false),
        (choosy.clone(), "NOT_FOUND", true),
        (choosy, "UNAVAILABLE", false),
    ] {
        let plan = definition(vec![plan]);
        let mut job = begun(&plan);
        job.apply(&plan, &ended(0, Direction::Action, 1, Outcome::FailedClean(fault(code))), START, 3).unwrap();
        assert_eq!(job.state == JobState::Running, again, "{code}: {plan:?}");
    }
}
