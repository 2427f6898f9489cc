//! The two bodies of a call: its messages on their way out, and the answer. When nobody waits for the answer any more, the request
//! ends as well.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason as Code, RecvStream, SendStream};
use http_body::{Body, Frame};
use tonic::Status;
use weft_proto::{drop_unreadable_details, status_of};
use weft_runtime::Running;
use weft_types::{Error, Reason};

/// What a call may hand to its connection before there is room in its window: most requests are no longer, and have gone when that is
/// over. h2 gives no room at all before a call's headers are sent.
const EARLY_BYTES: usize = 1 << 20;

/// A request on its way out, as fast as the other side takes it. It ends early when the other side ends the call.
pub(crate) struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body, and waiting for room in the stream's window.
    waiting: Option<Bytes>,
    /// What is left of [`EARLY_BYTES`]; `None` once there was too little.
    early: Option<usize>,
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    pub(crate) const fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: None, early: Some(EARLY_BYTES) }
    }

    /// The body's next data; `None` when there is no more to send, or nobody to send it to.
    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                // Refused only where the call is over.
                let _ = self.stream.send_data(Bytes::new(), true);
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else {
                self.stream.send_reset(Code::CANCEL);
                return Poll::Ready(None);
            };
            // A gRPC request has no trailers.
            if let Ok(data) = frame.into_data()
                && (!data.is_empty() || self.body.is_end_stream())
            {
                return Poll::Ready(Some(data));
            }
        }
    }

    /// Sends what waits, once there is room for some of it: h2 keeps the rest. Whether more may follow.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let needs_room = self.early.is_none() && self.waiting.as_ref().is_some_and(|data| !data.is_empty());
        while needs_room && self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(false),
            }
        }
        let Some(data) = self.waiting.take() else { return Poll::Ready(true) };
        let is_last = self.body.is_end_stream();
        let sent = self.stream.send_data(data, is_last);
        Poll::Ready(sent.is_ok() && !is_last)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Future for Sending<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // Asked in any case, to be woken by a reset while the body has nothing to send.
            if self.stream.poll_reset(context).is_ready() || !ready!(self.poll_send(context)) {
                return Poll::Ready(());
            }
            let Some(data) = ready!(self.poll_take(context)) else { return Poll::Ready(()) };
            self.early = self.early.and_then(|left| left.checked_sub(data.len()));
            if self.early.is_none() {
                // No more than a claim: to ask for room before there is something to send could take it from another call.
                self.stream.reserve_capacity(1);
            }
            self.waiting = Some(data);
        }
    }
}

/// An answer's body. It holds its connection: one that has been told to go away still ends its calls.
pub struct ResponseBody {
    inner: RecvStream,
    /// Whether all data has come.
    is_read: bool,
    /// What is left of the request.
    _sending: Option<Running>,
    /// The connection, whatever it is made of.
    _live: Arc<dyn Send + Sync>,
}

impl ResponseBody {
    pub(crate) fn new(inner: RecvStream, sending: Option<Running>, live: Arc<dyn Send + Sync>) -> Self {
        Self { inner, is_read: false, _sending: sending, _live: live }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_read {
            match ready!(self.inner.poll_data(context)) {
                Some(Ok(data)) => {
                    // It refuses only more than has come.
                    let _ = self.inner.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.is_read = true,
            }
        }
        self.inner.poll_trailers(context).map(|trailers| trailers.map(|some| some.map(Frame::trailers)).transpose())
    }
}

/// The failure of a call that may have been received.
pub(crate) fn lost() -> Error {
    Error::new(Reason::WorkerLost, "the connection was lost before the answer was complete")
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.poll(context).map(|frame| match frame? {
            Ok(mut frame) => {
                if let Some(trailers) = frame.trailers_mut() {
                    drop_unreadable_details(trailers);
                }
                Some(Ok(frame))
            }
            // An early end in order (RFC 9113, section 8.1).
            Err(error) if error.reason() == Some(Code::NO_ERROR) && error.is_reset() => None,
            Err(error) => {
                tracing::debug!(%error, "an answer was cut short");
                Some(Err(status_of(&lost())))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
