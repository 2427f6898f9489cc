//! Courses on which other engines of sagas have failed.

use weft_saga::{Changed, Direction, Event, Fault, JobState, Join, Outcome, Payload, Phase, Step, StepState};

use crate::build::{definition, external, pivot, post, release, reserve, step, wait};
use crate::judge::judge;
use crate::world::{Fate, World};

const FINAL: Fate = Fate::Refused { retryable: false };

/// What is under way for a step meets its fate.
fn meet(world: &mut World, name: &str, fate: Fate) {
    let index = world.in_flight().iter().position(|wanted| world.definition.steps[wanted.step].name == name);
    world.meet(index.expect(name), fate);
}

fn state(world: &World, name: &str) -> StepState {
    let step = world.definition.steps.iter().position(|step| step.name == name).unwrap();
    world.job.steps[step].items[0].state
}

fn ended(step: usize, direction: Direction, attempt: u32, outcome: Outcome) -> Event {
    Event::Ended { step, item: 0, direction, attempt, outcome, place: None }
}

fn assert_compensated(mut world: World) {
    world.heal();
    assert_eq!(world.job.state, JobState::Compensated);
    assert_eq!(judge(&world), Vec::<String>::new());
}

/// `a` and `b` after `root`, `c` after both.
fn diamond() -> World {
    let long = |step: Step| Step { timeout: 3_600_000, ..step };
    let (a, b) = (long(external("a", &[0])), long(external("b", &[0])));
    let steps = vec![external("root", &[]), a, b, external("c", &[1, 2])];
    let mut world = World::new(definition(steps));
    world.apply(Event::Tick).unwrap();
    meet(&mut world, "root", Fate::Succeeds);
    world
}

/// steno 462: recovery refused a job whose first undo had ended, so it stood still for good.
#[test]
fn a_crash_in_the_middle_of_unwinding_a_diamond() {
    for fate in [Fate::Succeeds, Fate::CrashAfter, Fate::CrashBefore] {
        let mut world = diamond();
        meet(&mut world, "a", Fate::Succeeds);
        meet(&mut world, "b", FINAL);
        meet(&mut world, "a", fate);
        world.crash();
        assert_eq!(world.job.state, JobState::Compensating);
        assert_compensated(world);
    }
}

/// steno 17: an undo fails while its sibling ends, in the same moment.
#[test]
fn an_undo_fails_while_its_sibling_is_undone() {
    let mut world = diamond();
    meet(&mut world, "a", Fate::Succeeds);
    meet(&mut world, "b", Fate::Succeeds);
    meet(&mut world, "c", FINAL);
    let moment = world.now;
    meet(&mut world, "a", Fate::NotSent);
    meet(&mut world, "b", Fate::Succeeds);
    assert_eq!(world.now, moment);
    assert_eq!((state(&world, "a"), state(&world, "b")), (StepState::Undoing, StepState::Undone));
    assert_eq!(state(&world, "root"), StepState::Undoing, "it waits for both");
    assert!(world.in_flight().is_empty());
    assert_compensated(world);
}

/// steno 66: a retry that fails cleanly says nothing of the attempt before it.
#[test]
fn a_clean_failure_after_an_unknown_attempt_that_arrives_late() {
    let mut world = diamond();
    meet(&mut world, "a", Fate::Delayed);
    world.sleep();
    meet(&mut world, "a", Fate::NotSent);
    assert_eq!(state(&world, "a"), StepState::Undoing);
    while world.strays() > 0 {
        world.land(0, false);
    }
    assert_compensated(world);
}

/// Conductor 284: two steps fail in one moment, and the deadline passes in it.
#[test]
fn several_reasons_to_fail_at_once() {
    let mut world = diamond();
    world.now = world.job.deadline;
    meet(&mut world, "a", FINAL);
    let (failure, after) = (world.job.failure.clone(), world.job.clone());
    assert_eq!(failure.as_ref().unwrap().message, "step `a`: as the world wants it");
    assert_eq!(state(&world, "b"), StepState::Undoing, "it was under way, and may have its effect");
    let late = ended(2, Direction::Action, 1, Outcome::FailedClean(Fault::new("INVALID_ARGUMENT", "second")));
    assert_eq!(world.apply(late), Ok(Changed::No));
    assert_eq!(world.apply(Event::Cancel { reason: "third".to_owned() }), Ok(Changed::No));
    assert_eq!(world.job, after);
    assert_compensated(world);
}

