//! What a failed call says about what was done.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weft_proto::{DOMAIN, status_of};
use weft_saga::{Fault, Place};
use weft_telemetry::status_name;
use weft_types::{Error, Reason};

use crate::jobs::template::Problem;

/// Why something was not done, or may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For people, and for the retry policy.
    pub(super) fault: Fault,
    /// It has certainly had no effect.
    pub(super) is_clean: bool,
    /// Who did not do it, where somebody was asked.
    pub(super) place: Option<Place>,
}

impl Failure {
    pub(super) fn clean(code: &str, message: impl Into<String>) -> Self {
        Self { fault: Fault::new(code, message), is_clean: true, place: None }
    }

    pub(super) fn unknown(code: &str, message: impl Into<String>) -> Self {
        Self { fault: Fault::new(code, message), is_clean: false, place: None }
    }

    /// The failure of a call that may have reached the other side.
    pub(super) fn of(status: &Status) -> Self {
        let fault = Fault::new(status_name(status.code()), status.message());
        Self { fault, is_clean: proves_nothing_was_done(status), place: None }
    }

    /// The failure of a call that changes nothing: a model's.
    pub(super) fn of_pure(status: &Status) -> Self {
        Self { is_clean: true, ..Self::of(status) }
    }
}

/// A value that could not be made was never sent.
impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = if matches!(problem, Problem::TooLarge) { "OUT_OF_RANGE" } else { "INVALID_ARGUMENT" };
        Self::clean(code, problem.to_string())
    }
}

/// A change of the store's records that failed.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&status_of(&error))
    }
}

/// Whether an answer proves that the call has had no effect.
///
/// A reason of ours tells exactly; `google.rpc.ErrorInfo` with `REJECTED_BY_BARRIER` is a participant's word for it. Of other answers, those
/// codes count by which gRPC's own library never tells of a call that it has begun. ABORTED, OUT_OF_RANGE and RESOURCE_EXHAUSTED do not: servers answer so
/// for an answer that is too large, and for a transaction of which a part may stand.
fn proves_nothing_was_done(status: &Status) -> bool {
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        if info.reason == Reason::RejectedByBarrier.as_str() {
            return true;
        }
        if let Some(reason) = Reason::from_name(&info.reason).filter(|_| info.domain == DOMAIN) {
            return was_not_begun(reason);
        }
    }
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

const fn was_not_begun(reason: Reason) -> bool {
    match reason {
        Reason::InvalidRequest
        | Reason::MessageTooLarge
        | Reason::NotFound
        | Reason::SequenceUnknown
        | Reason::NotOffered
        | Reason::QueueFull
        | Reason::Overloaded
        | Reason::DeadlineInfeasible
        | Reason::DeadlineInQueue
        | Reason::NoReadyReplica
        | Reason::Draining
        | Reason::ModelLoading
        | Reason::StaleEpoch
        | Reason::Conflict
        | Reason::PreconditionFailed
        | Reason::RejectedByBarrier => true,
        // A store that does not answer may have taken the change.
        Reason::StoreUnavailable
        | Reason::DeadlineRunning
        | Reason::Cancelled
        | Reason::WorkerLost
        | Reason::ModelFailed
        | Reason::Internal => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn every_reason_of_ours_is_told_apart() {
        let unknown = Reason::ALL.into_iter().filter(|reason| !Failure::from(Error::new(*reason, "why")).is_clean);
        let expected = [
            Reason::DeadlineRunning,
            Reason::Cancelled,
            Reason::WorkerLost,
            Reason::StoreUnavailable,
            Reason::ModelFailed,
            Reason::Internal,
        ];
        assert_eq!(unknown.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn of_foreign_answers_only_refusals_are_clean() {
        let clean = [3, 5, 6, 7, 9, 12, 16];
        for code in 1..=16 {
            let failure = Failure::of(&Status::new(Code::from_i32(code), "why"));
            assert_eq!(failure.is_clean, clean.contains(&code), "{code}");
            assert!(Failure::of_pure(&Status::new(Code::from_i32(code), "why")).is_clean);
        }
        let told = |reason: &str, domain: &str| {
            Status::with_error_details(Code::Aborted, "why", ErrorDetails::with_error_info(reason, domain, []))
        };
        assert!(Failure::of(&told(Reason::RejectedByBarrier.as_str(), "example.com")).is_clean);
        assert!(!Failure::of(&told("NO_READY_REPLICA", "example.com")).is_clean, "only our own word counts");
        assert!(Failure::of(&told("NO_READY_REPLICA", DOMAIN)).is_clean);
    }
}
