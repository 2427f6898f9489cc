//! The last resort of a deadline: the task of a call is dropped when it outlives it.
//!
//! The guard ends a call in good order: a status in the headers, or in the trailers of a stream. It can do so only while
//! hyper asks for more of the answer, and hyper does not ask while the caller takes nothing. A caller that stops reading and
//! keeps the connection alive would hold its call, and whatever works for it, without end. So each call's task has a limit of
//! its own, a little later than the deadline; dropping the task resets the stream.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use weft_types::{Deadline, SystemClock};

/// How long after its deadline a call may still be ending in good order.
const SLACK: Duration = Duration::from_secs(1);

tokio::task_local! {
    static LIMIT: Arc<OnceLock<Deadline>>;
}

/// Tells the deadline of the call that this task serves. Whoever tells it also waits for it in this task, which wakes it then.
pub(crate) fn tell(deadline: Deadline) {
    // Outside of a server's task there is nothing to limit, and the first deadline stands.
    let _ = LIMIT.try_with(|limit| limit.set(deadline));
}

/// The end of a call that outlives its deadline. Its timer is set once the deadline has passed, which few calls live to see.
#[derive(Default)]
struct Late(Option<Pin<Box<Sleep>>>);

impl Late {
    fn poll(&mut self, deadline: Deadline, context: &mut Context<'_>) -> Poll<()> {
        if self.0.is_none() && !deadline.expired(SystemClock::now()) {
            return Poll::Pending;
        }
        self.0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until((deadline.instant() + SLACK).into())))
            .as_mut()
            .poll(context)
    }
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
        let limit = Arc::new(OnceLock::new());
        tokio::spawn(LIMIT.scope(Arc::clone(&limit), async move {
            let (mut call, mut late) = (pin!(call), Late::default());
            poll_fn(|context| {
                if call.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                // A call without a deadline never tells one.
                let Some(deadline) = limit.get() else { return Poll::Pending };
                late.poll(*deadline, context).map(|()| {
                    tracing::debug!("a call that nobody reads outlived its deadline and is reset");
                })
            })
            .await;
        }));
    }
}
