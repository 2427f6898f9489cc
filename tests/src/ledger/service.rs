//! The ledger as a gRPC service.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use futures_util::future::BoxFuture;
use prost::Message;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use weft_participant::{Direction, Mark};
use weft_proto::status_of;

use super::Ledger;
use super::messages::{
    AccountRequest, AccountResponse, Empty, HeldRequest, PlanRequest, ProbeResponse, PublishRequest, PublishResponse,
    RetractResponse,
};

/// The service's name.
pub const NAME: &str = "weft.example.v1.Ledger";

/// The encoded descriptors of the contract, for reflection and for definitions of jobs. Kept for the life of the process.
pub fn descriptors() -> Result<&'static [u8]> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let set = protox::compile([root.join("weft/example/v1/ledger.proto")], [root])?;
    Ok(Vec::leak(set.encode_to_vec()))
}

/// Dispatches by method.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Ledger>);

impl NamedService for Service {
    const NAME: &'static str = NAME;
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ledger = Arc::clone(&self.0);
        Box::pin(async move { Ok(ledger.dispatch(request).await) })
    }
}

/// The mark of a call that must be in this direction.
fn mark<T>(request: &Request<T>, direction: Direction) -> Result<Mark, Status> {
    let mark = Mark::read(request.metadata()).map_err(|error| status_of(&error))?;
    if mark.direction == direction {
        return Ok(mark);
    }
    let problem = format!("this method takes '{}'", direction.as_str());
    Err(status_of(&weft_types::Error::invalid(weft_participant::mark::DIRECTION, problem)))
}

impl Ledger {
    async fn dispatch(self: Arc<Self>, request: http::Request<Body>) -> http::Response<Body> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        match method.as_str() {
            "Publish" => unary(self, request, Self::on_publish).await,
            "Retract" => unary(self, request, Self::on_retract).await,
            "Probe" => unary(self, request, Self::on_probe).await,
            "Plan" => unary(self, request, Self::on_plan).await,
            "Account" => unary(self, request, Self::on_account).await,
            "Held" => unary(self, request, Self::on_held).await,
            _ => Status::unimplemented("no such method").into_http(),
        }
    }

    async fn on_publish(self: Arc<Self>, request: Request<PublishRequest>) -> Result<PublishResponse, Status> {
        let mark = mark(&request, Direction::Action)?;
        self.publish(&mark, request.into_inner().text).await
    }

    async fn on_retract(self: Arc<Self>, request: Request<Empty>) -> Result<RetractResponse, Status> {
        self.retract(&mark(&request, Direction::Undo)?).await
    }

    async fn on_probe(self: Arc<Self>, request: Request<Empty>) -> Result<ProbeResponse, Status> {
        self.probe(&mark(&request, Direction::Probe)?).await
    }

    async fn on_plan(self: Arc<Self>, request: Request<PlanRequest>) -> Result<Empty, Status> {
        self.plan(request.into_inner().faults).map_err(|error| status_of(&error))?;
        Ok(Empty {})
    }

    async fn on_account(self: Arc<Self>, request: Request<AccountRequest>) -> Result<AccountResponse, Status> {
        Ok(self.account(request.get_ref()))
    }

    async fn on_held(self: Arc<Self>, request: Request<HeldRequest>) -> Result<Empty, Status> {
        self.wait_held(request.into_inner().calls).await;
        Ok(Empty {})
    }
}

async fn unary<Q, A, F, R>(ledger: Arc<Ledger>, request: http::Request<Body>, answer: F) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Fn(Arc<Ledger>, Request<Q>) -> R,
    R: Future<Output = Result<A, Status>>,
{
    let handler = tower::service_fn(|request: Request<Q>| {
        let answer = answer(Arc::clone(&ledger), request);
        async move { answer.await.map(Response::new) }
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(handler, request).await
}
