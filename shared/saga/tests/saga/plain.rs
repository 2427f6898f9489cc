//! Plain courses, step by step.

use weft_saga::job::Ending;
use weft_saga::{
    Changed, Definition, Direction, Event, Fault, Hold, Job, JobState, Join, Outcome, Payload, Refused, Ruling, Step,
    StepState, Verb, Wanted,
};

use crate::build::{definition, example, external, last, pivot, post, release, reserve, step, wait};

const T0: u64 = 1_000_000;

/// A job, its definition, and a clock that the test moves.
struct Course {
    definition: Definition,
    job: Job,
    now: u64,
}

impl Course {
    fn new(definition: Definition) -> Self {
        let job = Job::new(&definition, T0, T0 + 60_000);
        let mut course = Self { definition, job, now: T0 };
        course.apply(&Event::Tick);
        course
    }

    fn try_apply(&mut self, event: &Event) -> Result<Changed, Refused> {
        self.job.apply(&self.definition, event, self.now, 7)
    }

    fn apply(&mut self, event: &Event) -> Changed {
        self.try_apply(event).unwrap()
    }

    fn at(&self, name: &str) -> usize {
        self.definition.steps.iter().position(|step| step.name == name).unwrap()
    }

    fn state(&self, name: &str) -> StepState {
        self.job.steps[self.at(name)].items[0].state
    }

    fn wanted(&self) -> Vec<(String, Direction)> {
        let wants = self.job.wants(&self.definition, self.now);
        wants.attempts.iter().map(|w| (self.definition.steps[w.step].name.clone(), w.direction)).collect()
    }

    fn wanted_of(&self, name: &str) -> Wanted {
        let wants = self.job.wants(&self.definition, self.now);
        wants.attempts.into_iter().find(|wanted| wanted.step == self.at(name)).expect(name)
    }

    fn end(&mut self, name: &str, outcome: Outcome) {
        let wanted = self.wanted_of(name);
        self.apply(&Event::Ended {
            step: wanted.step,
            item: wanted.item,
            direction: wanted.direction,
            attempt: wanted.attempt,
            outcome,
            place: None,
        });
    }

    fn done(&mut self, name: &str) {
        self.end(name, Outcome::Done(None));
    }

    /// Until the next wake-up.
    fn wait(&mut self) {
        self.now = self.now.max(self.job.wants(&self.definition, self.now).wake_at.expect("something to wait for"));
        self.apply(&Event::Tick);
    }
}

fn fault(code: &str) -> Fault {
    Fault::new(code, "as the test wants it")
}

fn slot(number: u32) -> Hold {
    Hold { pool: "gpu".to_owned(), worker: "w".to_owned(), number, confirmed: false }
}

fn names(list: &[(&str, Direction)]) -> Vec<(String, Direction)> {
    list.iter().map(|(name, direction)| ((*name).to_owned(), *direction)).collect()
}

#[test]
fn the_example_goes_to_its_end_and_gives_its_slot_back() {
    let mut course = Course::new(example());
    assert_eq!(course.job.wants(&course.definition, T0).reservations, [(0, 0)]);
    course.apply(&Event::Reserved { step: 0, item: 0, holds: vec![slot(0)] });
    assert_eq!(course.wanted(), names(&[("load", Direction::Action)]));
    course.done("load");
    course.done("b");
    assert_eq!(course.state("a"), StepState::Started);
    course.done("c");
    assert_eq!(course.state("a"), StepState::Skipped, "two of three are enough");
    course.done("join");
    assert!(!course.job.steps[0].items[0].holds[0].confirmed);
    course.done("publish");
    assert!(course.job.decided && course.job.steps[0].items[0].holds[0].confirmed);
    assert_eq!(course.wanted(), names(&[("confirm", Direction::Action)]));
    course.done("confirm");
    assert!(course.job.steps[0].items[0].holds.is_empty());
    course.done("notify");
    assert_eq!(course.job.state, JobState::Completed);
    assert_eq!(course.job.wants(&course.definition, course.now), weft_saga::Wants::default());
    assert_eq!(course.try_apply(&Event::Tick), Err(Refused::Ended));
}

