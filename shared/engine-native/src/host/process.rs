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
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Interval;
use weft_types::SystemClock;

use super::connection::Connection;

/// How often memory, and what ignores its cancellation, are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long a process that nobody needs may take to end by itself.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How long a process may take to end once its connection has.
const LEAVE_GRACE: Duration = Duration::from_millis(500);

/// The longest line of a process's standard error that is logged whole.
const MAX_LINE_BYTES: u64 = 2048;

/// Lines of a process's standard error that are logged in one span of time; of more, only their number is.
const MAX_LINES: u32 = 100;
const SPAN: Duration = Duration::from_secs(60);

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
    // llama.cpp's threads wait for each other at every node of a graph. By default they spin there for so long that, where another
    // process has one of the cores, the one that is waited for cannot run; after so few rounds they sleep, which costs nothing else.
    command.env("GOMP_SPINCOUNT", "1000");
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
        if let Some(grace) = connection.ignores_cancel(limits.cancel_grace, SystemClock::now()) {
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
    let mut flow = Flow::default();
    loop {
        line.clear();
        // A line beyond the bound comes in pieces.
        match (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let Some(left_out) = flow.admit(SystemClock::now()) else { continue };
                if left_out > 0 {
                    tracing::warn!(model, left_out, "an engine process said more than is logged");
                }
                tracing::warn!(model, text = text.trim_end(), "an engine process says");
            }
        }
    }
}

/// Lets so many lines through in each span of time.
#[derive(Debug, Default)]
struct Flow {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Flow {
    /// `None` for a line that is left out, else how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= SPAN) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == MAX_LINES {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_becomes_a_number() {
        let (mut flow, start) = (Flow::default(), SystemClock::now());
        let passed: Vec<_> = (0..150).filter_map(|_| flow.admit(start)).collect();
        assert_eq!(passed, [0; 100]);
        assert_eq!([flow.admit(start + SPAN), flow.admit(start + SPAN)], [Some(50), Some(0)]);
    }

    #[tokio::test]
    async fn the_environment_stays_here() {
        let (input, _output) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .expect("a pair");
        // It says what a process was given, and ends.
        let script = tempfile::Builder::new().suffix(".sh").tempfile().expect("a file");
        fs::write(script.path(), "#!/bin/sh\ntr '\\0' '\\n' < /proc/self/environ >&2\n").expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(script.path(), mode).expect("executable");
        let path = script.into_temp_path();
        let child = spawn(path.to_path_buf(), input).expect("started");
        let output = child.wait_with_output().await.expect("ended");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.lines().any(|line| line == "GOMP_SPINCOUNT=1000"), "{said}");
        assert!(!said.contains("PATH="), "{said}");
    }
}
