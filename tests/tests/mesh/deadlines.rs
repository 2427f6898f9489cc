//! The deadline on every call: strict, shrinking, enforced, and felt by the work.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::{Code, Request};
use weft_proto::error_of;
use weft_tests::calls::{beside, identity, raw, sleep, until, with_timeout};
use weft_tests::mesh::Mesh;
use weft_types::{MIN_RESERVE, timeout};

use super::tap::{SLOW, Tap};

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_timeout_is_an_error_and_not_an_infinite_deadline() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    for bad in ["abc", "123456789m", "-1S", "1", "1.5S"] {
        let mut request = Request::new(identity(4));
        request.metadata_mut().insert(timeout::HEADER, bad.parse()?);
        let status = caller.inference().model_infer(request).await.expect_err(bad);
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}");
        assert_eq!(error_of(&status).field(), Some("grpc-timeout"), "{bad}");
    }
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_call_ends_with_deadline_exceeded_and_its_work_stops() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    let status = caller.infer(sleep(600_000), Duration::from_millis(200)).await.expect_err("too long");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    until("the sleep to be stopped", async || {
        mesh.sample("weft_work_stopped_total").await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    assert!(mesh.sample("weft_cancel_to_stop_seconds_count").await? >= 1.0);
    assert!(mesh.sample("weft_wasted_compute_seconds_total").await? > 0.0);
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn work_stops_when_the_caller_goes_away() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    let call = beside(async move { caller.infer(sleep(600_000), Duration::from_secs(300)).await });
    let running = async || {
        let all = mesh.sample("weft_router_in_flight").await;
        all.is_ok_and(|count| count >= 1.0)
    };
    until("the call to be in flight", running).await?;
    drop(call);
    until("the sleep to be stopped", async || {
        mesh.sample("weft_work_stopped_total").await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    until("the router to forget it", async || {
        mesh.sample("weft_router_in_flight").await.is_ok_and(|count| count == 0.0)
    })
    .await?;
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_parameter_is_a_bound_too() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    let mut request = sleep(600_000);
    let choice = weft_proto::inference::infer_parameter::ParameterChoice::Int64Param(100_000);
    let micros = weft_proto::inference::InferParameter { parameter_choice: Some(choice) };
    request.parameters.insert("timeout".into(), micros);
    let status = caller.infer(request, Duration::from_secs(300)).await.expect_err("too long");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_past_its_deadline_is_cut() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    let requests = futures_util::StreamExt::chain(
        futures_util::stream::iter([sleep(1), sleep(600_000)]),
        futures_util::stream::pending(),
    );
    let mut answers =
        caller.inference().model_stream_infer(with_timeout(requests, Duration::from_millis(500))).await?.into_inner();
    let first = answers.message().await?.context("one answer before the deadline")?;
    assert_eq!(first.error_message, "");
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hop_tells_the_next_one_a_shorter_timeout() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let tap = Tap::register(&mesh, "tapped").await?;
    caller.wait_ready("tapped").await?;
    let limit = Duration::from_millis(200);
    caller.infer(raw("tapped", ("INPUT", "FP32"), &[1], vec![0; 4]), limit).await?;
    let seen = tap.told(timeout::HEADER);
    assert_eq!(seen.len(), 1, "{seen:?}");
    let told = timeout::parse(seen[0].as_bytes())?;
    // Time passes on the way anyhow; the router must also keep something for the answer's way back.
    assert!(told <= limit - MIN_RESERVE, "the client told {limit:?}, the router {told:?}");
    assert!(told >= limit / 2, "the router kept too much: {told:?}");
    mesh.stop().await?;
    Ok(())
}

/// An attempt has what the one before has left of the call's time, and says how many came before it (gRFC A6).
#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_is_told_a_shorter_timeout_than_the_one_before() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let lost = Tap::losing(&mesh, ("lost", "tapped")).await?;
    let whole = Tap::telling(&mesh, ("whole", "tapped"), Vec::new()).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("tapped").await?;
    let limit = Duration::from_secs(20);
    while lost.told(timeout::HEADER).is_empty() {
        caller.infer(raw("tapped", ("INPUT", "FP32"), &[1], vec![0; 4]), limit).await?;
    }
    let told = |tap: &Tap| {
        let told = tap.told(timeout::HEADER).pop().context("it is asked")?;
        anyhow::Ok(timeout::parse(told.as_bytes())?)
    };
    let (first, second) = (told(&lost)?, told(&whole)?);
    assert!(first <= limit - MIN_RESERVE, "the client told {limit:?}, the router {first:?}");
    assert!(second <= first - SLOW, "the first attempt was told {first:?}, the second {second:?}");
    let before = |tap: &Tap| tap.told("grpc-previous-rpc-attempts").pop();
    assert_eq!([before(&lost), before(&whole)], [Some("none".to_owned()), Some("1".to_owned())]);
    mesh.stop().await
}

/// What an Envoy in front gives a call is a bound like any other; its 0 is none.
#[tokio::test(flavor = "multi_thread")]
async fn envoys_timeout_is_a_bound_too() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let tap = Tap::register(&mesh, "tapped").await?;
    caller.wait_ready("tapped").await?;
    let ask = async |own: Duration, of_envoy: &str| {
        let mut request = with_timeout(raw("tapped", ("INPUT", "FP32"), &[1], vec![0; 4]), own);
        request.metadata_mut().insert(timeout::ENVOY_HEADER, of_envoy.parse()?);
        caller.inference().model_infer(request).await?;
        let told = tap.told(timeout::HEADER).pop().context("the tap is asked")?;
        anyhow::Ok(timeout::parse(told.as_bytes())?)
    };
    let (short, long) = (Duration::from_secs(20), Duration::from_secs(40));
    let told = ask(long, "20000").await?;
    assert!(told < short && told > short / 2, "{told:?}");
    let told = ask(short, "40000").await?;
    assert!(told < short && told > short / 2, "{told:?}");
    assert!(ask(long, "0").await? > short);
    for bad in ["", "-5", "20s", "99999999999"] {
        let mut request = Request::new(identity(4));
        request.metadata_mut().insert(timeout::ENVOY_HEADER, bad.parse()?);
        let status = caller.inference().model_infer(request).await.expect_err(bad);
        assert_eq!(error_of(&status).field(), Some(timeout::ENVOY_HEADER), "'{bad}': {status}");
    }
    mesh.stop().await?;
    Ok(())
}

/// The caller has said all it has to say: then the answer to its last request and the end of the stream race.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_stream_past_its_deadline_does_not_end_well() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    for _ in 0..30 {
        let requests = with_timeout(futures_util::stream::iter([sleep(600_000)]), Duration::from_millis(50));
        let status = match caller.inference().model_stream_infer(requests).await {
            Err(status) => status,
            Ok(answers) => {
                let mut answers = answers.into_inner();
                loop {
                    match answers.message().await {
                        Ok(Some(_)) => {}
                        Ok(None) => anyhow::bail!("the stream ended well"),
                        Err(status) => break status,
                    }
                }
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
    mesh.stop().await?;
    Ok(())
}
