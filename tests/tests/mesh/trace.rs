//! One call is one trace, from the client through the router to the worker; and who answered it is told to those who ask.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};
use weft_proto::inference::ModelInferRequest;
use weft_proto::weft::control::v1::ListWorkersRequest;
use weft_proto::weft::control::v1::workers_client::WorkersClient;
use weft_telemetry::{Options, Telemetry};
use weft_tests::calls::{identity, raw, until, with_timeout};
use weft_tests::mesh::Mesh;
use weft_tests::sink::{Kept, Sink};

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_client_router_and_worker_hang_together() -> Result<()> {
    let (sink, endpoint, drain) = Sink::start().await?;
    let mesh = Mesh::start(&["--otlp-endpoint", &endpoint]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;

    let telemetry = Telemetry::new(Options { endpoint: Some(endpoint), sample_ratio: 1.0, ..Options::default() })?;
    let client = telemetry.scope("client", "test")?.start_client("call", None);
    let mut request = with_timeout(identity(4), Duration::from_secs(20));
    let mut headers = request.metadata().clone().into_headers();
    client.context().inject(&mut headers);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    caller.inference().model_infer(request).await?;
    let trace_id = u128::from_str_radix(&client.context().trace_id(), 16)?.to_be_bytes();
    drop(client);

    let mut spans = Vec::new();
    until("spans of every hop", async || {
        spans = sink.trace(&trace_id);
        let services: Vec<&str> = spans.iter().map(|kept| kept.service.as_str()).collect();
        services.contains(&"client")
            && services.iter().filter(|name| **name == "weft-router").count() >= 2
            && services.iter().filter(|name| **name == "weft-worker").count() >= 2
    })
    .await?;
    let chain = ["client", "weft-router", "weft-router", "weft-worker", "weft-worker"];
    let mut parent: Vec<u8> = Vec::new();
    for service in chain {
        let below = |kept: &&Kept| kept.service == service && kept.span.parent_span_id == parent;
        let kept =
            spans.iter().find(below).with_context(|| format!("no {service} span below the one before: {spans:#?}"))?;
        parent.clone_from(&kept.span.span_id);
    }
    let execute = spans.iter().find(|kept| kept.span.span_id == parent).context("the last span")?;
    let attributes: Vec<&str> = execute.span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    for wanted in ["weft.queue_ms", "weft.compute_ms", "weft.deadline_remaining_ms"] {
        assert!(attributes.contains(&wanted), "{wanted} is not among {attributes:?}");
    }
    telemetry.shutdown(Duration::from_secs(2)).await;
    mesh.stop().await?;
    drain.run(Duration::ZERO).await;
    Ok(())
}

/// Where a caller asks which worker it was, and is told.
const WORKER: &str = "weft-worker";

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_told_which_worker_answered_or_failed() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    caller.wait_ready("fail").await?;
    let listed = WorkersClient::new(caller.channel.clone()).list_workers(ListWorkersRequest {}).await?.into_inner();
    let worker = listed.workers.into_iter().find_map(|view| view.worker).context("a worker is there")?.id;
    let asking = |message: ModelInferRequest| -> Request<ModelInferRequest> {
        let mut request = with_timeout(message, Duration::from_secs(20));
        request.metadata_mut().insert(WORKER, MetadataValue::from_static("?"));
        request
    };
    let told = |metadata: &MetadataMap| metadata.get(WORKER).and_then(|id| id.to_str().ok().map(str::to_owned));
    let answer = caller.inference().model_infer(asking(identity(4))).await?;
    assert_eq!(told(answer.metadata()).as_deref(), Some(worker.as_str()));
    let fails = || raw("fail", ("MESSAGE", "BYTES"), &[1], [&4_u32.to_le_bytes()[..], &b"text"[..]].concat());
    let failure = caller.inference().model_infer(asking(fails())).await.expect_err("it fails");
    assert_eq!(told(failure.metadata()).as_deref(), Some(worker.as_str()), "{failure}");
    let unheard = ModelInferRequest { model_name: "unheard-of".to_owned(), ..identity(4) };
    let refusal = caller.inference().model_infer(asking(unheard)).await.expect_err("it is unknown");
    assert_eq!(told(refusal.metadata()), None, "no worker was asked");
    // Nobody else is told anything.
    let quiet = caller.infer(identity(4), Duration::from_secs(20)).await?;
    assert_eq!(told(quiet.metadata()), None);
    let quiet = caller.infer(fails(), Duration::from_secs(20)).await.expect_err("it fails");
    assert_eq!(told(quiet.metadata()), None);
    mesh.stop().await
}
