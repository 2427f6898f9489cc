//! `ModelInfer` on the wire: its messages are kept in the pieces in which they came, and sent on in them.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use weft_proto::message::{Message, Received};
use weft_runtime::{RequestBody, Trailer};
use weft_types::SystemClock;

use crate::Router;

/// The method that is answered here.
pub(crate) const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What an answer's metadata may hold of the hop that it came from, and each hop says for itself.
const OF_THE_HOP: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// Answers a call of it, and tells the router's load with the answer.
pub(crate) async fn answer(router: Router, request: Request<RequestBody>) -> Response<Body> {
    let outcome = pass(&router, request).await;
    let load = router.inner.load.trailer(SystemClock::now());
    match outcome {
        Ok(response) => written(response, load),
        Err(mut status) => {
            if let Some(load) = load {
                load.add(status.metadata_mut().as_mut());
            }
            status.into_http()
        }
    }
}

async fn pass(router: &Router, request: Request<RequestBody>) -> Result<tonic::Response<Message>, Status> {
    let (parts, body) = request.into_parts();
    let mut request = tonic::Request::new(Received::read(body).await?.message()?);
    *request.metadata_mut() = MetadataMap::from_headers(parts.headers);
    *request.extensions_mut() = parts.extensions;
    router.infer(request).await
}

fn written(response: tonic::Response<Message>, load: Option<Trailer>) -> Response<Body> {
    let (metadata, message, extensions) = response.into_parts();
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    if let Some(load) = load {
        load.add(&mut trailers);
    }
    let mut response = Response::new(Body::new(message.into_body(Some(trailers))));
    let mut headers = metadata.into_headers();
    OF_THE_HOP.iter().for_each(|name| drop(headers.remove(*name)));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    *response.headers_mut() = headers;
    *response.extensions_mut() = extensions;
    response
}
