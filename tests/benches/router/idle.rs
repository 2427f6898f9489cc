//! Tens of thousands of HTTP/2 connections that say nothing: what each costs the router in memory, and a call beside them in time.
//!
//! They are held by processes of their own, each from an address of its own, since an address has only so many ports. Each exchanges
//! settings and answers pings, as any client that is idle does.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_tests::calls::Caller;
use weft_tests::goal::Goal;
use weft_tests::load::closed::{self, Slice};
use weft_tests::tree;

use super::cell::{SMALL, echo};
use super::fleet::{Fleet, Service};

/// What this executable is started with as a process that holds connections: this, an address, a source, a number.
pub(crate) const HOLDERS: &str = "holders";
const WANTED: u64 = 50_000;
/// Connections from one address.
const PER_SOURCE: u64 = 12_500;
/// Descriptors that a process needs besides.
const OTHERS: u64 = 500;
/// Connections that are being opened at once: fewer than a listener lets wait.
const OPENING: usize = 64;
const LASTING: Duration = Duration::from_secs(3);

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

/// Measures before, and with the connections open.
pub(crate) async fn run() -> Result<String> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // For the processes that are started from now on as well.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let allowed = maximum.unwrap_or(u64::MAX);
    let count = WANTED.min(allowed.saturating_sub(OTHERS));
    let router = Service::reserve("router", 0, &["--max-connections", "100000"])?;
    let fleet = Fleet::start("identity", vec![router], vec![Service::reserve("worker", 0, &[])?]).await?;
    let (address, process) = (fleet.routers[0].address(), fleet.routers[0].process()?);
    let (caller, cases) = (Caller::new(&address)?, echo(SMALL));
    let beside = async || closed::run(&caller, &cases, 1, LASTING).await;
    let (before, alone) = (beside().await?, tree::resident(process).context("it runs")?);
    let mut holders = Vec::new();
    for (index, first) in (0..count).step_by(PER_SOURCE as usize).enumerate() {
        let source = Ipv4Addr::new(127, 0, 0, u8::try_from(index + 2)?);
        holders.push(start(&address, source, PER_SOURCE.min(count - first)).await?);
    }
    let held = tree::resident(process).context("it runs")?;
    let during = beside().await?;
    let still = tree::resident(process).context("it runs")?;
    for mut holder in holders {
        // Its input ends, and so does it.
        drop(holder.stdin.take());
        let ended = holder.wait().await?;
        ensure!(ended.success(), "a process that holds connections failed");
    }
    let kib = still.max(held).saturating_sub(alone) as f64 / 1024.0 / count as f64;
    text((count, allowed), (alone, still), kib, (&before, &during))
}

fn text(
    (count, allowed): (u64, u64),
    (alone, held): (u64, u64),
    kib: f64,
    (before, during): (&Slice, &Slice),
) -> Result<String> {
    let mut text = String::new();
    if count < WANTED {
        writeln!(text, "{count} connections instead of {WANTED}: a process may have {allowed} descriptors here")?;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    writeln!(text, "{count} idle connections: {:.1} -> {:.1} MiB, {kib:.1} KiB each", mib(alone), mib(held))?;
    for (name, slice) in [("without them", before), ("beside them", during)] {
        let us = |percent| slice.percentile_us(percent);
        writeln!(text, "calls {name}: {} answered, p50 {:.0} us, p99 {:.0} us", slice.times.len(), us(50), us(99))?;
    }
    let slower = during.percentile_us(50) / before.percentile_us(50);
    for goal in [
        Goal::at_least("idle_connections", WANTED as f64, count as f64),
        Goal::at_most("idle_kib_per_connection", 40.0, kib),
        Goal::at_most("idle_call_p50_to_without", 1.5, slower),
    ] {
        writeln!(text, "{}", goal.line())?;
    }
    Ok(text)
}

/// Starts a process that holds connections, and waits until it does.
async fn start(address: &str, source: Ipv4Addr, count: u64) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([HOLDERS, address, &source.to_string(), &count.to_string()]);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let told = BufReader::new(holder.stdout.take().context("it is piped")?).lines().next_line().await?;
    ensure!(told.as_deref() == Some("ready"), "connections could not be opened: {told:?}");
    Ok(holder)
}

/// The holders' side: opens connections, says so, and holds them until its input ends.
pub(crate) async fn hold(address: SocketAddr, source: IpAddr, count: usize) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let (opening, mut open) = (Arc::new(Semaphore::new(OPENING)), JoinSet::<Result<()>>::new());
    let (ready, mut told) = tokio::sync::mpsc::channel(1);
    for _ in 0..count {
        let permit = Arc::clone(&opening).acquire_owned().await?;
        let ready = ready.clone();
        open.spawn(async move {
            let mut stream = connect(address, source).await?;
            drop(permit);
            ready.send(()).await?;
            loop {
                answer(&mut stream).await?;
            }
        });
    }
    let mut held = 0;
    while held < count {
        tokio::select! {
            Some(()) = told.recv() => held += 1,
            Some(ended) = open.join_next() => {
                ended??;
            }
        }
    }
    writeln!(std::io::stdout().lock(), "ready")?;
    let input = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1]));
    tokio::select! {
        ended = input => drop(ended??),
        Some(ended) = open.join_next() => ended??,
    }
    Ok(())
}

/// Opens a connection, with settings exchanged.
async fn connect(address: SocketAddr, source: IpAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    while answer(&mut stream).await? != SETTINGS {}
    Ok(stream)
}

/// Answers one frame of the router's, and returns its kind.
async fn answer(stream: &mut TcpStream) -> Result<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let (length, kind, flags) = (u32::from_be_bytes([0, head[0], head[1], head[2]]), head[3], head[4]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    ensure!(kind != GOAWAY, "the router closes a connection");
    let owes = flags & ACK == 0;
    if kind == SETTINGS && owes {
        stream.write_all(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]).await?;
    } else if kind == PING && owes {
        stream.write_all(&[&[0, 0, 8, PING, ACK, 0, 0, 0, 0], &payload[..]].concat()).await?;
    }
    Ok(kind)
}
