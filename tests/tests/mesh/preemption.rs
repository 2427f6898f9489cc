//! Realtime calls while every executor is busy with what can wait.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest};
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, DeleteModelRequest, Model, Priority};
use weft_tests::calls::{Caller, beside, identity, sleep, until};
use weft_tests::mesh::Mesh;

/// As many as `sleep` executes at once.
const EXECUTORS: usize = 1024;
/// Calls of the batch model that makes way.
const MODEL_CALLS: usize = 64;
/// Calls of one connection, below what it may have under way.
const CALLS: usize = 512;
const LIMIT: Duration = Duration::from_secs(120);

fn urgent(request: ModelInferRequest, band: i64) -> ModelInferRequest {
    let mut request = request;
    let priority = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(band)) };
    request.parameters.insert("priority".into(), priority);
    request
}

async fn apply(caller: &Caller, name: &str, priority: Priority, anti_affinity: &[&str]) -> Result<()> {
    let anti_affinity = anti_affinity.iter().map(|name| (*name).to_owned()).collect();
    let model =
        Model { name: name.to_owned(), replicas: 1, priority: priority.into(), anti_affinity, ..Model::default() };
    ModelsClient::new(caller.channel.clone()).apply_model(ApplyModelRequest { model: Some(model) }).await?;
    Ok(())
}

/// A batch model whose place a realtime model needs goes at once, not when its calls have ended. They wait until it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_realtime_model_takes_the_place_of_a_batch_model_whose_calls_are_answered_later() -> Result<()> {
    let mesh = Mesh::start(&["--scheduler-auto", "false"]).await?;
    let caller = mesh.caller()?;
    caller.first_worker().await?;
    apply(&caller, "sleep", Priority::Batch, &[]).await?;
    caller.wait_ready("sleep").await?;
    let calls = (0..MODEL_CALLS).map(|_| {
        let caller = caller.clone();
        async move { caller.infer(sleep(4_000), LIMIT).await }
    });
    let calls: Vec<_> = calls.collect();
    let batch = beside(try_join_all(calls));
    until("every batch call to run", async || {
        let running = mesh.sample("weft_model_queue_duration_seconds_count").await;
        running.is_ok_and(|count| count >= MODEL_CALLS as f64)
    })
    .await?;
    apply(&caller, "identity", Priority::Realtime, &["sleep"]).await?;
    caller.infer(identity(4), LIMIT).await?;
    // What a drain waits for, or drops when it has waited for too long, is not preempted.
    until("the preemptions to be told", async || {
        mesh.sample("weft_preempt_to_stop_seconds_count").await.is_ok_and(|count| count >= MODEL_CALLS as f64)
    })
    .await?;
    let unwanted = DeleteModelRequest { name: "identity".to_owned() };
    ModelsClient::new(caller.channel.clone()).delete_model(unwanted).await?;
    assert_eq!(batch.outcome().await??.len(), MODEL_CALLS);
    // As errors of its version they could end a rollout.
    let told = mesh.scrape().await?;
    let calls = told.lines().filter(|line| line.starts_with("weft_model_call_duration_seconds_count{"));
    let failed = calls.clone().filter(|line| line.contains("UNAVAILABLE"));
    assert_eq!((failed.count(), calls.filter(|line| line.contains("CANCELLED")).count()), (0, 1), "{told}");
    mesh.stop().await
}

/// The stopped call is executed again: all of them are answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_realtime_call_takes_the_place_of_a_batch_call_that_is_answered_later() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    mesh.caller()?.wait_ready("sleep").await?;
    let worker = mesh.caller()?.first_worker().await?;
    let mut callers: Vec<Caller> = Vec::new();
    for _ in 0..EXECUTORS / CALLS {
        callers.push(mesh.caller()?.first_worker().await?);
    }
    let all = callers.into_iter().flat_map(|caller| {
        (0..CALLS).map(move |_| {
            let caller = caller.clone();
            async move { caller.infer(urgent(sleep(4_000), 3), LIMIT).await }
        })
    });
    let batch = beside(try_join_all(all.collect::<Vec<_>>()));
    let in_flight = async || {
        let running = mesh.sample("weft_model_queue_duration_seconds_count").await;
        running.is_ok_and(|count| count >= EXECUTORS as f64)
    };
    until("every executor to be busy", in_flight).await?;
    worker.infer(urgent(sleep(0), 1), Duration::from_secs(1)).await?;
    assert_eq!(batch.outcome().await??.len(), EXECUTORS);
    until("the preemption to be told", async || {
        mesh.sample("weft_preemptions_total").await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    mesh.stop().await?;
    Ok(())
}
