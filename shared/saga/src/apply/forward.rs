//! The way forward, and the end of either way.

use super::{Transition, fault_of};
use crate::definition::{Effect, Kind, Phase};
use crate::event::Fault;
use crate::job::{Direction, Ending, Item, JobState, StepState};

impl Transition<'_> {
    /// One thing that follows, if anything does.
    pub(super) fn go_forward(&mut self) -> bool {
        if self.decide() {
            return true;
        }
        if let Some(fault) = self.failure() {
            self.compensate(fault);
            return true;
        }
        self.skip_unneeded() || self.begin_due() || self.end_if_over(JobState::Completed)
    }

    /// The job will be completed whatever comes: it keeps its slots.
    fn decide(&mut self) -> bool {
        if self.job.decided || !self.standing().decides() {
            return false;
        }
        self.job.decided = true;
        let items = self.job.steps.iter_mut().flat_map(|node| &mut node.items);
        for hold in items.flat_map(|item| &mut item.holds) {
            hold.confirmed = true;
        }
        true
    }

    /// Why the job cannot be completed any more.
    fn failure(&self) -> Option<Fault> {
        if self.job.decided {
            return None;
        }
        let standing = self.standing();
        if standing.has_failed() {
            return Some(self.newest_fault());
        }
        let late = self.now >= self.job.deadline && !standing.is_deciding();
        late.then(|| Fault::new("DEADLINE_EXCEEDED", "the job's deadline has passed"))
    }

    /// Of several steps that have failed, the last has brought the job down.
    fn newest_fault(&self) -> Fault {
        let failed =
            self.job.items().filter(|(_, _, item)| matches!(item.state, StepState::FailedClean | StepState::Unknown));
        let newest = failed.max_by_key(|(_, _, item)| item.history.last().and_then(|attempt| attempt.ended_at));
        let fault = newest.and_then(|(step, _, item)| Some(fault_of(self.step(step), item.last_fault()?)));
        fault.unwrap_or_else(|| Fault::new("ABORTED", "a step that the job needs cannot succeed"))
    }

    /// What nothing waits for any more is not begun, and what has no effect is ended. What may have one goes on until that is known.
    fn skip_unneeded(&mut self) -> bool {
        let mut changed = false;
        let standing = self.standing();
        let steps: Vec<bool> = (0..self.job.steps.len()).map(|step| standing.is_needed(step)).collect();
        for (step, needed) in steps.into_iter().enumerate() {
            let plan = self.step(step);
            if needed || plan.phase == Phase::Finally {
                continue;
            }
            let node = &mut self.job.steps[step];
            if !node.ruled {
                *node = super::Node { ruled: true, items: vec![Item::skipped()] };
                changed = true;
            }
            for item in &mut node.items {
                let running = item.state == StepState::Started && plan.effect == Effect::Pure;
                let waits = matches!(item.state, StepState::Idle | StepState::Stuck) && !item.unknown;
                if running || waits {
                    item.cancel(self.now, Ending::FailedClean);
                    item.state = StepState::Skipped;
                    changed = true;
                }
            }
        }
        changed
    }

    /// Begins what is due, either way: the final steps run in both.
    pub(super) fn begin_due(&mut self) -> bool {
        let mut changed = false;
        for (step, item) in self.standing().due() {
            changed |= self.begin(step, item);
        }
        changed
    }

    fn begin(&mut self, step: usize, item: usize) -> bool {
        let plan = self.step(step);
        if !self.job.steps[step].ruled {
            // Its condition could not be decided: it is asked again.
            self.job.steps[step].items.clear();
            return true;
        }
        match plan.kind {
            Kind::Reserve => return false,
            Kind::Release(reserving) => {
                let holders = self.job.steps.get_mut(reserving);
                for holder in holders.map_or(&mut [][..], |node| &mut node.items) {
                    holder.holds.clear();
                }
                self.attempt(step, item, Direction::Action);
                self.succeed(step, item, None, None);
            }
            Kind::Wait => {
                self.attempt(step, item, Direction::Action);
                let name = plan.signal.as_deref();
                let signal = self.job.signals.iter().find(|(signal, _)| Some(signal.as_str()) == name);
                if let Some(value) = signal.map(|(_, value)| value.clone()) {
                    self.succeed(step, item, Some(value), None);
                }
            }
            Kind::Act => {
                let one = self.item(step, item);
                let asks = matches!(one.state, StepState::Probing | StepState::Stuck) && one.unknown && plan.has_probe;
                let direction = if asks && plan.phase == Phase::Pivot || one.state == StepState::Probing {
                    Direction::Probe
                } else {
                    Direction::Action
                };
                self.attempt(step, item, direction);
            }
        }
        true
    }

    /// Nothing is left to do, either way.
    pub(super) fn end_if_over(&mut self, state: JobState) -> bool {
        let is_over = self.standing().is_over();
        let steps = self.definition.steps.iter().zip(&self.job.steps);
        let mut finals = steps.filter(|(step, _)| step.phase == Phase::Finally);
        let over = is_over && finals.all(|(_, node)| node.has_succeeded());
        if over {
            self.job.end(state, self.now);
        }
        over
    }
}

impl Item {
    pub(super) fn skipped() -> Self {
        Self { state: StepState::Skipped, ..Self::default() }
    }

    /// The attempt that is under way is not waited for.
    pub(super) fn cancel(&mut self, now: crate::Millis, ending: Ending) {
        let fault = Fault::new("CANCELLED", "the job has no use for it any more");
        self.close(now, ending, Some(&fault), None);
    }
}
