//! Many small models, of which a mesh holds those that are called.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use weft_proto::duration;
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, Autoscaling, Model};

use crate::calls::{Caller, raw, until};
use crate::graphs;

/// The most rows of a batch.
const ROWS: usize = 4;

/// A repository of models that double what they are given.
pub struct Catalogue {
    folder: TempDir,
    /// What one of them takes in a worker's memory, in bytes.
    pub size: u64,
    names: Vec<String>,
}

impl Catalogue {
    /// Writes so many of them.
    pub fn make(count: usize) -> Result<Self> {
        let (folder, graph) = (tempfile::tempdir()?, graphs::double());
        let names: Vec<String> = (0..count).map(|number| format!("double-{number:03}")).collect();
        for name in &names {
            let model = folder.path().join(name);
            fs::create_dir_all(model.join("1"))?;
            fs::write(model.join("1/model.onnx"), &graph)?;
            fs::write(model.join("config.pbtxt"), format!("max_batch_size: {ROWS}"))?;
        }
        Ok(Self { folder, size: weft_engine::estimate_bytes(graph.len() as u64, ROWS), names })
    }

    /// Where they are.
    pub fn folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A request to the model at this place, which starts again after the last.
    pub fn request(&self, at: usize) -> ModelInferRequest {
        let name = &self.names[at % self.names.len()];
        let input: Vec<u8> = [1.0_f32, 2.0, 3.0, at as f32].into_iter().flat_map(f32::to_le_bytes).collect();
        raw(name, ("X", "FP32"), &[1, 4], input)
    }

    /// Whether an answer is right.
    pub fn is_right(answer: &ModelInferResponse, at: usize) -> bool {
        let output = [2.0_f32, 4.0, 6.0, 2.0 * at as f32].into_iter().flat_map(f32::to_le_bytes);
        answer.raw_output_contents.first().is_some_and(|told| told.iter().copied().eq(output))
    }

    /// Has every one of them held while it is called, by one replica at most.
    pub async fn apply(&self, caller: &Caller, idle_after: Duration) -> Result<()> {
        for name in &self.names {
            on_demand(caller, name, 1, idle_after).await?;
        }
        Ok(())
    }

    /// Calls the model at this place, within this time.
    pub async fn call(&self, caller: &Caller, at: usize, limit: Duration) -> Result<()> {
        let answer = caller.infer(self.request(at), limit).await?.into_inner();
        ensure!(Self::is_right(&answer, at), "a wrong answer: {answer:?}");
        Ok(())
    }
}

/// Has a model held while it is called, by so many replicas at most.
pub async fn on_demand(caller: &Caller, model: &str, max_replicas: u32, idle_after: Duration) -> Result<()> {
    let idle_after = Some(duration(idle_after));
    let autoscaling = Autoscaling { min_replicas: 0, max_replicas, idle_after, ..Autoscaling::default() };
    let model = Model { name: model.to_owned(), autoscaling: Some(autoscaling), ..Model::default() };
    let mut models = ModelsClient::new(caller.channel.clone());
    until("the model to be applied", async || {
        models.apply_model(ApplyModelRequest { model: Some(model.clone()) }).await.is_ok()
    })
    .await
}
