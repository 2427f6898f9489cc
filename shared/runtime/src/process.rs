//! A process's end: the first signal drains, the second one exits at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{Running, Tasks};

/// The exit code after a second signal, as a shell reports a process that SIGTERM ended.
const TERMINATED: i32 = 143;

/// How long a connection without calls is given to confirm its GOAWAY, before it is closed.
const LINGER: Duration = Duration::from_secs(1);

/// One server's drain: begun once, over when its connections have gone or the grace has.
#[derive(Clone)]
pub struct Drain {
    inner: Arc<Inner>,
}

struct Inner {
    /// Nothing more is accepted.
    closing: CancellationToken,
    /// The listener is closed.
    closed: CancellationToken,
    /// Connections are told to go.
    begun: CancellationToken,
    /// Connections are closed as they are.
    over: CancellationToken,
    connections: TaskTracker,
    calls: TaskTracker,
}

impl Drain {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
            begun: CancellationToken::new(),
            over: CancellationToken::new(),
            connections: TaskTracker::new(),
            calls: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Counts a connection for as long as the token lives.
    pub(crate) fn connection(&self) -> TaskTrackerToken {
        self.inner.connections.token()
    }

    /// Counts a call for as long as the token lives.
    pub(crate) fn call(&self) -> TaskTrackerToken {
        self.inner.calls.token()
    }

    pub(crate) async fn closing(&self) {
        self.inner.closing.cancelled().await;
    }

    /// Tells that the listener is closed.
    pub(crate) fn closed(&self) -> DropGuard {
        self.inner.closed.clone().drop_guard()
    }

    /// Cancelled when connections are told to go: calls that would stay open for good end then.
    pub(crate) fn begun(&self) -> CancellationToken {
        self.inner.begun.clone()
    }

    pub(crate) async fn over(&self) {
        self.inner.over.cancelled().await;
    }

    /// Closes the listener, sends GOAWAY on every connection, waits until calls in flight have ended, for at most `grace`,
    /// and closes what is left. Bounded: no silent connection and no open stream can hold it up.
    pub async fn run(&self, grace: Duration) {
        // The listener first: a client that is told to go connects again at once, and must not be accepted by nobody.
        self.inner.closing.cancel();
        self.inner.closed.cancelled().await;
        self.inner.begun.cancel();
        self.inner.connections.close();
        self.inner.calls.close();
        let gone = async {
            tokio::select! {
                () = self.inner.connections.wait() => {}
                () = self.idle() => {}
            }
        };
        if tokio::time::timeout(grace, gone).await.is_err() {
            tracing::warn!(calls = self.inner.calls.len(), "calls outlived the drain and are cut");
        }
        self.inner.over.cancel();
        self.inner.connections.wait().await;
    }

    /// Ends when no call has been in flight for a while: a peer that does not answer is not waited for.
    async fn idle(&self) {
        loop {
            self.inner.calls.wait().await;
            tokio::time::sleep(LINGER).await;
            if self.inner.calls.is_empty() {
                return;
            }
        }
    }
}

/// The process's signals.
pub struct Process {
    tasks: Tasks,
    /// Listens for as long as the process is there, through the drain too.
    _signals: Running,
}

impl Process {
    /// Listens for SIGTERM and SIGINT: the first begins the end, the second exits at once.
    pub fn listen(tasks: &Tasks) -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stopper = tasks.clone();
        let signals = tasks.attach(async move {
            let mut received = 0;
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                received += 1;
                if received > 1 {
                    tracing::warn!("second signal: exiting at once");
                    exit_now();
                }
                tracing::info!("draining; a second signal exits at once");
                stopper.stop();
            }
        });
        Ok(Self { tasks: tasks.clone(), _signals: signals })
    }

    /// Waits until the process shall end.
    pub async fn ending(&self) {
        self.tasks.stopping().cancelled().await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the operator has asked twice: nothing is to be waited for")]
fn exit_now() -> ! {
    std::process::exit(TERMINATED)
}
