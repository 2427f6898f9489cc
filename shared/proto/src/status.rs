//! The one place where a failure becomes a gRPC status, and a status a failure again.

use std::time::Duration;

use http::HeaderMap;
use http::header::Entry;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use weft_types::{Error, Reason};

/// `google.rpc.ErrorInfo.domain` of every refusal.
pub const DOMAIN: &str = "weft";

/// The trailer that tells a gRPC client how long to wait before a retry, in milliseconds (gRFC A6); negative means never.
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Where a status carries what [`status_of`] tells besides its code and message.
const DETAILS: &str = "grpc-status-details-bin";

/// Takes a peer's status details off that are not base64: tonic 0.14 panics when it reads a status with such. What is left is the code
/// and the message.
pub fn drop_unreadable_details(headers: &mut HeaderMap) {
    let Entry::Occupied(details) = headers.entry(DETAILS) else { return };
    let one = MetadataMap::from_headers([(details.key().clone(), details.get().clone())].into_iter().collect());
    if one.get_bin(DETAILS).is_none_or(|value| value.to_bytes().is_err()) {
        details.remove_entry_mult();
    }
}

const fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidRequest | Reason::SequenceUnknown => Code::InvalidArgument,
        Reason::MessageTooLarge | Reason::QueueFull | Reason::Overloaded => Code::ResourceExhausted,
        Reason::NotFound => Code::NotFound,
        Reason::NotOffered => Code::Unimplemented,
        Reason::DeadlineInfeasible | Reason::DeadlineInQueue | Reason::DeadlineRunning => Code::DeadlineExceeded,
        Reason::Cancelled => Code::Cancelled,
        Reason::NoReadyReplica
        | Reason::WorkerLost
        | Reason::Draining
        | Reason::ModelLoading
        | Reason::StoreUnavailable => Code::Unavailable,
        Reason::StaleEpoch | Reason::PreconditionFailed | Reason::RejectedByBarrier => Code::FailedPrecondition,
        Reason::Conflict => Code::AlreadyExists,
        Reason::ModelFailed | Reason::Internal => Code::Internal,
    }
}

/// The code among an answer's headers or trailers, if they tell one: all of a [`Status`] that those need who only count it.
pub fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}

/// The status of a failure: its code, the message, `ErrorInfo` with the reason, `BadRequest` naming the field of an invalid
/// request, and `RetryInfo` with the pushback trailer where the caller should wait.
pub fn status_of(error: &Error) -> Status {
    let mut details = ErrorDetails::with_error_info(error.reason().as_str(), DOMAIN, []);
    if let Some(field) = error.field() {
        details.add_bad_request_violation(field, error.message());
    }
    if let Some(wait) = error.pushback() {
        details.set_retry_info(Some(wait));
    }
    let mut status = Status::with_error_details(code(error.reason()), error.message(), details);
    let pushback = match (error.pushback(), error.reason()) {
        (Some(wait), _) => Some(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)),
        // RESOURCE_EXHAUSTED invites a retry, which can never succeed for a message of this size.
        (None, Reason::MessageTooLarge) => Some(-1),
        (None, _) => None,
    };
    if let Some(pushback) = pushback {
        status.metadata_mut().insert(PUSHBACK, MetadataValue::from(pushback));
    }
    status
}

