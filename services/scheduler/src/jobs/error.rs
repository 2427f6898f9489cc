//! What callers of jobs are told when the journal fails.

use std::time::Duration;

use weft_types::{Error, Reason};

const RETRY: Duration = Duration::from_secs(1);
/// How long to wait for room in the store, which compaction makes.
const FULL_RETRY: Duration = Duration::from_secs(30);

/// The store takes no new jobs.
pub(super) fn full() -> Error {
    Error::new(Reason::Overloaded, "the state store has no room for more jobs").retry_after(FULL_RETRY)
}

/// What is told of a job whose record this build cannot read.
pub(super) const SET_ASIDE: &str = "this build of the scheduler cannot read the job's record, which is left as it is";

pub(super) fn set_aside() -> Error {
    Error::new(Reason::PreconditionFailed, SET_ASIDE)
}

/// The failure of a read or of keeping something.
pub(super) fn journal_failed(error: &weft_journal::Error) -> Error {
    use weft_journal::Error as Failed;
    match error {
        Failed::Full => full(),
        Failed::Store(error) => crate::error::store_failed(error),
        Failed::TooLarge { len, limit } => {
            Error::new(Reason::MessageTooLarge, format!("a value has {len} bytes, and at most {limit} are kept"))
        }
        Failed::NotKept => Error::new(
            Reason::PreconditionFailed,
            "values above 4 KiB, or 32 KiB in one job, need a place: see the schedulers' setting --jobs-payloads",
        ),
        Failed::Unreadable(_) => set_aside(),
        Failed::Missing | Failed::Corrupt => {
            tracing::warn!(%error, "something of a job cannot be read");
            Error::new(Reason::Internal, "what the log refers to cannot be read")
        }
        Failed::Place(_) => {
            tracing::warn!(%error, "payloads cannot be used");
            Error::new(Reason::StoreUnavailable, "long values cannot be kept at the moment").retry_after(RETRY)
        }
    }
}
