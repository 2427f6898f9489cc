//! A process's end: the first signal drains, the second one exits at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{Running, Tasks};

/// The exit code after a second signal, as a shell reports a process that SIGTERM ended.
const TERMINATED: i32 = 143;

/// One server's drain: begun once, over when its connections have gone or the grace has.
#[derive(Clone)]
pub struct Drain {
    inner: Arc<Inner>,
}

struct Inner {
    begun: CancellationToken,
    over: CancellationToken,
    connections: TaskTracker,
}

impl Drain {
    pub(crate) fn new() -> Self {
        let inner =
            Inner { begun: CancellationToken::new(), over: CancellationToken::new(), connections: TaskTracker::new() };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn enter(&self) -> TaskTrackerToken {
        self.inner.connections.token()
    }

    pub(crate) async fn begun(&self) {
        self.inner.begun.cancelled().await;
    }

    pub(crate) async fn grace_over(&self) {
        self.inner.over.cancelled().await;
    }

    /// Stops accepting, sends GOAWAY on every connection, waits until calls in flight have ended, for at most `grace`, and
    /// closes what is left. Bounded: no silent connection and no open stream can hold it up.
    pub async fn run(&self, grace: Duration) {
        self.inner.begun.cancel();
        self.inner.connections.close();
        if tokio::time::timeout(grace, self.inner.connections.wait()).await.is_err() {
            tracing::warn!(left = self.inner.connections.len(), "connections outlived the drain and are closed");
        }
        self.inner.over.cancel();
        self.inner.connections.wait().await;
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
