//! How a call ended, for the metrics, the span and the caller.

use std::time::Instant;

use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Code, Status};
use weft_proto::status_of;
use weft_telemetry::{Scope, Span, status_name};
use weft_types::{Error, Reason, SystemClock};

/// The end of a call, told once: to the metrics and the span. Dropped without an end, the caller went away.
pub(crate) struct Record {
    scope: Scope,
    method: &'static str,
    received: Instant,
    span: Option<Span>,
    /// The drain waits for it.
    _open: TaskTrackerToken,
}

impl Record {
    pub(crate) const fn new(
        scope: Scope,
        method: &'static str,
        received: Instant,
        span: Span,
        open: TaskTrackerToken,
    ) -> Self {
        Self { scope, method, received, span: Some(span), _open: open }
    }

    /// Tells the end; only the first one counts.
    pub(crate) fn finish(&mut self, code: Code) {
        let Some(mut span) = self.span.take() else { return };
        let elapsed = SystemClock::now().saturating_duration_since(self.received);
        self.scope.metrics().record_server_call(self.method, code, elapsed);
        span.set("rpc.response.status_code", status_name(code));
        if is_server_fault(code) {
            span.fail(status_name(code));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

/// Which codes are the server's own failures (OpenTelemetry's RPC conventions).
const fn is_server_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

pub(crate) fn expired() -> Status {
    status_of(&Error::new(Reason::DeadlineRunning, "the deadline passed before the answer was ready"))
}

pub(crate) fn draining() -> Status {
    status_of(&Error::new(Reason::Draining, "the server is shutting down"))
}

pub(crate) fn panicked() -> Status {
    status_of(&Error::new(Reason::Internal, "internal error"))
}
