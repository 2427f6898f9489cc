//! Calls that are cancelled by the thousand and answered all the same, because the server had not read that they were.

use std::collections::HashSet;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::*;

/// More than a client remembers of calls that it has cancelled (4,096), by more than the 1,024 answers to forgotten ones after which h2
/// gives up a connection by default.
const CALLS: usize = 6_000;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// `:status: 200`, by its number in HPACK's static table.
const STATUS_200: [u8; 1] = [0x88];

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn read(socket: &mut tokio::net::TcpStream) -> Frame {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.expect("the client is there");
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).await.expect("the whole frame");
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Frame { kind: head[3], flags: head[4], stream, payload }
}

/// Takes one call and `CALLS` more, tells of it, waits until those are cancelled, answers each of them and then the first.
async fn answer_late(listener: TcpListener, taken: oneshot::Sender<()>) {
    let (mut socket, _) = listener.accept().await.expect("a connection");
    socket.read_exact(&mut [0; 24]).await.expect("the preface");
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("it is read");
    let (mut calls, mut cancelled, mut taken) = (Vec::new(), HashSet::new(), Some(taken));
    while cancelled.len() < CALLS {
        let read = read(&mut socket).await;
        match read.kind {
            HEADERS => calls.push(read.stream),
            RST_STREAM => drop(cancelled.insert(read.stream)),
            SETTINGS | PING if read.flags & ACK == 0 => {
                let answer = if read.kind == PING { read.payload } else { Vec::new() };
                socket.write_all(&frame(read.kind, ACK, 0, &answer)).await.expect("it is read");
            }
            _ => {}
        }
        if let Some(taken) = taken.take_if(|_| calls.len() > CALLS) {
            taken.send(()).expect("it is waited for");
        }
    }
    let late = calls.iter().filter(|stream| cancelled.contains(stream));
    let answers = late.chain(calls.iter().filter(|stream| !cancelled.contains(stream)));
    let answers: Vec<u8> =
        answers.flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, *stream, &STATUS_200)).collect();
    socket.write_all(&answers).await.expect("it is read");
    // Until the client closes.
    let _ = socket.read_to_end(&mut Vec::new()).await;
}

/// What is cancelled costs no other call on the connection, however late and however many the answers are.
#[tokio::test]
async fn late_answers_to_cancelled_calls_leave_the_connection_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let tasks = Tasks::new();
    let options = ChannelOptions { connections: 1, ..ChannelOptions::default() };
    let channel = Channel::new(&address, options, &tasks).expect("an address");
    let (taken, all_taken) = oneshot::channel();
    let _server = tasks.attach(answer_late(listener, taken));
    let call = || channel.send(Request::post("/service/Method").body(Body::empty()).expect("valid"));
    let mut kept = std::pin::pin!(call());
    let others = join_all((0..CALLS).map(|_| call()));
    let cancelled = async {
        // Dropped as soon as the server has them all.
        tokio::select! {
            _ = others => panic!("nobody answers"),
            outcome = all_taken => outcome.expect("the server goes on"),
        }
    };
    let ended = async {
        tokio::select! {
            outcome = kept.as_mut() => panic!("ended before the others were cancelled: {:?}", outcome.err()),
            () = cancelled => {}
        }
        kept.await
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends");
    assert!(outcome.is_ok(), "{:?}", outcome.err());
}
