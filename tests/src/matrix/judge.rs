//! What must be true of a job that has ended, whatever went wrong.

use std::collections::BTreeSet;

use weft_proto::weft::jobs::v1::{Job, JobState, Phase, StepState, StepStatus, Verb};

use super::{Point, Spot, Work, shape};
use crate::ledger::messages::Effect;

/// What is known of a job.
pub(super) struct Told<'a> {
    pub(super) number: usize,
    /// As it ended.
    pub(super) job: &'a Job,
    /// What the participant did, for all jobs and in order.
    pub(super) effects: &'a [Effect],
}

/// An effect of the job's: which call, and whether it was taken back.
type Done<'a> = (&'a Spot, bool);

/// Everything that is wrong.
pub(super) fn judge(point: &Point, told: &Told<'_>) -> Vec<String> {
    let (spots, job) = (point.shape.calls(), told.job);
    let mut wrong = Vec::new();
    let state = match (point.verb(), point.brings_down()) {
        (Some(Verb::Abandon), _) => JobState::Abandoned,
        (_, true) => JobState::Compensated,
        (_, false) => JobState::Completed,
    };
    if job.state() != state {
        wrong.push(format!("it ended as {:?} ({})", job.state(), job.failure));
    }
    if job.steps.iter().any(|step| !step.slots.is_empty()) {
        wrong.push("it has slots".to_owned());
    }
    let mut done: Vec<Done<'_>> = Vec::new();
    for effect in told.effects.iter().filter(|effect| effect.key.split('/').next() == Some(job.id.as_str())) {
        match spots.iter().find(|spot| key(told, spot) == effect.key) {
            Some(spot) => done.push((spot, effect.direction == "undo")),
            None => wrong.push(format!("{} is no call of it", effect.key)),
        }
    }
    for spot in &spots {
        wrong.extend(net(point, told, spot, &done));
    }
    wrong.extend(order(point, &done));
    wrong.extend(attempts(point, told));
    let what =
        format!("{}, {} of {}: {:?}", point.shape.name, point.direction.as_str(), key(told, &point.spot), point.kind);
    wrong.into_iter().map(|wrong| format!("{what}: {wrong}")).collect()
}

fn key(told: &Told<'_>, spot: &Spot) -> String {
    let step = format!("{}/{}", told.job.id, shape::numbered(&spot.step, told.number));
    spot.item.map_or(step.clone(), |item| format!("{step}/{item}"))
}

fn status<'a>(told: &Told<'a>, spot: &Spot) -> Option<&'a StepStatus> {
    let name = shape::numbered(&spot.step, told.number);
    let item = spot.item.unwrap_or_default();
    told.job.steps.iter().find(|status| status.name == name && status.item == item)
}

/// What is done is there once, and what is not done is not there: never at all, or once and taken back once.
fn net(point: &Point, told: &Told<'_>, spot: &Spot, done: &[Done<'_>]) -> Option<String> {
    let count =
        |undone| done.iter().filter(|(of, is_undo)| key(told, of) == key(told, spot) && *is_undo == undone).count();
    let (actions, undos) = (count(false), count(true));
    let state = status(told, spot).map(StepStatus::state);
    let (is_there, is_gone) = ((actions, undos) == (1, 0), actions == undos && actions <= 1);
    // What the undo that keeps failing is of, and what came before it.
    let waits = point.shape.waits(&point.spot.step, &spot.step);
    let is_held_up = waits || spot.step == point.spot.step && spot.item == point.spot.item;
    let is_right = match (told.job.state(), state) {
        (JobState::Completed, Some(StepState::Done)) => is_there,
        (JobState::Compensated, _) if spot.phase == Phase::Finally => is_there,
        (JobState::Abandoned, _) if spot.phase == Phase::Finally => actions == 0,
        (JobState::Abandoned, _) if is_held_up => is_there,
        // Nobody waits for the others.
        (JobState::Abandoned, Some(StepState::Undoing)) => is_there || is_gone,
        _ => is_gone,
    };
    (!is_right).then(|| format!("{} was done {actions} and undone {undos} times", key(told, spot)))
}

/// What waits for something begins after it and is undone before it; what was undone is not done again; the last is last.
fn order(point: &Point, done: &[Done<'_>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut undone = BTreeSet::new();
    for (at, (spot, is_undo)) in done.iter().enumerate() {
        for (later, later_is_undo) in &done[at + 1..] {
            let is_wrong = match (is_undo, later_is_undo) {
                (false, false) => point.shape.waits(&spot.step, &later.step) || spot.phase == Phase::Finally,
                (true, true) => point.shape.waits(&later.step, &spot.step),
                (false, true) => spot.phase == Phase::Finally,
                (true, false) => false,
            };
            if is_wrong {
                let way = |is_undo: &bool| if *is_undo { "undo" } else { "action" };
                wrong.push(format!(
                    "{} of {} before {} of {}",
                    way(is_undo),
                    spot.step,
                    way(later_is_undo),
                    later.step
                ));
            }
        }
        let of = (&spot.step, spot.item);
        if *is_undo {
            undone.insert(of);
        } else if undone.contains(&of) {
            wrong.push(format!("{} was done after its undo", spot.step));
        }
    }
    wrong
}

fn attempts(point: &Point, told: &Told<'_>) -> Option<String> {
    let (expected, found) = (point.attempts()?, status(told, &point.spot)?.attempts_total);
    (found != expected).then(|| format!("{found} attempts, and not {expected}"))
}

/// What is wrong about how a job is shown that waits for an operator.
pub(super) fn stuck(point: &Point, what: &str, status: Option<&StepStatus>) -> Option<String> {
    let (expected, last) = (point.shown(), status.and_then(|status| status.attempts.last()));
    let shown = last.map(|attempt| (attempt.outcome.as_str(), attempt.code.as_str()));
    (shown != Some(expected)).then(|| format!("{what}: its last attempt is shown as {shown:?}, and not {expected:?}"))
}

/// A job that is not undone and waits for an operator has the slots that it has taken, but for those that it has released.
pub(super) fn slots(point: &Point, told: &Told<'_>, what: &str) -> Vec<String> {
    let reservations = point.shape.spots().into_iter().filter(|spot| spot.work == Work::Slots && !point.brings_down());
    let wrong = reservations.filter_map(|spot| {
        let releases = point.shape.releases(&spot.step).map(|step| Spot { step, ..spot.clone() });
        let is_done = |spot: &Spot| status(told, spot).is_some_and(|status| status.state() == StepState::Done);
        let has_slots = status(told, &spot).is_some_and(|status| !status.slots.is_empty());
        let is_right = has_slots == (is_done(&spot) && !releases.as_ref().is_some_and(is_done));
        (!is_right).then(|| format!("{what}: {} has slots: {has_slots}", spot.step))
    });
    wrong.collect()
}
