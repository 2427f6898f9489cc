//! What the engine asks for and is told: conditions and lists, slots, signals.

use super::attempts::Failure;
use super::{Changed, Transition};
use crate::Millis;
use crate::definition::{Kind, Phase};
use crate::event::{Fault, Refused, Ruling};
use crate::job::{Attempt, Direction, Ending, Hold, Item, Node, Payload, StepState};
use crate::pause;

/// How often a step with a list may run.
const ITEMS: u32 = 256;

impl Transition<'_> {
    /// Condition and list of a step have been looked at. What was not asked for changes nothing.
    pub(super) fn ruled(&mut self, step: usize, ruling: &Ruling) -> Result<bool, Refused> {
        let plan = self.definition.steps.get(step).filter(|plan| plan.is_ruled).ok_or(Refused::Misfit)?;
        if matches!(ruling, Ruling::Run(count) if *count > ITEMS) {
            return Err(Refused::Misfit);
        }
        if !self.standing().rulings().contains(&step) {
            return Ok(false);
        }
        let (now, random) = (self.now, self.random_for(step, 0));
        self.job.steps[step] = match ruling {
            Ruling::Run(count) if plan.phase == Phase::Pivot && *count > 1 => {
                let fault = Fault::new("INVALID_ARGUMENT", "the pivot runs once, not for each of a list");
                Node { ruled: true, items: vec![Item::unruled(now, &fault, StepState::FailedClean)] }
            }
            Ruling::Run(count) => Node { ruled: true, items: vec![Item::default(); *count as usize] },
            Ruling::Skip => Node { ruled: true, items: vec![Item::skipped()] },
            Ruling::Invalid(fault) if matches!(plan.phase, Phase::Post | Phase::Finally) => {
                let mut item = Item::unruled(now, fault, StepState::Stuck);
                item.not_before = now.saturating_add(pause::stuck(random));
                Node { ruled: false, items: vec![item] }
            }
            Ruling::Invalid(fault) => {
                Node { ruled: true, items: vec![Item::unruled(now, fault, StepState::FailedClean)] }
            }
        };
        Ok(true)
    }

    /// Slots were found. They are the job's with the transaction that records it.
    pub(super) fn reserved(&mut self, step: usize, item: usize, holds: &[Hold]) -> Result<bool, Refused> {
        if !self.looks_for_slots(step, item)? {
            return Ok(false);
        }
        self.begin_look(step, item);
        let confirmed = self.job.decided;
        self.item(step, item).holds = holds.iter().map(|hold| Hold { confirmed, ..hold.clone() }).collect();
        self.succeed(step, item, None, None);
        Ok(true)
    }

    /// There are none yet. The attempt lasts for the step's timeout, and looks again and again; then it has failed. Only its beginning and its end are worth
    /// a write.
    pub(super) fn no_slots(&mut self, step: usize, item: usize, fault: &Fault) -> Result<Changed, Refused> {
        if !self.looks_for_slots(step, item)? {
            return Ok(Changed::No);
        }
        let begins = self.begin_look(step, item);
        let (now, random, retry) = (self.now, self.random_for(step, item), &self.step(step).retry);
        let one = self.item(step, item);
        if now >= one.until {
            self.fail(step, item, &Failure { fault, unknown: false, place: None });
            return Ok(Changed::Yes);
        }
        let since = one.history.last().map_or(now, |attempt| attempt.started_at);
        let pause = pause::look_again(retry, now.saturating_sub(since), random);
        one.not_before = now.saturating_add(pause).min(one.until);
        Ok(if begins { Changed::Yes } else { Changed::Later })
    }

    fn looks_for_slots(&self, step: usize, item: usize) -> Result<bool, Refused> {
        self.known(step, item)?;
        if self.step(step).kind != Kind::Reserve {
            return Err(Refused::Misfit);
        }
        Ok(self.standing().reservations().contains(&(step, item)))
    }

    /// The first look of an attempt records it; it stays idle, since nothing is under way outside the log.
    fn begin_look(&mut self, step: usize, item: usize) -> bool {
        let begins = self.item(step, item).until == 0;
        if begins {
            self.attempt(step, item, Direction::Action);
            self.item(step, item).state = StepState::Idle;
        }
        begins
    }

    /// A signal came. It is kept for whatever waits for it later; a second one of its name changes nothing.
    pub(super) fn signal(&mut self, name: &str, value: &Payload) -> Result<bool, Refused> {
        if !self.definition.steps.iter().any(|step| step.signal.as_deref() == Some(name)) {
            return Err(Refused::NoSuchSignal);
        }
        if self.job.signals.iter().any(|(known, _)| known == name) {
            return Ok(false);
        }
        self.job.signals.push((name.to_owned(), value.clone()));
        for (step, item) in self.positions() {
            let plan = self.step(step);
            let waits = plan.kind == Kind::Wait && plan.signal.as_deref() == Some(name);
            let one = self.item(step, item);
            let waits = waits && one.attempts > 0;
            if waits && matches!(one.state, StepState::Started | StepState::Idle | StepState::Stuck) {
                self.succeed(step, item, Some(value.clone()), None);
            }
        }
        Ok(true)
    }
}

impl Item {
    fn unruled(now: Millis, fault: &Fault, state: StepState) -> Self {
        let mut item = Self { state, ..Self::default() };
        item.remember(Attempt {
            number: 0,
            direction: Direction::Action,
            started_at: now,
            ended_at: Some(now),
            budget: 0,
            outcome: Some(Ending::FailedClean),
            fault: Some(fault.clone()),
            place: None,
            span: 0,
        });
        item
    }
}
