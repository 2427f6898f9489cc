//! Methods that the router does not know, to a replica of the model that the call's metadata names.
//!
//! A worker may serve interfaces of its own beside inference. Their messages are not looked at: `weft-model`, and `weft-version` if one
//! is meant, say where a call goes, and its frames pass as they come. A call is sent once: what has left cannot be told from what
//! had an effect.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use rand::RngExt as _;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tower::Service;
use weft_client::{Channel, prepare};
use weft_proto::message::Payload;
use weft_proto::status_of;
use weft_runtime::CallExt as _;
use weft_types::{Deadline, Error, Reason, Result, SystemClock};

use crate::dispatch::{Chosen, MODEL, VERSION, acquire};
use crate::identify::{Wanted, names};
use crate::{Inner, Router};

/// Services that are Weft's or gRPC's own: of a worker, they are not for callers of the mesh.
const PRIVATE: [&str; 2] = ["/weft.", "/grpc."];

/// Relays every call that it is given.
#[derive(Clone)]
pub(crate) struct Relay(Arc<Inner>);

impl Router {
    pub(crate) fn relay(&self) -> Relay {
        Relay(Arc::clone(&self.inner))
    }
}

impl Relay {
    async fn relay(self, mut request: Request<Body>) -> Result<Response<Body>> {
        let router = &self.0;
        let path = request.uri().path();
        let (Some(name), false) = (text(request.headers(), MODEL)?, PRIVATE.iter().any(|own| path.starts_with(own)))
        else {
            let told = "no such method; to reach one that a model's worker serves, name the model in weft-model";
            return Err(Error::new(Reason::NotOffered, told));
        };
        let version = text(request.headers(), VERSION)?.unwrap_or_default();
        let call = request.call();
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let wanted = Wanted { metadata: Some(&metadata), ..wanted(&name, &version, call.deadline)? };
        let chosen = acquire(router, &wanted, &mut Vec::new()).await?;
        let span = chosen.span(router, "relay", &call.trace, 0);
        chosen.mark(request.headers_mut());
        prepare(request.headers_mut(), call.deadline, span.context(), SystemClock::now())?;
        let response = channel(&chosen).send(request).await?;
        Ok(response.map(|body| Body::new(Relayed { body: Body::new(body), _chosen: chosen })))
    }
}

/// Any of these methods may stream, so none may hold up the unary calls' connections.
fn channel(chosen: &Chosen) -> Channel {
    chosen.permit.endpoint().streams.clone()
}

fn wanted<'a>(name: &'a str, version: &str, deadline: Deadline) -> Result<Wanted<'a>> {
    let (_, version) = names(name, version).map_err(|error| match error.field() {
        Some("model_version") => Error::invalid(VERSION, error.message()),
        _ => Error::invalid(MODEL, error.message()),
    })?;
    let (message, request) = (&[][..], Payload::default());
    let (unit, priority) = (rand::rng().random(), 0);
    let (sequence, ends_sequence) = (None, false);
    Ok(Wanted {
        name,
        version,
        id: "",
        deadline,
        sequence,
        ends_sequence,
        priority,
        unit,
        metadata: None,
        message,
        request,
    })
}

/// The one value of a header.
fn text(headers: &HeaderMap, name: &'static str) -> Result<Option<String>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| Error::invalid(name, "must be ASCII"))?;
            Ok(Some(text.to_owned()))
        }
        (Some(_), Some(_)) => Err(Error::invalid(name, "given more than once")),
    }
}

/// An answer under way: it is part of its replica's load until it has ended.
struct Relayed {
    body: Body,
    _chosen: Chosen,
}

impl HttpBody for Relayed {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Service<Request<Body>> for Relay {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move { Ok(relay.relay(request).await.unwrap_or_else(|error| status_of(&error).into_http())) })
    }
}
