//! `ModelInfer` on the wire: its messages are kept in the pieces in which they came, and sent on in them.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tower::Service;
use weft_proto::message::{Message, Received};

use crate::Router;

/// The method that is answered here.
pub(crate) const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What an answer's metadata may hold of the hop that it came from, and each hop says for itself.
const OF_THE_HOP: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// Answers `ModelInfer`; the service's other methods are answered by `others`.
#[derive(Clone)]
pub(crate) struct Unary<S> {
    pub(crate) router: Router,
    pub(crate) others: S,
}

impl<S> Service<Request<Body>> for Unary<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(self.others.call(request));
        }
        let router = self.router.clone();
        Box::pin(async move { Ok(answer(&router, request).await.unwrap_or_else(Status::into_http)) })
    }
}

async fn answer(router: &Router, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let mut request = tonic::Request::new(Received::read(body).await?.message()?);
    *request.metadata_mut() = MetadataMap::from_headers(parts.headers);
    *request.extensions_mut() = parts.extensions;
    Ok(written(router.infer(request).await?))
}

fn written(response: tonic::Response<Message>) -> Response<Body> {
    let (metadata, message, extensions) = response.into_parts();
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    let mut response = Response::new(Body::new(message.into_body(Some(trailers))));
    let mut headers = metadata.into_headers();
    OF_THE_HOP.iter().for_each(|name| drop(headers.remove(*name)));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    *response.headers_mut() = headers;
    *response.extensions_mut() = extensions;
    response
}
