//! A client as a backend service would write it.

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use tonic::{Request, Response, Status};
use weft_client::{Channel, ChannelOptions, within};
use weft_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{ModelInferRequest, ModelInferResponse, ModelReadyRequest};
use weft_proto::weft::demo::v1::gallery_client::GalleryClient;
use weft_proto::weft::jobs::v1::jobs_client::JobsClient;
use weft_proto::weft::metrics::v1::metrics_client::MetricsClient;
use weft_runtime::Tasks;
use weft_telemetry::TraceContext;
use weft_types::{Deadline, SystemClock, timeout};

/// How long anything of the demonstration may take that has no deadline of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often a question is asked again whose answer takes its time to come.
const POLL: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(crate) struct Caller {
    channel: Channel,
}

impl Caller {
    pub(crate) fn new(address: &str) -> Result<Self> {
        Ok(Self { channel: Channel::new(address, ChannelOptions::default(), &Tasks::new())? })
    }

    pub(crate) fn inference(&self) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel.clone())
    }

    pub(crate) fn metrics(&self) -> MetricsClient<Channel> {
        MetricsClient::new(self.channel.clone())
    }

    pub(crate) fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(self.channel.clone())
    }

    pub(crate) fn gallery(&self) -> GalleryClient<Channel> {
        GalleryClient::new(self.channel.clone())
    }

    pub(crate) async fn wait_ready(&self, model: &str) -> Result<()> {
        let request = || ModelReadyRequest { name: model.to_owned(), version: String::new() };
        let ready =
            async |caller: &Self| Ok(caller.inference().model_ready(request()).await?.into_inner().ready.then_some(()));
        self.until(ready).await
    }

    /// Asks until there is an answer, for at most [`PATIENCE`]. A service that is only starting may still refuse.
    pub(crate) async fn until<T>(&self, ask: impl AsyncFn(&Self) -> Result<Option<T>, Status>) -> Result<T> {
        let deadline = Deadline::after(SystemClock::now(), PATIENCE);
        loop {
            let told = ask(self).await;
            if let Ok(Some(answer)) = told {
                return Ok(answer);
            }
            if deadline.expired(SystemClock::now()) {
                match told {
                    Err(status) => bail!("{status}"),
                    Ok(_) => bail!("no answer within {PATIENCE:?}"),
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// One inference under a deadline, traced when a context is given.
    pub(crate) async fn infer(
        &self,
        message: ModelInferRequest,
        limit: Duration,
        trace: Option<&TraceContext>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let mut request = Request::new(message);
        let told = timeout::format(limit).parse().map_err(|_| Status::internal("unwritable timeout"))?;
        request.metadata_mut().insert(timeout::HEADER, told);
        if let Some(trace) = trace {
            let mut headers = std::mem::take(request.metadata_mut()).into_headers();
            trace.inject(&mut headers);
            *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        }
        let deadline = Deadline::after(SystemClock::now(), limit);
        within(deadline, self.inference().model_infer(request)).await
    }
}

/// A request with one input: its name and type, its shape and its raw contents.
pub fn request(model: &str, input: (&str, &str), shape: &[i64], data: impl Into<Bytes>) -> ModelInferRequest {
    let (name, datatype) = input;
    let tensor = InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..Default::default()
    };
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![tensor],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}
