//! How attempts begin and end.

use super::Transition;
use crate::Millis;
use crate::definition::{Effect, Kind, Phase};
use crate::event::{Fault, Outcome, Refused};
use crate::job::{Attempt, Direction, Ending, Item, Payload, Place, StepState};
use crate::pause;

/// How many attempts of each direction are kept for people to read.
const REMEMBERED: usize = 8;

/// The end of an attempt.
pub(super) struct End<'a> {
    pub(super) direction: Direction,
    pub(super) attempt: u32,
    pub(super) outcome: &'a Outcome,
    pub(super) place: Option<&'a Place>,
}

/// An attempt of an action that has not succeeded.
pub(super) struct Failure<'a> {
    pub(super) fault: &'a Fault,
    /// Whether it may have had its effect.
    pub(super) unknown: bool,
    pub(super) place: Option<&'a Place>,
}

impl Transition<'_> {
    /// Records an attempt: whoever reads the job from now on has to reckon with its effect.
    pub(super) fn attempt(&mut self, step: usize, item: usize, direction: Direction) {
        let now = self.now;
        let until = match direction {
            Direction::Action | Direction::Probe => self.until(step, item),
            Direction::Undo => now.saturating_add(self.step(step).timeout.max(1)),
        };
        let item = self.item(step, item);
        let (state, number) = match direction {
            Direction::Action => {
                item.attempts = item.attempts.saturating_add(1);
                (StepState::Started, item.attempts)
            }
            Direction::Probe => (StepState::Probing, item.attempts),
            Direction::Undo => {
                item.undo_attempts = item.undo_attempts.saturating_add(1);
                (StepState::Undoing, item.undo_attempts)
            }
        };
        item.state = state;
        item.until = until;
        item.remember(Attempt {
            number,
            direction,
            started_at: now,
            ended_at: None,
            budget: until.saturating_sub(now),
            outcome: None,
            fault: None,
            place: None,
            span: 0,
        });
    }

    /// When an attempt that begins now has to end: its timeout, its share of what is left to the deadline by weights against the heaviest way through
    /// the steps after it, and the deadline bound it. What has no way back has its timeout.
    pub(super) fn until(&mut self, step: usize, item: usize) -> Millis {
        let timeout = self.step(step).timeout.max(1);
        let is_bound = match self.step(step).phase {
            Phase::Pre => true,
            Phase::Pivot => !self.item(step, item).unknown,
            Phase::Post | Phase::Finally => false,
        };
        if !is_bound {
            return self.now.saturating_add(timeout);
        }
        let left = self.job.deadline.saturating_sub(self.now);
        let weight = u128::from(self.step(step).deadline_weight);
        let all = weight + u128::from(self.graph.weight_after[step]);
        let share = if weight == 0 { left } else { (u128::from(left) * weight / all) as Millis };
        self.now.saturating_add(timeout.min(share).max(1))
    }

    /// An attempt has ended. One that is not under way any more changes nothing, except that an action which may have had its effect is remembered.
    pub(super) fn ended(&mut self, step: usize, item: usize, end: &End<'_>) -> Result<bool, Refused> {
        let known = self.known(step, item)?;
        let begun = match end.direction {
            Direction::Action | Direction::Probe => known.attempts,
            Direction::Undo => known.undo_attempts,
        };
        let is_absent = matches!(end.outcome, Outcome::Absent);
        let is_probe = end.direction == Direction::Probe;
        if end.attempt == 0 || end.attempt > begun || is_absent && !is_probe || self.step(step).kind != Kind::Act {
            return Err(Refused::Misfit);
        }
        if known.attempt() != Some((end.direction, end.attempt)) {
            return Ok(self.ended_late(step, item, end));
        }
        match end.direction {
            Direction::Action => self.action_ended(step, item, end),
            Direction::Probe => self.probe_ended(step, item, end),
            Direction::Undo => self.undo_ended(step, item, end),
        }
        Ok(true)
    }

    fn ended_late(&mut self, step: usize, item: usize, end: &End<'_>) -> bool {
        let may_have_effect = matches!(end.outcome, Outcome::Done(_) | Outcome::Unknown(_));
        let effectful = self.step(step).effect != Effect::Pure && end.direction == Direction::Action;
        let item = self.item(step, item);
        let open = matches!(item.state, StepState::Idle | StepState::Started);
        let news = may_have_effect && effectful && open && !item.unknown;
        item.unknown |= news;
        news
    }

    fn action_ended(&mut self, step: usize, item: usize, end: &End<'_>) {
        match end.outcome {
            Outcome::Done(output) => self.succeed(step, item, output.clone(), end.place),
            Outcome::FailedClean(fault) => {
                self.fail(step, item, &Failure { fault, unknown: false, place: end.place });
            }
            Outcome::Unknown(fault) => self.fail(step, item, &Failure { fault, unknown: true, place: end.place }),
            Outcome::Absent => {}
        }
    }

    pub(super) fn succeed(&mut self, step: usize, item: usize, output: Option<Payload>, place: Option<&Place>) {
        let now = self.now;
        let item = self.item(step, item);
        item.close(now, Ending::Done, None, place);
        item.state = StepState::Done;
        item.unknown = false;
        item.failures = 0;
        item.output = output;
    }

    /// An attempt of the action has failed.
    pub(super) fn fail(&mut self, step: usize, item: usize, failure: &Failure<'_>) {
        let Failure { fault, unknown, place } = *failure;
        let (now, random) = (self.now, self.random_for(step, item));
        let plan = self.step(step);
        let one = self.item(step, item);
        one.close(now, if unknown { Ending::Unknown } else { Ending::FailedClean }, Some(fault), place);
        one.unknown |= unknown && plan.effect != Effect::Pure;
        one.failures = one.failures.saturating_add(1);

        let asks = one.unknown && plan.has_probe;
        match plan.phase {
            Phase::Post | Phase::Finally => self.repeat_without_end(step, item, StepState::Idle),
            Phase::Pre | Phase::Pivot if asks => one.wait(StepState::Probing, now),
            Phase::Pivot if one.unknown => self.repeat_without_end(step, item, StepState::Idle),
            Phase::Pre | Phase::Pivot => {
                let worthwhile = one.unknown && unknown || pause::is_retryable(&plan.retry, fault, unknown);
                let at = now.saturating_add(pause::retry(&plan.retry, one.failures, random));
                // A signal's time is all that it has.
                if worthwhile && plan.kind != Kind::Wait && self.may_repeat(step, item, at) {
                    self.item(step, item).wait(StepState::Idle, at);
                } else {
                    self.give_up(step, item);
                }
            }
        }
    }

    /// Whether another attempt of a step with a way back may begin at a moment.
    fn may_repeat(&mut self, step: usize, item: usize, at: Millis) -> bool {
        let most = self.step(step).retry.max_attempts;
        at < self.job.deadline && self.item(step, item).failures < most
    }

    fn give_up(&mut self, step: usize, item: usize) {
        let item = self.item(step, item);
        item.state = if item.unknown { StepState::Unknown } else { StepState::FailedClean };
    }

    /// What has to succeed is repeated, at ever longer pauses; in the end it is stuck, and repeated all the same.
    fn repeat_without_end(&mut self, step: usize, item: usize, state: StepState) {
        let (now, random) = (self.now, self.random_for(step, item));
        let retry = &self.step(step).retry;
        let item = self.item(step, item);
        if item.failures >= pause::PATIENCE {
            item.wait(StepState::Stuck, now.saturating_add(pause::stuck(random)));
        } else {
            item.wait(state, now.saturating_add(pause::endless(retry, item.failures, random)));
        }
    }

    fn probe_ended(&mut self, step: usize, item: usize, end: &End<'_>) {
        let (now, random) = (self.now, self.random_for(step, item));
        let plan = self.step(step);
        match end.outcome {
            Outcome::Done(output) => self.succeed(step, item, output.clone(), end.place),
            Outcome::Absent => {
                let one = self.item(step, item);
                one.close(now, Ending::Done, None, None);
                one.unknown = false;
                let at = now.saturating_add(pause::retry(&plan.retry, one.failures, random));
                if self.may_repeat(step, item, at) {
                    self.item(step, item).wait(StepState::Idle, at);
                } else {
                    self.give_up(step, item);
                }
            }
            Outcome::FailedClean(fault) | Outcome::Unknown(fault) => {
                let one = self.item(step, item);
                one.close(now, Ending::Unknown, Some(fault), None);
                one.failures = one.failures.saturating_add(1);
                let at = now.saturating_add(pause::endless(&plan.retry, one.failures, random));
                if plan.phase == Phase::Pivot {
                    self.repeat_without_end(step, item, StepState::Probing);
                } else if self.may_repeat(step, item, at) {
                    self.item(step, item).wait(StepState::Probing, at);
                } else {
                    self.give_up(step, item);
                }
            }
        }
    }

    fn undo_ended(&mut self, step: usize, item: usize, end: &End<'_>) {
        let (now, random) = (self.now, self.random_for(step, item));
        let budget_over = self.is_undo_late();
        let one = self.item(step, item);
        match end.outcome {
            Outcome::Done(_) | Outcome::Absent => {
                one.close(now, Ending::Done, None, None);
                one.undone();
            }
            Outcome::FailedClean(fault) | Outcome::Unknown(fault) => {
                let clean = matches!(end.outcome, Outcome::FailedClean(_));
                one.close(now, if clean { Ending::FailedClean } else { Ending::Unknown }, Some(fault), None);
                one.failures = one.failures.saturating_add(1);
                if budget_over || one.failures >= pause::PATIENCE {
                    one.wait(StepState::Stuck, now.saturating_add(pause::stuck(random)));
                } else {
                    one.wait(StepState::Undoing, now.saturating_add(pause::undo(one.failures, random)));
                }
            }
        }
    }

    /// Attempts whose end nobody has told are over all the same.
    pub(super) fn expire(&mut self) -> bool {
        let mut changed = false;
        for (step, item) in self.positions() {
            let waits = self.step(step).kind == Kind::Wait;
            let grace = if waits { 0 } else { pause::GRACE };
            let one = self.item(step, item);
            let Some((direction, attempt)) = one.attempt() else { continue };
            if self.now < self.item(step, item).until.saturating_add(grace) {
                continue;
            }
            changed = true;
            if waits {
                let fault = Fault::new("DEADLINE_EXCEEDED", "no signal has come in time");
                self.fail(step, item, &Failure { fault: &fault, unknown: false, place: None });
            } else {
                let outcome = Outcome::Unknown(Fault::new("DEADLINE_EXCEEDED", "its time is over"));
                let end = End { direction, attempt, outcome: &outcome, place: None };
                match direction {
                    Direction::Action => self.action_ended(step, item, &end),
                    Direction::Probe => self.probe_ended(step, item, &end),
                    Direction::Undo => self.undo_ended(step, item, &end),
                }
            }
        }
        changed
    }

    /// What was under way will not be heard of again. It does not count as failed: probes are asked, and the rest is repeated with the same key.
    pub(super) fn taken_over(&mut self) -> bool {
        let now = self.now;
        let lost = Fault::new("UNAVAILABLE", "the scheduler that ran it has gone");
        let mut any = false;
        for (step, item) in self.positions() {
            let plan = self.step(step);
            let one = self.item(step, item);
            if plan.kind != Kind::Act || !one.is_under_way() {
                continue;
            }
            any = true;
            one.close(now, Ending::Unknown, Some(&lost), None);
            let state = match one.state {
                StepState::Started if plan.effect == Effect::Pure => StepState::Idle,
                StepState::Started => {
                    one.unknown = true;
                    let asks = plan.has_probe && matches!(plan.phase, Phase::Pre | Phase::Pivot);
                    if asks { StepState::Probing } else { StepState::Idle }
                }
                other => other,
            };
            one.wait(state, now);
        }
        if any {
            self.job.takeovers = self.job.takeovers.saturating_add(1);
        }
        any
    }
}

