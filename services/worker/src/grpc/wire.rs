//! `inference.GRPCInferenceService` on the wire.
//!
//! Requests with tensors are scanned before they are decoded: a message of a few bytes per tensor would otherwise cost a
//! hundred times its size in decoded structures before anybody could count them.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf as _;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Status, Streaming};
use tower::{Service, service_fn};
use weft_proto::inference::ModelInferRequest;
use weft_proto::inference::grpc_inference_service_server::{GrpcInferenceService as _, GrpcInferenceServiceServer};
use weft_proto::{frame, status_of};
use weft_types::Error;

use super::inference::Inference;
use crate::Shared;

const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const MODEL_STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// The inference service of a worker.
#[derive(Clone)]
pub struct InferenceServer {
    inner: Inference,
    rest: GrpcInferenceServiceServer<Inference>,
    limit: usize,
}

impl InferenceServer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let limit = shared.options.message_limit;
        let inner = Inference::new(shared);
        let rest = GrpcInferenceServiceServer::new(inner.clone()).max_decoding_message_size(limit);
        Self { inner, rest, limit }
    }

    fn grpc<M: Message + 'static>(&self) -> Grpc<InferCodec<M>> {
        Grpc::new(InferCodec(PhantomData)).apply_max_message_size_config(Some(self.limit), None)
    }
}

impl NamedService for InferenceServer {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl Service<http::Request<Body>> for InferenceServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let inner = self.inner.clone();
        match request.uri().path() {
            MODEL_INFER => {
                let mut grpc = self.grpc();
                let handler = service_fn(move |request: Request<ModelInferRequest>| {
                    let inner = inner.clone();
                    async move { inner.model_infer(request).await }
                });
                Box::pin(async move { Ok(grpc.unary(handler, request).await) })
            }
            MODEL_STREAM_INFER => {
                let mut grpc = self.grpc();
                let handler = service_fn(move |request: Request<Streaming<ModelInferRequest>>| {
                    let inner = inner.clone();
                    async move { inner.model_stream_infer(request).await }
                });
                Box::pin(async move { Ok(grpc.streaming(handler, request).await) })
            }
            _ => Service::call(&mut self.rest, request),
        }
    }
}

/// Decodes inference requests after a scan; encodes responses of type `M`.
struct InferCodec<M>(PhantomData<fn(M)>);

impl<M: Message + 'static> Codec for InferCodec<M> {
    type Encode = M;
    type Decode = ModelInferRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<M: Message> Encoder for InferCodec<M> {
    type Item = M;
    type Error = Status;

    fn encode(&mut self, item: M, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<M> Decoder for InferCodec<M> {
    type Item = ModelInferRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<ModelInferRequest>, Status> {
        // Splits the receive buffer: the tensors of the decoded request are views of it.
        let message = buffer.copy_to_bytes(buffer.remaining());
        frame::scan(&message).map_err(|error| status_of(&error))?;
        match ModelInferRequest::decode(message) {
            Ok(request) => Ok(Some(request)),
            Err(_) => Err(status_of(&Error::invalid("message", "not a valid protobuf message"))),
        }
    }
}
