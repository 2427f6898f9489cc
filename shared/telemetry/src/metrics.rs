//! Every metric that Weft records: its name, its unit and its attributes are spelled here and nowhere else.

mod admission;
mod cache;
mod jobs;
mod shadow;

use std::sync::Arc;
use std::time::Duration;

pub use admission::AdmissionMetrics;
pub use cache::{CacheMetrics, CacheOutcome};
pub use jobs::{JobMetrics, OpenJobs};
pub use shadow::{ShadowMetrics, ShadowOutcome};

use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider as _, UpDownCounter};
use opentelemetry::{KeyValue, StringValue, Value};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tonic::Code;
use weft_types::{ModelName, Version};

use crate::scope::LIBRARY;

/// Names on the wire; the metrics service reads some of them.
pub mod names {
    /// Seconds that a server took for a call (OpenTelemetry's semantic conventions).
    pub const SERVER_CALL: &str = "rpc.server.call.duration";
    /// Seconds that a client waited for a call (OpenTelemetry's semantic conventions).
    pub const CLIENT_CALL: &str = "rpc.client.call.duration";
    /// Seconds from a worker's admission of a request to its answer, by status.
    pub const MODEL_CALL: &str = "weft.model.call.duration";
    /// Seconds that a request waited on the worker before it was executed.
    pub const MODEL_QUEUE: &str = "weft.model.queue.duration";
    /// Seconds that the batch holding the request was executed; recorded once for each request.
    pub const MODEL_COMPUTE: &str = "weft.model.compute.duration";
    /// Requests in an executed batch; recorded once for each batch.
    pub const MODEL_BATCH: &str = "weft.model.batch.size";
    /// Seconds from a worker's admission of a sequence to its first token (OpenTelemetry's semantic conventions).
    pub const TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
    /// Seconds that a sequence waited for each token after the first (OpenTelemetry's semantic conventions).
    pub const TIME_PER_OUTPUT_TOKEN: &str = "gen_ai.server.time_per_output_token";
    /// Tokens of sequences, by what they were.
    pub const TOKENS: &str = "weft.model.tokens";
    /// Seconds from the moment nobody waited any more to the moment the work stopped.
    pub const CANCEL_TO_STOP: &str = "weft.cancel_to_stop";
    /// Seconds computed for callers who had stopped waiting.
    pub const WASTED_COMPUTE: &str = "weft.wasted_compute";
    /// Executions that were stopped because nobody waited.
    pub const WORK_STOPPED: &str = "weft.work.stopped";
    /// Executions and sequences that made way for more urgent ones.
    pub const PREEMPTIONS: &str = "weft.preemptions";
    /// Attempts beyond the first.
    pub const RETRIES: &str = "weft.router.retries";
    /// Attempts of a hedged call beyond the first, where there were any (gRFC A96).
    pub const HEDGES: &str = "grpc.client.call.hedges";
    /// Calls of routes that keep answers, by where the answer came from.
    pub const CACHE_CALLS: &str = "weft.router.cache.calls";
    /// Bytes that kept answers take.
    pub const CACHE_BYTES: &str = "weft.router.cache.bytes";
    /// Calls that a route's shadow was drawn for, by what became of the copy.
    pub const SHADOWS: &str = "weft.router.shadows";
    /// Calls being forwarded.
    pub const IN_FLIGHT: &str = "weft.router.in_flight";
    /// Calls to a model's version that a router may have under way at once.
    pub const LIMIT: &str = "weft.router.limit";
    /// Calls that wait in a router for their turn.
    pub const QUEUED: &str = "weft.router.queued";
    /// Seconds that calls waited in a router which got their turn.
    pub const QUEUE_WAIT: &str = "weft.router.queue.duration";
    /// Calls that a router refused because others were before them.
    pub const SHED: &str = "weft.router.shed";
    /// Calls refused or ended because of their deadline, by the stage that noticed.
    pub const DEADLINE_REJECTED: &str = "weft.deadline.rejected";
    /// How often the process that held a model was lost.
    pub const MODEL_LOST: &str = "weft.model.lost";
    /// Requests refused because their input has ended the model's process several times.
    pub const QUARANTINE_REFUSED: &str = "weft.quarantine.refused";
    /// Replicas and workers that were ejected (gRFC A91).
    pub const EJECTIONS_ENFORCED: &str = "grpc.lb.outlier_detection.ejections_enforced";
    /// Outliers that were found and not ejected (gRFC A91).
    pub const EJECTIONS_UNENFORCED: &str = "grpc.lb.outlier_detection.ejections_unenforced";
    /// Placements that a worker refused, because a leader of the past wrote them.
    pub const PLACEMENTS_REFUSED: &str = "weft.placements.refused";
    /// The store's revision that the snapshot reflects.
    pub const SNAPSHOT_REVISION: &str = "weft.snapshot.revision";
    /// Seconds since the snapshot was last known to be current.
    pub const SNAPSHOT_AGE: &str = "weft.snapshot.age";
    /// Workers that are kept although their registrations vanished.
    pub const SNAPSHOT_RETAINED: &str = "weft.snapshot.retained";
    /// Records in the store that cannot be read.
    pub const SNAPSHOT_UNDECODABLE: &str = "weft.snapshot.undecodable";
    /// Open jobs that a scheduler runs, by state.
    pub const JOBS_OPEN: &str = "weft.jobs.open";
    /// Open jobs that wait for an operator.
    pub const JOBS_STUCK: &str = "weft.jobs.stuck";
    /// Committed transitions of jobs.
    pub const JOB_TRANSITIONS: &str = "weft.job.transitions";
    /// Attempts of jobs' steps, by direction and outcome.
    pub const JOB_ATTEMPTS: &str = "weft.job.attempts";
    /// Open jobs that were taken over from another scheduler.
    pub const JOB_TAKEOVERS: &str = "weft.job.takeovers";
    /// Seconds from a job's submission to its end, by the state in which it ended.
    pub const JOB_DURATION: &str = "weft.job.duration";

