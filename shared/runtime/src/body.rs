//! The bodies of a call: messages counted before they are read, answers cut at the deadline.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use weft_proto::{code_in, status_of};
use weft_types::{Error, Reason};

use crate::load::Trailer;
use crate::record::{Record, draining, expired, panicked};

/// A gRPC message's prefix: one byte for compression, four for the length.
const PREFIX: usize = 5;

/// A call's messages, as a server hands them on.
pub type RequestBody = Limited<hyper::body::Incoming>;

/// Reads the length prefixes as they pass and refuses a message over the limit before anything is allocated for it.
pub struct Limited<B> {
    inner: B,
    limit: u32,
    prefix: [u8; PREFIX],
    have: usize,
    rest: u64,
}

impl<B> Limited<B> {
    pub(crate) const fn new(inner: B, limit: u32) -> Self {
        Self { inner, limit, prefix: [0; PREFIX], have: 0, rest: 0 }
    }

    fn check(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.rest > 0 {
                let skipped = usize::try_from(self.rest).unwrap_or(usize::MAX).min(data.len());
                self.rest -= skipped as u64;
                data = &data[skipped..];
                continue;
            }
            let taken = (PREFIX - self.have).min(data.len());
            self.prefix[self.have..self.have + taken].copy_from_slice(&data[..taken]);
            self.have += taken;
            data = &data[taken..];
            if self.have == PREFIX {
                let [_, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length);
                if length > self.limit {
                    return Err(status_of(&Error::new(
                        Reason::MessageTooLarge,
                        format!("message: {length} bytes, the limit is {}", self.limit),
                    )));
                }
                (self.have, self.rest) = (0, u64::from(length));
            }
        }
        Ok(())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Limited<B>
where
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match std::task::ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        if let Some(data) = frame.data_ref()
            && let Err(status) = self.check(data)
        {
            return Poll::Ready(Some(Err(status.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What ends a call that does not end by itself; it becomes ready with the status for the caller.
pub(crate) enum End {
    /// The deadline.
    At(Pin<Box<Sleep>>),
    /// The server's drain: the method may stay open for good.
    WithServer(Pin<Box<WaitForCancellationFutureOwned>>),
    /// Nothing: the answer is already complete.
    Never,
}

impl Future for End {
    type Output = Status;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Status> {
        match &mut *self {
            Self::At(timer) => timer.as_mut().poll(context).map(|()| expired()),
            Self::WithServer(begun) => begun.as_mut().poll(context).map(|()| draining()),
            Self::Never => Poll::Pending,
        }
    }
}

/// The answer on its way out: cut with `DEADLINE_EXCEEDED` when the deadline passes, recorded when it ends.
pub(crate) struct Guarded {
    /// `None` once the answer has ended or was cut: dropping it stops whatever still produces it.
    inner: Option<tonic::body::Body>,
    end: End,
    record: Record,
    /// Goes out with the trailers.
    trailer: Option<Trailer>,
}

impl Guarded {
    pub(crate) const fn new(inner: tonic::body::Body, end: End, record: Record) -> Self {
        Self { inner: Some(inner), end, record, trailer: None }
    }

    /// The same with one trailer more, if there is one.
    pub(crate) fn with(self, trailer: Option<Trailer>) -> Self {
        Self { trailer, ..self }
    }

    fn cut(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        self.record.finish(status.code());
        let mut trailers = HeaderMap::new();
        match status.add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        // A panic inside a stream must cost this call only. The body is dropped and never polled again.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(context)));
        match polled {
            Err(_) => {
                tracing::error!("a handler panicked while streaming");
                self.cut(&panicked())
            }
            Ok(Poll::Pending) => match Pin::new(&mut self.end).poll(context) {
                Poll::Ready(status) => self.cut(&status),
                Poll::Pending => Poll::Pending,
            },
            Ok(Poll::Ready(Some(Ok(mut frame)))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    if let Some(trailer) = self.trailer.take() {
                        trailer.add(trailers);
                    }
                    let code = code_in(trailers).unwrap_or(tonic::Code::Unknown);
                    self.record.finish(code);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // As trailers, so that the caller learns the status: an error here would be a reset without one.
            Ok(Poll::Ready(Some(Err(status)))) => self.cut(&status),
            Ok(Poll::Ready(None)) => {
                self.record.finish(tonic::Code::Unknown);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes
    }

    #[test]
    fn a_prefix_over_the_limit_is_refused_however_it_is_split() {
        let mut whole = message(3);
        whole.extend(b"abc");
        whole.extend(message(11));
        for chunk in 1..whole.len() {
            let mut limited = Limited::new((), 10);
            let outcomes: Vec<bool> = whole.chunks(chunk).map(|part| limited.check(part).is_ok()).collect();
            assert!(!outcomes.last().expect("some"), "chunks of {chunk}");
            assert!(outcomes[..outcomes.len() - 1].iter().all(|ok| *ok), "chunks of {chunk}");
        }
        assert!(Limited::new((), 11).check(&whole).is_ok());
    }
}
