//! What shall be under way for a job.

use crate::Millis;
use crate::definition::{Definition, Kind};
use crate::graph::Graph;
use crate::job::{Direction, Item, Job, JobState, StepState};
use crate::pause::{GRACE, TAKEOVERS};
use crate::standing::Standing;

/// What shall be under way for a job, given all that is known of it. What is under way and not in here is not wanted any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Attempts. Each is in the job as [`StepState::Started`], [`StepState::Probing`] or [`StepState::Undoing`]: none begins before that is committed.
    pub attempts: Vec<Wanted>,
    /// Steps whose condition and list shall be looked at: [`crate::Event::Ruled`].
    pub rulings: Vec<usize>,
    /// Step and item that look for slots: [`crate::Event::Reserved`] or [`crate::Event::NoSlots`].
    pub reservations: Vec<(usize, usize)>,
    /// When [`crate::Event::Tick`] is due: now, where it has passed.
    pub wake_at: Option<Millis>,
}

/// An attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// The step's index in its definition.
    pub step: usize,
    /// The item's, in the step.
    pub item: usize,
    /// Which way.
    pub direction: Direction,
    /// From 1, in each direction; a probe has the number of the action that it asks about.
    pub attempt: u32,
    /// When it has to end.
    pub until: Millis,
}

impl Job {
    /// What shall be under way: a pure function of the committed job. Nothing for a job that has ended, or does not fit the definition.
    pub fn wants(&self, definition: &Definition, now: Millis) -> Wants {
        let fits = self.steps.len() == definition.steps.len() && !self.state.has_ended();
        let Some(graph) = Graph::of(definition).filter(|_| fits) else { return Wants::default() };
        let standing = Standing::of(definition, &graph, self, now);
        let attempts = self.items().filter_map(|(step, item, one)| {
            let acts = definition.steps[step].kind == Kind::Act;
            one.attempt().filter(|_| acts).map(|(direction, attempt)| Wanted {
                step,
                item,
                direction,
                attempt,
                until: one.until,
            })
        });
        Wants {
            attempts: attempts.collect(),
            rulings: standing.rulings(),
            reservations: standing.reservations(),
            wake_at: self.wake_at(definition, &standing, now),
        }
    }

    /// Whether the pivot may have its effect, and nobody knows yet: until that is known there is no way back.
    pub fn is_deciding(&self, definition: &Definition) -> bool {
        let fits = self.steps.len() == definition.steps.len() && !self.state.has_ended();
        let graph = Graph::of(definition).filter(|_| fits);
        graph.is_some_and(|graph| Standing::of(definition, &graph, self, self.created_at).is_deciding())
    }

    pub(crate) fn items(&self) -> impl Iterator<Item = (usize, usize, &Item)> {
        let steps = self.steps.iter().enumerate();
        steps.flat_map(|(step, node)| node.items.iter().enumerate().map(move |(at, item)| (step, at, item)))
    }

    fn wake_at(&self, definition: &Definition, standing: &Standing<'_>, now: Millis) -> Option<Millis> {
        let ends = self.items().filter(|(_, _, item)| item.is_under_way() && item.until > 0).map(|(step, _, item)| {
            let grace = if definition.steps[step].kind == Kind::Wait { 0 } else { GRACE };
            item.until.saturating_add(grace)
        });
        let goes_back = self.state == JobState::Compensating && self.undo_since.is_some() && self.stuck.is_none();
        let budget = self.undo_since.filter(|_| goes_back && !standing.is_over());
        let budget = budget.map(|since| since.saturating_add(definition.undo_budget));
        let limit = self.state == JobState::Running && !self.decided && !standing.is_deciding();
        let deadline = Some(self.deadline).filter(|_| limit);
        let bounds = ends.chain(budget).chain(deadline);
        if standing.is_held() {
            return bounds.min();
        }

        let begins = |&(step, _): &(usize, usize)| definition.steps[step].kind != Kind::Reserve;
        let is_due = standing.due().iter().any(begins) || !standing.undos().is_empty();
        let pauses = self.items().filter(|(_, _, item)| item.is_waiting() && item.not_before > now);
        let pauses = pauses.map(|(_, _, item)| item.not_before);
        bounds.chain(pauses).chain(Some(now).filter(|_| is_due)).min()
    }

    /// Whether its taking over has ended without its moving on so often that it is left alone.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.takeovers > TAKEOVERS
    }
}

impl Item {
    /// The attempt that is under way, and its number.
    pub(crate) fn attempt(&self) -> Option<(Direction, u32)> {
        match self.state {
            StepState::Started => Some((Direction::Action, self.attempts)),
            StepState::Probing if self.until > 0 => Some((Direction::Probe, self.attempts)),
            StepState::Undoing if self.until > 0 => Some((Direction::Undo, self.undo_attempts)),
            _ => None,
        }
    }
}
