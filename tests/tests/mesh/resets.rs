//! Thousands of calls that are cancelled at once cost no other call its connection.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::join_all;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use weft_client::{Channel, ChannelOptions};
use weft_proto::inference::ModelInferResponse;
use weft_runtime::Tasks;
use weft_tests::calls::{Caller, identity, sleep, until, with_timeout};
use weft_tests::mesh::Mesh;

use super::tap::frame as message;

const CALLS: u32 = 3_000;
const LIMIT: Duration = Duration::from_secs(300);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// CANCEL, as HTTP/2 numbers it.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call of `ModelInfer`, as HPACK writes them without a table and without Huffman's code.
fn headers() -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or_default()], text.as_bytes()].concat();
    let (path, content) = (text("/inference.GRPCInferenceService/ModelInfer"), text("application/grpc"));
    // `:method: POST` and `:scheme: http` have numbers; `:path` and `content-type` have theirs for the name.
    [&[0x83, 0x86, 0x04][..], &path, &[0x0f, 0x10], &content, &[0x00], &text("te"), &text("trailers")].concat()
}

/// Calls as a client sends them that makes thousands, gives all up and makes another one, all before the server has looked.
fn burst() -> Vec<u8> {
    let (headers, good) = (headers(), message(&identity(4).encode_to_vec()));
    let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    for stream in (0..CALLS).map(|call| 2 * call + 1) {
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &headers));
        bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    bytes.extend(frame(HEADERS, END_HEADERS, 2 * CALLS + 1, &headers));
    bytes.extend(frame(DATA, END_STREAM, 2 * CALLS + 1, &good));
    bytes
}

/// The body that the call behind the burst is answered with.
async fn answer(mut socket: impl tokio::io::AsyncRead + Unpin) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.context("the connection has ended")?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await?;
        let is_its = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) == 2 * CALLS + 1;
        match head[3] {
            GOAWAY => bail!("the server gives up the connection: {}", String::from_utf8_lossy(&payload[8..])),
            RST_STREAM if is_its => bail!("the call is reset"),
            DATA if is_its => body.extend(payload),
            HEADERS if is_its && head[4] & END_STREAM != 0 => return Ok(body),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_before_they_are_looked_at_do_not_end_the_connection() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let worker = caller.first_worker().await?.channel.address().to_owned();
    for server in [mesh.address(), &worker] {
        let mut socket = TcpStream::connect(server).await?;
        let (reader, mut writer) = socket.split();
        let burst = burst();
        let (answered, written) = tokio::join!(answer(reader), writer.write_all(&burst));
        written?;
        let body = answered?;
        let answer = ModelInferResponse::decode(body.get(5..).context("a message")?)?;
        assert_eq!(answer.raw_output_contents, identity(4).raw_input_contents);
    }
    mesh.stop().await
}

/// The calls are under way at the worker, as many as the router lets through to one replica at first, or wait in the router when their caller gives them up; a stream on the caller's connection goes on,
/// and nothing on the router's connections to the worker has to be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn calls_under_way_that_are_given_up_cost_no_other_call() -> Result<()> {
    let streams = CALLS.to_string();
    let flags = ["--router-max-streams", "--worker-max-streams", "--worker-queue-limit"];
    let flags: Vec<&str> = flags.iter().flat_map(|flag| [flag, &*streams]).collect();
    let mesh = Mesh::start(&flags).await?;
    let options = ChannelOptions { connections: 1, ..ChannelOptions::default() };
    let caller = Caller { channel: Channel::new(mesh.address(), options, &Tasks::new())? };
    for model in ["identity", "sleep"] {
        caller.wait_ready(model).await?;
    }
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    requests.send(identity(1)).await?;
    let stream = with_timeout(ReceiverStream::new(sent), LIMIT);
    let mut answers = caller.inference().model_stream_infer(stream).await?.into_inner();
    let mut answered = async || -> Result<()> {
        let answer = answers.message().await?.context("the stream goes on")?;
        ensure!(answer.error_message.is_empty(), "{}", answer.error_message);
        Ok(())
    };
    answered().await?;
    let in_flight = async |wanted: &dyn Fn(f64) -> bool| {
        until("the load", async || mesh.sample("weft_router_in_flight").await.is_ok_and(wanted)).await
    };
    let calls = join_all((0..CALLS).map(|_| caller.infer(sleep(600_000), LIMIT)));
    tokio::select! {
        _ = calls => bail!("nobody sleeps for so short"),
        busy = in_flight(&|load| load >= 64.0) => busy?,
    }
    requests.send(identity(1)).await?;
    answered().await?;
    caller.infer(identity(4), LIMIT).await?;
    // The stream alone is left.
    in_flight(&|load| load == 1.0).await?;
    assert_eq!(mesh.sample("weft_router_retries_total").await?, 0.0);
    drop(requests);
    mesh.stop().await
}