impl Item {
    /// Its next attempt begins at a moment.
    pub(super) fn wait(&mut self, state: StepState, at: Millis) {
        self.state = state;
        self.not_before = at;
        self.until = 0;
    }

    pub(super) fn undone(&mut self) {
        self.state = StepState::Undone;
        self.unknown = false;
        self.failures = 0;
        self.until = 0;
        self.holds.clear();
    }

    /// The attempt that is under way has ended.
    pub(super) fn close(&mut self, now: Millis, ending: Ending, fault: Option<&Fault>, place: Option<&Place>) {
        self.until = 0;
        if let Some(attempt) = self.history.iter_mut().rev().find(|attempt| attempt.outcome.is_none()) {
            attempt.ended_at = Some(now);
            attempt.outcome = Some(ending);
            attempt.fault = fault.cloned();
            attempt.place = place.cloned();
        }
        if let Some(place) = place {
            self.place = Some(place.clone());
        }
    }

    pub(super) fn remember(&mut self, attempt: Attempt) {
        let direction = attempt.direction;
        if self.history.iter().filter(|past| past.direction == direction).count() >= REMEMBERED
            && let Some(oldest) = self.history.iter().position(|past| past.direction == direction)
        {
            self.history.remove(oldest);
        }
        self.history.push(attempt);
    }

    pub(super) fn last_fault(&self) -> Option<&Fault> {
        self.history.iter().rev().find_map(|attempt| attempt.fault.as_ref())
    }
}
