//! Names on the wire; the metrics service reads some of them.

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
/// Seconds from the moment an execution was told to make way to the moment it had stopped.
pub const PREEMPT_TO_STOP: &str = "weft.preempt_to_stop";
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
/// Transitions of jobs in one transaction of the log.
pub const JOB_COMMIT_SIZE: &str = "weft.job.commit.size";
/// Seconds from the first sending of such a transaction to its fate being known.
pub const JOB_COMMIT: &str = "weft.job.commit.duration";
/// Shards of the log whose jobs a scheduler runs.
pub const JOB_SHARDS: &str = "weft.jobs.shards";
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
/// The attribute with the [`crate::ShadowOutcome`] of a copied call, or the [`crate::CacheOutcome`] of one whose answer may be kept.
pub const OUTCOME: &str = "outcome";
/// The attribute with a call's priority band.
pub const BAND: &str = "band";
/// The attribute with why a call was refused.
pub const REASON: &str = "reason";
/// The attribute with the gRPC status name of a model call.
pub const STATUS: &str = "status";
/// The attribute with the [`crate::Tokens`] of a count of tokens (OpenTelemetry's semantic conventions).
pub const TOKEN_TYPE: &str = "gen_ai.token.type";
/// The attribute with how an outlier was found (gRFC A91).
pub const DETECTION_METHOD: &str = "grpc.lb.outlier_detection.detection_method";
/// The attribute with why an outlier was not ejected (gRFC A91).
pub const UNENFORCED_REASON: &str = "grpc.lb.outlier_detection.unenforced_reason";
/// The attribute with the state of a job.
pub const STATE: &str = "state";
/// The attribute with the direction of an attempt: `action`, `undo` or `probe`.
pub const DIRECTION: &str = "direction";
/// The attribute with the [`crate::Stage`] of a deadline's refusal.
pub const STAGE: &str = "stage";
