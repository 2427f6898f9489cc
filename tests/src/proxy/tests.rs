use std::io::ErrorKind;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use weft_types::SystemClock;

use super::*;
use crate::calls::until;

/// How long nothing is waited for. Too short a time could hide a fault that does nothing; it cannot fail a good one.
const SILENCE: Duration = Duration::from_millis(100);

/// How long anything may take that shall happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// What makes the server reset the connection when it is gone, instead of closing it.
const RUDELY: &str = "rudely";

/// A server that tells what it got and answers with the same.
struct Echo {
    address: SocketAddr,
    got: mpsc::Receiver<Vec<u8>>,
    _tasks: JoinSet<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (sender, got) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(echo(stream, sender.clone()));
            }
        });
        Self { address, got, _tasks: tasks }
    }

    async fn heard(&mut self) -> Vec<u8> {
        tokio::time::timeout(PATIENCE, self.got.recv()).await.expect("in time").expect("the server runs")
    }
}

async fn echo(mut stream: TcpStream, got: mpsc::Sender<Vec<u8>>) {
    let mut bytes = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        if &bytes[..length] == RUDELY.as_bytes() {
            stream.set_zero_linger().expect("it can be set");
        }
        let _ = got.send(bytes[..length].to_vec()).await;
        if stream.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

async fn pair() -> (Echo, Proxy) {
    let echo = Echo::start().await;
    let proxy = Proxy::start(&format!("http://{}", echo.address)).await.expect("the proxy starts");
    (echo, proxy)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.expect("the proxy accepts")
}

async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = [0; 64];
    let length = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await??;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

async fn said(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("it can be sent");
    assert_eq!(answer(stream).await.expect("an answer"), text);
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(SILENCE, answer(stream)).await.is_err()
}

async fn is_reset(stream: &mut TcpStream) {
    let ended = answer(stream).await.expect_err("the connection is reset");
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
}

/// Closed or reset: it depends on whether there was anything left to read.
async fn is_over(stream: &mut TcpStream) {
    match answer(stream).await {
        Ok(text) => assert_eq!(text, ""),
        Err(error) => assert_ne!(error.kind(), ErrorKind::TimedOut),
    }
}

#[tokio::test]
async fn without_a_fault_bytes_and_ends_pass() {
    let (mut echo, proxy) = pair().await;
    let mut stream = connect(&proxy).await;
    said(&mut stream, "one").await;
    said(&mut stream, "two").await;
    stream.shutdown().await.expect("it can be closed");
    assert_eq!(answer(&mut stream).await.expect("an end"), "");
    assert_eq!(echo.heard().await, b"one");
}

#[tokio::test]
async fn a_large_answer_is_whole() {
    let (mut echo, proxy) = pair().await;
    let (mut reads, mut writes) = connect(&proxy).await.into_split();
    let sent: Vec<u8> = (0..4 << 20).map(|index: u32| (index % 251) as u8).collect();
    let mut tasks = JoinSet::new();
    let copy = sent.clone();
    tasks.spawn(async move { writes.write_all(&copy).await.expect("it can be sent") });
    tasks.spawn(async move { while echo.got.recv().await.is_some() {} });
    let mut got = vec![0; sent.len()];
    reads.read_exact(&mut got).await.expect("all of it");
    assert!(got == sent);
}

#[tokio::test]
async fn a_black_hole_carries_nothing_and_lets_go_of_what_it_holds() {
    let (mut echo, proxy) = pair().await;
    let mut old = connect(&proxy).await;
    said(&mut old, "before").await;
    proxy.set(Fault::BlackHole);
    old.write_all(b"held").await.expect("it is accepted");
    let mut new = connect(&proxy).await;
    new.write_all(b"new").await.expect("it is accepted");
    assert!(is_silent(&mut old).await && is_silent(&mut new).await);
    assert_eq!(echo.heard().await, b"before");
    assert!(echo.got.try_recv().is_err(), "nothing else got through");
    proxy.set(Fault::None);
    assert_eq!(answer(&mut old).await.expect("an answer"), "held");
    assert_eq!(answer(&mut new).await.expect("an answer"), "new");
}

#[tokio::test]
async fn a_black_hole_hides_that_the_target_is_gone() {
    let (echo, proxy) = pair().await;
    let (mut closed, mut reset) = (connect(&proxy).await, connect(&proxy).await);
    said(&mut closed, "before").await;
    said(&mut reset, RUDELY).await;
    proxy.set(Fault::BlackHole);
    drop(echo);
    assert!(is_silent(&mut closed).await && is_silent(&mut reset).await);
    proxy.set(Fault::None);
    assert_eq!(answer(&mut closed).await.expect("an end"), "");
    is_reset(&mut reset).await;
}

#[tokio::test]
async fn only_open_connections_are_stranded() {
    let (_echo, proxy) = pair().await;
    let mut old = connect(&proxy).await;
    said(&mut old, "before").await;
    proxy.set(Fault::Strand);
    old.write_all(b"held").await.expect("it is accepted");
    said(&mut connect(&proxy).await, "new").await;
    assert!(is_silent(&mut old).await);
    proxy.set(Fault::None);
    assert_eq!(answer(&mut old).await.expect("an answer"), "held");
}

#[tokio::test]
async fn a_delay_comes_to_both_directions() {
    let (_echo, proxy) = pair().await;
    let mut stream = connect(&proxy).await;
    said(&mut stream, "before").await;
    proxy.set(Fault::Delay(Duration::from_millis(50)));
    let started = SystemClock::now();
    said(&mut stream, "late").await;
    assert!(SystemClock::now() - started >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_reset_ends_old_and_new_connections() {
    let (_echo, proxy) = pair().await;
    let mut old = connect(&proxy).await;
    said(&mut old, "before").await;
    proxy.set(Fault::Reset);
    is_reset(&mut old).await;
    is_reset(&mut connect(&proxy).await).await;
    proxy.set(Fault::None);
    said(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn a_cut_that_is_over_at_once_still_cuts() {
    let (_echo, proxy) = pair().await;
    let mut old = connect(&proxy).await;
    said(&mut old, "before").await;
    proxy.set(Fault::Reset);
    proxy.set(Fault::None);
    is_reset(&mut old).await;
    said(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn half_open_loses_answers_and_not_requests() {
    let (mut echo, proxy) = pair().await;
    let mut stream = connect(&proxy).await;
    said(&mut stream, "before").await;
    assert_eq!(echo.heard().await, b"before");
    proxy.set(Fault::HalfOpen);
    stream.write_all(b"heard").await.expect("it can be sent");
    assert_eq!(echo.heard().await, b"heard");
    assert!(is_silent(&mut stream).await);
    // The answer is lost for good, so the connection is of no use any more.
    proxy.set(Fault::None);
    is_reset(&mut stream).await;
    said(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn a_refusal_closes_the_port_and_keeps_it() {
    let (_echo, proxy) = pair().await;
    let mut old = connect(&proxy).await;
    said(&mut old, "before").await;
    proxy.set(Fault::Refuse);
    is_reset(&mut old).await;
    until("a refusal", async || {
        TcpStream::connect(proxy.address()).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await
    .expect("new connections are refused");
    proxy.set(Fault::None);
    until("a connection", async || TcpStream::connect(proxy.address()).await.is_ok()).await.expect("it listens again");
    said(&mut connect(&proxy).await, "after").await;
}

#[tokio::test]
async fn a_target_that_refuses_is_noticed() {
    let nobody = Port::reserve().expect("a free port");
    let proxy = Proxy::start(&nobody.address().to_string()).await.expect("the proxy starts");
    is_reset(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let (_echo, proxy) = pair().await;
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(&proxy).await;
        said(&mut stream, "in").await;
        open.push(stream);
    }
    let mut late = connect(&proxy).await;
    is_over(&mut late).await;
    said(&mut open[0], "still").await;
}

#[tokio::test]
async fn a_dropped_proxy_ends_its_connections() {
    let (_echo, proxy) = pair().await;
    let mut stream = connect(&proxy).await;
    said(&mut stream, "before").await;
    drop(proxy);
    is_over(&mut stream).await;
}
