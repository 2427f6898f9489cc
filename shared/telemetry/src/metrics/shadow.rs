//! What the copies of a route's calls came to.

use std::sync::Arc;

use opentelemetry::KeyValue;
use weft_types::{ModelName, Version};

use super::{Instruments, Metrics, names};

/// What became of a call's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowOutcome {
    /// It had the answer that the call had.
    Equal,
    /// It had another answer than the call, or one where the call had none.
    Different,
    /// It had no answer, and the call had one or failed in another way.
    Failed,
    /// It was not sent: no replica was ready, or too many copies were under way.
    Dropped,
    /// The call was given up before its answer was there to be compared.
    Abandoned,
}

impl ShadowOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The instruments of one route's shadow, to be kept for as long as the route has it.
#[derive(Clone, Debug)]
pub struct ShadowMetrics {
    instruments: Arc<Instruments>,
    attributes: [KeyValue; 3],
}

impl Metrics {
    /// The instruments of a route's shadow; without a version it is the latest one.
    pub fn shadow(&self, route: &ModelName, model: &str, version: Option<Version>) -> ShadowMetrics {
        let version = version.map_or_else(|| "latest".to_owned(), |version| version.to_string());
        let attribute = |key, value: &str| KeyValue::new(key, Arc::<str>::from(value));
        ShadowMetrics {
            instruments: Arc::clone(&self.0),
            attributes: [
                attribute(names::ROUTE, route.as_str()),
                attribute(names::MODEL, model),
                attribute(names::VERSION, &version),
            ],
        }
    }
}

impl ShadowMetrics {
    /// A call that the shadow was drawn for.
    pub fn record(&self, outcome: ShadowOutcome) {
        let [route, model, version] = self.attributes.clone();
        let attributes = [route, model, version, KeyValue::new(names::OUTCOME, outcome.as_str())];
        self.instruments.shadows.add(1, &attributes);
    }
}
