//! A unary message as it came: the pieces that the connection was read into, kept and sent on as they are.
//!
//! tonic's codec copies a message into a buffer of its own when it is read and again when it is written. For what is only passed on,
//! both are a tensor's size in time and memory for nothing.

mod meaning;
mod prompt;

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::encoding::{decode_varint, encode_varint};
use tonic::Status;
use weft_types::{Error, Result};

pub use prompt::Payload;

/// A gRPC message's prefix: one byte for compression, four for the length.
const PREFIX: usize = 5;
/// A piece that is smaller than this is not worth its bookkeeping, where it is one of many: a sender of single bytes would make
/// a message many times as large as it is.
const SMALL: usize = 4 << 10;
/// As many pieces may be small.
const FEW: usize = 8;
/// Above this field of a `ModelInferRequest` there are only tensors.
const LAST_OF_HEAD: u64 = 4;

/// One gRPC message with its prefix, not compressed and complete. Clones share its bytes.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// None is empty.
    pieces: Vec<Bytes>,
}

/// What has arrived of a body that shall hold one message.
#[derive(Debug, Default)]
pub struct Received {
    message: Message,
    length: usize,
    prefix: [u8; PREFIX],
    /// Small pieces that follow the others, as one.
    tail: BytesMut,
    /// What followed the message.
    pub trailers: Option<HeaderMap>,
}

impl Received {
    /// Reads a body to its end. A second message is refused as soon as it begins, so that no more is kept than one may be long.
    pub async fn read<B>(body: B) -> Result<Self, Status>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<tonic::codegen::StdError>,
    {
        Self::read_up_to(body, usize::MAX).await
    }

    /// The same for a message of at most `longest` bytes with its prefix: a longer one is refused before it is read, where its prefix tells.
    pub async fn read_up_to<B>(mut body: B, longest: usize) -> Result<Self, Status>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let mut received = Self::default();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame.map_err(|error| Status::from_error(error.into()))?.into_data() {
                Ok(data) => {
                    received.add(data)?;
                    if received.length >= PREFIX && received.promised() > longest {
                        return Err(Status::internal(format!("the message is longer than {longest} bytes")));
                    }
                }
                Err(frame) => received.trailers = frame.into_trailers().ok(),
            }
        }
        Ok(received)
    }

    fn add(&mut self, data: Bytes) -> Result<(), Status> {
        if let Some(rest) = self.prefix.get_mut(self.length..) {
            let taken = rest.len().min(data.len());
            rest[..taken].copy_from_slice(&data[..taken]);
        }
        self.length += data.len();
        if self.length >= PREFIX && self.length > self.promised() {
            return Err(Status::internal("more than one message in a unary call"));
        }
        if data.len() < SMALL && self.message.pieces.len() >= FEW {
            self.tail.extend_from_slice(&data);
        } else {
            self.join();
            self.message.pieces.extend(Some(data).filter(|data| !data.is_empty()));
        }
        if self.tail.len() >= 4 * SMALL {
            self.join();
        }
        Ok(())
    }

    /// Makes the small pieces so far one.
    fn join(&mut self) {
        if !self.tail.is_empty() {
            self.message.pieces.push(self.tail.split().freeze());
        }
    }

    /// What the prefix says, with the prefix.
    fn promised(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        (u32::from_be_bytes(length) as usize).saturating_add(PREFIX)
    }

    /// The message, if it has come and is complete.
    pub fn message(mut self) -> Result<Message, Status> {
        self.join();
        match (self.length, self.prefix[0]) {
            (0, _) => Err(Status::internal("the message is missing")),
            (length, _) if length < PREFIX || length < self.promised() => {
                Err(Status::internal("the message is cut short"))
            }
            (_, 0) => Ok(self.message),
            // No encoding is ever offered, so none can be expected here.
            (_, 1) => Err(Status::unimplemented("compressed messages are not supported")),
            _ => Err(Status::internal("the message has an unknown compression flag")),
        }
    }
}