/// DBOS 716: what a take-over has made of a job is lost before it is committed, and the next one makes the same of it.
#[test]
fn a_take_over_that_is_not_committed() {
    let mut world = diamond();
    meet(&mut world, "a", Fate::Delayed);
    let committed = world.job.clone();
    let mut lost = committed.clone();
    lost.apply(&world.definition, &Event::TakenOver, world.now, 3).unwrap();
    let mut again = committed;
    again.apply(&world.definition, &Event::TakenOver, world.now, 3).unwrap();
    assert_eq!(again, lost);
    world.crash();
    world.crash();
    world.heal();
    assert_eq!(world.job.state, JobState::Completed);
    assert_eq!(judge(&world), Vec::<String>::new());
}

/// An attempt that was given up arrives after its undo, and after the job has ended.
#[test]
fn an_action_that_arrives_after_its_undo() {
    let mut world =
        World::new(definition(vec![external("charge", &[]), step("infer", &[]), pivot("publish", &[0, 1])]));
    world.apply(Event::Tick).unwrap();
    meet(&mut world, "infer", FINAL);
    meet(&mut world, "charge", Fate::Succeeds);
    assert_eq!(world.job.state, JobState::Compensated);
    assert_eq!(world.strays(), 1, "the action is still on its way");
    assert_compensated(world);
}

/// A branch of several steps that is lost counted as one that had succeeded, once its last step was skipped: the other branch was cancelled, and the
/// pivot began.
#[test]
fn a_lost_branch_of_several_steps_is_no_success() {
    let join = |name: &str, join, needs: &[usize]| Step { join, ..step(name, needs) };
    let branches = || vec![step("a1", &[]), step("b1", &[0]), step("a2", &[]), step("b2", &[2]), step("a3", &[])];
    for (how, needs) in [(Join::Any, vec![1, 3]), (Join::Quorum(2), vec![1, 3, 4])] {
        let steps = [branches(), vec![join("c", how, &needs), pivot("publish", &[4, 5])]].concat();
        let mut world = World::new(definition(steps));
        world.apply(Event::Tick).unwrap();
        meet(&mut world, "a3", Fate::Succeeds);
        meet(&mut world, "a1", FINAL);
        assert_eq!((state(&world, "b1"), state(&world, "a2")), (StepState::Skipped, StepState::Started));
        assert_eq!((state(&world, "c"), state(&world, "publish")), (StepState::Idle, StepState::Idle));
        meet(&mut world, "a2", Fate::Succeeds);
        assert_eq!(state(&world, "c"), StepState::Idle);
        meet(&mut world, "b2", Fate::Succeeds);
        meet(&mut world, "c", Fate::Succeeds);
        world.heal();
        assert_eq!(world.job.state, JobState::Completed);
        assert_eq!(judge(&world), Vec::<String>::new());
    }
    // With the other branch lost as well, there is nothing to go on with.
    let steps = [branches(), vec![join("c", Join::Any, &[1, 3]), pivot("publish", &[4, 5])]].concat();
    let mut world = World::new(definition(steps));
    world.apply(Event::Tick).unwrap();
    meet(&mut world, "a1", FINAL);
    meet(&mut world, "a2", FINAL);
    assert_eq!(world.job.state, JobState::Compensated);
    assert_compensated(world);
}