#[test]
fn what_has_failed_is_undone_in_reverse_and_the_final_steps_run() {
    let mut course = Course::new(definition(vec![
        reserve("gpu", &[]),
        external("load", &[0]),
        step("pure", &[1]),
        external("charge", &[2]),
        pivot("publish", &[3]),
        release("give-back", 0),
        last("notify", &[]),
    ]));
    course.apply(&Event::Reserved { step: 0, item: 0, holds: vec![slot(3)] });
    for name in ["load", "pure", "charge"] {
        course.done(name);
    }
    course.end("publish", Outcome::FailedClean(fault("INVALID_ARGUMENT")));
    assert_eq!(course.job.state, JobState::Compensating);
    assert_eq!(course.job.failure.as_ref().unwrap().message, "step `publish`: as the test wants it");
    assert_eq!(course.wanted(), names(&[("charge", Direction::Undo)]));
    course.done("charge");
    assert_eq!(course.wanted(), names(&[("load", Direction::Undo)]));
    assert_eq!(course.job.steps[0].items[0].holds.len(), 1, "what was loaded into the slot is still there");
    course.done("load");
    assert_eq!(course.state("gpu"), StepState::Undone);
    assert!(course.job.steps[0].items[0].holds.is_empty());
    course.done("notify");
    assert_eq!(course.job.state, JobState::Compensated);
}

#[test]
fn a_clean_failure_after_an_unknown_attempt_is_undone_all_the_same() {
    let mut course = Course::new(definition(vec![external("charge", &[]), pivot("publish", &[0])]));
    course.end("charge", Outcome::Unknown(fault("UNAVAILABLE")));
    course.wait();
    assert_eq!(course.wanted_of("charge").attempt, 2);
    course.end("charge", Outcome::FailedClean(fault("NOT_FOUND")));
    assert_eq!(course.wanted(), names(&[("charge", Direction::Undo)]));
}

#[test]
fn an_unknown_pivot_is_asked_for_until_it_is_known_and_nothing_is_undone_meanwhile() {
    let probed = Step { has_probe: true, ..pivot("publish", &[0]) };
    let mut course = Course::new(definition(vec![external("charge", &[]), probed]));
    course.done("charge");
    course.end("publish", Outcome::Unknown(fault("DEADLINE_EXCEEDED")));
    assert_eq!(course.wanted(), names(&[("publish", Direction::Probe)]));
    assert_eq!(course.try_apply(&Event::Cancel { reason: String::new() }), Err(Refused::Deciding));
    course.now = course.job.deadline + 1;
    course.end("publish", Outcome::Unknown(fault("UNAVAILABLE")));
    course.wait();
    assert_eq!(course.job.state, JobState::Running);
    course.end("publish", Outcome::Absent);
    assert_eq!(course.job.state, JobState::Compensating, "it has not happened, and it is too late to begin it");
    assert_eq!((course.state("publish"), course.job.steps[1].items[0].unknown), (StepState::FailedClean, false));
    assert_eq!(course.wanted(), names(&[("charge", Direction::Undo)]));
}

#[test]
fn after_the_pivot_it_goes_forward_however_often_it_fails() {
    let mut course = Course::new(definition(vec![pivot("publish", &[]), post("confirm", &[0])]));
    course.done("publish");
    assert_eq!(course.try_apply(&Event::Cancel { reason: String::new() }), Err(Refused::Decided));
    for _ in 0..20 {
        course.end("confirm", Outcome::FailedClean(fault("INVALID_ARGUMENT")));
        if course.job.stuck.is_none() {
            course.wait();
        }
    }
    assert_eq!(course.state("confirm"), StepState::Stuck);
    assert!(course.job.stuck.as_ref().unwrap().starts_with("step `confirm` keeps failing: INVALID_ARGUMENT"));
    course.wait();
    assert_eq!(course.wanted(), names(&[("confirm", Direction::Action)]), "it is tried all the same");
    assert!(course.job.stuck.is_some());
    course.done("confirm");
    assert_eq!((course.job.state, course.job.stuck.as_ref()), (JobState::Completed, None));
}

#[test]
fn a_stuck_undo_waits_for_a_verb() {
    let mut course = Course::new(definition(vec![external("charge", &[]), pivot("publish", &[0])]));
    assert_eq!(course.try_apply(&Event::Resolve(Verb::Retry(None))), Err(Refused::NotStuck));
    course.done("charge");
    course.end("publish", Outcome::FailedClean(fault("NOT_FOUND")));
    for _ in 0..19 {
        course.end("charge", Outcome::FailedClean(fault("INTERNAL")));
        course.wait();
    }
    course.end("charge", Outcome::FailedClean(fault("INTERNAL")));
    assert_eq!(course.state("charge"), StepState::Stuck);
    course.apply(&Event::Resolve(Verb::Retry(None)));
    assert_eq!(course.wanted(), names(&[("charge", Direction::Undo)]));
    assert_eq!(course.job.stuck, None);
    let skip = Event::Resolve(Verb::Skip { step: 0, item: 0, reason: "refunded by hand".to_owned() });
    assert_eq!(course.try_apply(&skip), Err(Refused::NotStuck));
    course.now += 600_001;
    course.end("charge", Outcome::FailedClean(fault("INTERNAL")));
    assert_eq!(course.state("charge"), StepState::Stuck, "the budget is over");
    course.apply(&skip);
    assert_eq!(course.job.state, JobState::Compensated);
}

