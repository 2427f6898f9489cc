//! The closed set of ways in which a call can fail, each with its retry verdict.

use std::borrow::Cow;
use std::time::Duration;

/// A call's outcome.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused or failed. `weft-proto` maps each to one gRPC status, in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The request is not well formed; the field is named.
    InvalidRequest,
    /// The message is longer than the limit.
    MessageTooLarge,
    /// No such model, version, route or record.
    NotFound,
    /// The request continues a sequence that is not here; another replica may have it.
    SequenceUnknown,
    /// This part of the interface is not offered.
    NotOffered,
    /// The queue of the model is full.
    QueueFull,
    /// The process is over a limit of its own and sheds load.
    Overloaded,
    /// The deadline could not be met, so nothing was started.
    DeadlineInfeasible,
    /// The deadline passed while the call waited.
    DeadlineInQueue,
    /// The deadline passed while the call ran.
    DeadlineRunning,
    /// The caller went away.
    Cancelled,
    /// No replica that could answer is ready.
    NoReadyReplica,
    /// The worker was lost before it answered.
    WorkerLost,
    /// The process is shutting down and takes no new work.
    Draining,
    /// The model is being loaded.
    ModelLoading,
    /// The state store does not answer; the data plane is not affected.
    StoreUnavailable,
    /// The writer's epoch is over.
    StaleEpoch,
    /// The record changed since it was read, or exists with another body.
    Conflict,
    /// What the call asks for does not fit how things stand; the message tells how they do.
    PreconditionFailed,
    /// An action of a job that came too late: it has had no effect, and will have none.
    RejectedByBarrier,
    /// The model's runtime failed on this input.
    ModelFailed,
    /// A defect in Weft: it is logged with its cause, which the caller does not see.
    Internal,
}

/// What a caller may do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call would fail again, or may already have had its effect.
    Never,
    /// Try another replica, within the deadline and the retry budget: this one has not done the work.
    Elsewhere,
    /// Wait as told (`RetryInfo`, `grpc-retry-pushback-ms`), then try again.
    AfterPushback,
}

impl Reason {
    /// Every reason, for tests that must cover all of them.
    pub const ALL: [Self; 22] = [
        Self::InvalidRequest,
        Self::MessageTooLarge,
        Self::NotFound,
        Self::SequenceUnknown,
        Self::NotOffered,
        Self::QueueFull,
        Self::Overloaded,
        Self::DeadlineInfeasible,
        Self::DeadlineInQueue,
        Self::DeadlineRunning,
        Self::Cancelled,
        Self::NoReadyReplica,
        Self::WorkerLost,
        Self::Draining,
        Self::ModelLoading,
        Self::StoreUnavailable,
        Self::StaleEpoch,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::RejectedByBarrier,
        Self::ModelFailed,
        Self::Internal,
    ];

    /// The stable name that callers see in `google.rpc.ErrorInfo.reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::NotFound => "NOT_FOUND",
            Self::SequenceUnknown => "SEQUENCE_UNKNOWN",
            Self::NotOffered => "NOT_OFFERED",
            Self::QueueFull => "QUEUE_FULL",
            Self::Overloaded => "OVERLOADED",
            Self::DeadlineInfeasible => "DEADLINE_INFEASIBLE",
            Self::DeadlineInQueue => "DEADLINE_IN_QUEUE",
            Self::DeadlineRunning => "DEADLINE_RUNNING",
            Self::Cancelled => "CANCELLED",
            Self::NoReadyReplica => "NO_READY_REPLICA",
            Self::WorkerLost => "WORKER_LOST",
            Self::Draining => "DRAINING",
            Self::ModelLoading => "MODEL_LOADING",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::StaleEpoch => "STALE_EPOCH",
            Self::Conflict => "CONFLICT",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::RejectedByBarrier => "REJECTED_BY_BARRIER",
            Self::ModelFailed => "MODEL_FAILED",
            Self::Internal => "INTERNAL",
        }
    }

    /// The reason with this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Whether it lies in the request alone: an equal one is refused alike, whoever sends it and whenever, while the model stands.
    pub const fn is_deterministic(self) -> bool {
        matches!(self, Self::InvalidRequest | Self::MessageTooLarge | Self::NotFound | Self::NotOffered)
    }

    /// What the caller may do.
    pub const fn retry(self) -> Retry {
        match self {
            Self::NoReadyReplica | Self::WorkerLost | Self::Draining | Self::StaleEpoch => Retry::Elsewhere,
            Self::QueueFull | Self::Overloaded | Self::ModelLoading | Self::StoreUnavailable => Retry::AfterPushback,
            Self::InvalidRequest
            | Self::MessageTooLarge
            | Self::NotFound
            | Self::SequenceUnknown
            | Self::NotOffered
            | Self::DeadlineInfeasible
            | Self::DeadlineInQueue
            | Self::DeadlineRunning
            | Self::Cancelled
            | Self::Conflict
            | Self::PreconditionFailed
            | Self::RejectedByBarrier
            | Self::ModelFailed
            | Self::Internal => Retry::Never,
        }
    }
}

/// A failure of a call, as its caller may see it: the message holds no path, address or other tenant's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    reason: Reason,
    message: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
}

impl Error {
    /// A failure with a message for the caller.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into(), field: None, retry_after: None }
    }

    /// An invalid request: `field` is the path of the offending field, such as `inputs[0].shape`.
    pub fn invalid(field: impl Into<Cow<'static, str>>, problem: impl std::fmt::Display) -> Self {
        Self::of_field(Reason::InvalidRequest, field, problem)
    }

    /// A failure for a reason that lies in one field of the request.
    pub fn of_field(reason: Reason, field: impl Into<Cow<'static, str>>, problem: impl std::fmt::Display) -> Self {
        let field = field.into();
        let message = format!("{field}: {problem}");
        Self { field: Some(field), ..Self::new(reason, message) }
    }

    /// The same failure, telling the caller how long to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Why.
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The text for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The offending field, where there is one.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// How long the caller should wait before another attempt, when that is known.
    pub const fn pushback(&self) -> Option<Duration> {
        self.retry_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.as_str()), Some(reason));
        }
        assert_eq!(Reason::from_name("nonsense"), None);
    }

    #[test]
    fn what_lies_in_the_request_is_never_tried_again() {
        let deterministic = Reason::ALL.into_iter().filter(|reason| reason.is_deterministic());
        assert!(deterministic.clone().all(|reason| reason.retry() == Retry::Never) && deterministic.count() == 4);
    }

    #[test]
    fn an_invalid_request_names_its_field() {
        let error = Error::invalid("inputs[0].shape", "expected [-1, 64], got [2, 63]");
        assert_eq!(error.field(), Some("inputs[0].shape"));
        assert_eq!(error.to_string(), "inputs[0].shape: expected [-1, 64], got [2, 63]");
    }
}
