//! The transitions of a job.

mod attempts;
mod back;
mod forward;
mod grants;
mod verbs;

use crate::Millis;
use crate::definition::{Definition, Kind, Phase, Step};
use crate::event::{Event, Refused};
use crate::graph::Graph;
use crate::job::{Fault, Item, Job, JobState, Node, StepState};
use crate::pause;
use crate::standing::Standing;

/// Whether an event has changed a job. What has not changed need not be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The job is as it was.
    No,
    /// The job knows when it looks for slots again, and has no new revision: go on from it, and do not commit it. Another scheduler looks at once.
    Later,
    /// The job has a new revision.
    Yes,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Self {
        if changed { Self::Yes } else { Self::No }
    }
}

impl Job {
    /// A job of which nothing has begun: [`Event::Tick`] begins it. Its deadline bounds what comes before its decision.
    pub fn new(definition: &Definition, now: Millis, deadline: Millis) -> Self {
        let node = |step: &Step| {
            let items = if step.is_ruled { Vec::new() } else { vec![Item::default()] };
            Node { ruled: !step.is_ruled, items }
        };
        Self {
            state: JobState::Running,
            revision: 1,
            paused: false,
            stuck: None,
            failure: None,
            decided: false,
            created_at: now,
            deadline,
            undo_since: None,
            ended_at: None,
            takeovers: 0,
            steps: definition.steps.iter().map(node).collect(),
            signals: Vec::new(),
        }
    }

    /// One transition. Everything that follows from the event and is due is in the job afterwards: attempts of what is ready are recorded, slots given
    /// back, the job ended. `random` spreads pauses.
    ///
    /// # Errors
    /// Why the event cannot be: the job is as it was.
    pub fn apply(
        &mut self,
        definition: &Definition,
        event: &Event,
        now: Millis,
        random: u64,
    ) -> Result<Changed, Refused> {
        let fits = self.steps.len() == definition.steps.len();
        let graph = Graph::of(definition).filter(|_| fits).ok_or(Refused::Misfit)?;
        if self.state.has_ended() {
            return Err(Refused::Ended);
        }
        let mut transition = Transition { job: self, definition, graph: &graph, now, random };
        let happened = transition.happen(event)?;
        let bounded = transition.bound_pauses();
        let followed = transition.settle();
        if happened != Changed::Yes && !bounded && !followed {
            return Ok(happened);
        }
        self.revision = self.revision.saturating_add(1);
        Ok(Changed::Yes)
    }
}

impl Job {
    /// It ends: whatever it held is given back.
    fn end(&mut self, state: JobState, now: Millis) {
        self.state = state;
        self.ended_at = Some(now);
        self.stuck = None;
        self.paused = false;
        for item in self.steps.iter_mut().flat_map(|node| &mut node.items) {
            item.holds.clear();
        }
    }
}

/// A job on its way from one revision to the next.
struct Transition<'a> {
    job: &'a mut Job,
    definition: &'a Definition,
    graph: &'a Graph,
    now: Millis,
    random: u64,
}

impl<'a> Transition<'a> {
    /// The event itself. What it refuses it refuses before it changes anything.
    fn happen(&mut self, event: &Event) -> Result<Changed, Refused> {
        let moved_on = match event {
            Event::Tick => return Ok(Changed::No),
            Event::TakenOver => return Ok(self.taken_over().into()),
            Event::Cancel { reason } => return self.cancel(reason).map(Changed::from),
            Event::Resolve(verb) => return self.resolve(verb).map(Changed::from),
            // It says nothing about whether the job can be run.
            Event::Signal { name, value } => return self.signal(name, value).map(Changed::from),
            Event::Ruled { step, ruling } => self.ruled(*step, ruling)?.into(),
            Event::Reserved { step, item, holds } => self.reserved(*step, *item, holds)?.into(),
            Event::NoSlots { step, item, fault } => self.no_slots(*step, *item, fault)?,
            Event::Ended { step, item, direction, attempt, outcome, place } => {
                let end = attempts::End { direction: *direction, attempt: *attempt, outcome, place: place.as_ref() };
                self.ended(*step, *item, &end)?.into()
            }
        };
        if moved_on == Changed::Yes {
            self.job.takeovers = 0;
        }
        Ok(moved_on)
    }

