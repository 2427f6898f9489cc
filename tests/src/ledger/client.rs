//! Calls to a ledger, as a job makes them.

use anyhow::Result;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use weft_client::Channel;
use weft_participant::{Direction, Key, Mark};

use super::messages::{
    AccountRequest, AccountResponse, Empty, Fault, HeldRequest, PlanRequest, ProbeResponse, PublishRequest,
    PublishResponse, RetractResponse,
};
use crate::calls::Caller;

/// The mark of a call, of owner 1.
pub fn marked(key: &str, direction: Direction, attempt: u32) -> Result<Mark> {
    Ok(Mark { key: Key::try_new(key)?, direction, attempt, epoch: 1 })
}

/// A caller of one ledger.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// It connects with its first call.
    pub fn new(address: &str) -> Result<Self> {
        Ok(Self { channel: Caller::new(address)?.channel })
    }

    /// The action, undo or probe that the mark says.
    pub async fn deliver(&self, mark: &Mark) -> Result<bool, Status> {
        match mark.direction {
            Direction::Action => self.publish(mark).await.map(|_| true),
            Direction::Undo => {
                self.call("Retract", Empty {}, Some(mark)).await.map(|told: RetractResponse| told.retracted())
            }
            Direction::Probe => self.probe(mark).await.map(|told| told.done()),
        }
    }

    /// The action.
    pub async fn publish(&self, mark: &Mark) -> Result<PublishResponse, Status> {
        self.call("Publish", PublishRequest { text: mark.key.as_str().to_owned() }, Some(mark)).await
    }

    /// The probe.
    pub async fn probe(&self, mark: &Mark) -> Result<ProbeResponse, Status> {
        self.call("Probe", Empty {}, Some(mark)).await
    }

    /// Has calls that are yet to come go wrong.
    pub async fn plan(&self, faults: Vec<Fault>) -> Result<(), Status> {
        self.call("Plan", PlanRequest { faults }, None).await.map(|Empty {}| ())
    }

    /// What came of the calls of a job, with every effect.
    pub async fn account(&self, prefix: &str) -> Result<AccountResponse, Status> {
        self.call("Account", AccountRequest { prefix: prefix.to_owned(), effects: true }, None).await
    }

    /// Waits until so many calls are held.
    pub async fn held(&self, calls: u32) -> Result<(), Status> {
        self.call("Held", HeldRequest { calls }, None).await.map(|Empty {}| ())
    }

    /// How much came of all calls.
    pub async fn totals(&self) -> Result<AccountResponse, Status> {
        self.call("Account", AccountRequest::default(), None).await
    }

    async fn call<Q, A>(&self, method: &str, message: Q, mark: Option<&Mark>) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = Request::new(message);
        if let Some(mark) = mark {
            mark.write(request.metadata_mut());
        }
        let path = format!("/{}/{method}", super::NAME);
        let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc.unary(request, path, ProstCodec::default()).await?.into_inner())
    }
}
