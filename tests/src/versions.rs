//! A model of several versions, good and bad, and rollouts from one to another.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use weft_proto::inference::ModelInferRequest;
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::rollouts_client::RolloutsClient;
use weft_proto::weft::control::v1::{
    ApplyModelRequest, GetRolloutRequest, Model, RolloutPhase, RolloutStatus, RolloutStep, RolloutStrategy,
    StartRolloutRequest,
};

use crate::calls::{Caller, raw, until};

/// The model.
pub const MODEL: &str = "pick";
/// Sound, as is [`NEXT`].
pub const FIRST: u64 = 1;
/// As sound as [`FIRST`].
pub const NEXT: u64 = 2;
/// Fails on what [`ask`] asks.
pub const FAILING: u64 = 3;
/// Answers, and takes many times as long.
pub const SLOW: u64 = 4;
/// Cannot be loaded.
pub const BROKEN: u64 = 5;

/// Numbers in an answer.
const SIDE: usize = 64;

/// A repository that holds all of them.
pub fn repository() -> Result<TempDir> {
    repository_of(&[FIRST, NEXT, FAILING, SLOW, BROKEN])
}

/// A repository that holds these of them.
pub fn repository_of(versions: &[u64]) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join(MODEL))?;
    std::fs::write(folder.path().join(MODEL).join("config.pbtxt"), format!("name: '{MODEL}' backend: 'tract'"))?;
    versions.iter().try_for_each(|version| add(folder.path(), *version))?;
    Ok(folder)
}

/// Puts a version into a repository.
pub fn add(repository: &Path, version: u64) -> Result<()> {
    let bytes = match version {
        FAILING => crate::graphs::picked(10, SIDE, (SIDE, 1)),
        SLOW => crate::graphs::picked(100, SIDE, (32 * SIDE, 16)),
        BROKEN => bytes::Bytes::from_static(b"no model"),
        _ => crate::graphs::picked(100, SIDE, (SIDE, 1)),
    };
    let folder = repository.join(MODEL).join(version.to_string());
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::write(folder.join("model.onnx"), bytes)?)
}

/// A call that sound versions answer.
pub fn ask() -> ModelInferRequest {
    raw(MODEL, ("INDEX", "INT64"), &[1, 1], 50i64.to_le_bytes().to_vec())
}

/// Serves [`FIRST`] on so many workers, and waits until it is ready.
pub async fn serve_first(caller: &Caller, replicas: u32) -> Result<()> {
    let mut models = ModelsClient::new(caller.channel.clone());
    let model = Model { name: MODEL.into(), replicas, versions: vec![FIRST], ..Model::default() };
    until("the model to be applied", async || {
        models.apply_model(ApplyModelRequest { model: Some(model.clone()) }).await.is_ok()
    })
    .await?;
    until("its replicas", async || crate::replicas::ready_on(caller, MODEL).await.len() == replicas as usize).await
}

/// One step with this share that ends as soon as enough calls were seen.
pub fn share(percent: u32) -> RolloutStrategy {
    let pause = Some(weft_proto::duration(Duration::ZERO));
    RolloutStrategy { steps: vec![RolloutStep { percent, pause }], ..RolloutStrategy::default() }
}

/// Begins a rollout from [`FIRST`].
pub async fn start(caller: &Caller, version: u64, strategy: RolloutStrategy) -> Result<()> {
    let request =
        StartRolloutRequest { model: MODEL.into(), version, expected_version: FIRST, strategy: Some(strategy) };
    RolloutsClient::new(caller.channel.clone()).start_rollout(request).await?;
    Ok(())
}

/// What became of the rollout so far.
pub async fn status(caller: &Caller) -> Result<RolloutStatus> {
    let request = GetRolloutRequest { model: MODEL.into() };
    let told = RolloutsClient::new(caller.channel.clone()).get_rollout(request).await?.into_inner();
    told.rollout.and_then(|rollout| rollout.status).context("a rollout has a status")
}

/// Waits until the rollout is in this phase.
pub async fn until_phase(caller: &Caller, phase: RolloutPhase) -> Result<RolloutStatus> {
    let mut last = RolloutStatus::default();
    let waited = until("the rollout's phase", async || {
        last = status(caller).await.unwrap_or_default();
        last.phase() == phase
    });
    waited.await.with_context(|| format!("{last:?}"))?;
    Ok(last)
}
