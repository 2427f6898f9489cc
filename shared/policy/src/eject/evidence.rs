//! What the end of a call says about whoever was to answer it.

use weft_types::Reason;

/// What the end of a call says about the replica that it was sent to, and about that one's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The replica works.
    Success,
    /// The worker answers; of the replica it says nothing. The call was wrong, or the replica has much to do: to eject it for that would
    /// only give its load to others.
    Neutral,
    /// The worker answers. The replica failed on this input, or within this time, which may be the caller's doing: callers of that kind
    /// would meet the same at any other replica.
    Doubtful,
    /// The worker answers, and its replica does not do what it is there for.
    Failure,
    /// This call got no answer, of which the cause is not known: it says nothing of the worker, and what [`Self::Doubtful`] does of the
    /// replica.
    Unanswered,
    /// The worker was not reached, or did not answer at all.
    Lost,
}

impl Evidence {
    /// What a worker's own word says.
    pub const fn told(reason: Reason) -> Self {
        match reason {
            Reason::ModelFailed | Reason::DeadlineRunning => Self::Doubtful,
            // It is said to be ready there, or to be a worker at all, and is not.
            Reason::NoReadyReplica | Reason::WorkerLost | Reason::StoreUnavailable | Reason::Internal => Self::Failure,
            Reason::InvalidRequest
            | Reason::MessageTooLarge
            | Reason::NotFound
            | Reason::SequenceUnknown
            | Reason::NotOffered
            | Reason::QueueFull
            | Reason::Overloaded
            | Reason::DeadlineInfeasible
            | Reason::DeadlineInQueue
            | Reason::Cancelled
            | Reason::Draining
            | Reason::ModelLoading
            | Reason::StaleEpoch
            | Reason::Conflict
            | Reason::PreconditionFailed
            | Reason::RejectedByBarrier => Self::Neutral,
        }
    }

    /// What this process's own connection to the worker says.
    pub const fn unanswered(reason: Reason) -> Self {
        match reason {
            Reason::NoReadyReplica | Reason::WorkerLost => Self::Lost,
            _ => Self::Unanswered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever one caller can bring about by what it sends, or by how little time it gives, ejects nobody by itself.
    #[test]
    fn callers_cannot_make_a_replica_fail() {
        let by_callers = [
            Reason::InvalidRequest,
            Reason::MessageTooLarge,
            Reason::NotFound,
            Reason::SequenceUnknown,
            Reason::NotOffered,
            Reason::QueueFull,
            Reason::Overloaded,
            Reason::DeadlineInfeasible,
            Reason::DeadlineInQueue,
            Reason::DeadlineRunning,
            Reason::Cancelled,
            Reason::ModelFailed,
        ];
        for reason in by_callers {
            assert!(matches!(Evidence::told(reason), Evidence::Neutral | Evidence::Doubtful), "{reason:?}");
        }
    }

    #[test]
    fn only_the_connection_speaks_of_the_worker() {
        assert!(Reason::ALL.into_iter().all(|reason| Evidence::told(reason) != Evidence::Lost));
        for reason in Reason::ALL {
            let is_lost = Evidence::unanswered(reason) == Evidence::Lost;
            assert_eq!(is_lost, matches!(reason, Reason::NoReadyReplica | Reason::WorkerLost), "{reason:?}");
        }
    }
}
