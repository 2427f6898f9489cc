//! What a call leaves behind: a span, metrics and statistics.

use std::sync::Arc;
use std::time::Instant;

use tonic::Code;
use weft_runtime::Call;
use weft_telemetry::{Scope, Span, Stage};
use weft_types::{Deadline, Error, Reason, SystemClock};

use crate::error::Failure;
use crate::queue::{Caller, Timing};
use crate::replica::Replica;
use crate::stats::Ending;

/// What is recorded of a call, however it ends: a dropped future records a cancelled call.
pub(crate) struct Record {
    pub(crate) replica: Arc<Replica>,
    scope: Scope,
    span: Span,
    /// When the call came to this replica.
    pub(crate) began: Instant,
    /// The call's own, until the request's `timeout` moves it closer.
    pub(crate) deadline: Deadline,
    /// Its side of the queue, while it is there.
    pub(crate) caller: Option<Arc<Caller>>,
    /// Where its time went, as far as that is known.
    pub(crate) timing: Option<Timing>,
    ended: bool,
}

impl Record {
    /// A call begins.
    pub(crate) fn begin(replica: Arc<Replica>, scope: &Scope, call: &Call) -> Self {
        let began = SystemClock::now();
        let mut span = scope.start_internal("weft.worker.execute", Some(&call.trace));
        if span.is_recording() {
            span.set("weft.model", replica.identity.name.to_string());
            span.set("weft.version", replica.identity.version.to_string());
            span.set("weft.deadline_remaining_ms", call.deadline.remaining(began).as_secs_f64() * 1e3);
        }
        replica.load.enter();
        let (scope, deadline) = (scope.clone(), call.deadline);
        Self { replica, scope, span, began, deadline, caller: None, timing: None, ended: false }
    }

    /// A call ends.
    pub(crate) fn end(mut self, failure: Option<&Failure>) {
        let (code, reason) = match failure {
            None => (Code::Ok, None),
            Some(Failure::Model { code, .. }) => (*code, None),
            Some(Failure::Weft(error)) => (weft_proto::status_of(error).code(), Some(error.reason())),
        };
        if let Some(failure) = failure {
            self.span.fail(failure.to_string());
        }
        self.finish(code, reason);
    }

    fn finish(&mut self, code: Code, reason: Option<Reason>) {
        self.ended = true;
        let timing = self.timing.or_else(|| self.caller.as_ref().map(|caller| caller.timing_now())).unwrap_or_default();
        self.span.set("weft.queue_ms", timing.queue.as_secs_f64() * 1e3);
        self.span.set("weft.compute_ms", timing.compute.as_secs_f64() * 1e3);
        self.span.set("weft.batch_rows", i64::try_from(timing.rows).unwrap_or(i64::MAX));
        let now = SystemClock::now();
        let whole = now.saturating_duration_since(self.began);
        self.replica.load.leave(code, now);
        // Who is sent elsewhere because the replica goes has said nothing about the model: as an error of its version that could end a rollout.
        let is_sent_on = reason == Some(Reason::Draining);
        // Nor has who is only asked whether it knows a sequence.
        let says_nothing = is_sent_on || reason == Some(Reason::SequenceUnknown);
        self.replica.metrics.record_call(if says_nothing { Code::Cancelled } else { code }, whole);
        if !is_sent_on {
            let ending = if code == Code::Ok { Ending::Success } else { Ending::Failure };
            self.replica.stats.call(ending, whole);
        }
        // What was executed has told it when it began.
        if self.caller.is_some() && timing.rows == 0 {
            self.replica.metrics.record_queue(timing.queue);
        }
        let stage = match reason {
            Some(Reason::DeadlineInfeasible) => Some(Stage::Admission),
            Some(Reason::DeadlineInQueue) => Some(Stage::Queue),
            Some(Reason::DeadlineRunning) => Some(Stage::Execution),
            _ => None,
        };
        if let Some(stage) = stage {
            self.scope.metrics().record_deadline_rejected(stage);
        }
    }
}

impl Drop for Record {
    /// The server drops the handler at the call's deadline and when its caller goes away.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let expired = self.deadline.expired(SystemClock::now());
        let has_rows = |timing: Timing| timing.rows > 0;
        let started =
            self.timing.or_else(|| self.caller.as_ref().map(|caller| caller.timing_now())).is_some_and(has_rows);
        let reason = match (expired, started) {
            (true, true) => Reason::DeadlineRunning,
            (true, false) => Reason::DeadlineInQueue,
            (false, _) => Reason::Cancelled,
        };
        self.span.fail(reason.as_str());
        self.finish(weft_proto::status_of(&Error::new(reason, "")).code(), Some(reason));
    }
}
