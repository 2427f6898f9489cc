//! What waits in a router for its turn, and what is refused instead.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, UpDownCounter};
use weft_types::{ModelName, Version};

use super::{Metrics, names};

/// The instruments of admission to one model's version, to be kept for as long as it is routed to.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    limit: Gauge<u64>,
    queued: UpDownCounter<i64>,
    wait: Histogram<f64>,
    shed: Counter<u64>,
    attributes: [KeyValue; 2],
}

impl Metrics {
    /// The instruments of admission to a model's version.
    pub fn admission(&self, model: &ModelName, version: Version) -> AdmissionMetrics {
        let meter = &self.0.meter;
        let about = "Calls that may be under way at once";
        let limit = meter.u64_gauge(names::LIMIT).with_unit("{call}").with_description(about);
        let about = "Calls that wait for their turn";
        let queued = meter.i64_up_down_counter(names::QUEUED).with_unit("{call}").with_description(about);
        let about = "Time that calls waited which got their turn";
        let wait = meter.f64_histogram(names::QUEUE_WAIT).with_unit("s").with_description(about);
        let about = "Calls refused because others were before them";
        let shed = meter.u64_counter(names::SHED).with_unit("{call}").with_description(about);
        AdmissionMetrics {
            limit: limit.build(),
            queued: queued.build(),
            wait: wait.build(),
            shed: shed.build(),
            attributes: [
                KeyValue::new(names::MODEL, Arc::<str>::from(model.as_str())),
                KeyValue::new(names::VERSION, Arc::<str>::from(version.to_string())),
            ],
        }
    }
}

impl AdmissionMetrics {
    /// So many calls may be under way at once from now on.
    pub fn record_limit(&self, calls: u32) {
        self.limit.record(calls.into(), &self.attributes);
    }

    /// A call of this band waits, or no longer does.
    pub fn add_queued(&self, band: &'static str, change: i64) {
        self.queued.add(change, &self.with(KeyValue::new(names::BAND, band)));
    }

    /// A call of this band got its turn after so long.
    pub fn record_wait(&self, band: &'static str, waited: Duration) {
        self.wait.record(waited.as_secs_f64(), &self.with(KeyValue::new(names::BAND, band)));
    }

    /// A call of this band was refused for this reason.
    pub fn record_shed(&self, band: &'static str, reason: &'static str) {
        let [model, version] = self.attributes.clone();
        let (band, reason) = (KeyValue::new(names::BAND, band), KeyValue::new(names::REASON, reason));
        self.shed.add(1, &[model, version, band, reason]);
    }

    fn with(&self, own: KeyValue) -> [KeyValue; 3] {
        let [model, version] = self.attributes.clone();
        [model, version, own]
    }
}
