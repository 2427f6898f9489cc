//! Why the journal did not do as asked.

use crate::id::JobId;
use crate::record::Unreadable;

/// Why a transition is not in the log. Whatever the reason, the job in the log is as it was; after [`Self::Fenced`] its next owner
/// may find the transition there all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another job, or another step of this one, has one of the slots: choose others.
    #[error("a slot is taken already")]
    SlotsTaken,
    /// Another job was submitted with the key.
    #[error("the key belongs to job {id}")]
    KeyTaken {
        /// The job.
        id: JobId,
        /// Whether it was the same request.
        same: bool,
    },
    /// The shard is not this scheduler's any more: forget its jobs.
    #[error("the shard has another owner")]
    Fenced,
    /// The record is too long, and would be each time.
    #[error("{0}")]
    TooLarge(String),
    /// The store is nearly full, and what room is left is kept for jobs that end.
    #[error("the state store is nearly full")]
    Full,
    /// The transition does not follow the one before it: two of one job were decided side by side.
    #[error("the job has moved on meanwhile")]
    Stale,
    /// The record can never be written; a mistake of the caller.
    #[error("{0}")]
    Invalid(String),
    /// The store refuses the write. Trying it again does not help.
    #[error("the state store refuses the write: {0}")]
    Refused(String),
}

/// Why something could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state store.
    #[error(transparent)]
    Store(#[from] weft_store::Error),
    /// The store is nearly full: nothing of a new job is kept.
    #[error("the state store is nearly full")]
    Full,
    /// A record that this build cannot read.
    #[error("the record cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    /// Nothing is kept under the hash.
    #[error("a content that is referred to is not there")]
    Missing,
    /// What is kept under the hash is something else.
    #[error("a content is not what its hash says")]
    Corrupt,
    /// A content is too long.
    #[error("{len} bytes, and at most {limit} are kept")]
    TooLarge {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// There is no place for what is too long for a record.
    #[error("values above 4 KiB are not kept here")]
    NotKept,
    /// The place of contents.
    #[error("the place of values cannot be used: {0}")]
    Place(object_store::Error),
}

/// There are not enough free slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pool {pool} has {free} free slots of {offered}, and {wanted} are wanted")]
pub struct Missing {
    /// The first pool that lacks some.
    pub pool: String,
    /// How many are wanted.
    pub wanted: u32,
    /// How many are free.
    pub free: u32,
    /// How many there are.
    pub offered: u32,
}
