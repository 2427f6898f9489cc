//! One watch of a job: its state now, then each change.
//!
//! A watch reads the newest committed record whenever it has sent the one before. A slow reader so skips what lies between, and never the
//! last one; and nothing gathers for it.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weft_journal::{Record, Shard};
use weft_proto::status_of;
use weft_proto::weft::jobs::v1::WatchJobResponse;
use weft_types::{Error, Reason, Result, SystemClock};

use super::forward::unowned;
use super::verbs::Found;
use super::{Program, Shared, view};

/// The answers of a watch.
pub(super) type JobStream = Pin<Box<dyn Stream<Item = Result<WatchJobResponse, Status>> + Send>>;

/// Begins a watch of what is newer than `after`.
pub(super) fn watch(shared: &Arc<Shared>, found: Found, after: u64) -> Result<JobStream> {
    let permit = Arc::clone(&shared.watchers).try_acquire_owned();
    let permit = permit.map_err(|_| Error::new(Reason::Overloaded, "too many watch jobs already"))?;
    let (program, newest, shard) = match found {
        Found::Open(handle) => (handle.program, handle.newest, Some(handle.shard)),
        // Nothing follows; what there is, is told as if it had just come.
        Found::Ended(record, program) => (program, watch::channel(Some(record)).1, None),
    };
    let stopping = shared.tasks.stopping();
    let watch = Watch { shared: Arc::clone(shared), program, newest, shard, after, stopping, _permit: permit };
    Ok(Box::pin(stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        match watch.next().await {
            Ok(Some(record)) => {
                let answer = watch.answer(&record).await;
                Some((Ok(answer), Some(watch)))
            }
            Ok(None) => None,
            // A status ends the stream.
            Err(error) => Some((Err(status_of(&error)), None)),
        }
    })))
}

struct Watch {
    shared: Arc<Shared>,
    program: Option<Arc<Program>>,
    newest: watch::Receiver<Option<Arc<Record>>>,
    /// Of a job that has not ended.
    shard: Option<Shard>,
    /// What was told: only what is newer follows.
    after: u64,
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next record to tell; `None` once the last one was.
    async fn next(&mut self) -> Result<Option<Arc<Record>>> {
        loop {
            // Marked as seen before it is looked at: what comes after that wakes the wait below.
            let record = self.newest.borrow_and_update().clone();
            if let Some(record) = record {
                let has_ended = record.job.state.has_ended();
                if record.job.revision > self.after {
                    self.after = record.job.revision;
                    return Ok(Some(record));
                }
                if has_ended {
                    return Ok(None);
                }
            }
            let until = self.shard.as_ref().and_then(Shard::held_until).filter(|until| SystemClock::now() < *until);
            let Some(until) = until else {
                let told =
                    format!("the job may go on at another scheduler: watch it again after revision {}", self.after);
                return Err(unowned(&told));
            };
            tokio::select! {
                biased;
                changed = self.newest.changed() => if changed.is_err() {
                    let told = format!("the job goes on at another scheduler: watch it again after revision {}", self.after);
                    return Err(unowned(&told));
                },
                // By then the store has been heard of again, or this scheduler does not know any more.
                () = tokio::time::sleep_until(until.into()) => {}
                () = self.stopping.cancelled() => {
                    let told = format!("the scheduler is shutting down: watch it again after revision {}", self.after);
                    return Err(Error::new(Reason::Draining, told));
                }
            }
        }
    }

    async fn answer(&self, record: &Record) -> WatchJobResponse {
        let output = view::output(&self.shared, record).await;
        WatchJobResponse { job: Some(view::job(record, self.program.as_deref(), &self.shared.id, output)) }
    }
}