/// It is not waited for, and the job tells so.
#[test]
fn an_undo_that_is_under_way_ends_when_it_is_skipped() {
    let mut course = Course::new(definition(vec![external("charge", &[]), pivot("publish", &[0])]));
    course.done("charge");
    course.end("publish", Outcome::FailedClean(fault("NOT_FOUND")));
    assert_eq!(course.wanted(), names(&[("charge", Direction::Undo)]));
    course.now += 600_001;
    course.apply(&Event::Resolve(Verb::Skip { step: 0, item: 0, reason: "refunded by hand".to_owned() }));
    assert_eq!(course.job.state, JobState::Compensated);
    let told: Vec<_> =
        course.job.steps[0].items[0].history.iter().map(|attempt| (attempt.number, attempt.outcome)).collect();
    assert_eq!(told, [(1, Some(Ending::Done)), (1, Some(Ending::Unknown)), (0, Some(Ending::Done))]);
}

#[test]
fn a_job_that_is_taken_over_again_and_again_is_left_alone() {
    let steps = vec![external("charge", &[]), step("infer", &[]), wait("approve", &[])];
    let mut course = Course::new(definition(steps));
    for _ in 0..5 {
        course.apply(&Event::TakenOver);
        assert_eq!(course.wanted().len(), 2);
    }
    assert_eq!(course.wanted_of("infer").attempt, 6, "a take-over is not a failure");
    course.apply(&Event::TakenOver);
    assert_eq!(course.wanted(), []);
    assert!(course.job.stuck.is_some());
    // That somebody signals says nothing of whether it can be run.
    course.apply(&Event::Signal { name: "approve".to_owned(), value: Payload::Inline(b"true".to_vec()) });
    assert_eq!(course.wanted(), []);
    course.apply(&Event::Resolve(Verb::Retry(None)));
    assert_eq!(course.wanted().len(), 2);
    course.done("charge");
    course.done("infer");
    assert_eq!(course.job.state, JobState::Completed);
}

#[test]
fn a_signal_that_is_early_is_kept_and_one_that_does_not_come_fails() {
    let mut course = Course::new(definition(vec![step("infer", &[]), wait("approve", &[0])]));
    let value = Payload::Inline(b"true".to_vec());
    let signal = |name: &str| Event::Signal { name: name.to_owned(), value: value.clone() };
    assert_eq!(course.try_apply(&signal("other")), Err(Refused::NoSuchSignal));
    course.apply(&signal("approve"));
    course.done("infer");
    assert_eq!(course.job.state, JobState::Completed);
    assert_eq!(course.job.steps[1].items[0].output, Some(value));

    let mut course = Course::new(definition(vec![wait("approve", &[])]));
    course.wait();
    assert_eq!(course.job.state, JobState::Compensated);
    assert_eq!(course.job.failure.as_ref().unwrap().code, "DEADLINE_EXCEEDED");
}

#[test]
fn a_list_runs_a_few_at_once_and_a_condition_that_does_not_hold_is_as_good_as_done() {
    let list = Step { is_ruled: true, parallelism: 2, ..external("each", &[]) };
    let condition = Step { is_ruled: true, ..external("perhaps", &[0]) };
    let mut course = Course::new(definition(vec![list, condition, pivot("publish", &[1])]));
    assert_eq!(course.job.wants(&course.definition, T0).rulings, [0]);
    course.apply(&Event::Ruled { step: 0, ruling: Ruling::Run(3) });
    assert_eq!(course.wanted().len(), 2);
    course.done("each");
    assert_eq!(course.wanted().len(), 2);
    course.done("each");
    course.done("each");
    assert_eq!(course.job.wants(&course.definition, T0).rulings, [1]);
    course.apply(&Event::Ruled { step: 1, ruling: Ruling::Skip });
    assert_eq!(course.wanted(), names(&[("publish", Direction::Action)]));
}

