//! Unary messages as other clients and proxies cut them: in any pieces, compressed, or more than one.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message as _;
use tonic::body::Body;
use tonic::{Code, Status};
use weft_client::{Channel, ChannelOptions};
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_proto::message::{Message, Received};
use weft_runtime::Tasks;
use weft_tests::calls::identity;
use weft_tests::mesh::Mesh;

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

fn framed(request: &ModelInferRequest) -> Vec<u8> {
    let payload = request.encode_to_vec();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], &payload].concat()
}

/// Sends bytes in DATA frames of this size; returns the answer's headers, its body and its status.
async fn send(channel: &Channel, bytes: &[u8], piece: usize) -> Result<(HeaderMap, Received, Status)> {
    let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
    let pieces = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let body = Body::new(StreamBody::new(tokio_stream::iter(pieces)));
    let request = Request::post(PATH).header("content-type", "application/grpc").header("te", "trailers").body(body)?;
    let answer = tokio::time::timeout(Duration::from_secs(20), channel.send(request)).await??;
    let (parts, body) = answer.into_parts();
    let received = Received::read(body).await?;
    let status = received.trailers.as_ref().and_then(Status::from_header_map);
    let status = status.or_else(|| Status::from_header_map(&parts.headers)).context("an answer has a status")?;
    Ok((parts.headers, received, status))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_in_whatever_pieces_it_comes() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    mesh.caller()?.wait_ready("identity").await?;
    let channel = Channel::new(mesh.address(), ChannelOptions::default(), &Tasks::new())?;
    let request = identity(5_000);
    let bytes = framed(&request);
    for piece in [5, 7, 1_000, 16_384, bytes.len()] {
        let (headers, received, status) = send(&channel, &bytes, piece).await?;
        assert_eq!(status.code(), Code::Ok, "pieces of {piece}: {status}");
        assert_eq!(headers["content-type"], "application/grpc");
        let payload = received.message().map(Message::into_payload)?;
        let answer = ModelInferResponse::decode(payload)?;
        assert_eq!(answer.raw_output_contents, request.raw_input_contents, "pieces of {piece}");
    }
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_one_plain_message_is_refused() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    mesh.caller()?.wait_ready("identity").await?;
    let channel = Channel::new(mesh.address(), ChannelOptions::default(), &Tasks::new())?;
    let good = framed(&identity(16));
    let compressed = [&[1], &good[1..]].concat();
    let cases = [
        ("two messages", [&good[..], &good].concat(), Code::Internal),
        ("none", Vec::new(), Code::Internal),
        ("half of one", good[..good.len() / 2].to_vec(), Code::Internal),
        ("compressed", compressed, Code::Unimplemented),
    ];
    for (name, bytes, code) in cases {
        let (_, _, status) = send(&channel, &bytes, 64).await?;
        assert_eq!(status.code(), code, "{name}: {status}");
    }
    let (_, _, status) = send(&channel, &good, good.len()).await?;
    assert_eq!(status.code(), Code::Ok, "the connection serves on: {status}");
    mesh.stop().await
}
