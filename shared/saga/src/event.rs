//! What can happen to a job.

use crate::job::{Direction, Hold, Payload, Place};

pub use crate::job::Fault;

/// Something that happened. The indices are those of the step in its definition, and of the item in the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed, or the job was just submitted: what is due is begun.
    Tick,
    /// Another scheduler runs the job from now on: nothing that was under way will be heard of again.
    TakenOver,
    /// Condition and list of a step have been looked at.
    Ruled {
        /// The step.
        step: usize,
        /// What they say.
        ruling: Ruling,
    },
    /// Slots were found for a step that reserves. They are taken in the transaction that records the event, or it has not happened.
    Reserved {
        /// The step.
        step: usize,
        /// Which.
        item: usize,
        /// Every slot that it asked for.
        holds: Vec<Hold>,
    },
    /// There are not enough free slots for a step that reserves; it is tried again later.
    NoSlots {
        /// The step.
        step: usize,
        /// Which.
        item: usize,
        /// What is missing.
        fault: Fault,
    },
    /// An attempt has ended. An attempt other than the newest one in its direction changes nothing but, where it may have had an effect, `unknown`.
    Ended {
        /// The step.
        step: usize,
        /// Which.
        item: usize,
        /// Which way.
        direction: Direction,
        /// The attempt's number.
        attempt: u32,
        /// How.
        outcome: Outcome,
        /// Who did it, where that is known.
        place: Option<Place>,
    },
    /// A signal came.
    Signal {
        /// Its name.
        name: String,
        /// What it brings.
        value: Payload,
    },
    /// A caller does not want it any more.
    Cancel {
        /// Why.
        reason: String,
    },
    /// An operator's verb.
    Resolve(Verb),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded; of an undo and a release nothing is kept.
    Done(Option<Payload>),
    /// Only of a probe: the action has had no effect, and none of the attempts before the question will have one. Who answers so refuses them from
    /// then on.
    Absent,
    /// It has certainly had no effect.
    FailedClean(Fault),
    /// It may have had its effect.
    Unknown(Fault),
}

/// What condition and list of a step say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It runs this often, 0 to 256; a step without a list once.
    Run(u32),
    /// Its condition does not hold.
    Skip,
    /// They cannot be decided.
    Invalid(Fault),
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Begin nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Try what is stuck again: one step, or with `None` all.
    Retry(Option<usize>),
    /// Take what is stuck in this step for done.
    Skip {
        /// The step.
        step: usize,
        /// Which.
        item: usize,
        /// Why.
        reason: String,
    },
    /// End a stuck job as it is.
    Abandon {
        /// Why.
        reason: String,
    },
}

/// Why an event was not taken. The job is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has ended.
    #[error("the job has ended")]
    Ended,
    /// It is too late to undo it.
    #[error("the job's pivot has been decided: it goes forward")]
    Decided,
    /// The pivot is under way, and nobody knows yet how it ends.
    #[error("the job's pivot is under way: cancel it again, or wait for it")]
    Deciding,
    /// The verb fits only what is stuck, or the step has nothing that is.
    #[error("nothing of the kind is stuck")]
    NotStuck,
    /// Nothing of the definition waits for it.
    #[error("no step waits for this signal")]
    NoSuchSignal,
    /// It names a step, item or attempt that there is not: a mistake of the caller.
    #[error("the event does not fit the job")]
    Misfit,
}
