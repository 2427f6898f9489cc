//! A job's transitions on their way into the log.

use std::sync::Arc;
use std::time::Duration;

use weft_journal::{CommitError, JobId, Record};
use weft_saga::JobState;
use weft_types::Backoff;

use super::Runner;
use crate::jobs::millis;

/// Why a transition is not in the log, and never will be.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Others took the slots first.
    SlotsTaken,
    /// The caller's key stands for a job already: the same one, or another.
    KeyTaken { id: JobId, same: bool },
    /// It does not fit a transaction.
    TooLarge(String),
    /// There is no room in the store for more jobs.
    Full,
    /// The store does not answer: whether the job was taken is for its key to tell.
    Unavailable(String),
    /// The shard is another scheduler's.
    Fenced,
}

impl From<CommitError> for Failed {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::SlotsTaken => Self::SlotsTaken,
            CommitError::KeyTaken { id, same } => Self::KeyTaken { id, same },
            CommitError::TooLarge(why) => Self::TooLarge(why),
            CommitError::Full => Self::Full,
            CommitError::Fenced => Self::Fenced,
        }
    }
}

impl Runner {
    /// Has the first record of a new job committed. Nobody has seen the job before, so it is given up when that fails.
    pub(super) async fn submit(&mut self) -> Result<Arc<Record>, Failed> {
        self.begin_spans();
        self.shard.commit(None, Arc::clone(&self.record)).await?;
        self.newest.send_replace(Some(Arc::clone(&self.record)));
        self.shared.metrics.record_transition();
        Ok(Arc::clone(&self.record))
    }

    fn begin_spans(&mut self) {
        let mut record = Record::clone(&self.record);
        self.spans.begin(&self.shared.scope, &self.program, &mut record);
        self.record = Arc::new(record);
    }

    /// Has a transition committed, however long the store takes no writes, and goes on from it.
    pub(super) async fn commit(&mut self, mut after: Record) -> Result<(), Failed> {
        self.spans.begin(&self.shared.scope, &self.program, &mut after);
        let completes = after.job.state == JobState::Completed && self.record.job.state != JobState::Completed;
        if completes {
            match self.shared.actor.output(&self.program, &after).await {
                Ok(output) => after.output = output,
                // The work is done and cannot be undone any more: the job has ended, without an output.
                Err(fault) => after.job.failure = Some(fault),
            }
        }
        let after = Arc::new(after);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let before = Some(Arc::clone(&self.record));
            match self.shard.commit(before, Arc::clone(&after)).await {
                Ok(()) => break,
                Err(error @ (CommitError::SlotsTaken | CommitError::TooLarge(_) | CommitError::Fenced)) => {
                    return Err(error.into());
                }
                // Work under way goes on, and is written down when there is room again.
                Err(error) => {
                    tracing::debug!(job = %after.id, %error, "a transition waits");
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
            }
        }
        if after.job.stuck.is_some() && self.record.job.stuck.is_none() {
            let why = after.job.stuck.as_deref().unwrap_or_default();
            tracing::warn!(job = %after.id, definition = after.definition_name, why, "a job waits for an operator");
        }
        tracing::trace!(job = %after.id, revision = after.job.revision, at = millis(), "committed");
        self.record = after;
        self.newest.send_replace(Some(Arc::clone(&self.record)));
        self.shared.metrics.record_transition();
        Ok(())
    }
}
