//! Methods that no contract of Weft's declares, routed by what their metadata says.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status};
use weft_proto::error_of;
use weft_tests::calls::{Caller, until};
use weft_tests::mesh::Mesh;
use weft_types::timeout;

use super::tap::{ECHO, Tap, frame};

/// A call of a made-up service's method, with these headers.
fn call(path: &str, headers: &[(&str, &str)], body: Body) -> Result<http::Request<Body>> {
    let mut request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(body)?)
}

async fn refusal(caller: &Caller, path: &str, headers: &[(&str, &str)]) -> Result<Status> {
    let answer = caller.channel.send(call(path, headers, Body::empty())?).await?;
    Status::from_header_map(answer.headers()).context("a refusal has no body")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_frames_pass_both_ways_as_they_come() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let tap = Tap::register(&mesh, "tapped").await?;
    caller.wait_ready("tapped").await?;
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let frames = stream::unfold(receiver, async |mut receiver| {
        Some((Ok::<_, Status>(Frame::data(receiver.recv().await?)), receiver))
    });
    let headers = [("weft-model", "tapped"), (timeout::HEADER, "50S"), ("x-own", "kept")];
    let path = format!("/{ECHO}/Both");
    let answer = caller.channel.send(call(&path, &headers, Body::new(StreamBody::new(frames)))?).await?;
    let mut answer = answer.into_body();
    let in_flight = async |wanted: f64| {
        until("the load", async || mesh.sample("weft_router_in_flight").await.is_ok_and(|load| load == wanted)).await
    };
    for message in ["one", "two"] {
        sender.send(frame(message.as_bytes())).await?;
        let echoed = answer.frame().await.context("it goes on")?.map_err(|_| Status::unknown("cut"))?;
        assert_eq!(echoed.into_data().ok().as_deref(), Some(&frame(message.as_bytes())[..]));
    }
    in_flight(1.0).await?;
    drop(sender);
    let trailers = answer.frame().await.context("trailers")?.map_err(|_| Status::unknown("cut"))?;
    ensure!(trailers.trailers_ref().is_some_and(|trailers| trailers["grpc-status"] == "0"), "{trailers:?}");
    drop(answer);
    in_flight(0.0).await?;
    assert_eq!(["weft-model", "weft-version", "x-own"].map(|name| tap.told(name)), [["tapped"], ["1"], ["kept"]]);
    let told = timeout::parse(tap.told(timeout::HEADER)[0].as_bytes())?;
    assert!(told.as_secs() >= 25 && told.as_secs() < 50, "{told:?}");
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_relayed_is_refused_with_a_reason() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let tap = Tap::register(&mesh, "tapped").await?;
    caller.wait_ready("tapped").await?;
    let (echo, model) = (format!("/{ECHO}/Unary"), ("weft-model", "tapped"));
    let cases = [
        (&*echo, &[][..], Code::Unimplemented, None),
        (&echo, &[("weft-model", "absent")], Code::NotFound, None),
        (&echo, &[("weft-model", "no name")], Code::InvalidArgument, Some("weft-model")),
        (&echo, &[model, ("weft-version", "x")], Code::InvalidArgument, Some("weft-version")),
        (&echo, &[model, model], Code::InvalidArgument, Some("weft-model")),
        // What is a worker's own is not for callers.
        ("/weft.worker.v1.Worker/GetStatus", &[model], Code::Unimplemented, None),
        ("/grpc.channelz.v1.Channelz/GetServers", &[model], Code::Unimplemented, None),
        ("/", &[model, (timeout::HEADER, "0n")], Code::DeadlineExceeded, None),
    ];
    for (path, headers, code, field) in cases {
        let status = refusal(&caller, path, headers).await?;
        assert_eq!((status.code(), error_of(&status).field()), (code, field), "{path} {headers:?}: {status}");
    }
    assert!(tap.told("weft-model").is_empty());
    mesh.stop().await
}
