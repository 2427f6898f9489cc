//! Messages in pieces: how a message is cut on its way changes nothing, and what is not one whole message is refused.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;
use weft_proto::frame;
use weft_proto::message::{Message, Payload, Received};

use crate::frame::{INPUT, KEY};

/// A message's prefix on the wire.
const PREFIX: usize = 5;
/// Pieces that a message of no length may be kept in, and the bytes that each further two must have.
const FEW: usize = 12;
const PIECE: usize = 4 << 10;

/// A body that is there at once, in pieces.
struct Ready(VecDeque<Bytes>);

impl Body for Ready {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// Nothing here ever waits.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// Cuts bytes into a hundred pieces or so of sizes that follow from `seed`, some of them empty.
fn cut(bytes: &Bytes, mut seed: u32) -> VecDeque<Bytes> {
    let mut rest = bytes.clone();
    let mut pieces = VecDeque::new();
    let most = [2, 7, 64, 5_000][seed as usize % 4].max(bytes.len() / 64);
    while !rest.is_empty() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = (seed >> 16) as usize % most;
        pieces.push_back(rest.split_to(size.min(rest.len())));
    }
    pieces
}

fn received(bytes: &Bytes, seed: u32) -> Result<Message, Status> {
    let read = at_once(Received::read(Ready(cut(bytes, seed))));
    assert!(read.is_some(), "a body that is there was waited for");
    read.unwrap_or_else(|| Ok(Received::default())).and_then(Received::message)
}

fn sent(message: Message) -> Vec<Bytes> {
    let mut body = message.into_body(None);
    let mut pieces = Vec::new();
    while let Some(Some(Ok(frame))) = at_once(std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context))) {
        pieces.extend(frame.into_data());
    }
    pieces
}

/// Two bytes that say how it is cut, and the rest as a message's payload and as what came on the wire.
pub fn check(data: &[u8]) {
    let Some(([one, two], data)) = data.split_first_chunk::<2>() else { return };
    let seed = u32::from(u16::from_le_bytes([*one, *two]));
    let payload = Bytes::copy_from_slice(data);
    whole(&payload, seed);
    hostile(&payload, seed);
}

fn whole(payload: &Bytes, seed: u32) {
    let framed = Bytes::from(sent(Message::of(payload.clone())).concat());
    assert_eq!(framed.len(), payload.len() + PREFIX);
    let message = received(&framed, seed);
    assert!(message.is_ok(), "a whole message is refused: {message:?}");
    let Ok(message) = message else { return };
    assert_eq!(message.len(), framed.len());
    match message.head() {
        Ok(head) => {
            assert!(head.len() <= payload.len());
            assert_eq!(frame::scan(&head).ok(), frame::scan(payload).ok());
            assert_eq!(frame::given(&head, KEY).ok(), frame::given(payload, KEY).ok());
        }
        Err(_) => assert!(frame::scan(payload).is_err(), "the head is refused and the whole is not"),
    }
    assert_eq!(message.request().prompt(INPUT, 16), Payload::of(payload).prompt(INPUT, 16));
    let pieces = sent(message.clone());
    assert!(pieces.len() <= FEW + 2 * framed.len() / PIECE, "{} pieces of {} bytes", pieces.len(), framed.len());
    assert!(pieces.concat() == framed);
    assert!(message.into_payload() == *payload);
}

/// What came is one whole message that is not compressed, or is refused.
fn hostile(wire: &Bytes, seed: u32) {
    let is_whole = match wire.split_first_chunk::<PREFIX>() {
        Some(([0, length @ ..], rest)) => u32::from_be_bytes(*length) as usize == rest.len(),
        _ => false,
    };
    assert_eq!(received(wire, seed).is_ok(), is_whole);
}

/// Messages, and bytes that are nearly one.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds =
        vec![vec![0, 0], vec![1, 0, 0, 0, 0, 0, 1, 9], vec![3, 2, 1, 0, 0, 0, 0], vec![2, 9, 0, 0, 0, 0, 2, 9]];
    for (number, seed) in (0u8..).zip(crate::frame::seeds()) {
        seeds.push([&[number, 7][..], &seed].concat());
    }
    seeds
}
