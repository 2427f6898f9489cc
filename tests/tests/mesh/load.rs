//! ORCA load reports (gRFC A51): with every answer and out of band, from workers and from routers, and what a router makes of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::HeaderValue;
use http::uri::PathAndQuery;
use prost::Message as _;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::{Code, Request};
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_proto::orca::open_rca_service_client::OpenRcaServiceClient;
use weft_proto::orca::{OrcaLoadReport, OrcaLoadReportRequest, TRAILER, named};
use weft_tests::calls::{Caller, identity};
use weft_tests::mesh::Mesh;

use super::tap::Tap;

const LONG: Duration = Duration::from_secs(20);

/// The only report that an answer carries.
fn report(metadata: &MetadataMap) -> Result<OrcaLoadReport> {
    let mut all = metadata.get_all_bin(TRAILER).iter();
    let report = OrcaLoadReport::decode(all.next().context("there is one")?.to_bytes()?)?;
    ensure!(all.next().is_none(), "there are two");
    Ok(report)
}

fn is_of_router(report: &OrcaLoadReport) -> bool {
    report.named_metrics.contains_key(named::IN_FLIGHT) && !report.named_metrics.contains_key(named::RUNNING)
}

/// The headers and the trailers of an answer.
async fn parts(caller: &Caller, message: ModelInferRequest) -> Result<(MetadataMap, MetadataMap)> {
    let mut grpc = tonic::client::Grpc::new(caller.channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
    let codec = tonic_prost::ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
    let answer = grpc.server_streaming(Request::new(message), path, codec).await?;
    let (headers, mut body, _) = answer.into_parts();
    body.message().await?.context("there is an answer")?;
    ensure!(body.message().await?.is_none(), "there is one answer");
    Ok((headers, body.trailers().await?.context("there are trailers")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_the_load_of_who_gives_it() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let router = mesh.caller()?;
    router.wait_ready("identity").await?;
    let worker = router.first_worker().await?;
    let (headers, trailers) = parts(&worker, identity(4)).await?;
    let told = report(&trailers)?;
    assert!(!headers.contains_key(TRAILER));
    assert_eq!((told.named_metrics[named::RUNNING], told.named_metrics[named::QUEUE_DEPTH]), (0.0, 0.0));
    assert!(told.rps_fractional > 0.0 && told.application_utilization < 1.0, "{told:?}");
    let (headers, trailers) = parts(&router, identity(4)).await?;
    let told = report(&trailers)?;
    assert!(!headers.contains_key(TRAILER) && is_of_router(&told), "{told:?}");
    assert_eq!(told.named_metrics[named::IN_FLIGHT], 0.0);
    // A refusal is an answer; that of the worker's is not passed on.
    let wrong = ModelInferRequest { raw_input_contents: Vec::new(), ..identity(4) };
    let status = worker.infer(wrong.clone(), LONG).await.expect_err("nothing in it");
    assert!(!is_of_router(&report(status.metadata())?));
    let status = router.infer(wrong, LONG).await.expect_err("nothing in it");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(is_of_router(&report(status.metadata())?), "{status:?}");
    mesh.stop().await
}

/// The first report comes at once, the next without being asked for, and the drain waits for none.
#[tokio::test(flavor = "multi_thread")]
async fn load_is_told_out_of_band_until_the_drain() -> Result<()> {
    let mesh = Mesh::start(&["--drain-grace", "1h"]).await?;
    let router = mesh.caller()?;
    router.wait_ready("identity").await?;
    let worker = router.first_worker().await?;
    let mut streams = Vec::new();
    for caller in [&router, &worker] {
        let asked = OrcaLoadReportRequest::default();
        let mut stream =
            OpenRcaServiceClient::new(caller.channel.clone()).stream_core_metrics(asked).await?.into_inner();
        let first = stream.message().await?.context("the first")?;
        caller.infer(identity(4), LONG).await?;
        let mut next = stream.message().await?.context("another")?;
        // What is told is the whole load again; the call may have ended after a report had been taken.
        while next.rps_fractional <= first.rps_fractional {
            next = stream.message().await?.context("another")?;
        }
        streams.push(stream);
    }
    mesh.stop().await?;
    for mut stream in streams {
        // What was told before may still be on its way.
        let mut ended = stream.message().await;
        while let Ok(Some(_)) = ended {
            ended = stream.message().await;
        }
        assert_eq!(ended.err().map(|status| status.code()), Some(Code::Unavailable));
    }
    Ok(())
}

fn telling(running: f64) -> HeaderValue {
    let named_metrics = [(named::RUNNING.to_owned(), running)].into();
    encoded(
        &OrcaLoadReport { named_metrics, application_utilization: 0.5, ..OrcaLoadReport::default() }.encode_to_vec(),
    )
}

fn encoded(bytes: &[u8]) -> HeaderValue {
    let value = BinaryMetadataValue::from_bytes(bytes);
    HeaderValue::from_bytes(value.as_encoded_bytes()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What others have sent to a replica is seen in nothing but its reports: calls go to the one that has less, although it is the slower
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_keeps_off_a_replica_that_is_busy_for_others() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let busy = Tap::telling(&mesh, ("busy", "tapped"), vec![telling(50.0)]).await?;
    let idle = Tap::slow(&mesh, ("idle", "tapped"), vec![telling(0.0)]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("tapped").await?;
    let request = ModelInferRequest { model_name: "tapped".into(), ..Default::default() };
    // Both are known first.
    while busy.told("grpc-timeout").is_empty() || idle.told("grpc-timeout").is_empty() {
        caller.infer(request.clone(), LONG).await?;
    }
    let before = (busy.told("grpc-timeout").len(), idle.told("grpc-timeout").len());
    for _ in 0..100 {
        let answer = caller.infer(request.clone(), LONG).await?;
        let told = report(answer.metadata())?;
        // The router's own figure is the mean of what the replicas told.
        assert!(is_of_router(&told) && (told.application_utilization - 0.5).abs() < 1e-3, "{told:?}");
    }
    let calls = (busy.told("grpc-timeout").len() - before.0, idle.told("grpc-timeout").len() - before.1);
    assert!(calls.0 * 4 < calls.1, "{calls:?}");
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_report_costs_nothing_and_is_not_passed_on() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let junk =
        [HeaderValue::from_static("%%% not base64"), encoded(&[0xff; 40]), encoded(&[0x0a; 6_000]), telling(f64::NAN)];
    let replicas = junk.iter().enumerate();
    let mut taps = Vec::new();
    for (index, value) in replicas {
        let id = format!("hostile-{index}");
        taps.push(Tap::telling(&mesh, (&id, "tapped"), vec![value.clone(), telling(-1.0)]).await?);
    }
    let caller = mesh.caller()?;
    caller.wait_ready("tapped").await?;
    let request = ModelInferRequest { model_name: "tapped".into(), ..Default::default() };
    while taps.iter().any(|tap| tap.told("grpc-timeout").is_empty()) {
        let answer = caller.infer(request.clone(), LONG).await?;
        let told = report(answer.metadata())?;
        assert!(is_of_router(&told) && told.application_utilization <= 0.5, "{told:?}");
    }
    mesh.stop().await
}
