use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::frame;
use crate::inference::model_infer_request::InferInputTensor;
use crate::inference::{InferParameter, ModelInferRequest, infer_parameter::ParameterChoice};

fn request(tensor: usize) -> ModelInferRequest {
    let timeout = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(5_000)) };
    ModelInferRequest {
        model_name: "m".to_owned(),
        model_version: "3".to_owned(),
        id: "id".to_owned(),
        parameters: [("timeout".to_owned(), timeout)].into(),
        inputs: vec![InferInputTensor { name: "INPUT".to_owned(), ..Default::default() }],
        raw_input_contents: vec![vec![7; tensor].into(); 2],
        ..Default::default()
    }
}

/// The message as it comes in pieces of this size.
fn received(bytes: &[u8], piece: usize) -> Result<Received, Status> {
    let mut received = Received::default();
    for piece in bytes.chunks(piece) {
        received.add(Bytes::copy_from_slice(piece))?;
    }
    Ok(received)
}

fn framed(payload: Vec<u8>) -> Vec<u8> {
    Message::of(payload.into()).pieces.concat()
}

#[test]
fn the_head_is_the_same_in_however_many_pieces_it_comes() {
    let payload = request(300).encode_to_vec();
    let whole = frame::scan(&payload).expect("valid");
    let bytes = framed(payload.clone());
    for piece in 1..=bytes.len() {
        let message = received(&bytes, piece).and_then(Received::message).expect("complete");
        assert_eq!(frame::scan(&message.head().expect("valid")), Ok(whole), "pieces of {piece}");
        assert_eq!(message.pieces.concat(), bytes);
        assert_eq!(message.into_payload(), payload);
    }
}

/// Of a message in pieces only what is not a tensor is copied, and of one in a single piece nothing.
#[test]
fn tensors_are_not_copied() {
    let bytes = Bytes::from(framed(request(100_000).encode_to_vec()));
    let message = received(&bytes, 16_384).and_then(Received::message).expect("complete");
    assert!(message.head().expect("valid").len() < 100);
    let mut whole = Received::default();
    whole.add(bytes.clone()).expect("one message");
    let message = whole.message().expect("complete");
    assert!(matches!(message.head(), Ok(Cow::Borrowed(head)) if head.as_ptr() == bytes[PREFIX..].as_ptr()));
    assert_eq!(message.clone().into_payload().as_ptr(), bytes[PREFIX..].as_ptr());
    assert_eq!(message.pieces[0].as_ptr(), bytes.as_ptr());
}

#[test]
fn what_is_not_one_whole_message_is_refused() {
    let bytes = framed(vec![1, 2, 3]);
    let code = |bytes: &[u8], piece| received(bytes, piece).and_then(Received::message).expect_err("refused").code();
    for piece in 1..=16 {
        let twice = [&bytes[..], &bytes[..]].concat();
        assert_eq!(code(&twice, piece), tonic::Code::Internal);
        for cut in 0..bytes.len() {
            assert_eq!(code(&bytes[..cut], piece), tonic::Code::Internal, "{cut} bytes in pieces of {piece}");
        }
        let compressed = [&[1], &bytes[1..]].concat();
        assert_eq!(code(&compressed, piece), tonic::Code::Unimplemented);
    }
    let empty = received(&[0; PREFIX], 2).and_then(Received::message).expect("an empty message is one");
    assert_eq!(empty.head().expect("valid").len(), 0);
}

/// Who sends single bytes does not make us keep a book of them.
#[test]
fn many_small_pieces_become_few() {
    let bytes = framed((0..100_000u32).map(|at| (at % 251) as u8).collect());
    let message = received(&bytes, 1).and_then(Received::message).expect("complete");
    assert!(message.pieces.len() < 20, "{} pieces", message.pieces.len());
    assert_eq!(message.pieces.concat(), bytes);
    // Large ones stay what they are, also between small ones.
    let mut mixed = Received::default();
    for (at, piece) in bytes.chunks(SMALL).enumerate() {
        let (one, other) = piece.split_at(if at % 2 == 0 { piece.len() } else { 1 });
        [one, other].into_iter().for_each(|part| mixed.add(Bytes::copy_from_slice(part)).expect("one message"));
    }
    assert_eq!(mixed.message().expect("complete").pieces.concat(), bytes);
}

/// More than was promised is refused when it comes, not when it has all been kept.
#[test]
fn a_second_message_is_not_kept() {
    let mut received = Received::default();
    received.add(framed(vec![1, 2, 3]).into()).expect("one message");
    assert!(received.add(Bytes::from_static(&[0])).is_err());
    assert_eq!(received.message.pieces.len(), 1);
}

#[tokio::test]
async fn a_body_is_sent_as_it_came() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let bytes = framed(request(50).encode_to_vec());
    let message = received(&bytes, 7).and_then(Received::message).expect("complete");
    let again = Received::read(message.into_body(Some(trailers.clone()))).await.expect("a body");
    assert_eq!(again.trailers, Some(trailers));
    assert_eq!(again.message().expect("complete").pieces.concat(), bytes);
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, and no verdict that differs from that on the whole.
    #[test]
    fn pieces_change_no_verdict(payload in proptest::collection::vec(any::<u8>(), 0..200), piece in 1..20_usize) {
        let message = received(&framed(payload.clone()), piece).and_then(Received::message).expect("complete");
        let head = message.head();
        let scanned = head.as_ref().map_err(|_| ()).and_then(|head| frame::scan(head).map_err(|_| ()));
        prop_assert_eq!(scanned, frame::scan(&payload).map_err(|_| ()));
    }
}
