//! Workers that do what a test says, call by call.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, pending};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Code, Status};
use weft_client::ReplicaKey;
use weft_proto::PUSHBACK;
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_proto::weft::control::v1::routes_client::RoutesClient;
use weft_proto::weft::control::v1::{ApplyRouteRequest, Route, RouteTarget};
use weft_proto::weft::state::v1::{ModelOffer, Replica, ReplicaState, VersionOffer, Worker};
use weft_runtime::{Api, Drain, Health, Server, ServerOptions, Tasks};
use weft_store::{Op, Txn};
use weft_telemetry::Scope;
use weft_tests::calls::{Caller, until};
use weft_tests::mesh::Mesh;

use super::tap::frame;

/// The model that they hold.
pub(crate) const MODEL: &str = "scripted";
/// The route that leads to it.
pub(crate) const ROUTE: &str = "public";
const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// What becomes of a call.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    /// Its answer has the request's id, and its own number as the version.
    Answer,
    /// The same, when the test has opened the gate for it.
    Wait,
    Hang,
    /// It fails with this status and, if any, time to wait in the trailers.
    Refuse(Code, Option<&'static str>),
}

/// One call: how many came before it, to any of the workers, and how many attempts it has had.
#[derive(Clone, Copy)]
pub(crate) struct Came {
    pub(crate) number: usize,
    pub(crate) before: usize,
}

/// Some workers with one script.
#[derive(Clone)]
pub(crate) struct Scripted {
    script: Arc<dyn Fn(Came) -> Does + Send + Sync>,
    /// The workers and the attempts of each call.
    came: Arc<Mutex<Vec<(usize, Came)>>>,
    /// Calls that were given up by the router before they had ended.
    gone: Arc<AtomicUsize>,
    pub(crate) gate: Arc<Semaphore>,
    worker: usize,
}

impl Scripted {
    /// Registers so many workers.
    pub(crate) async fn register(
        mesh: &Mesh,
        count: usize,
        script: impl Fn(Came) -> Does + Send + Sync + 'static,
    ) -> Result<Self> {
        let (came, gone, gate) = (Arc::default(), Arc::default(), Arc::new(Semaphore::new(0)));
        let mut all = Self { script: Arc::new(script), came, gone, gate, worker: 0 };
        for worker in 0..count {
            all.worker = worker;
            all.join(mesh).await?;
        }
        Ok(all)
    }

    fn key(&self) -> Result<ReplicaKey> {
        Ok(ReplicaKey {
            worker: format!("scripted-{}", self.worker).parse()?,
            model: MODEL.parse()?,
            version: "1".parse()?,
        })
    }

    async fn join(&self, mesh: &Mesh) -> Result<()> {
        let server = Server::bind(ServerOptions::default()).await?;
        let (key, address) = (self.key()?, server.address().to_string());
        let versions = vec![VersionOffer { version: 1, ..VersionOffer::default() }];
        let offers = vec![ModelOffer { name: MODEL.to_owned(), versions, ..Default::default() }];
        let worker = Worker { id: key.worker.to_string(), address, offers, ..Default::default() };
        let api = Api::new(&Health::default()).forward("inference.GRPCInferenceService", self.clone());
        let _: Drain = server.serve(api, Scope::disabled(), &Tasks::new())?;
        let put =
            Op::Put { key: mesh.process.keys.worker(&key.worker), value: worker.encode_to_vec().into(), lease: None };
        mesh.process.store.commit(Txn { compares: vec![], ops: vec![put] }).await?;
        self.load(mesh).await
    }

    /// Says that the last of them has loaded its model, for the first time or anew.
    pub(crate) async fn load(&self, mesh: &Mesh) -> Result<()> {
        let value = Replica { state: ReplicaState::Ready.into(), ..Default::default() }.encode_to_vec();
        let put = Op::Put { key: mesh.process.keys.replica(&self.key()?), value: value.into(), lease: None };
        mesh.process.store.commit(Txn { compares: vec![], ops: vec![put] }).await?;
        Ok(())
    }

    /// Applies a route to their model, and waits until calls by its name are answered for as the route says.
    pub(crate) async fn route(caller: &Caller, route: Route, is_there: impl AsyncFn() -> bool) -> Result<()> {
        caller.wait_ready(MODEL).await?;
        let targets = vec![RouteTarget { model: MODEL.into(), weight: 1, ..Default::default() }];
        let route = Some(Route { name: ROUTE.into(), targets, ..route });
        let mut routes = RoutesClient::new(caller.channel.clone());
        until("the scheduler to know the model", async || {
            routes.apply_route(ApplyRouteRequest { route: route.clone() }).await.is_ok()
        })
        .await?;
        until("the route", is_there).await
    }

    /// The calls so far: which worker each came to, and its number of earlier attempts.
    pub(crate) fn came(&self) -> Vec<(usize, usize)> {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        came.iter().map(|(worker, came)| (*worker, came.before)).collect()
    }

    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Ordering::SeqCst)
    }

    fn note(&self, headers: &HeaderMap) -> Came {
        let before = headers.get(PREVIOUS_ATTEMPTS).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        let mut all = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let came = Came { number: all.len(), before };
        all.push((self.worker, came));
        came
    }
}

/// Counts a call as gone unless it comes to its end.
struct Guard(Option<Arc<AtomicUsize>>);

impl Guard {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(gone) = &self.0 {
            gone.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl tower::Service<http::Request<Body>> for Scripted {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let came = self.note(request.headers());
        let (does, gate) = ((self.script)(came), Arc::clone(&self.gate));
        let guard = Guard(Some(Arc::clone(&self.gone)));
        async move {
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            match does {
                Does::Hang => pending::<()>().await,
                Does::Wait => gate.acquire().await.into_iter().for_each(tokio::sync::SemaphorePermit::forget),
                Does::Answer | Does::Refuse(..) => {}
            }
            guard.disarm();
            Ok(match does {
                Does::Refuse(code, pushback) => refusal(code, pushback),
                _ => answer(&body, came.number),
            })
        }
        .boxed()
    }
}

fn refusal(code: Code, pushback: Option<&'static str>) -> http::Response<Body> {
    let mut status = Status::new(code, "as the script says");
    if let Some(pushback) = pushback.and_then(|pushback| pushback.parse().ok()) {
        status.metadata_mut().insert(PUSHBACK, pushback);
    }
    status.into_http()
}

fn answer(framed: &[u8], number: usize) -> http::Response<Body> {
    let request = ModelInferRequest::decode(framed.get(5..).unwrap_or_default()).unwrap_or_default();
    let answer = ModelInferResponse {
        model_name: MODEL.to_owned(),
        model_version: number.to_string(),
        id: request.id,
        ..Default::default()
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(frame(&answer.encode_to_vec())).with_trailers(async move { Some(Ok(trailers)) });
    let response = http::Response::builder().header("content-type", "application/grpc").body(Body::new(body));
    response.unwrap_or_default()
}
