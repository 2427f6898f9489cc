//! The runtime of `digits` without a mesh: one loop that executes the model again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use weft_engine::{DataType, Engine as _, Model, Source, Spec, Tensor, Tract, digits};
use weft_types::SystemClock;

use super::load::{Slice, batches, labels, pixels};

/// The model, loaded as a worker loads it.
pub(crate) struct Bare {
    model: Arc<dyn Model>,
}

impl Bare {
    pub(crate) async fn load() -> Result<Self> {
        let spec = Spec {
            name: "digits".to_owned(),
            source: Source::Bytes(Bytes::from_static(digits::MODEL)),
            max_batch_size: digits::MAX_BATCH_SIZE,
            parameters: BTreeMap::new(),
        };
        let model = Tract::new().load(&spec).await?;
        model.warm().await?;
        Ok(Self { model })
    }

    /// Executes `rows` images at a time, for so long.
    pub(crate) async fn run(&self, rows: usize, lasting: Duration) -> Result<Slice> {
        let batches: Vec<(Tensor, Bytes)> =
            batches(rows).iter().map(|images| (input(pixels(images), rows), labels(images))).collect();
        let mut times = Vec::new();
        let started = SystemClock::now();
        for (input, expected) in batches.iter().cycle() {
            let began = SystemClock::now();
            if began >= started + lasting {
                break;
            }
            let mut answers = self.model.execute(vec![vec![input.clone()]].into()).await?;
            times.push(SystemClock::now().saturating_duration_since(began));
            let outputs = answers.pop().context("one request has one answer")??;
            let label = outputs.iter().find(|output| output.name == "LABEL").context("no LABEL in the answer")?;
            ensure!(label.data == *expected, "LABEL of the bare loop is wrong");
        }
        Ok(Slice::new(started, times))
    }
}

fn input(data: Bytes, rows: usize) -> Tensor {
    Tensor { name: "PIXELS".to_owned(), datatype: DataType::Fp32, shape: vec![rows, 64], data }
}
