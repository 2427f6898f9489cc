//! The way back.

use super::{Node, Transition};
use crate::definition::{Effect, Kind, Phase, Step};
use crate::event::Fault;
use crate::job::{Direction, Ending, Item, JobState, StepState};

impl Transition<'_> {
    /// The job is undone from now on: whatever has had an effect or may have one, in reverse order. What is under way is not waited for: an attempt
    /// that is cancelled may have its effect, or have it yet, so it is undone, and its undo leaves a mark at the participant which refuses it.
    pub(super) fn compensate(&mut self, fault: Fault) {
        self.job.state = JobState::Compensating;
        self.job.failure = Some(fault);
        self.job.undo_since = Some(self.now);
        let now = self.now;
        for (node, step) in self.job.steps.iter_mut().zip(&self.definition.steps) {
            if step.phase == Phase::Finally {
                continue;
            }
            if !node.ruled {
                *node = Node { ruled: true, items: vec![Item::skipped()] };
            }
            for item in &mut node.items {
                item.turn_back(step, now);
            }
        }
    }

    /// One thing that follows, if anything does.
    pub(super) fn go_back(&mut self) -> bool {
        let due = self.standing().undos();
        for &(step, item) in &due {
            if self.step(step).kind == Kind::Act {
                self.attempt(step, item, Direction::Undo);
            } else {
                self.item(step, item).undone();
            }
        }
        !due.is_empty() || self.begin_due() || self.end_if_over(JobState::Compensated)
    }
}

impl Item {
    fn turn_back(&mut self, step: &Step, now: crate::Millis) {
        let undoable = step.effect != Effect::Pure && (step.has_undo || step.kind == Kind::Reserve);
        let may_have_effect = match self.state {
            StepState::Done | StepState::Started | StepState::Probing | StepState::Unknown => true,
            StepState::Idle | StepState::Stuck => self.unknown,
            StepState::FailedClean | StepState::Skipped | StepState::Undoing | StepState::Undone => return,
        };
        if self.is_under_way() || self.state == StepState::Idle && self.until > 0 {
            let known = step.effect == Effect::Pure || step.kind == Kind::Reserve;
            self.cancel(now, if known { Ending::FailedClean } else { Ending::Unknown });
        }
        if may_have_effect && undoable {
            self.failures = 0;
            self.wait(StepState::Undoing, now);
        } else if self.state != StepState::Done {
            let tried = self.state == StepState::Idle && self.attempts > 0;
            self.state = if tried { StepState::FailedClean } else { StepState::Skipped };
        }
    }
}
