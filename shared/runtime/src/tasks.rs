//! Supervised tasks: each is cancelled with the process, and none fails unseen.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where every task of a process is spawned. Clones share one fate.
#[derive(Clone, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    stopping: CancellationToken,
    finishing: CancellationToken,
    aborting: CancellationToken,
    failed: AtomicBool,
    tracker: TaskTracker,
}

/// A task that ends when this handle is dropped: work done on behalf of a call ends with the call.
#[must_use = "dropping the handle ends the task"]
pub struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tasks {
    /// A fresh set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task that lives as long as the process. It should end by itself once [`Self::stopping`] is cancelled; what is
    /// left after the drain is dropped. A panic is logged and stops the process: half a service is worse than none.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let inner = Arc::clone(&self.inner);
        let tracked = self.inner.tracker.token();
        start(async move {
            let _tracked = tracked;
            let outcome = tokio::select! {
                outcome = AssertUnwindSafe(task).catch_unwind() => outcome,
                () = inner.aborting.cancelled() => return,
            };
            if outcome.is_err() {
                tracing::error!(task = name, "a task panicked: stopping the process");
                inner.failed.store(true, Ordering::Release);
                inner.stopping.cancel();
            }
        });
    }

    /// Runs a task on behalf of whoever holds the handle. A panic ends the task only; its owner sees the other end close.
    pub fn attach(&self, task: impl Future<Output = ()> + Send + 'static) -> Running {
        Running(start(task))
    }

    /// Cancelled when the process begins to end.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// Cancelled when calls have drained: what the drain still needs, such as the view of the mesh, ends here.
    pub fn finishing(&self) -> CancellationToken {
        self.inner.finishing.clone()
    }

    /// Begins the end of the process.
    pub fn stop(&self) {
        self.inner.stopping.cancel();
    }

    /// Begins the end of the process, which then exits with a failure.
    pub fn fail(&self) {
        self.inner.failed.store(true, Ordering::Release);
        self.stop();
    }

    /// Whether a task failed.
    pub fn failed(&self) -> bool {
        self.inner.failed.load(Ordering::Acquire)
    }

    /// Waits until every task has ended, for at most `grace`; drops those that have not.
    pub async fn finish(&self, grace: Duration) {
        self.stop();
        self.inner.finishing.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.inner.tracker.len(), "tasks outlived the grace period and are dropped");
            self.inner.aborting.cancel();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
fn start(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(task).abort_handle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_task_stops_the_process() {
        let tasks = Tasks::new();
        tasks.spawn("faulty", async { panic!("planted") });
        tasks.stopping().cancelled().await;
        assert!(tasks.failed());
    }

    #[tokio::test]
    async fn dropping_the_handle_ends_the_task() {
        let tasks = Tasks::new();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let running = tasks.attach(async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(running);
        assert!(receiver.await.is_err());
    }

    #[tokio::test]
    async fn finish_drops_what_does_not_end() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        tasks.finish(Duration::ZERO).await;
        tasks.inner.tracker.wait().await;
        assert!(!tasks.failed());
    }
}
