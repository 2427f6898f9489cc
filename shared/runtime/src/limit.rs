//! The last resort of a deadline: the task of a call is dropped when it outlives it.
//!
//! The guard ends a call in good order: a status in the headers, or in the trailers of a stream. It can do so only while
//! hyper asks for more of the answer, and hyper does not ask while the caller takes nothing. A caller that stops reading and
//! keeps the connection alive would hold its call, and whatever works for it, without end. So each call's task has a limit of
//! its own, a little later than the deadline; dropping the task resets the stream.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use weft_types::Deadline;

/// How long after its deadline a call may still be ending in good order.
const SLACK: Duration = Duration::from_secs(1);

tokio::task_local! {
    static LIMIT: Arc<Limit>;
}

#[derive(Default)]
struct Limit {
    deadline: OnceLock<Deadline>,
    told: Notify,
}

impl Limit {
    async fn passed(&self) {
        // A permit is kept when the telling comes first. A call without a deadline never tells.
        self.told.notified().await;
        match self.deadline.get() {
            Some(deadline) => tokio::time::sleep_until((deadline.instant() + SLACK).into()).await,
            None => std::future::pending().await,
        }
    }
}

/// Tells the deadline of the call that this task serves.
pub(crate) fn tell(deadline: Deadline) {
    // Outside of a server's task there is nothing to limit.
    let _ = LIMIT.try_with(|limit| {
        if limit.deadline.set(deadline).is_ok() {
            limit.told.notify_one();
        }
    });
}

/// Runs hyper's tasks, one per call, each within its limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limited;

impl<F> hyper::rt::Executor<F> for Limited
where
    F: Future<Output = ()> + Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "hyper owns the tasks of its calls: they end with their connection")]
    fn execute(&self, call: F) {
        let limit = Arc::new(Limit::default());
        tokio::spawn(LIMIT.scope(Arc::clone(&limit), async move {
            tokio::select! {
                biased;
                () = call => {}
                () = limit.passed() => tracing::debug!("a call that nobody reads outlived its deadline and is reset"),
            }
        }));
    }
}
