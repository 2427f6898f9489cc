//! A worker that only writes down what the router tells it, and serves an interface that Weft does not know.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, pending};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use weft_client::ReplicaKey;
use weft_proto::inference::ModelInferResponse;
use weft_proto::weft::state::v1::{ModelOffer, Replica, ReplicaState, VersionOffer, Worker};
use weft_runtime::{Api, Drain, Health, Server, ServerOptions, Tasks};
use weft_store::{Op, Txn};
use weft_telemetry::Scope;
use weft_tests::mesh::Mesh;

/// A service that no contract of Weft's declares. Its methods answer with what they are sent.
pub(crate) const ECHO: &str = "made.up.Echo";

/// A service of gRPC's own, which is nobody's business but the worker's. Its methods answer, too.
pub(crate) const CHANNELZ: &str = "grpc.channelz.v1.Channelz";

/// What a slow one takes for a call.
pub(crate) const SLOW: Duration = Duration::from_millis(10);

/// Registered as a worker with one ready replica.
#[derive(Clone)]
pub(crate) struct Tap {
    id: String,
    model: String,
    zone: String,
    /// What it tells of its load.
    reports: Vec<HeaderValue>,
    /// How long it takes; `None` is without end.
    takes: Option<Duration>,
    /// Whether it answers as one that cannot be reached any more.
    is_lost: bool,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Tap {
    /// Answers every call with its model's name and no outputs.
    pub(crate) async fn register(mesh: &Mesh, model: &str) -> Result<Self> {
        Self::of((&format!("tap-{model}"), model), Vec::new(), Some(Duration::ZERO)).join(mesh).await
    }

    /// Answers no call.
    pub(crate) async fn silent(mesh: &Mesh, model: &str) -> Result<Self> {
        Self::of((&format!("tap-{model}"), model), Vec::new(), None).join(mesh).await
    }

    /// One of this id that puts these load reports behind its answers.
    pub(crate) async fn telling(mesh: &Mesh, names: (&str, &str), reports: Vec<HeaderValue>) -> Result<Self> {
        Self::of(names, reports, Some(Duration::ZERO)).join(mesh).await
    }

    /// The same, but slow.
    pub(crate) async fn slow(mesh: &Mesh, names: (&str, &str), reports: Vec<HeaderValue>) -> Result<Self> {
        Self::of(names, reports, Some(SLOW)).join(mesh).await
    }

    /// One of this id whose calls are lost after [`SLOW`], as when it ends.
    pub(crate) async fn losing(mesh: &Mesh, names: (&str, &str)) -> Result<Self> {
        Self { is_lost: true, ..Self::of(names, Vec::new(), Some(SLOW)) }.join(mesh).await
    }

    /// One of this id, in this zone, that answers every call.
    pub(crate) async fn answering(mesh: &Mesh, names: (&str, &str), zone: &str) -> Result<Self> {
        let zone = zone.to_owned();
        Self { zone, ..Self::of(names, Vec::new(), Some(Duration::ZERO)) }.join(mesh).await
    }

    /// One of this id, in this zone, that answers no call.
    pub(crate) async fn mute(mesh: &Mesh, names: (&str, &str), zone: &str) -> Result<Self> {
        let zone = zone.to_owned();
        Self { zone, ..Self::of(names, Vec::new(), None) }.join(mesh).await
    }

    fn of((id, model): (&str, &str), reports: Vec<HeaderValue>, takes: Option<Duration>) -> Self {
        let zone = String::new();
        Self { id: id.to_owned(), model: model.to_owned(), zone, reports, takes, is_lost: false, seen: Arc::default() }
    }

    async fn join(self, mesh: &Mesh) -> Result<Self> {
        let (id, model) = (&self.id, &self.model);
        let server = Server::bind(ServerOptions::default()).await?;
        let address = server.address().to_string();
        let versions = vec![VersionOffer { version: 1, ..VersionOffer::default() }];
        let offers = vec![ModelOffer { name: model.clone(), versions, ..Default::default() }];
        let zone = self.zone.clone();
        let worker = Worker { id: id.clone(), address, offers, zone, ..Default::default() };
        let api = Api::new(&Health::default())
            .forward("inference.GRPCInferenceService", self.clone())
            .forward(ECHO, self.clone())
            .forward(CHANNELZ, self.clone());
        let _: Drain = server.serve(api, Scope::disabled(), &Tasks::new())?;
        let key = ReplicaKey { worker: id.parse()?, model: model.parse()?, version: "1".parse()? };
        let replica = Replica { state: ReplicaState::Ready.into(), ..Default::default() };
        let put = |key: String, value: Vec<u8>| Op::Put { key, value: value.into(), lease: None };
        let keys = &mesh.process.keys;
        let ops = vec![
            put(keys.worker(&key.worker), worker.encode_to_vec()),
            put(keys.replica(&key), replica.encode_to_vec()),
        ];
        mesh.process.store.commit(Txn { compares: vec![], ops }).await?;
        Ok(self)
    }

    fn answer(&self) -> Bytes {
        frame(&ModelInferResponse { model_name: self.model.clone(), ..Default::default() }.encode_to_vec())
    }

    /// Its worker's name.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What the calls that it got brought under this key.
    pub(crate) fn told(&self, key: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |headers: &HeaderMap| headers.get(key).and_then(|value| value.to_str().ok().map(str::to_owned));
        seen.iter().map(|headers| told(headers).unwrap_or_else(|| "none".to_owned())).collect()
    }
}

impl tower::Service<http::Request<Body>> for Tap {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.headers().clone());
        let Some(takes) = self.takes else { return pending().boxed() };
        if self.is_lost {
            return Box::pin(async move {
                tokio::time::sleep(takes).await;
                Ok(Status::unavailable("lost").into_http())
            });
        }
        let body = match request.uri().path().starts_with("/inference.") {
            true => Body::new(Full::new(self.answer())),
            false => request.into_body(),
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        for report in &self.reports {
            trailers.append(weft_proto::orca::TRAILER, report.clone());
        }
        let body = body.with_trailers(async move { Some(Ok(trailers)) });
        let response = http::Response::builder().header("content-type", "application/grpc").body(Body::new(body));
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            Ok(response.unwrap_or_default())
        })
    }
}

/// A message as gRPC frames it.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}
