//! Where the answers of a route that keeps them came from.

use std::sync::Arc;

use opentelemetry::KeyValue;
use weft_types::ModelName;

use super::{Instruments, Metrics, names};

/// Where a call's answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// It was there.
    Hit,
    /// The call waited for that of an equal one.
    Wait,
    /// The call was sent, and its answer may be kept.
    Miss,
    /// The call may neither take nor leave an answer: its caller said so, or it belongs to a sequence, has a priority or is too long.
    Bypass,
}

impl CacheOutcome {
    /// As metrics and callers read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Wait => "wait",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// The instruments of one route that keeps answers, to be kept for as long as it does.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    instruments: Arc<Instruments>,
    route: KeyValue,
}

impl Metrics {
    /// The instruments of a route that keeps answers.
    pub fn cache(&self, route: &ModelName) -> CacheMetrics {
        let route = KeyValue::new(names::ROUTE, Arc::<str>::from(route.as_str()));
        CacheMetrics { instruments: Arc::clone(&self.0), route }
    }

    /// Shows the bytes that kept answers take, read at each export. Call it once: the instrument lives as long as the service.
    pub fn observe_cache(&self, bytes: impl Fn() -> u64 + Send + Sync + 'static) {
        let gauge = self.0.meter.u64_observable_gauge(names::CACHE_BYTES).with_unit("By");
        let gauge = gauge.with_description("Bytes that kept answers take");
        gauge.with_callback(move |gauge| gauge.observe(bytes(), &[])).build();
    }
}

impl CacheMetrics {
    /// A call of the route.
    pub fn record(&self, outcome: CacheOutcome) {
        let outcome = KeyValue::new(names::OUTCOME, outcome.as_str());
        self.instruments.cache_calls.add(1, &[self.route.clone(), outcome]);
    }
}