/// A scheduler whose clock ran three hours ahead is gone. What it wrote down as a moment is none that the next one waits for.
#[test]
fn a_clock_that_ran_ahead_holds_nothing_up() {
    const HOURS: u64 = 3 * 3_600_000;
    const LONG: u64 = 600_000;
    let waits = |world: &World| world.job.wants(&world.definition, world.now).wake_at.unwrap() - world.now;

    // A step after the pivot that waits to be repeated, and is stuck in the end.
    for failures in [3, 20] {
        let mut world = World::new(definition(vec![pivot("publish", &[]), post("confirm", &[0])]));
        world.now += HOURS;
        world.job.deadline += HOURS;
        world.apply(Event::Tick).unwrap();
        meet(&mut world, "publish", Fate::Succeeds);
        for failure in 1..=failures {
            meet(&mut world, "confirm", Fate::NotSent);
            if failure < failures {
                world.sleep();
            }
        }
        world.crash_ahead(HOURS);
        // Nothing was under way: the next look at the time notices.
        world.apply(Event::Tick).unwrap();
        assert!(waits(&world) < LONG, "{}", waits(&world));
        world.heal();
        assert_eq!(world.job.state, JobState::Completed);
        assert_eq!(judge(&world), Vec::<String>::new());
    }

    // An undo that waits, and whose budget has begun.
    let mut world = World::new(definition(vec![external("charge", &[]), pivot("publish", &[0])]));
    world.now += HOURS;
    world.job.deadline += HOURS;
    world.apply(Event::Tick).unwrap();
    meet(&mut world, "charge", Fate::Succeeds);
    meet(&mut world, "publish", FINAL);
    meet(&mut world, "charge", Fate::NotSent);
    world.crash_ahead(HOURS);
    world.apply(Event::Tick).unwrap();
    assert!(waits(&world) < LONG, "{}", waits(&world));
    assert_eq!(world.job.undo_since, Some(world.now));
    assert_compensated(world);

    // A signal, and slots, are waited for as long as they would have been.
    let steps = vec![reserve("gpu", &[]), wait("go", &[]), pivot("publish", &[0, 1])];
    let mut world = World::new(definition(steps));
    world.now += HOURS;
    world.job.deadline += HOURS;
    world.apply(Event::Tick).unwrap();
    world.reserve(0, 0, false);
    world.crash_ahead(HOURS);
    world.apply(Event::Tick).unwrap();
    for step in [0, 1] {
        let (timeout, item) = (world.definition.steps[step].timeout, &world.job.steps[step].items[0]);
        assert_eq!((item.until, item.not_before <= world.now + timeout), (world.now + timeout, true), "{step}");
    }
    world.heal();
    assert_eq!(world.job.state, JobState::Completed);
    assert_eq!(judge(&world), Vec::<String>::new());
}

/// A step after the pivot has failed for so long that it is stuck, and then another branch does what it was for.
#[test]
fn what_is_stuck_and_not_needed_any_more_holds_nothing_up() {
    for other in [Step { phase: Phase::Post, ..step("b", &[1]) }, Step { phase: Phase::Post, ..wait("b", &[1]) }] {
        let a = Step { phase: Phase::Post, ..step("a", &[1]) };
        let after = Step { join: Join::Any, ..post("after", &[2, 3]) };
        let mut world = World::new(definition(vec![
            reserve("slot", &[]),
            pivot("pivot", &[0]),
            a,
            other,
            after,
            release("back", 0),
        ]));
        world.apply(Event::Tick).unwrap();
        world.reserve(0, 0, true);
        meet(&mut world, "pivot", Fate::Succeeds);
        while state(&world, "a") != StepState::Stuck {
            match world.in_flight().iter().any(|wanted| world.definition.steps[wanted.step].name == "a") {
                true => meet(&mut world, "a", FINAL),
                false => world.sleep(),
            }
        }
        match world.definition.steps[3].signal.clone() {
            Some(name) => drop(world.apply(Event::Signal { name, value: Payload::Inline(Vec::new()) }).unwrap()),
            None => meet(&mut world, "b", Fate::Succeeds),
        }
        meet(&mut world, "after", Fate::Succeeds);
        assert_eq!((state(&world, "a"), world.job.state), (StepState::Skipped, JobState::Completed));
        assert_eq!(judge(&world), Vec::<String>::new());
    }
}
