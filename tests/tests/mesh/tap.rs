//! A worker that only writes down what the router tells it, and serves an interface that Weft does not know.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use futures_util::future::{Ready, ready};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::body::Body;
use weft_client::ReplicaKey;
use weft_proto::inference::ModelInferResponse;
use weft_proto::weft::state::v1::{Replica, ReplicaState, Worker};
use weft_runtime::{Api, Drain, Health, Server, ServerOptions, Tasks};
use weft_store::{Op, Txn};
use weft_telemetry::Scope;
use weft_tests::mesh::Mesh;

/// A service that no contract of Weft's declares. Its methods answer with what they are sent.
pub(crate) const ECHO: &str = "made.up.Echo";

/// Registered as a worker with one ready replica.
#[derive(Clone)]
pub(crate) struct Tap {
    calls: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Tap {
    pub(crate) async fn register(mesh: &Mesh, model: &str) -> Result<Self> {
        let tap = Self { calls: Arc::default() };
        let server = Server::bind(ServerOptions::default()).await?;
        let worker = Worker { id: "tap".into(), address: server.address().to_string(), ..Default::default() };
        let api = Api::new(&Health::default()).forward("inference.GRPCInferenceService", tap.clone());
        let api = api.forward(ECHO, tap.clone());
        let _: Drain = server.serve(api, Scope::disabled(), &Tasks::new())?;
        let key = ReplicaKey { worker: "tap".parse()?, model: model.parse()?, version: "1".parse()? };
        let replica = Replica { state: ReplicaState::Ready.into(), ..Default::default() };
        let put = |key: String, value: Vec<u8>| Op::Put { key, value: value.into(), lease: None };
        let keys = &mesh.process.keys;
        let ops = vec![
            put(keys.worker(&key.worker), worker.encode_to_vec()),
            put(keys.replica(&key), replica.encode_to_vec()),
        ];
        mesh.process.store.commit(Txn { compares: vec![], ops }).await?;
        Ok(tap)
    }

    /// One header of every call so far.
    pub(crate) fn told(&self, header: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let value =
            |call: &HeaderMap| call.get(header).and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned();
        calls.iter().map(value).collect()
    }
}

impl tower::Service<http::Request<Body>> for Tap {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(request.headers().clone());
        let body = match request.uri().path().starts_with("/inference.") {
            true => Body::new(Full::new(tapped())),
            false => request.into_body(),
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let body = body.with_trailers(async move { Some(Ok(trailers)) });
        let response = http::Response::builder().header("content-type", "application/grpc").body(Body::new(body));
        ready(Ok(response.unwrap_or_default()))
    }
}

fn tapped() -> Bytes {
    frame(&ModelInferResponse { model_name: "tapped".into(), ..Default::default() }.encode_to_vec())
}

/// A message as gRPC frames it.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}
