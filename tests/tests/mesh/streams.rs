//! `ModelStreamInfer` through the mesh.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, stream};
use weft_proto::inference::ModelInferRequest;
use weft_tests::calls::{identity, sleep, until, with_timeout};
use weft_tests::mesh::Mesh;

/// Longer than any wait of these tests: a deadline must not do what the test is about.
const LIMIT: Duration = Duration::from_secs(300);

fn marked(mut request: ModelInferRequest, id: usize) -> ModelInferRequest {
    request.id = id.to_string();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_model_come_in_order_and_an_error_does_not_end_the_stream() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let requests: Vec<ModelInferRequest> = (0..200)
        .map(|id| {
            let mut request = marked(identity(id % 7), id);
            match id % 50 {
                10 => request.inputs[0].shape = vec![-1],
                20 => request.model_name = "nobody".into(),
                _ => {}
            }
            request
        })
        .collect();
    let mut answers =
        caller.inference().model_stream_infer(with_timeout(stream::iter(requests), LIMIT)).await?.into_inner();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    while let Some(answer) = answers.message().await? {
        let id: usize = answer.infer_response.context("a response names its request")?.id.parse()?;
        if answer.error_message.is_empty() { good.push(id) } else { bad.push(id) }
    }
    let expected = |of_bad: bool| (0..200).filter(move |id| [10, 20].contains(&(id % 50)) == of_bad);
    assert_eq!(good, expected(false).collect::<Vec<_>>());
    bad.sort_unstable();
    assert_eq!(bad, expected(true).collect::<Vec<_>>());
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_can_call_several_models() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    for model in ["identity", "sleep"] {
        caller.wait_ready(model).await?;
    }
    let requests = (0..40).map(|id| marked(if id % 2 == 0 { identity(3) } else { sleep(1) }, id));
    let mut answers =
        caller.inference().model_stream_infer(with_timeout(stream::iter(requests), LIMIT)).await?.into_inner();
    let mut seen = Vec::new();
    while let Some(answer) = answers.message().await? {
        assert_eq!(answer.error_message, "");
        seen.push(answer.infer_response.context("a response")?.id.parse::<usize>()?);
    }
    for parity in [0, 1] {
        let of_one: Vec<usize> = seen.iter().copied().filter(|id| id % 2 == parity).collect();
        assert_eq!(of_one, (0..40).filter(|id| id % 2 == parity).collect::<Vec<_>>());
    }
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_stops_its_work() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    let requests = stream::iter([sleep(1), sleep(600_000)]).chain(stream::pending());
    let mut answers = caller.inference().model_stream_infer(with_timeout(requests, LIMIT)).await?.into_inner();
    answers.message().await?.context("the first answer")?;
    drop(answers);
    until("the sleep to be stopped", async || {
        mesh.sample("weft_work_stopped_total").await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    mesh.stop().await?;
    Ok(())
}

/// A caller that takes nothing, and keeps its connection alive, holds its call no longer than its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_is_cut_at_its_deadline() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let requests = stream::iter((0..64).map(|id| marked(identity(1 << 18), id))).chain(stream::pending());
    let answers = caller.inference().model_stream_infer(with_timeout(requests, Duration::from_secs(3))).await?;
    let in_flight = async |wanted: f64| mesh.sample("weft_router_in_flight").await.is_ok_and(|count| count == wanted);
    until("the stream to be in flight", async || in_flight(1.0).await).await?;
    until("the stream to be cut", async || in_flight(0.0).await).await?;
    // Others were served all the while, on the same mesh.
    caller.infer(identity(4), LIMIT).await?;
    drop(answers);
    mesh.stop().await?;
    Ok(())
}
