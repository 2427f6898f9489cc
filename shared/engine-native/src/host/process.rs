//! An engine process from its start to its end.
//!
//! Processes are started on one thread that lives as long as anything needs them: the kernel ends a process that has asked for it when
//! the *thread* that started it ends, and threads of the runtime come and go.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Interval;

use super::connection::Connection;

/// How often memory, and what ignores its cancellation, are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long a process that nobody needs may take to end by itself.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How long a process may take to end once its connection has.
const LEAVE_GRACE: Duration = Duration::from_millis(500);

/// The longest line of a process's standard error that is logged whole.
const MAX_LINE_BYTES: u64 = 2048;

/// Starts that may wait for the thread. Loads are far fewer; one more fails.
const MAX_WAITING: usize = 1024;

/// The thread that starts processes. It ends when the last handle is dropped, and so does every process that is left.
#[derive(Clone, Debug)]
pub(super) struct Starter(SyncSender<Request>);

#[derive(Debug)]
struct Request {
    program: PathBuf,
    input: OwnedFd,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

impl Starter {
    pub(super) fn start() -> io::Result<Self> {
        let (sender, requests) = sync_channel::<Request>(MAX_WAITING);
        let serve = move || {
            while let Ok(request) = requests.recv() {
                let _runtime = request.runtime.enter();
                // Nobody waits any more when the load was given up: the process is killed as its handle is dropped.
                let _ = request.reply.send(spawn(request.program, request.input));
            }
        };
        std::thread::Builder::new().name("engine starter".to_owned()).spawn(serve)?;
        Ok(Self(sender))
    }

    /// Starts `<program> engine`, with one end of a new socket pair as its standard input, and returns the other end.
    pub(super) async fn spawn(&self, program: PathBuf) -> io::Result<(Child, UnixStream)> {
        let (ours, input) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let ours = std::os::unix::net::UnixStream::from(ours);
        ours.set_nonblocking(true)?;
        let (reply, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        let request = Request { program, input, runtime: Handle::current(), reply };
        self.0.try_send(request).map_err(|_| gone())?;
        Ok((child.await.map_err(|_| gone())??, UnixStream::from_std(ours)?))
    }
}

/// The environment stays here: it may hold secrets, and an engine process reads foreign files.
fn spawn(program: PathBuf, input: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("engine").env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::from(input)).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn()
}

/// What a process may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Resident bytes, shared memory included.
    pub(super) memory_bytes: u64,
    /// How long something may go on computing after it was cancelled, where executions are short.
    pub(super) cancel_grace: Duration,
}

/// Watches a process until it has ended, and ends it when it must be. Whoever waits for it is told why.
pub(super) async fn supervise(mut child: Child, connection: Arc<Connection>, limits: Limits, model: String) {
    let lines = child.stderr.take();
    let pid = child.id();
    let watch = async {
        let mut look = tokio::time::interval(LOOK);
        tokio::select! {
            status = child.wait() => ended(status),
            reason = connection.run() => leave(&mut child, reason).await,
            reason = connection.condemned() => kill(&mut child, reason).await,
            reason = exceeds(&mut look, pid, &connection, limits) => kill(&mut child, reason).await,
            () = connection.closed() => close(&mut child, &connection).await,
        }
    };
    let mut lines = pin!(log(lines, &model).fuse());
    let mut watch = pin!(watch.fuse());
    let reason = loop {
        tokio::select! {
            reason = &mut watch => break reason,
            () = &mut lines, if !lines.is_terminated() => {}
        }
    };
    tracing::debug!(model, reason, "an engine process has ended");
    connection.lose(reason);
    if !lines.is_terminated() {
        // The last lines may say why it has ended.
        let _: Result<(), _> = tokio::time::timeout(LEAVE_GRACE, lines).await;
    }
}

/// A process whose connection has ended is about to end, too; its status tells why.
async fn leave(child: &mut Child, reason: String) -> String {
    match tokio::time::timeout(LEAVE_GRACE, child.wait()).await {
        Ok(status) => ended(status),
        Err(_) => kill(child, reason).await,
    }
}

/// Asks the process to end, and ends it when it does not.
async fn close(child: &mut Child, connection: &Connection) -> String {
    connection.shut_down();
    match tokio::time::timeout(CLOSE_GRACE, child.wait()).await {
        Ok(status) => ended(status),
        Err(_) => kill(child, "it did not end when told to".to_owned()).await,
    }
}

/// Ends the process and waits until it is gone, so that none is left behind as a zombie.
async fn kill(child: &mut Child, reason: String) -> String {
    // A process that has ended by itself has a status of its own, which tells more.
    if let Ok(Some(status)) = child.try_wait() {
        return ended(Ok(status));
    }
    let _ = child.start_kill();
    match child.wait().await {
        Ok(status) if signal(&status) == Some(9) => reason,
        status => ended(status),
    }
}

/// Ends when the process has too much memory or does not stop what was cancelled.
async fn exceeds(look: &mut Interval, pid: Option<u32>, connection: &Connection, limits: Limits) -> String {
    loop {
        look.tick().await;
        if pid.and_then(resident_bytes).is_some_and(|resident| resident > limits.memory_bytes) {
            return format!("it took more than its limit of {} MiB of memory", limits.memory_bytes >> 20);
        }
        if let Some(grace) = connection.ignores_cancel(limits.cancel_grace) {
            let grace = grace.as_millis();
            return format!("it went on computing for more than {grace} ms after it was told to stop");
        }
    }
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (signal(&status), status.code()) {
            (Some(signal), _) => format!("it was ended by signal {signal}"),
            (None, Some(code)) => format!("it ended with exit code {code}"),
            (None, None) => "it ended".to_owned(),
        },
        Err(error) => format!("it cannot be waited for ({})", error.kind()),
    }
}

fn signal(status: &ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(status)
}

/// What a process has in memory, shared memory included.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
    Some(kilobytes.parse::<u64>().ok()? * 1024)
}

/// Hands lines of standard error on to the log, each within a bound.
async fn log(lines: Option<ChildStderr>, model: &str) {
    let Some(lines) = lines else { return };
    let mut lines = BufReader::new(lines);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line beyond the bound comes in pieces.
        match (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                tracing::warn!(model, text = text.trim_end(), "an engine process says");
            }
        }
    }
}
