//! Calls as a backend service would make them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
pub use weft::demo::request as raw;
use weft_client::{Channel, ChannelOptions};
use weft_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use weft_proto::inference::{ModelInferRequest, ModelInferResponse, ModelReadyRequest};
use weft_proto::weft::control::v1::ListWorkersRequest;
use weft_proto::weft::control::v1::workers_client::WorkersClient;
use weft_runtime::Tasks;
use weft_types::{SystemClock, timeout};

/// How long anything may take to become true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at that nothing announces.
const POLL: Duration = Duration::from_millis(20);

/// A client of one address.
#[derive(Clone)]
pub struct Caller {
    /// Its channel, for clients of other services.
    pub channel: Channel,
}

impl Caller {
    /// A client; it connects with its first call.
    pub fn new(address: &str) -> Result<Self> {
        Ok(Self { channel: Channel::new(address, ChannelOptions::default(), &Tasks::new())? })
    }

    /// The inference service, with room for large answers.
    pub fn inference(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// One call under a deadline of the caller's.
    pub async fn infer(
        &self,
        message: ModelInferRequest,
        limit: Duration,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let mut inference = self.inference();
        let call = inference.model_infer(with_timeout(message, limit));
        // Not every server ends a call at its deadline, so callers do, as clients of gRPC all do.
        let ended = tokio::time::timeout(limit + GRACE, call).await;
        ended.unwrap_or_else(|_| Err(Status::deadline_exceeded("the server did not end the call")))
    }

    /// A caller that goes directly to a worker of this router's mesh, as soon as there is one.
    pub async fn first_worker(&self) -> Result<Self> {
        let mut workers = WorkersClient::new(self.channel.clone());
        let mut address = None;
        until("a worker to register", async || {
            let listed = workers.list_workers(ListWorkersRequest {}).await.map(|answer| answer.into_inner().workers);
            let first = listed.ok().and_then(|workers| workers.into_iter().next()).and_then(|view| view.worker);
            address = first.map(|worker| worker.address);
            address.is_some()
        })
        .await?;
        Self::new(&address.context("a worker has registered")?)
    }

    /// Waits until a model is ready.
    pub async fn wait_ready(&self, model: &str) -> Result<()> {
        self.wait_readiness(model, true).await
    }

    /// Waits until a model is ready, or is not.
    pub async fn wait_readiness(&self, model: &str, wanted: bool) -> Result<()> {
        until(model, async || {
            let request = ModelReadyRequest { name: model.to_owned(), version: String::new() };
            self.inference().model_ready(request).await.is_ok_and(|answer| answer.into_inner().ready == wanted)
        })
        .await
    }
}

/// How long after its deadline a call is given up by its caller; a server of ours has ended it long before.
const GRACE: Duration = Duration::from_secs(5);

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
    let started = SystemClock::now();
    while !holds().await {
        if SystemClock::now().saturating_duration_since(started) > PATIENCE {
            bail!("gave up waiting for: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// A request that tells its deadline as gRPC does.
pub fn with_timeout<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(value) = timeout::format(limit).parse() {
        request.metadata_mut().insert(timeout::HEADER, value);
    }
    request
}

/// A request to `identity` with these FP32 elements.
pub fn identity(elements: usize) -> ModelInferRequest {
    let shape = [i64::try_from(elements).unwrap_or(i64::MAX)];
    raw("identity", ("INPUT", "FP32"), &shape, vec![7; elements * 4])
}

/// A request to `sleep`.
pub fn sleep(milliseconds: u32) -> ModelInferRequest {
    raw("sleep", ("MILLISECONDS", "UINT32"), &[1], milliseconds.to_le_bytes().to_vec())
}

/// A call that runs beside the test. Dropping it ends the call.
pub struct Beside<T>(JoinSet<T>);

/// Runs a call beside the test.
pub fn beside<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> Beside<T> {
    let mut set = JoinSet::new();
    set.spawn(call);
    Beside(set)
}

impl<T: Send + 'static> Beside<T> {
    /// Waits for its outcome.
    pub async fn outcome(mut self) -> Result<T> {
        Ok(self.0.join_next().await.context("one call was started")??)
    }
}
