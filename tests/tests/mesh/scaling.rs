//! Models that are there while they are called.

use std::time::Duration;

use anyhow::{Context as _, Result};
use prost::Message as _;
use tonic::Code;
use weft_proto::error_of;
use weft_proto::inference::{RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, Autoscaling, GetModelRequest, Model, ModelView};
use weft_proto::weft::state::v1::{ReplicaState, Scale};
use weft_store::{Op, Txn};
use weft_tests::calls::{Caller, PATIENCE, beside, identity, until};
use weft_tests::catalogue::on_demand;
use weft_tests::load::Load;
use weft_tests::mesh::Mesh;

/// Explicit, so that nothing is loaded that nobody asked for.
const FLAGS: [&str; 2] = ["--scheduler-auto", "false"];
const MODEL: &str = "identity";

async fn view(caller: &Caller) -> Result<ModelView> {
    let mut models = ModelsClient::new(caller.channel.clone());
    let told = models.get_model(GetModelRequest { name: MODEL.into() }).await?.into_inner();
    told.model.context("the model is known")
}

async fn target(caller: &Caller) -> Option<u32> {
    view(caller).await.ok()?.scale.map(|scale| scale.target)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_waits_for_a_model_that_sleeps() -> Result<()> {
    let mesh = Mesh::start(&FLAGS).await?;
    let caller = mesh.caller()?;
    on_demand(&caller, MODEL, 1, Duration::from_secs(4)).await?;
    for _ in 0..2 {
        until("the model to sleep", async || {
            let asleep =
                |view: ModelView| view.scale.is_some_and(|scale| scale.target == 0) && view.replicas.is_empty();
            view(&caller).await.is_ok_and(asleep)
        })
        .await?;
        // Many at once make one wish.
        let calls = [0; 20].map(|_| {
            let caller = caller.clone();
            beside(async move { caller.infer(identity(4), PATIENCE).await })
        });
        for call in calls {
            call.outcome().await??;
        }
        assert_eq!(target(&caller).await, Some(1));
    }
    mesh.stop().await
}

/// What is served is never cut off: calls that come while the last replica goes are held, and have the model brought back.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_while_the_last_replica_goes_are_answered() -> Result<()> {
    let mesh = Mesh::start(&FLAGS).await?;
    let caller = mesh.caller()?;
    on_demand(&caller, MODEL, 1, Duration::from_secs(300)).await?;
    let load = Load::start(std::slice::from_ref(&caller), &identity(16), 8, PATIENCE);
    load.pass(50).await?;
    let name = MODEL.parse()?;
    for _ in 0..12 {
        // As a leader that takes the model for idle at the worst moment; the one that leads sets it right with the next look or call.
        let asleep = Scale { target: 0, why: "planted".to_owned(), ..Scale::default() };
        let put = Op::Put { key: mesh.process.keys.scale(&name), value: asleep.encode_to_vec().into(), lease: None };
        mesh.process.store.commit(Txn { compares: Vec::new(), ops: vec![put] }).await?;
        until("the replica to go", async || {
            let ready = |view: ModelView| view.replicas.iter().any(|replica| replica.state() == ReplicaState::Ready);
            view(&caller).await.is_ok_and(|view| !ready(view))
        })
        .await?;
        load.pass(50).await?;
    }
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_on_demand_is_loaded_and_unloaded_by_request() -> Result<()> {
    let mesh = Mesh::start(&FLAGS).await?;
    let caller = mesh.caller()?;
    on_demand(&caller, MODEL, 1, Duration::from_secs(300)).await?;
    let mut inference = caller.inference();
    let load = RepositoryModelLoadRequest { model_name: MODEL.into(), ..Default::default() };
    inference.repository_model_load(load).await?;
    assert!(view(&caller).await?.model.context("applied")?.autoscaling.is_some(), "demand still decides");
    // Told to go, it goes, and no call brings it back.
    let unload = RepositoryModelUnloadRequest { model_name: MODEL.into(), ..Default::default() };
    inference.repository_model_unload(unload).await?;
    let refused = caller.infer(identity(4), PATIENCE).await.expect_err("it is unloaded");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_that_cannot_be_are_refused_by_name() -> Result<()> {
    let mesh = Mesh::start(&FLAGS).await?;
    let caller = mesh.caller()?;
    caller.first_worker().await?;
    let mut models = ModelsClient::new(caller.channel.clone());
    let autoscaling = Autoscaling { max_replicas: 2, target_utilization: f64::NAN, ..Autoscaling::default() };
    let model = Model { name: MODEL.into(), autoscaling: Some(autoscaling), ..Model::default() };
    let refused = models.apply_model(ApplyModelRequest { model: Some(model) }).await.expect_err("no number");
    assert_eq!(error_of(&refused).field(), Some("model.autoscaling.target_utilization"), "{refused}");
    mesh.stop().await
}
