//! What the log of jobs costs.

use std::time::Duration;

use opentelemetry::metrics::Histogram;

use super::{Metrics, names};

/// The instruments of a scheduler's log of jobs.
#[derive(Clone, Debug)]
pub struct JournalMetrics {
    size: Histogram<u64>,
    duration: Histogram<f64>,
}

impl Metrics {
    /// The instruments of the log of jobs.
    pub fn journal(&self) -> JournalMetrics {
        let meter = &self.0.meter;
        let about = "Transitions of jobs in one transaction of the log";
        let size = meter.u64_histogram(names::JOB_COMMIT_SIZE).with_unit("{transition}").with_description(about);
        let about = "Time from the first sending of a transaction of the log to its fate being known";
        let duration = meter.f64_histogram(names::JOB_COMMIT).with_unit("s").with_description(about);
        JournalMetrics { size: size.build(), duration: duration.build() }
    }

    /// Shows the shards that a scheduler has, read at each export. Call it once: the instrument lives as long as the service.
    pub fn observe_shards(&self, owned: impl Fn() -> usize + Send + Sync + 'static) {
        let gauge = self.0.meter.u64_observable_gauge(names::JOB_SHARDS).with_unit("{shard}");
        let gauge = gauge.with_description("Shards of the log of jobs that this scheduler has");
        gauge.with_callback(move |gauge| gauge.observe(owned() as u64, &[])).build();
    }
}

impl JournalMetrics {
    /// A transaction with so many transitions that is in the log, and how long that took.
    pub fn record_commit(&self, transitions: usize, took: Duration) {
        self.size.record(transitions as u64, &[]);
        self.duration.record(took.as_secs_f64(), &[]);
    }
}
