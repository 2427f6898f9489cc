//! What callers and operators ask for.

use super::{Node, Transition};
use crate::Millis;
use crate::definition::Phase;
use crate::event::{Fault, Refused, Verb};
use crate::job::{Attempt, Direction, Ending, Item, Job, JobState};

impl Transition<'_> {
    /// Undone it is, unless it has been decided or may be at this moment.
    pub(super) fn cancel(&mut self, reason: &str) -> Result<bool, Refused> {
        if self.job.state == JobState::Compensating {
            return Ok(false);
        }
        if self.job.decided {
            return Err(Refused::Decided);
        }
        if self.standing().is_deciding() {
            return Err(Refused::Deciding);
        }
        self.compensate(Fault::new("CANCELLED", reason));
        Ok(true)
    }

    pub(super) fn resolve(&mut self, verb: &Verb) -> Result<bool, Refused> {
        match verb {
            Verb::Pause => Ok(!std::mem::replace(&mut self.job.paused, true)),
            Verb::Resume => Ok(std::mem::replace(&mut self.job.paused, false)),
            Verb::Retry(step) => self.retry(*step),
            Verb::Skip { step, item, reason } => self.skip(*step, *item, reason),
            Verb::Abandon { reason } => self.abandon(reason),
        }
    }

    /// What is stuck is tried again now, with a new budget.
    fn retry(&mut self, only: Option<usize>) -> Result<bool, Refused> {
        if only.is_some_and(|step| step >= self.job.steps.len()) {
            return Err(Refused::Misfit);
        }
        let late = self.is_undo_late();
        let asked = self.job.items().filter(|(step, _, _)| only.is_none_or(|only| only == *step));
        let stuck: Vec<(usize, usize)> =
            asked.filter(|&(step, _, item)| self.is_stuck(step, item, late)).map(|(step, at, _)| (step, at)).collect();
        let whole = only.is_none() && self.job.stuck.is_some();
        if stuck.is_empty() && !whole {
            return Err(Refused::NotStuck);
        }
        for (step, item) in stuck {
            let now = self.now;
            let item = self.item(step, item);
            item.failures = 0;
            if item.is_waiting() {
                item.not_before = now;
            }
        }
        self.job.undo_since = self.job.undo_since.map(|_| self.now);
        self.job.takeovers = 0;
        Ok(true)
    }

    /// Somebody has done by hand what is stuck.
    fn skip(&mut self, step: usize, item: usize, reason: &str) -> Result<bool, Refused> {
        if !self.is_stuck(step, self.known(step, item)?, self.is_undo_late()) {
            return Err(Refused::NotStuck);
        }
        let (now, back) = (self.now, self.step(step).phase == Phase::Pre);
        let direction = if back { Direction::Undo } else { Direction::Action };
        if self.item(step, item).is_under_way() {
            self.item(step, item).cancel(now, Ending::Unknown);
        }
        self.item(step, item).note(now, direction, reason);
        if !self.job.steps[step].ruled {
            let history = std::mem::take(&mut self.item(step, item).history);
            self.job.steps[step] = Node { ruled: true, items: vec![Item { history, ..Item::skipped() }] };
        } else if back {
            self.item(step, item).undone();
        } else {
            self.succeed(step, item, None, None);
        }
        Ok(true)
    }

    /// An operator takes what is stuck as it is.
    fn abandon(&mut self, reason: &str) -> Result<bool, Refused> {
        if self.job.stuck.is_none() {
            return Err(Refused::NotStuck);
        }
        self.job.give_up(reason, self.now);
        Ok(true)
    }
}

impl Job {
    /// As [`Verb::Abandon`], for a job that cannot be run, with its definition or without one: it ends as it is, and its slots are given back.
    ///
    /// # Errors
    /// It has ended before.
    pub fn abandon(&mut self, reason: &str, now: Millis) -> Result<(), Refused> {
        if self.state.has_ended() {
            return Err(Refused::Ended);
        }
        self.give_up(reason, now);
        self.revision = self.revision.saturating_add(1);
        Ok(())
    }

    fn give_up(&mut self, reason: &str, now: Millis) {
        self.failure = Some(match &self.failure {
            Some(fault) => Fault::new(&fault.code, format!("abandoned: {reason}; before that: {}", fault.message)),
            None => Fault::new("ABORTED", format!("abandoned: {reason}")),
        });
        for item in self.steps.iter_mut().flat_map(|node| &mut node.items).filter(|item| item.is_under_way()) {
            item.cancel(now, Ending::Unknown);
        }
        self.end(JobState::Abandoned, now);
    }
}

impl Item {
    /// A person's word, among the attempts.
    fn note(&mut self, now: Millis, direction: Direction, reason: &str) {
        self.remember(Attempt {
            number: 0,
            direction,
            started_at: now,
            ended_at: Some(now),
            budget: 0,
            outcome: Some(Ending::Done),
            fault: Some(Fault::new("CANCELLED", format!("an operator: {reason}"))),
            place: None,
            span: 0,
        });
    }
}