    /// Clocks that run ahead wrote moments that are far away for this one: none is further than it can be. What is under way keeps its end, by which its
    /// runner knows it.
    fn bound_pauses(&mut self) -> bool {
        let now = self.now;
        let mut changed = false;
        let mut bound = |moment: &mut Millis, most: Millis| {
            changed |= *moment > most;
            *moment = (*moment).min(most);
        };
        for (node, step) in self.job.steps.iter_mut().zip(&self.definition.steps) {
            for item in &mut node.items {
                if item.is_waiting() {
                    bound(&mut item.not_before, now.saturating_add(pause::longest(&step.retry, item.state)));
                }
                if step.kind != Kind::Act {
                    bound(&mut item.until, now.saturating_add(step.timeout.max(1)));
                }
            }
        }
        if let Some(since) = &mut self.job.undo_since {
            bound(since, now);
        }
        changed
    }

    /// What follows: each round brings at least one item nearer to its end, so there is a last one.
    fn settle(&mut self) -> bool {
        let mut changed = self.expire();
        loop {
            let moved = match self.job.state {
                JobState::Running => self.go_forward(),
                JobState::Compensating => self.go_back(),
                JobState::Completed | JobState::Compensated | JobState::Abandoned => false,
            };
            if !moved {
                break;
            }
            changed = true;
        }
        self.mark_stuck() || changed
    }

    fn standing(&self) -> Standing<'_> {
        Standing::of(self.definition, self.graph, self.job, self.now)
    }

    fn step(&self, step: usize) -> &'a Step {
        &self.definition.steps[step]
    }

    /// Of an item that is known to be there.
    fn item(&mut self, step: usize, item: usize) -> &mut Item {
        &mut self.job.steps[step].items[item]
    }

    /// Of an item that an event names.
    fn known(&self, step: usize, item: usize) -> Result<&Item, Refused> {
        self.job.steps.get(step).and_then(|node| node.items.get(item)).ok_or(Refused::Misfit)
    }

    fn positions(&self) -> Vec<(usize, usize)> {
        self.job.items().map(|(step, item, _)| (step, item)).collect()
    }

    fn random_for(&self, step: usize, item: usize) -> u64 {
        pause::mix(self.random, step, item)
    }

    fn mark_stuck(&mut self) -> bool {
        let reason = if self.job.state.has_ended() { None } else { self.stuck_reason() };
        let changed = reason != self.job.stuck;
        self.job.stuck = reason;
        changed
    }

    fn stuck_reason(&self) -> Option<String> {
        if self.job.is_left_alone() {
            return Some("its schedulers have gone again and again while it was under way".to_owned());
        }
        let late = self.is_undo_late();
        let stuck = self.job.items().find(|&(step, _, item)| self.is_stuck(step, item, late));
        if let Some((step, _, item)) = stuck {
            let why =
                item.last_fault().map_or_else(String::new, |fault| format!(": {}: {}", fault.code, fault.message));
            let back = if self.step(step).phase == Phase::Pre { "the undo of" } else { "" };
            return Some(format!("{back} step `{}` keeps failing{why}", self.step(step).name).trim_start().to_owned());
        }
        late.then(|| "undoing takes longer than its budget".to_owned())
    }

    fn is_undo_late(&self) -> bool {
        let undoing = self.job.state == JobState::Compensating && !self.standing().is_over();
        let since = self.job.undo_since.filter(|_| undoing);
        since.is_some_and(|since| self.now >= since.saturating_add(self.definition.undo_budget))
    }

    /// Whether an operator may have a say in it; `late` where undoing takes longer than its budget.
    fn is_stuck(&self, step: usize, item: &Item, late: bool) -> bool {
        let impatient = item.failures >= pause::PATIENCE;
        match item.state {
            StepState::Stuck => true,
            StepState::Undoing => impatient || item.undo_attempts > 0 && late,
            StepState::Idle | StepState::Started | StepState::Probing => impatient && self.has_no_way_back(step, item),
            _ => false,
        }
    }

    /// It has to succeed: after the pivot, in the end, and where the pivot may have had its effect.
    fn has_no_way_back(&self, step: usize, item: &Item) -> bool {
        match self.step(step).phase {
            Phase::Pre => false,
            Phase::Pivot => item.unknown,
            Phase::Post | Phase::Finally => true,
        }
    }
}

/// A fault that says which step it was.
fn fault_of(step: &Step, fault: &Fault) -> Fault {
    Fault::new(&fault.code, format!("step `{}`: {}", step.name, fault.message))
}
