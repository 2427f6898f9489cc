//! Calls that have something in common meet on a replica, and calls stay in their router's zone; neither makes a replica hot.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::stream;
use tonic::Request;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{InferTensorContents, ModelInferRequest};
use weft_proto::weft::control::v1::affinity::Source;
use weft_proto::weft::control::v1::{Affinity, PromptPrefix, Route};
use weft_proto::weft::router::v1::GetSnapshotRequest;
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_tests::calls::{Caller, beside, until, with_timeout};
use weft_tests::mesh::Mesh;

use super::splits::{apply, explain, target};
use super::tap::Tap;

/// Longer than any wait of these tests.
const LIMIT: Duration = Duration::from_secs(300);

fn text_input(contents: Option<InferTensorContents>) -> InferInputTensor {
    InferInputTensor {
        name: "text_input".into(),
        datatype: "BYTES".into(),
        shape: vec![1],
        contents,
        ..Default::default()
    }
}

fn request(parts: ModelInferRequest) -> Request<ModelInferRequest> {
    with_timeout(ModelInferRequest { model_name: "public".into(), ..parts }, LIMIT)
}

/// A prompt as typed contents.
fn prompt(text: &str) -> Request<ModelInferRequest> {
    let bytes_contents = vec![Bytes::copy_from_slice(text.as_bytes())];
    let typed = InferTensorContents { bytes_contents, ..Default::default() };
    request(ModelInferRequest { inputs: vec![text_input(Some(typed))], ..Default::default() })
}

/// The same as raw contents, behind a tensor that is too large to come in one piece.
fn raw_prompt(text: &str) -> Request<ModelInferRequest> {
    let image = InferInputTensor { name: "image".into(), datatype: "UINT8".into(), ..Default::default() };
    let length = u32::try_from(text.len()).unwrap_or_default().to_le_bytes();
    let raw_input_contents = vec![vec![7; 600_000].into(), [&length[..], text.as_bytes()].concat().into()];
    request(ModelInferRequest { inputs: vec![image, text_input(None)], raw_input_contents, ..Default::default() })
}

fn in_session(session: &str) -> Result<Request<ModelInferRequest>> {
    let mut request = request(ModelInferRequest::default());
    request.metadata_mut().insert("session", session.parse()?);
    Ok(request)
}

async fn lead(caller: &Caller, source: Source) -> Result<()> {
    let affinity = Some(Affinity { source: Some(source), balance_factor: 0.0 });
    apply(caller, Route { targets: vec![target("chat", 1, None)], affinity, ..Route::default() }).await
}

/// How many calls each has got.
fn counts(taps: &[Tap]) -> Vec<usize> {
    taps.iter().map(|tap| tap.told("weft-model").len()).collect()
}

/// Who got the one call that was made meanwhile.
fn taker(taps: &[Tap], before: &[usize]) -> Result<usize> {
    let more: Vec<usize> = counts(taps).iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(more.iter().sum::<usize>(), 1, "{more:?}");
    more.iter().position(|calls| *calls == 1).context("somebody got it")
}

