//! The standard services, and what a server does with connections that say nothing and handlers that panic.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::body::Body;
use weft_proto::health::health_check_response::ServingStatus;
use weft_proto::health::health_client::HealthClient;
use weft_proto::health::{HealthCheckRequest, HealthListRequest};
use weft_runtime::{Api, Health, Server, ServerOptions, Tasks};
use weft_telemetry::Scope;
use weft_tests::calls::{Caller, identity, until};
use weft_tests::load::Load;
use weft_tests::mesh::Mesh;

#[tokio::test(flavor = "multi_thread")]
async fn health_has_check_list_and_watch_with_a_name_per_model() -> Result<()> {
    // A watch must not hold up the drain for as long as its grace.
    let mesh = Mesh::start(&["--drain-grace", "1h"]).await?;
    let caller = mesh.caller()?;
    let mut health = HealthClient::new(caller.channel.clone());
    let of = |name: &str| HealthCheckRequest { service: name.into() };
    let mut watch = health.watch(of("digits")).await?.into_inner();
    loop {
        let told = watch.message().await?.context("the watch goes on")?.status();
        if told == ServingStatus::Serving {
            break;
        }
    }
    assert_eq!(health.check(of("")).await?.into_inner().status(), ServingStatus::Serving);
    assert_eq!(health.check(of("nobody")).await.expect_err("unknown").code(), Code::NotFound);
    let listed = health.list(HealthListRequest {}).await?.into_inner().statuses;
    assert!(listed.contains_key("") && listed.contains_key("digits"), "{:?}", listed.keys());
    // A worker's process as a whole is what orchestrators and routers ask for.
    let mut worker = HealthClient::new(caller.first_worker().await?.channel);
    assert_eq!(worker.check(of("")).await?.into_inner().status(), ServingStatus::Serving);
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_and_hold_up_nothing() -> Result<()> {
    let mesh = Mesh::start(&["--router-handshake-timeout", "300ms", "--drain-grace", "1h"]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let mut silent = TcpStream::connect(mesh.address()).await?;
    let mut babbling = TcpStream::connect(mesh.address()).await?;
    babbling.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    let mut bytes = Vec::new();
    // Both reads end only because the server closes; a reset is a close, too.
    let _ = silent.read_to_end(&mut bytes).await;
    let _ = babbling.read_to_end(&mut bytes).await;
    caller.infer(identity(4), Duration::from_secs(20)).await?;
    // A peer that speaks the preface and then nothing must not hold up the drain.
    let mut preface_only = TcpStream::connect(mesh.address()).await?;
    preface_only.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_closed_at_once() -> Result<()> {
    let mesh = Mesh::start(&["--router-max-connections", "1", "--router-handshake-timeout", "1h"]).await?;
    let held = TcpStream::connect(mesh.address()).await?;
    until("a second connection to be closed", async || {
        let Ok(mut second) = TcpStream::connect(mesh.address()).await else { return false };
        matches!(tokio::time::timeout(Duration::from_secs(5), second.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
    })
    .await?;
    drop(held);
    mesh.stop().await?;
    Ok(())
}

/// A handler with a defect costs its own call and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_handler_is_an_internal_error() -> Result<()> {
    let tasks = Tasks::new();
    let server = Server::bind(ServerOptions::default()).await?;
    let address = server.address().to_string();
    let faulty = tower::service_fn(async |request: http::Request<Body>| -> Result<http::Response<Body>, Infallible> {
        panic!("planted in {}", request.uri().path())
    });
    let api = Api::new(&Health::default()).forward("inference.GRPCInferenceService", faulty);
    let drain = server.serve(api, Scope::disabled(), &tasks)?;
    let caller = Caller::new(&address)?;
    for _ in 0..3 {
        let status = caller.infer(identity(1), Duration::from_secs(20)).await.expect_err("it panics");
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
    }
    // The same connection serves on.
    let health = HealthClient::new(caller.channel.clone()).check(HealthCheckRequest { service: String::new() }).await?;
    assert_eq!(health.into_inner().status(), ServingStatus::NotServing);
    assert!(!tasks.failed());
    drain.run(Duration::from_secs(1)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_over_the_limit_are_refused() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let mut request = tonic::Request::new(identity(4));
    request.metadata_mut().insert("x-long", "x".repeat(64 << 10).parse()?);
    assert!(caller.inference().model_infer(request).await.is_err());
    caller.infer(identity(4), Duration::from_secs(20)).await?;
    mesh.stop().await?;
    Ok(())
}

/// The router opens another connection when a worker's becomes old, and repeats what the old one has not taken.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_become_old_cost_no_call() -> Result<()> {
    let mesh = Mesh::start(&["--worker-max-connection-age", "40ms"]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let load = Load::start(std::slice::from_ref(&caller), &identity(16), 8, Duration::from_secs(20));
    load.pass(10_000).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    mesh.stop().await?;
    Ok(())
}