    /// The attribute with a model's name.
    pub const MODEL: &str = "model";
    /// The attribute with a model's version.
    pub const VERSION: &str = "version";
    /// The attribute with a route's name.
    pub const ROUTE: &str = "route";
    /// The attribute with the [`super::ShadowOutcome`] of a copied call, or the [`super::CacheOutcome`] of one whose answer may be kept.
    pub const OUTCOME: &str = "outcome";
    /// The attribute with a call's priority band.
    pub const BAND: &str = "band";
    /// The attribute with why a call was refused.
    pub const REASON: &str = "reason";
    /// The attribute with the gRPC status name of a model call.
    pub const STATUS: &str = "status";
    /// The attribute with the [`super::Tokens`] of a count of tokens (OpenTelemetry's semantic conventions).
    pub const TOKEN_TYPE: &str = "gen_ai.token.type";
    /// The attribute with how an outlier was found (gRFC A91).
    pub const DETECTION_METHOD: &str = "grpc.lb.outlier_detection.detection_method";
    /// The attribute with why an outlier was not ejected (gRFC A91).
    pub const UNENFORCED_REASON: &str = "grpc.lb.outlier_detection.unenforced_reason";
    /// The attribute with the state of a job.
    pub const STATE: &str = "state";
    /// The attribute with the direction of an attempt: `action`, `undo` or `probe`.
    pub const DIRECTION: &str = "direction";
    /// The attribute with the [`super::Stage`] of a deadline's refusal.
    pub const STAGE: &str = "stage";
}

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

/// What tokens were to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Of its prompt, computed for it.
    Input,
    /// Of its prompt, computed for an earlier one and shared.
    Cached,
    /// Generated.
    Output,
}

impl Tokens {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Cached => "cached",
            Self::Output => "output",
        }
    }
}

/// What the snapshot gauges show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotState {
    /// The store's revision.
    pub revision: i64,
    /// How long ago it was last known to be current.
    pub age: Duration,
    /// Workers that are kept although their registrations vanished.
    pub retained: u64,
    /// Records that cannot be read.
    pub undecodable: u64,
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

    /// The instruments of one model's version, to be kept for as long as it is loaded or routed to.
    pub fn model(&self, model: &ModelName, version: Version) -> ModelMetrics {
        ModelMetrics {
            instruments: Arc::clone(&self.0),
            attributes: [
                KeyValue::new(names::MODEL, Arc::<str>::from(model.as_str())),
                // Text, so that the label reads the same everywhere.
                KeyValue::new(names::VERSION, Arc::<str>::from(version.to_string())),
            ],
        }
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

    /// Shows the state of a snapshot, read at each export, so that the age grows even when nothing happens. Call it once: the
    /// instruments live as long as the service.
    pub fn observe_snapshot(&self, state: impl Fn() -> SnapshotState + Send + Sync + 'static) {
        let state: Arc<dyn Fn() -> SnapshotState + Send + Sync> = Arc::new(state);
        let seen = || Arc::clone(&state);
        let revision = seen();
        self.0
            .meter
            .i64_observable_gauge(names::SNAPSHOT_REVISION)
            .with_description("Revision of the store that the snapshot reflects")
            .with_callback(move |gauge| gauge.observe(revision().revision, &[]))
            .build();
        let age = seen();
        self.0
            .meter
            .f64_observable_gauge(names::SNAPSHOT_AGE)
            .with_unit("s")
            .with_description("Time since the snapshot was last known to be current")
            .with_callback(move |gauge| gauge.observe(age().age.as_secs_f64(), &[]))
            .build();
        let count = |name, unit, about, count: fn(SnapshotState) -> u64| {
            let state = seen();
            let gauge = self.0.meter.u64_observable_gauge(name).with_unit(unit).with_description(about);
            gauge.with_callback(move |gauge| gauge.observe(count(state()), &[])).build();
        };
        let about = "Workers kept although their registrations vanished, since they still answer";
        count(names::SNAPSHOT_RETAINED, "{worker}", about, |state| state.retained);
        let about = "Records in the store that cannot be read";
        count(names::SNAPSHOT_UNDECODABLE, "{record}", about, |state| state.undecodable);
    }
}

