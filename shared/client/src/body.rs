//! The two bodies of a call, tied together: when nobody waits for the answer any more, the request ends as well.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;
use weft_proto::status_of;
use weft_types::{Error, Reason};

/// A request on its way out. hyper sends it from a task of its own, which would keep a stream open, and its work going, for
/// as long as the caller's messages do not end; so it also ends, with a reset, when the answer is dropped.
pub(crate) struct RequestBody {
    inner: Body,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Ends the request when it is dropped.
pub(crate) struct Waiting(#[expect(dead_code, reason = "held for its drop")] DropGuard);

impl RequestBody {
    pub(crate) fn new(inner: Body) -> (Self, Waiting) {
        let token = CancellationToken::new();
        let gone = Box::pin(token.clone().cancelled_owned());
        (Self { inner, gone }, Waiting(token.drop_guard()))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match self.gone.as_mut().poll(context) {
            // hyper resets the stream with this reason.
            Poll::Ready(()) => Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body. It holds its connection: one that has been told to go away still ends its calls.
pub struct ResponseBody {
    inner: Incoming,
    _waiting: Waiting,
    /// The connection, whatever it is made of.
    _live: Arc<dyn Send + Sync>,
}

impl ResponseBody {
    pub(crate) fn new(inner: Incoming, waiting: Waiting, live: Arc<dyn Send + Sync>) -> Self {
        Self { inner, _waiting: waiting, _live: live }
    }
}

/// The failure of a call that may have been received.
pub(crate) fn lost() -> Error {
    Error::new(Reason::WorkerLost, "the connection was lost before the answer was complete")
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context).map_err(|error| {
            tracing::debug!(%error, "an answer was cut short");
            status_of(&lost())
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
