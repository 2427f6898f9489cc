//! One job: all that is known of it, and what the log keeps.

use crate::Millis;

/// A job. Its steps stand in the definition's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Where it stands.
    pub state: JobState,
    /// Grows by one with each transition.
    pub revision: u64,
    /// Nothing new is begun.
    pub paused: bool,
    /// Why it waits for an operator. It has not ended.
    pub stuck: Option<String>,
    /// Why it is undone.
    pub failure: Option<Fault>,
    /// The pivot has succeeded, or without a pivot every step but the final ones: there is no way back.
    pub decided: bool,
    /// When it was submitted.
    pub created_at: Millis,
    /// Nothing of the way forward is begun after it.
    pub deadline: Millis,
    /// Since when it is undone.
    pub undo_since: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// How often a scheduler has taken it over without its having moved on: after five it is stuck.
    pub takeovers: u32,
    /// One for each step.
    pub steps: Vec<Node>,
    /// Signals that came, at most one of each name that the definition waits for: whatever waits for the name gets it.
    pub signals: Vec<(String, Payload)>,
}

/// One step, with one item for each time that it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether its condition and list have been decided.
    pub ruled: bool,
    /// One for a plain step, from the beginning; of a step with a condition or a list none until it is ruled, and then as many as it runs, or a
    /// skipped one. One that could not be ruled, and has to run, has one that is stuck.
    pub items: Vec<Item>,
}

/// One run of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Where it stands.
    pub state: StepState,
    /// How many attempts of the action there have been.
    pub attempts: u32,
    /// How many of the undo.
    pub undo_attempts: u32,
    /// How many attempts and questions have failed since it began in its present direction, or an operator last asked for it.
    pub failures: u32,
    /// Some attempt may have had its effect: a clean failure after it proves nothing.
    pub unknown: bool,
    /// Not before this moment may the next attempt begin.
    pub not_before: Millis,
    /// When the attempt that is under way has to end; 0 while none is.
    pub until: Millis,
    /// What came of it.
    pub output: Option<Payload>,
    /// Who did it, for its undo.
    pub place: Option<Place>,
    /// Slots that it has.
    pub holds: Vec<Hold>,
    /// The newest attempts, at most eight in each direction, the oldest first.
    pub history: Vec<Attempt>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// On its way forward.
    #[default]
    Running,
    /// On its way back.
    Compensating,
    /// Ended: every step that was needed is done.
    Completed,
    /// Ended: without any net effect.
    Compensated,
    /// Ended by an operator as it was.
    Abandoned,
}

impl JobState {
    /// Whether nothing will happen to it any more.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated | Self::Abandoned)
    }
}

/// Where one run of a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepState {
    /// It has not begun, or waits for its next attempt.
    #[default]
    Idle,
    /// An attempt has been recorded: it may be under way, or over and not known.
    Started,
    /// Nobody knows whether it has had its effect, and its probe is asked.
    Probing,
    /// It has succeeded.
    Done,
    /// No attempt has had an effect, and there will be no other.
    FailedClean,
    /// Some attempt may have had its effect, and there will be no other.
    Unknown,
    /// It was not needed.
    Skipped,
    /// It shall be undone: an attempt of the undo is recorded, or waits for its moment.
    Undoing,
    /// It has no effect any more.
    Undone,
    /// Its undo, or a way forward that has no way back, has failed so often that it waits for an operator. It is tried again once in a while.
    Stuck,
}

/// What was done, in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Forward.
    Action,
    /// Back.
    Undo,
    /// The question whether the action has had its effect.
    Probe,
}

/// One attempt, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// From 1, in each direction; a probe has the number of the action that it asks about.
    pub number: u32,
    /// Which way.
    pub direction: Direction,
    /// When it was recorded.
    pub started_at: Millis,
    /// When its end was known.
    pub ended_at: Option<Millis>,
    /// The time that it had, in milliseconds.
    pub budget: u64,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Ending>,
    /// Why it failed.
    pub fault: Option<Fault>,
    /// Who did it.
    pub place: Option<Place>,
    /// Its span, as the W3C trace context has it; 0 where there is none.
    pub span: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It succeeded.
    Done,
    /// It has certainly had no effect.
    FailedClean,
    /// It may have had its effect.
    Unknown,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The worker's id, or the service's address.
    pub name: String,
    /// Its incarnation, where it has one.
    pub epoch: u64,
}

/// A slot that a job has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// Of which pool.
    pub pool: String,
    /// On which worker.
    pub worker: String,
    /// Which of the worker's slots of that pool, from 0.
    pub number: u32,
    /// The job has been decided: it keeps the slot until it ends or gives it back. Before that the slot is only tried.
    pub confirmed: bool,
}

/// A value that a step made, or a job was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON text of at most 4 KiB.
    Inline(Vec<u8>),
    /// JSON text in the object store, by its content.
    Stored {
        /// SHA-256 of the text.
        sha256: [u8; 32],
        /// Its length in bytes.
        len: u64,
    },
}

/// Why something failed: what callers may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// gRPC's code by name, such as `UNAVAILABLE`.
    pub code: String,
    /// At most 256 bytes.
    pub message: String,
}

impl Fault {
    /// A fault whose message is cut to 256 bytes.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(256));
        Self { code: code.to_owned(), message }
    }

    /// Whether something was out of reach, and may not be the next time.
    pub fn is_unavailable(&self) -> bool {
        self.code == "UNAVAILABLE"
    }
}