/// One model's version: what is recorded carries its name and version.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    instruments: Arc<Instruments>,
    attributes: [KeyValue; 2],
}

impl ModelMetrics {
    /// A request that ended on a worker, from admission to answer.
    pub fn record_call(&self, code: Code, elapsed: Duration) {
        let [model, version] = self.attributes.clone();
        let attributes = [model, version, KeyValue::new(names::STATUS, status_name(code))];
        self.instruments.model_call.record(elapsed.as_secs_f64(), &attributes);
    }

    /// How long a request waited before it was executed.
    pub fn record_queue(&self, waited: Duration) {
        self.instruments.model_queue.record(waited.as_secs_f64(), &self.attributes);
    }

    /// How long the batch that held a request was executed: once for each request, so that sums divide by requests.
    pub fn record_compute(&self, computed: Duration) {
        self.instruments.model_compute.record(computed.as_secs_f64(), &self.attributes);
    }

    /// How many requests an executed batch held: once for each batch.
    pub fn record_batch(&self, requests: usize) {
        self.instruments.model_batch.record(requests as u64, &self.attributes);
    }

    /// The first token of a sequence.
    pub fn record_first_token(&self, waited: Duration) {
        self.instruments.time_to_first_token.record(waited.as_secs_f64(), &self.attributes);
    }

    /// Further tokens of a sequence that came together: each took its share of the wait.
    pub fn record_next_tokens(&self, waited: Duration, tokens: u32) {
        let share = waited.as_secs_f64() / f64::from(tokens.max(1));
        (0..tokens).for_each(|_| self.instruments.time_per_output_token.record(share, &self.attributes));
    }

    /// Tokens of a sequence.
    pub fn record_tokens(&self, tokens: Tokens, count: u32) {
        let [model, version] = self.attributes.clone();
        let attributes = [model, version, KeyValue::new(names::TOKEN_TYPE, tokens.as_str())];
        self.instruments.tokens.add(count.into(), &attributes);
    }

    /// An execution that was stopped because nobody waited, `after` the last caller had gone.
    pub fn record_stopped(&self, after: Duration) {
        self.instruments.work_stopped.add(1, &self.attributes);
        self.instruments.cancel_to_stop.record(after.as_secs_f64(), &self.attributes);
    }

    /// Executions that were stopped, or sequences that lost their slots, for more urgent ones: they go on later.
    pub fn record_preemptions(&self, times: u32) {
        self.instruments.preemptions.add(times.into(), &self.attributes);
    }

    /// Time computed for callers who had stopped waiting.
    pub fn record_wasted(&self, computed: Duration) {
        self.instruments.wasted_compute.add(computed.as_secs_f64(), &self.attributes);
    }

    /// The process that held the model was lost.
    pub fn record_lost(&self) {
        self.instruments.model_lost.add(1, &self.attributes);
    }

    /// A request whose input has ended the model's process several times.
    pub fn record_quarantined(&self) {
        self.instruments.quarantine_refused.add(1, &self.attributes);
    }

    /// Another attempt at a call.
    pub fn record_retry(&self) {
        self.instruments.retries.add(1, &self.attributes);
    }

    /// A hedged call that ended after so many attempts beyond the first.
    pub fn record_hedges(&self, hedges: u32) {
        self.instruments.hedges.record(hedges.into(), &self.attributes);
    }

    /// Counts a call as in flight until the guard is dropped, also when its future is.
    pub fn in_flight(&self) -> InFlight {
        self.instruments.in_flight.add(1, &self.attributes);
        InFlight(self.clone())
    }
}

/// A call in flight.
#[derive(Debug)]
#[must_use = "the call counts as ended when this is dropped"]
pub struct InFlight(ModelMetrics);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.instruments.in_flight.add(-1, &self.0.attributes);
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