async fn wait_for(caller: &Caller, replicas: usize) -> Result<()> {
    let all = async || match explain(caller, prompt("")).await {
        Ok(told) => told.candidates.len() == replicas,
        Err(_) => false,
    };
    until("all replicas", all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_that_begin_alike_meet_however_they_come() -> Result<()> {
    let mesh = Mesh::start(&["--scheduler-auto", "false"]).await?;
    let caller = mesh.caller()?;
    let mut taps = Vec::new();
    for number in 0..4 {
        taps.push(Tap::answering(&mesh, (&format!("tap-{number}"), "chat"), "").await?);
    }
    lead(&caller, Source::PromptPrefix(PromptPrefix { input: String::new(), bytes: 16 })).await?;
    wait_for(&caller, 4).await?;
    let mut owners = Vec::new();
    for system in 0..12 {
        let text = |user: &str| format!("system prompt {system:02}{user}");
        let told = explain(&caller, prompt(&text("?"))).await?;
        let led = told.led.context("it has a prompt")?;
        assert_eq!((told.affinity, led.limit, led.spilled), (true, 1, false));
        let mut taken = Vec::new();
        for asked in [prompt(&text(" how")), prompt(&text("")), raw_prompt(&text(" why")), prompt(&text(" when"))] {
            let before = counts(&taps);
            caller.inference().model_infer(asked).await?;
            taken.push(format!("tap-{}", taker(&taps, &before)?));
        }
        assert_eq!(taken, vec![led.preferred.clone(); 4], "{system}");
        // On a stream, its first request decides. The tap ends each stream at once, so that others may be asked after it.
        let before = counts(&taps);
        let requests = prompt(&text(" who")).map(|request| stream::iter([request]));
        let mut answers = caller.inference().model_stream_infer(requests).await?.into_inner();
        while let Ok(Some(_)) = answers.message().await {}
        let own = taps.iter().zip(&before).find(|(tap, _)| tap.id() == led.preferred).context("it is one of them")?;
        assert!(own.0.told("weft-model").len() > *own.1, "{system}: {} was not asked", led.preferred);
        owners.push(led.preferred);
    }
    owners.sort_unstable();
    owners.dedup();
    assert!(owners.len() >= 2, "all prompts went to {owners:?}");
    // Without a prompt a call goes anywhere.
    assert!(explain(&caller, request(ModelInferRequest::default())).await?.led.is_none());
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_spreads_and_comes_back() -> Result<()> {
    let mesh = Mesh::start(&["--scheduler-auto", "false"]).await?;
    let caller = mesh.caller()?;
    let mut taps = Vec::new();
    for number in 0..4 {
        taps.push(Tap::mute(&mesh, (&format!("tap-{number}"), "chat"), "").await?);
    }
    lead(&caller, Source::Metadata("session".into())).await?;
    wait_for(&caller, 4).await?;
    let first = explain(&caller, in_session("hot")?).await?.led.context("it has a key")?;
    let mut calls = Vec::new();
    for made in 1..=8_usize {
        let (mut inference, request) = (caller.inference(), in_session("hot")?);
        calls.push(beside(async move { inference.model_infer(request).await }));
        until("the call to arrive", async || counts(&taps).iter().sum::<usize>() == made).await?;
        let limit = (1.25 * made as f64 / 4.0).ceil() as usize;
        assert!(counts(&taps).iter().all(|calls| *calls <= limit), "{:?} of at most {limit}", counts(&taps));
    }
    // One in its order, then the next; the last has got none.
    let mut taken = counts(&taps);
    taken.sort_unstable();
    assert_eq!(taken, [0, 2, 3, 3]);
    let led = explain(&caller, in_session("hot")?).await?.led.context("it has a key")?;
    assert_eq!((led.preferred, led.limit, led.spilled), (first.preferred.clone(), 3, true));
    drop(calls);
    until("the key to come back", async || match in_session("hot") {
        Ok(request) => explain(&caller, request).await.is_ok_and(|told| told.led.as_ref() == Some(&first)),
        Err(_) => false,
    })
    .await?;
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_stay_in_their_zone_until_it_is_busier_than_others() -> Result<()> {
    let mesh = Mesh::start(&["--scheduler-auto", "false", "--router-zone", "a"]).await?;
    let caller = mesh.caller()?;
    let mut taps = vec![Tap::mute(&mesh, ("tap-local", "chat"), "a").await?];
    for number in 0..3 {
        taps.push(Tap::mute(&mesh, (&format!("tap-{number}"), "chat"), "b").await?);
    }
    apply(&caller, Route { targets: vec![target("chat", 1, None)], ..Route::default() }).await?;
    wait_for(&caller, 4).await?;
    let told = explain(&caller, prompt("")).await?;
    let zone = told.zone.context("the router has one")?;
    let local: Vec<_> = told.candidates.iter().filter(|one| one.local).map(|one| one.worker.as_str()).collect();
    // Those that have come a little later are given less for a while.
    assert!(zone.zone == "a" && zone.stays > 0.5 && local == ["tap-local"], "{zone:?} {local:?}");
    let snapshot = RouterClient::new(caller.channel.clone()).get_snapshot(GetSnapshotRequest {}).await?.into_inner();
    let mut zones: Vec<_> = snapshot.endpoints.iter().map(|one| (one.worker.as_str(), one.zone.as_str())).collect();
    zones.retain(|(worker, _)| worker.starts_with("tap-"));
    assert_eq!(zones, [("tap-0", "b"), ("tap-1", "b"), ("tap-2", "b"), ("tap-local", "a")]);
    assert_eq!(snapshot.zone, "a");
    // None of the calls ends, so that the zone's only replica has more and more to do.
    let mut calls = Vec::new();
    for made in 1..=12_usize {
        let (mut inference, request) = (caller.inference(), prompt(""));
        calls.push(beside(async move { inference.model_infer(request).await }));
        until("the call to arrive", async || counts(&taps).iter().sum::<usize>() == made).await?;
    }
    let taken = counts(&taps);
    assert!((1..=6).contains(&taken[0]) && taken[1..].iter().all(|calls| *calls > 0), "{taken:?}");
    drop(calls);
    mesh.stop().await?;
    Ok(())
}
