//! What a job is made of, as far as its course depends on it. What the actions say is none of the engine's business.

use crate::graph::Graph;

/// A graph of steps that has been checked: `needs` point to steps, and there is no cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// In the order in which they were given.
    pub steps: Vec<Step>,
    /// How long undoing may take before the job is stuck, in milliseconds.
    pub undo_budget: u64,
}

impl Definition {
    /// Which steps have succeeded when each begins, whatever fails and whichever joins are content with what: of a final step none. `None` where some steps
    /// wait for each other in a circle.
    pub fn certain(&self) -> Option<Vec<Vec<bool>>> {
        Graph::of(self).map(|graph| graph.certain(self))
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Unique in the definition.
    pub name: String,
    /// Indices of the steps that it waits for, in rising order.
    pub needs: Vec<usize>,
    /// Of how many of them it waits for the success.
    pub join: Join,
    /// What it changes outside the job.
    pub effect: Effect,
    /// Where it stands with regard to the pivot.
    pub phase: Phase,
    /// What the engine has to know of its action.
    pub kind: Kind,
    /// Whether it can be undone by an action of its own. A reservation always can.
    pub has_undo: bool,
    /// Whether it can be asked what became of an attempt.
    pub has_probe: bool,
    /// When an attempt is repeated.
    pub retry: Retry,
    /// Of one attempt, in milliseconds.
    pub timeout: u64,
    /// Its part of the time left, against the steps after it; 0 takes no part.
    pub deadline_weight: u32,
    /// Whether a condition or a list decides if and how often it runs: it asks for a [`crate::Ruling`] before it begins.
    pub is_ruled: bool,
    /// How many of a list run at once.
    pub parallelism: u32,
    /// Indices of the steps whose outputs it refers to: all are ancestors.
    pub refers: Vec<usize>,
    /// Of a step that waits: the signal's name.
    pub signal: Option<String>,
}

impl Step {
    /// How many of the steps before it have to succeed.
    pub(crate) fn asked(&self) -> usize {
        match self.join {
            Join::All => self.needs.len(),
            Join::Any => 1,
            Join::Quorum(count) => count as usize,
        }
    }
}

/// What the engine has to know of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something that is done and ends.
    Act,
    /// Takes slots, in the same transaction as the record of it.
    Reserve,
    /// Gives back what the step of this index has reserved.
    Release(usize),
    /// Waits for a signal; its timeout is its only attempt's.
    Wait,
}

/// Of how many of the steps before a step's success it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Every one.
    All,
    /// The first.
    Any,
    /// This many, 1 or more.
    Quorum(u32),
}

/// What a step changes outside the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Pure,
    /// Slots.
    Reserve,
    /// Something in another service.
    External,
}

/// Where a step stands with regard to the pivot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before it: undone when the job cannot finish.
    Pre,
    /// The step whose success decides.
    Pivot,
    /// After it: repeated until it succeeds.
    Post,
    /// When the job ends either way.
    Finally,
}

/// When an attempt is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// At most this many attempts, at least 1.
    pub max_attempts: u32,
    /// The longest pause before the second attempt, in milliseconds; it doubles.
    pub initial_backoff: u64,
    /// What the pause grows to, in milliseconds.
    pub max_backoff: u64,
    /// gRPC codes by name that are worth another attempt; empty means the usual ones.
    pub codes: Vec<String>,
}

/// A mistake in a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field's path in the request, such as `definition.steps[2].needs[0]`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}
