//! Traces, metrics and logs: what a service tells about itself, with every name in one place.
//!
//! A process makes one [`Telemetry`] and takes a [`Scope`] from it for each service that it runs. A scope starts [`Span`]s and
//! holds the service's [`Metrics`]. Nothing is global, so four services can share a process and still be told apart.
//!
//! Recording never waits: without an endpoint it is nearly free, and with one that does not answer, what does not fit the
//! bounded queue is dropped.

mod context;
mod export;
mod log;
mod metrics;
mod scope;
mod span;

pub use context::TraceContext;
pub use export::{Error, Options, Telemetry};
pub use log::{LogError, LogFormat, init_logs, logged};
pub use metrics::{
    AdmissionMetrics, CacheMetrics, CacheOutcome, InFlight, JobMetrics, JournalMetrics, Metrics, ModelMetrics,
    OpenJobs, ShadowMetrics, ShadowOutcome, SnapshotState, Stage, Tokens, names, status_name,
};
pub use scope::Scope;
pub use span::Span;