#[test]
fn slots_are_looked_for_until_the_attempt_is_over() {
    let mut course =
        Course::new(definition(vec![Step { timeout: 500, ..reserve("gpu", &[]) }, pivot("publish", &[0])]));
    let none = Event::NoSlots { step: 0, item: 0, fault: fault("RESOURCE_EXHAUSTED") };
    let (mut looks, mut written) = (0, 0);
    while course.job.state == JobState::Running {
        assert_eq!(course.job.wants(&course.definition, course.now).reservations, [(0, 0)]);
        let before = course.job.revision;
        let changed = course.apply(&none);
        assert_eq!(changed == Changed::Yes, course.job.revision > before);
        written += u32::from(changed == Changed::Yes);
        looks += 1;
        if course.job.state == JobState::Running {
            course.now = course.job.wants(&course.definition, course.now).wake_at.unwrap();
        }
    }
    assert_eq!(course.job.state, JobState::Compensated);
    assert_eq!(course.job.steps[0].items[0].attempts, 2);
    assert!((6..20).contains(&looks), "{looks}");
    assert_eq!(written, 4, "the beginning and the end of each attempt");
}

#[test]
fn slots_are_not_looked_for_without_a_pause() {
    let mut hasty = reserve("gpu", &[]);
    hasty.timeout = 30_000;
    (hasty.retry.initial_backoff, hasty.retry.max_backoff) = (1, 1);
    let mut course = Course::new(definition(vec![hasty]));
    let none = Event::NoSlots { step: 0, item: 0, fault: fault("RESOURCE_EXHAUSTED") };
    course.apply(&none);
    let mut looks = 1;
    while course.now < T0 + 20_000 {
        let at = course.job.wants(&course.definition, course.now).wake_at.unwrap();
        assert!(at >= course.now + 50, "{}", at - course.now);
        course.now = at;
        assert_eq!(course.apply(&none), Changed::Later);
        looks += 1;
    }
    assert!((20..60).contains(&looks), "{looks}");
}

#[test]
fn a_paused_job_begins_nothing() {
    let mut course = Course::new(definition(vec![step("a", &[]), step("b", &[0])]));
    course.apply(&Event::Resolve(Verb::Pause));
    course.done("a");
    assert_eq!(course.wanted(), []);
    course.apply(&Event::Resolve(Verb::Resume));
    assert_eq!(course.wanted(), names(&[("b", Direction::Action)]));
}

#[test]
fn time_is_shared_by_weights_along_the_heaviest_way() {
    let long = |step: Step, weight| Step { deadline_weight: weight, timeout: 3_600_000, ..step };
    let mut course = Course::new(definition(vec![
        long(step("a", &[]), 1),
        long(step("short", &[0]), 1),
        long(step("long", &[0]), 2),
        long(step("z", &[1, 2]), 3),
    ]));
    assert_eq!(course.wanted_of("a").until, T0 + 10_000);
    course.done("a");
    assert_eq!(course.wanted_of("short").until, T0 + 15_000);
    assert_eq!(course.wanted_of("long").until, T0 + 24_000);
}

#[test]
fn sixteen_are_undone_at_once() {
    let list = Step { is_ruled: true, parallelism: 64, ..external("each", &[]) };
    let mut course = Course::new(definition(vec![list, pivot("publish", &[0])]));
    course.apply(&Event::Ruled { step: 0, ruling: Ruling::Run(20) });
    for _ in 0..20 {
        course.done("each");
    }
    course.end("publish", Outcome::FailedClean(fault("NOT_FOUND")));
    for left in (0..20).rev() {
        assert_eq!(course.wanted().len(), 16.min(left + 1));
        course.done("each");
    }
    assert_eq!(course.job.state, JobState::Compensated);
}

#[test]
fn what_is_certain_when_a_step_begins() {
    let join = |join, needs: &[usize]| Step { join, ..step("join", needs) };
    for (how, certain) in [
        (Join::All, &[0, 1, 2, 3][..]),
        (Join::Any, &[0]),
        (Join::Quorum(1), &[0]),
        (Join::Quorum(2), &[0, 1]),
        (Join::Quorum(3), &[0, 1, 2, 3]),
    ] {
        // `root`; `a` after it; `b` after both, `c` after `root` alone; two of the three ways lead over `a`.
        let steps = vec![step("root", &[]), step("a", &[0]), step("b", &[1]), step("c", &[0]), join(how, &[1, 2, 3])];
        let steps = [steps, vec![pivot("publish", &[4]), post("confirm", &[5]), last("end", &[6])]].concat();
        let definition = definition(steps);
        let rows = definition.certain().unwrap();
        let of = |step: usize| -> Vec<usize> { (0..8).filter(|&source| rows[step][source]).collect() };
        assert_eq!(of(4), certain, "{how:?}");
        assert_eq!(of(6), [certain, &[4, 5]].concat(), "{how:?}");
        assert_eq!(of(7), [0; 0], "{how:?}");
    }
    let circle = Definition { steps: vec![step("a", &[1]), step("b", &[0])], undo_budget: 1_000 };
    assert_eq!(circle.certain(), None);
}