impl Message {
    /// A message of these bytes, which must be fewer than 4 GiB.
    pub fn of(payload: Bytes) -> Self {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut prefix = Vec::with_capacity(PREFIX);
        prefix.put_u8(0);
        prefix.put_u32(length);
        let mut pieces = vec![prefix.into(), payload];
        pieces.retain(|piece: &Bytes| !piece.is_empty());
        Self { pieces }
    }

    /// Its bytes, with the prefix.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Whether it has no byte, not even a prefix.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The message without its prefix, in one piece: copied, unless it is there in one.
    pub fn into_payload(self) -> Bytes {
        let mut rest = self.payload();
        let length = rest.remaining();
        rest.copy_to_bytes(length)
    }

    /// A `ModelInferRequest` as [`crate::frame::scan`] reads it. When it is in several pieces, all but its tensors is copied into one,
    /// in which each tensor is empty.
    pub fn head(&self) -> Result<Cow<'_, [u8]>> {
        let mut rest = self.payload();
        let first = rest.first();
        if first.len() == rest.remaining {
            return Ok(Cow::Borrowed(first));
        }
        let mut head = Vec::with_capacity(256);
        while rest.has_remaining() {
            copy_field(&mut rest, &mut head)?;
        }
        Ok(Cow::Owned(head))
    }

    fn payload(&self) -> Rest<'_> {
        let mut rest = Rest { pieces: &self.pieces, at: 0, remaining: self.len() };
        rest.advance(PREFIX.min(rest.remaining));
        rest
    }

    /// A body that sends it, and trailers after it.
    pub fn into_body(self, trailers: Option<HeaderMap>) -> Pieces {
        Pieces { pieces: self.pieces.into_iter(), trailers }
    }
}

/// Copies one field, without its contents where those are a tensor's.
fn copy_field(rest: &mut Rest<'_>, head: &mut Vec<u8>) -> Result<()> {
    let malformed = |problem: &str| Error::invalid("message", format_args!("not a valid protobuf message: {problem}"));
    let varint = |rest: &mut Rest<'_>| decode_varint(rest).map_err(|_| malformed("a number is cut short or too long"));
    let key = varint(rest)?;
    encode_varint(key, head);
    let copied = match key & 7 {
        0 => {
            encode_varint(varint(rest)?, head);
            0
        }
        1 => 8,
        5 => 4,
        2 => {
            let length = varint(rest)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.remaining());
            let length = length.ok_or_else(|| malformed("a length runs past the end"))?;
            let copied = if key >> 3 <= LAST_OF_HEAD { length } else { 0 };
            encode_varint(copied as u64, head);
            rest.advance(length - copied);
            copied
        }
        _ => return Err(malformed("an unknown wire type")),
    };
    if copied > rest.remaining() {
        return Err(malformed("a length runs past the end"));
    }
    head.put(rest.take(copied));
    Ok(())
}

/// A place in the pieces, none of which is empty.
#[derive(Clone, Copy, Default)]
struct Rest<'a> {
    pieces: &'a [Bytes],
    at: usize,
    remaining: usize,
}

impl<'a> Rest<'a> {
    fn first(&self) -> &'a [u8] {
        self.pieces.first().map_or(&[], |piece| &piece[self.at..])
    }
}

impl Buf for Rest<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.first()
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        while count > 0 {
            let here = self.chunk().len();
            if count < here {
                self.at += count;
                return;
            }
            count -= here;
            (self.pieces, self.at) = (&self.pieces[1..], 0);
        }
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        let whole = self.pieces.first().filter(|piece| piece.len() - self.at >= length);
        let taken = whole.map(|piece| piece.slice(self.at..self.at + length));
        match taken {
            Some(taken) => {
                self.advance(length);
                taken
            }
            None => {
                let mut copy = Vec::with_capacity(length);
                copy.put(self.take(length));
                copy.into()
            }
        }
    }
}

/// A message on its way out, piece by piece.
#[derive(Debug)]
pub struct Pieces {
    pieces: std::vec::IntoIter<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = self.pieces.next().map(Frame::data);
        Poll::Ready(next.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.len() == 0 && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests;
