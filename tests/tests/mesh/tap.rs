//! A worker that only writes down what the router tells it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use futures_util::future::{Ready, ready};
use prost::Message as _;
use tonic::body::Body;
use weft_client::ReplicaKey;
use weft_proto::inference::ModelInferResponse;
use weft_proto::weft::state::v1::{Replica, ReplicaState, Worker};
use weft_runtime::{Api, Drain, Health, Server, ServerOptions, Tasks};
use weft_store::{Op, Txn};
use weft_telemetry::Scope;
use weft_tests::mesh::Mesh;

/// Registered as a worker with one ready replica.
#[derive(Clone)]
pub(crate) struct Tap {
    timeouts: Arc<Mutex<Vec<String>>>,
}

impl Tap {
    pub(crate) async fn register(mesh: &Mesh, model: &str) -> Result<Self> {
        let tap = Self { timeouts: Arc::default() };
        let server = Server::bind(ServerOptions::default()).await?;
        let worker = Worker { id: "tap".into(), address: server.address().to_string(), ..Default::default() };
        let api = Api::new(&Health::default()).forward("inference.GRPCInferenceService", tap.clone());
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

    pub(crate) fn timeouts(&self) -> Vec<String> {
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let told = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok()).unwrap_or("none");
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner).push(told.to_owned());
        let message = ModelInferResponse { model_name: "tapped".into(), ..Default::default() }.encode_to_vec();
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
        framed.extend(message);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let trailers = async move { Some(Ok::<_, Infallible>(trailers)) };
        let body = http_body_util::BodyExt::with_trailers(http_body_util::Full::new(Bytes::from(framed)), trailers);
        let response = http::Response::builder().header("content-type", "application/grpc").body(Body::new(body));
        ready(Ok(response.unwrap_or_default()))
    }
}
