//! Every metric that Weft records: its name, its unit and its attributes are spelled here and nowhere else.

mod admission;
mod cache;
mod jobs;
mod journal;
mod model;
pub mod names;
mod shadow;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

pub use admission::AdmissionMetrics;
pub use cache::{CacheMetrics, CacheOutcome};
pub use jobs::{JobMetrics, OpenJobs};
pub use journal::JournalMetrics;
pub use model::{InFlight, ModelMetrics, Tokens};
pub use shadow::{ShadowMetrics, ShadowOutcome};
pub use snapshot::SnapshotState;

use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider as _, UpDownCounter};
use opentelemetry::{KeyValue, StringValue, Value};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tonic::Code;

use crate::scope::LIBRARY;

/// Where a call was when its deadline ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Refused before anything was done, since the deadline could not be met.
    Admission,
    /// Expired while it waited.
    Queue,
    /// Expired while it ran.
    Execution,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Queue => "queue",
            Self::Execution => "execution",
        }
    }
}

/// A service's instruments. Recording is a map look-up at most, and nothing when telemetry is off.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    meter: Meter,
    server_call: Histogram<f64>,
    client_call: Histogram<f64>,
    model_call: Histogram<f64>,
    model_queue: Histogram<f64>,
    model_compute: Histogram<f64>,
    model_batch: Histogram<u64>,
    time_to_first_token: Histogram<f64>,
    time_per_output_token: Histogram<f64>,
    tokens: Counter<u64>,
    cancel_to_stop: Histogram<f64>,
    wasted_compute: Counter<f64>,
    work_stopped: Counter<u64>,
    preemptions: Counter<u64>,
    preempt_to_stop: Histogram<f64>,
    retries: Counter<u64>,
    hedges: Histogram<u64>,
    cache_calls: Counter<u64>,
    shadows: Counter<u64>,
    in_flight: UpDownCounter<i64>,
    deadline_rejected: Counter<u64>,
    ejections_enforced: Counter<u64>,
    ejections_unenforced: Counter<u64>,
    placements_refused: Counter<u64>,
    model_lost: Counter<u64>,
    quarantine_refused: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(provider: &SdkMeterProvider) -> Self {
        let meter = provider.meter(LIBRARY);
        let seconds = |name, about| meter.f64_histogram(name).with_unit("s").with_description(about).build();
        let count = |name, unit, about| meter.u64_counter(name).with_unit(unit).with_description(about).build();
        Self(Arc::new(Instruments {
            server_call: seconds(names::SERVER_CALL, "Time that a server took for a call"),
            client_call: seconds(names::CLIENT_CALL, "Time that a client waited for a call"),
            model_call: seconds(names::MODEL_CALL, "Time from a worker's admission of a request to its answer"),
            model_queue: seconds(names::MODEL_QUEUE, "Time that a request waited before it was executed"),
            model_compute: seconds(names::MODEL_COMPUTE, "Time that the batch holding a request was executed"),
            model_batch: meter
                .u64_histogram(names::MODEL_BATCH)
                .with_unit("{request}")
                .with_description("Requests in an executed batch")
                .build(),
            time_to_first_token: seconds(names::TIME_TO_FIRST_TOKEN, "Time from admission to the first token"),
            time_per_output_token: seconds(names::TIME_PER_OUTPUT_TOKEN, "Time waited for each token after the first"),
            tokens: count(names::TOKENS, "{token}", "Tokens of sequences, by what they were"),
            cancel_to_stop: seconds(names::CANCEL_TO_STOP, "Time from nobody waiting to the work having stopped"),
            wasted_compute: meter
                .f64_counter(names::WASTED_COMPUTE)
                .with_unit("s")
                .with_description("Time computed for callers who had stopped waiting")
                .build(),
            work_stopped: count(names::WORK_STOPPED, "{execution}", "Executions stopped because nobody waited"),
            preemptions: count(names::PREEMPTIONS, "{preemption}", "Work that made way for more urgent work"),
            preempt_to_stop: seconds(names::PREEMPT_TO_STOP, "Time from being told to make way to having stopped"),
            retries: count(names::RETRIES, "{attempt}", "Attempts beyond the first"),
            hedges: meter
                .u64_histogram(names::HEDGES)
                .with_unit("{hedge}")
                .with_description("Attempts of a hedged call beyond the first")
                .build(),
            cache_calls: count(names::CACHE_CALLS, "{call}", "Calls of routes that keep answers"),
            shadows: count(names::SHADOWS, "{call}", "Calls that a route's shadow was drawn for"),
            in_flight: meter
                .i64_up_down_counter(names::IN_FLIGHT)
                .with_unit("{call}")
                .with_description("Calls being forwarded")
                .build(),
            deadline_rejected: count(
                names::DEADLINE_REJECTED,
                "{call}",
                "Calls refused or ended because of their deadline",
            ),
            model_lost: count(names::MODEL_LOST, "{loss}", "Losses of the process that held a model"),
            quarantine_refused: count(
                names::QUARANTINE_REFUSED,
                "{request}",
                "Requests refused because their input has ended the model's process several times",
            ),
            ejections_enforced: count(names::EJECTIONS_ENFORCED, "{ejection}", "Replicas and workers ejected"),
            ejections_unenforced: count(names::EJECTIONS_UNENFORCED, "{ejection}", "Outliers found and not ejected"),
            placements_refused: count(
                names::PLACEMENTS_REFUSED,
                "{placement}",
                "Placements refused because a leader of the past wrote them",
            ),
            meter,
        }))
    }

    /// A call that this service answered. `method` is `package.Service/Method`, of a known method only: callers choose the path,
    /// and each new one would be a new series.
    pub fn record_server_call(&self, method: impl Into<StringValue>, code: Code, elapsed: Duration) {
        self.0.server_call.record(elapsed.as_secs_f64(), &rpc(method.into(), code));
    }

    /// A call that this service made.
    pub fn record_client_call(&self, method: impl Into<StringValue>, code: Code, elapsed: Duration) {
        self.0.client_call.record(elapsed.as_secs_f64(), &rpc(method.into(), code));
    }

    /// A call that its deadline ended.
    pub fn record_deadline_rejected(&self, stage: Stage) {
        self.0.deadline_rejected.add(1, &[KeyValue::new(names::STAGE, stage.as_str())]);
    }

    /// An outlier that was ejected, found by this method.
    pub fn record_ejection(&self, method: &'static str) {
        self.0.ejections_enforced.add(1, &[KeyValue::new(names::DETECTION_METHOD, method)]);
    }

    /// An outlier that was found by this method and not ejected, for this reason.
    pub fn record_ejection_unenforced(&self, method: &'static str, reason: &'static str) {
        let attributes =
            [KeyValue::new(names::DETECTION_METHOD, method), KeyValue::new(names::UNENFORCED_REASON, reason)];
        self.0.ejections_unenforced.add(1, &attributes);
    }

    /// A placement that a worker refused, because a leader of the past wrote it.
    pub fn record_placement_refused(&self) {
        self.0.placements_refused.add(1, &[]);
    }
}

fn rpc(method: StringValue, code: Code) -> [KeyValue; 3] {
    [
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", Value::String(method)),
        KeyValue::new("rpc.status_code", status_name(code)),
    ]
}

/// The name of a status as gRPC spells it.
pub const fn status_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_spelled_as_grpc_spells_them() {
        for number in 0..=16 {
            let code = Code::from_i32(number);
            // The variant's name in the other spelling, but for the one that the table writes with two Ls.
            let letters: String = status_name(code).chars().filter(|letter| *letter != '_').collect();
            assert_eq!(letters.to_lowercase(), format!("{code:?}").to_lowercase());
        }
    }
}