/// The failure that a status from another Weft service stands for; a foreign status maps by its code.
pub fn error_of(status: &Status) -> Error {
    let details = status.get_error_details();
    let named =
        details.error_info().filter(|info| info.domain == DOMAIN).and_then(|info| Reason::from_name(&info.reason));
    let reason = named.unwrap_or_else(|| reason_of(status.code()));
    let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
    let error = match (reason, violation) {
        (_, Some(violation)) => {
            let problem = status.message().strip_prefix(&*violation.field).unwrap_or(status.message());
            Error::of_field(reason, violation.field.clone(), problem.trim_start_matches(": "))
        }
        (_, None) => Error::new(reason, status.message().to_owned()),
    };
    match details.retry_info().and_then(|info| info.retry_delay).or_else(|| pushback(status)) {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

/// Whether the server said that the call is not to be sent again: a negative time to wait, or one that cannot be read (gRFC A6).
pub fn forbids_retry(status: &Status) -> bool {
    status.metadata().contains_key(PUSHBACK) && pushback(status).is_none()
}

fn pushback(status: &Status) -> Option<Duration> {
    status.metadata().get(PUSHBACK)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

const fn reason_of(code: Code) -> Reason {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Reason::InvalidRequest,
        Code::NotFound => Reason::NotFound,
        Code::Unimplemented => Reason::NotOffered,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::DeadlineExceeded => Reason::DeadlineRunning,
        Code::Cancelled => Reason::Cancelled,
        Code::Unavailable => Reason::WorkerLost,
        Code::FailedPrecondition | Code::Aborted => Reason::StaleEpoch,
        Code::AlreadyExists => Reason::Conflict,
        Code::Ok | Code::Unknown | Code::PermissionDenied | Code::Unauthenticated | Code::Internal | Code::DataLoss => {
            Reason::Internal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::Retry;

    #[test]
    fn every_reason_crosses_the_wire_and_back() {
        for reason in Reason::ALL {
            let error = Error::new(reason, "why");
            assert_eq!(error_of(&status_of(&error)), error, "{reason:?}");
        }
    }

    #[test]
    fn a_field_and_a_wait_cross_too() {
        let invalid = Error::invalid("inputs[0].shape", "negative dimension");
        assert_eq!(error_of(&status_of(&invalid)), invalid);
        let full = Error::new(Reason::QueueFull, "queue is full").retry_after(Duration::from_millis(250));
        let status = status_of(&full);
        assert_eq!(status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok()), Some("250"));
        assert_eq!(error_of(&status), full);
    }

    /// What a hostile peer may put there must not end a task of ours, and what an honest one puts there is kept.
    #[test]
    fn details_that_cannot_be_read_are_dropped() {
        let honest = status_of(&Error::invalid("field", "why")).into_http::<()>().into_parts().0.headers;
        for (value, is_kept) in
            [("CAES_", false), ("*", false), ("a", false), ("", true), ("CAESAWE", true), ("CAESAWE=", true)]
        {
            let mut headers = honest.clone();
            headers.insert(DETAILS, value.parse().expect("a header value"));
            headers.append(DETAILS, "later".parse().expect("a header value"));
            drop_unreadable_details(&mut headers);
            assert_eq!(headers.contains_key(DETAILS), is_kept, "{value:?}");
            let status = Status::from_header_map(&headers).expect("it has a status");
            assert_eq!(status.code(), Code::InvalidArgument);
        }
        let mut headers = honest.clone();
        drop_unreadable_details(&mut headers);
        assert_eq!(headers, honest);
        drop_unreadable_details(&mut HeaderMap::new());
    }

    #[test]
    fn only_unavailable_and_stale_may_go_elsewhere() {
        for reason in Reason::ALL {
            if reason.retry() == Retry::Elsewhere {
                assert!(matches!(code(reason), Code::Unavailable | Code::FailedPrecondition), "{reason:?}");
            }
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_not_to_be_sent_again() {
        let status = status_of(&Error::new(Reason::MessageTooLarge, "too large"));
        assert_eq!(status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok()), Some("-1"));
        assert!(forbids_retry(&status));
    }

    #[test]
    fn a_wait_that_is_negative_or_cannot_be_read_forbids_to_send_again() {
        for (told, forbids) in
            [(None, false), (Some("0"), false), (Some("250"), false), (Some("-7"), true), (Some("soon"), true)]
        {
            let mut status = Status::unavailable("why");
            if let Some(told) = told {
                status.metadata_mut().insert(PUSHBACK, told.parse().expect("ASCII"));
            }
            assert_eq!(forbids_retry(&status), forbids, "{told:?}");
        }
    }
}
