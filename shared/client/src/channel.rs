//! A few HTTP/2 connections to one address, made when they are needed and made again when they break.
//!
//! tonic's own channel picks blindly, and its timeouts end at the response headers; here a caller learns at once whether a
//! call can have reached the other side, which decides whether it may be sent again.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::Service;
use weft_proto::{drop_unreadable_details, status_of};
use weft_runtime::Tasks;
use weft_types::{Error, Reason};

use crate::body::{ResponseBody, Sending, lost};
pub(crate) use crate::connect::ConnectFailure;
use crate::connect::{Live, Peer, Slot, connect};

/// How a channel connects. The defaults suit the inside of the mesh.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// Connections to the address: each has one lock inside h2, so one is a bottleneck.
    pub connections: usize,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// How long a connection may be silent before it is pinged, also while idle.
    pub keepalive_interval: Duration,
    /// How long the answer to that ping may take before the connection counts as broken.
    pub keepalive_timeout: Duration,
    /// After so long without any answer while calls wait for one it is pinged, too, and after as long again without an answer to that, the
    /// other side counts as silent: nothing is ended for it, but others are better.
    pub silence_limit: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connections: 2,
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
            silence_limit: Duration::from_millis(250),
        }
    }
}

/// A channel's state, in gRPC's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChannelState {
    /// At least one connection is open.
    Ready,
    /// Nothing was tried yet, or everything was closed in order.
    Idle,
    /// The last connect failed; the next one waits for its backoff.
    TransientFailure,
}

impl ChannelState {
    /// The state's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Idle => "idle",
            Self::TransientFailure => "transient_failure",
        }
    }
}

/// A channel to one address. Clones share its connections.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

struct Inner {
    peer: Peer,
    slots: Box<[Slot]>,
    next: AtomicUsize,
}

impl Channel {
    /// A channel to `host:port`; it connects with the first call.
    pub fn new(address: &str, options: ChannelOptions, tasks: &Tasks) -> Result<Self, Error> {
        let authority = address.parse::<Authority>().map_err(|_| Error::invalid("address", "must be host:port"))?;
        let slots = (0..options.connections.max(1)).map(|_| Slot::default()).collect();
        let peer = Peer::new(authority, options, tasks.clone());
        Ok(Self { inner: Arc::new(Inner { peer, slots, next: AtomicUsize::new(0) }) })
    }

    /// A channel with one connection, made now. It has no time limit of its own.
    pub(crate) async fn dial(address: &str, options: ChannelOptions, tasks: &Tasks) -> Result<Self, ConnectFailure> {
        let authority = address.parse::<Authority>().map_err(|_| ConnectFailure::Address)?;
        let peer = Peer::new(authority, options, tasks.clone());
        let slots = [Slot::with(connect(&peer).await?)].into();
        Ok(Self { inner: Arc::new(Inner { peer, slots, next: AtomicUsize::new(0) }) })
    }

    /// Where it leads.
    pub fn address(&self) -> &str {
        self.inner.peer.authority.as_str()
    }

    /// Its state now.
    pub fn state(&self) -> ChannelState {
        self.inner.slots.iter().map(Slot::state).min().unwrap_or(ChannelState::Idle)
    }

    /// Whether calls wait for answers in vain: the other side stands still, or cannot be reached. It is told within twice the
    /// `silence_limit`, and no more once anything is heard.
    pub fn is_silent(&self) -> bool {
        self.inner.peer.is_silent()
    }

    /// Sends one call. A failure with [`Reason::NoReadyReplica`] means that it never left: it may be sent again whatever it
    /// is. [`Reason::WorkerLost`] means that it may have been received.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<ResponseBody>, Error>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let inner = &*self.inner;
        let slot = &inner.slots[inner.next.fetch_add(1, Ordering::Relaxed) % inner.slots.len()];
        let live = match slot.live(&inner.peer).await {
            Ok(live) => live,
            // A connection that cannot be made, or waits for its backoff, costs no call while another is open.
            Err(error) => inner.slots.iter().find_map(Slot::open).ok_or(error)?,
        };
        self.send_on(&live, request).await.map_err(|failure| {
            tracing::debug!(%failure, address = self.address(), "a call failed");
            if !failure.is_busy() {
                inner.slots.iter().for_each(|slot| slot.forget(&live));
            }
            if failure.never_left() { unsent() } else { lost() }
        })
    }

    async fn send_on<B>(&self, live: &Arc<Live>, request: Request<B>) -> Result<Response<ResponseBody>, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let (head, body) = self.address_to(request);
        let mut sender = live.sender.clone();
        // A fresh handle waits for nothing: this fails where the connection takes no calls any more.
        poll_fn(|context| sender.poll_ready(context)).await.map_err(Failure::Unsent)?;
        let (response, stream) = sender.send_request(head, body.is_end_stream()).map_err(Failure::of_sending)?;
        // It waits for a place among those that the server takes at once.
        poll_fn(|context| sender.poll_ready(context)).await.map_err(Failure::Unsent)?;
        let mut sending = Sending::new(body, stream);
        // Mostly all there is to send is there, so that no task is needed.
        let is_sent = poll_fn(|context| Poll::Ready(Pin::new(&mut sending).poll(context).is_ready())).await;
        let sending = (!is_sent).then(|| self.inner.peer.tasks.attach(sending));
        let waiting = live.signs.wait();
        let mut response = response.await.map_err(Failure::Waiting)?;
        waiting.hear();
        drop_unreadable_details(response.headers_mut());
        Ok(response.map(|body| ResponseBody::new(body, sending, Arc::clone(live) as _)))
    }

    fn address_to<B>(&self, request: Request<B>) -> (Request<()>, B) {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.inner.peer.authority.clone());
        uri.path_and_query = Some(path);
        // The three parts together always make a URI; the old one would only be sent as it is.
        parts.uri = Uri::from_parts(uri).unwrap_or(parts.uri);
        parts.version = http::Version::HTTP_2;
        (Request::from_parts(parts, ()), body)
    }
}

fn unsent() -> Error {
    Error::new(Reason::NoReadyReplica, "the connection closed before the call was sent")
}

/// Where a call failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Before the first of it was sent.
    #[error("not sent: {0}")]
    Unsent(h2::Error),
    /// It is no call that HTTP/2 can carry.
    #[error("cannot be sent: {0}")]
    Unsendable(h2::Error),
    /// When its answer was waited for.
    #[error("no answer: {0}")]
    Waiting(h2::Error),
}

impl Failure {
    fn of_sending(error: h2::Error) -> Self {
        let is_of_connection = error.is_io() || error.is_go_away() || error.reason().is_some();
        if is_of_connection { Self::Unsent(error) } else { Self::Unsendable(error) }
    }

    /// Whether the call was never looked at: it was still waiting when the connection closed, or the other side says so by
    /// REFUSED_STREAM or a GOAWAY that excludes it (gRFC A6).
    fn never_left(&self) -> bool {
        let excluded =
            |error: &h2::Error| error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        match self {
            Self::Unsent(_) => true,
            Self::Unsendable(_) => false,
            Self::Waiting(error) => self.is_busy() || excluded(error),
        }
    }

    /// Whether the other side has too many calls at the moment: the connection itself is well.
    fn is_busy(&self) -> bool {
        matches!(self, Self::Waiting(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move { channel.send(request).await.map_err(|error| status_of(&error)) })
    }
}

#[cfg(test)]
mod tests;
