//! The metrics service: an OTLP endpoint that answers what the mesh did lately.
//!
//! Instances report once a second to the [`collector`]'s services. [`ingest`] checks each value and adds it to the [`totals`]
//! (what Prometheus scrapes, written by [`export`]) and, when a worker measured a model, to the [`window`], whose histograms
//! merge over instances without loss; spans go to the ring of [`traces`]. [`grpc`] answers `Summary` and `GetTrace`.
//!
//! Nothing here is on a call's path, and everything held is bounded: what does not fit is refused by OTLP's partial success and
//! counted.

mod collector;
mod export;
mod grpc;
mod histogram;
mod ingest;
mod options;
mod source;
mod state;
mod text;
mod totals;
mod traces;
mod triton;
mod window;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::LogsServiceServer;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsServiceServer;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceServiceServer;
use weft_proto::weft::metrics::v1::metrics_server::MetricsServer;
use weft_types::Clock;

pub use options::{LONGEST_WINDOW, Options};

use state::State;

/// Everything that was reported. Cloning shares it.
#[derive(Clone)]
pub struct Service {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

impl Service {
    /// A service that has heard nothing yet.
    pub fn new(options: &Options, clock: Arc<dyn Clock>) -> Self {
        let state = State::new(options, clock.now());
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// `weft.metrics.v1.Metrics`.
    pub fn metrics(&self) -> MetricsServer<Self> {
        MetricsServer::new(self.clone())
    }

    /// OTLP's metrics service.
    pub fn otlp_metrics(&self) -> MetricsServiceServer<Self> {
        MetricsServiceServer::new(self.clone())
    }

    /// OTLP's trace service.
    pub fn otlp_traces(&self) -> TraceServiceServer<Self> {
        TraceServiceServer::new(self.clone())
    }

    /// OTLP's logs service, which takes nothing in.
    pub fn otlp_logs(&self) -> LogsServiceServer<Self> {
        LogsServiceServer::new(self.clone())
    }

    /// `/metrics` for Prometheus.
    pub fn http(&self) -> Router {
        let service = self.clone();
        let scrape = move || async move { ([(header::CONTENT_TYPE, export::CONTENT_TYPE)], service.prometheus()) };
        Router::new().route("/metrics", get(scrape))
    }

    /// The page that [`Self::http`] serves.
    pub fn prometheus(&self) -> String {
        self.with(|state, _| export::text(state))
    }

    /// Acts on the state. The lock is held for the act only, never across an await.
    fn with<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        // Time is read under the lock, so that it does not go back between two acts.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        state.sweep(now);
        act(&mut state, now)
    }
}
