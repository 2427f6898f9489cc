//! What becomes of jobs on a scheduler.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};

use super::{Metrics, names};

/// How many open jobs a scheduler runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenJobs {
    /// On their way forward.
    pub running: u64,
    /// Being undone.
    pub compensating: u64,
    /// Of both, those that wait for an operator.
    pub stuck: u64,
}

/// The instruments of a scheduler's jobs.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    transitions: Counter<u64>,
    attempts: Counter<u64>,
    takeovers: Counter<u64>,
    duration: Histogram<f64>,
}

impl Metrics {
    /// The instruments of jobs.
    pub fn jobs(&self) -> JobMetrics {
        let meter = &self.0.meter;
        let count = |name, unit, about| meter.u64_counter(name).with_unit(unit).with_description(about).build();
        let about = "Time from a job's submission to its end";
        JobMetrics {
            transitions: count(names::JOB_TRANSITIONS, "{transition}", "Committed transitions of jobs"),
            attempts: count(names::JOB_ATTEMPTS, "{attempt}", "Attempts of jobs' steps, by how they ended"),
            takeovers: count(names::JOB_TAKEOVERS, "{job}", "Open jobs that were taken over from another scheduler"),
            duration: meter.f64_histogram(names::JOB_DURATION).with_unit("s").with_description(about).build(),
        }
    }

    /// Shows the open jobs, read at each export. Call it once: the instruments live as long as the service.
    pub fn observe_jobs(&self, open: impl Fn() -> OpenJobs + Send + Sync + 'static) {
        let open = Arc::new(open);
        let of_state = Arc::clone(&open);
        let gauge = self.0.meter.u64_observable_gauge(names::JOBS_OPEN).with_unit("{job}");
        let states = move || {
            let OpenJobs { running, compensating, .. } = of_state();
            [("running", running), ("compensating", compensating)]
        };
        gauge
            .with_description("Open jobs that this scheduler runs")
            .with_callback(move |gauge| {
                states()
                    .into_iter()
                    .for_each(|(state, jobs)| gauge.observe(jobs, &[KeyValue::new(names::STATE, state)]));
            })
            .build();
        let gauge = self.0.meter.u64_observable_gauge(names::JOBS_STUCK).with_unit("{job}");
        let gauge = gauge.with_description("Open jobs that wait for an operator");
        gauge.with_callback(move |gauge| gauge.observe(open().stuck, &[])).build();
    }
}

impl JobMetrics {
    /// A transition that is in the log.
    pub fn record_transition(&self) {
        self.transitions.add(1, &[]);
    }

    /// An attempt that ended so: `done`, `absent`, `failed_clean` or `unknown`.
    pub fn record_attempt(&self, direction: &'static str, outcome: &'static str) {
        let attributes = [KeyValue::new(names::DIRECTION, direction), KeyValue::new(names::OUTCOME, outcome)];
        self.attempts.add(1, &attributes);
    }

    /// A job that another scheduler ran before.
    pub fn record_takeover(&self) {
        self.takeovers.add(1, &[]);
    }

    /// A job that ended in this state, so long after it was submitted.
    pub fn record_end(&self, state: &'static str, took: Duration) {
        self.duration.record(took.as_secs_f64(), &[KeyValue::new(names::STATE, state)]);
    }
}
