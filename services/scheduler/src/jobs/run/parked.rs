//! A job that cannot be run here. It is shown as it stands in the log, and an operator can end it as it is.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use weft_journal::{CommitError, Record, Shard};
use weft_saga::{Event, Verb};
use weft_types::{Error, Reason, Result};

use super::{end, millis};
use crate::jobs::Shared;
use crate::jobs::table::Command;

/// A job that stands still.
pub(in crate::jobs) struct Parked {
    pub(in crate::jobs) shared: Arc<Shared>,
    pub(in crate::jobs) shard: Shard,
    /// As it is in the log.
    pub(in crate::jobs) record: Arc<Record>,
    pub(in crate::jobs) newest: watch::Sender<Option<Arc<Record>>>,
    pub(in crate::jobs) commands: mpsc::Receiver<Command>,
}

impl Parked {
    /// Shows why the job stands still, until an operator abandons it or its shard goes. Its record stays as it is, for a scheduler that can
    /// run it.
    pub(in crate::jobs) async fn stand(mut self, why: &str) {
        tracing::error!(job = %self.record.id, why, "a job stands still");
        let mut shown = Record::clone(&self.record);
        shown.job.stuck = Some(why.to_owned());
        self.newest.send_replace(Some(Arc::new(shown.clone())));
        while let Some(Command { event, reply }) = self.commands.recv().await {
            let outcome = self.take(&shown, &event).await;
            let has_ended = outcome.is_ok();
            // Who asked may have gone.
            let _ = reply.send(outcome);
            if has_ended {
                break;
            }
        }
        let (shared, id, epoch) = (Arc::clone(&self.shared), self.record.id.clone(), self.shard.epoch());
        drop(self);
        shared.table.remove(&id, epoch);
    }

    /// Ends the job, if that is what is wanted.
    async fn take(&self, shown: &Record, event: &Event) -> Result<Arc<Record>> {
        let Event::Resolve(Verb::Abandon { reason }) = event else {
            return Err(Error::new(
                Reason::PreconditionFailed,
                "the job stands still at its scheduler, and takes ABANDON alone",
            ));
        };
        let mut after = shown.clone();
        let abandoned = after.job.abandon(reason, millis());
        abandoned.map_err(|refused| Error::new(Reason::PreconditionFailed, refused.to_string()))?;
        let after = Arc::new(after);
        self.shard.commit(Some(Arc::clone(&self.record)), Arc::clone(&after)).await.map_err(|failed| {
            tracing::warn!(job = %after.id, %failed, "a job that stands still was not abandoned");
            match failed {
                CommitError::Fenced => crate::jobs::forward::unowned("the job has just moved to another scheduler"),
                _ => Error::new(Reason::PreconditionFailed, "the log does not take the job's end"),
            }
        })?;
        self.newest.send_replace(Some(Arc::clone(&after)));
        self.shared.metrics.record_transition();
        end(&self.shared, &after);
        Ok(after)
    }
}
