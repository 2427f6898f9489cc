//! Triton's names for what workers measure about their models, so that dashboards made for Triton show a mesh.

use std::collections::BTreeMap;

use crate::histogram::Histogram;
use crate::window::{Key, Measure, Model};

/// Sums over all instances since the start. They are kept apart from the instances' own series, because a sum that shrinks when
/// an instance is forgotten would look like a restart.
#[derive(Debug)]
pub(crate) struct Triton {
    max_models: usize,
    models: BTreeMap<Model, Sums>,
}

/// One model's sums; times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    success: u64,
    failure: u64,
    inferences: f64,
    executions: u64,
    request: f64,
    queue: f64,
    compute: f64,
}

/// A name of Triton's, its help text and how to read its value.
pub(crate) struct Alias {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    read: fn(&Sums) -> f64,
}

/// All of them.
pub(crate) const ALIASES: [Alias; 7] = [
    Alias { name: "nv_inference_request_success", help: "Successful requests", read: |sums| sums.success as f64 },
    Alias { name: "nv_inference_request_failure", help: "Failed requests", read: |sums| sums.failure as f64 },
    Alias { name: "nv_inference_count", help: "Inferences performed", read: |sums| sums.inferences },
    Alias { name: "nv_inference_exec_count", help: "Batches executed", read: |sums| sums.executions as f64 },
    Alias {
        name: "nv_inference_request_duration_us",
        help: "Time of successful requests, from admission to answer",
        read: |sums| (sums.request * 1e6).round(),
    },
    Alias {
        name: "nv_inference_queue_duration_us",
        help: "Time that requests waited",
        read: |sums| (sums.queue * 1e6).round(),
    },
    Alias {
        name: "nv_inference_compute_infer_duration_us",
        help: "Time that requests were executed",
        read: |sums| (sums.compute * 1e6).round(),
    },
];

impl Triton {
    pub(crate) const fn new(max_models: usize) -> Self {
        Self { max_models, models: BTreeMap::new() }
    }

    /// Adds what an instance measured.
    pub(crate) fn record(&mut self, key: &Key, measured: &Histogram) {
        if self.models.len() >= self.max_models && !self.models.contains_key(&key.model) {
            return;
        }
        let sums = self.models.entry(key.model.clone()).or_default();
        match key.measure {
            Measure::Call if key.status == Some("OK") => {
                sums.success = sums.success.saturating_add(measured.count());
                sums.request += measured.sum();
            }
            Measure::Call => sums.failure = sums.failure.saturating_add(measured.count()),
            Measure::Queue => sums.queue += measured.sum(),
            Measure::Compute => sums.compute += measured.sum(),
            Measure::Batch => {
                sums.inferences += measured.sum();
                sums.executions = sums.executions.saturating_add(measured.count());
            }
        }
    }

    /// The value of an alias for every model.
    pub(crate) fn values<'a>(&'a self, alias: &Alias) -> impl Iterator<Item = (&'a Model, f64)> + use<'a> {
        let read = alias.read;
        self.models.iter().map(move |(model, sums)| (model, read(sums)))
    }
}
