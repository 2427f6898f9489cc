//! A job's transitions on their way into the log.

use std::sync::Arc;
use std::time::Duration;

use weft_journal::{CommitError, Record};
use weft_saga::JobState;
use weft_types::Backoff;

use super::{Runner, attempt};

impl Runner {
    /// Has the first record of a new job committed. Nobody has seen the job before, so it is given up when that fails.
    pub(super) async fn submit(&mut self) -> Result<Arc<Record>, CommitError> {
        self.begin_spans();
        self.shard.commit(None, Arc::clone(&self.record)).await?;
        self.newest.send_replace(Some(Arc::clone(&self.record)));
        self.shared.metrics.record_transition();
        Ok(Arc::clone(&self.record))
    }

    pub(super) async fn write(&self, after: &Arc<Record>) -> Result<(), CommitError> {
        let (before, after) = (Arc::clone(&self.record), Arc::clone(after));
        if after.job.is_deciding(&self.program.definition) {
            self.shard.commit_bound(before, after).await
        } else {
            self.shard.commit(Some(before), after).await
        }
    }

    fn begin_spans(&mut self) {
        let mut record = Record::clone(&self.record);
        self.spans.begin(&self.shared.scope, &self.program, &mut record);
        self.record = Arc::new(record);
    }

    /// Has a transition committed, however long the store takes no writes, and goes on from it.
    pub(super) async fn commit(&mut self, mut after: Record) -> Result<(), CommitError> {
        self.spans.begin(&self.shared.scope, &self.program, &mut after);
        let completes = after.job.state == JobState::Completed && self.record.job.state != JobState::Completed;
        if completes {
            match self.shared.actor.output(&self.program, attempt::facts(&after)).await {
                Ok(output) => after.output = output,
                // The work is done and cannot be undone any more: the job has ended, without an output.
                Err(fault) => after.job.failure = Some(fault),
            }
        }
        let after = Arc::new(after);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.write(&after).await {
                Ok(()) => break,
                // Work under way goes on, and is written down when there is room again, or the store is itself again.
                Err(error @ (CommitError::Full | CommitError::Refused(_))) => {
                    tracing::debug!(job = %after.id, %error, "a transition waits");
                    self.permit = None;
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
                Err(error) => return Err(error),
            }
        }
        if after.job.stuck.is_some() && self.record.job.stuck.is_none() {
            let why = after.job.stuck.as_deref().unwrap_or_default();
            tracing::warn!(job = %after.id, definition = after.definition_name, why, "a job waits for an operator");
        }
        self.record = after;
        self.newest.send_replace(Some(Arc::clone(&self.record)));
        self.shared.metrics.record_transition();
        Ok(())
    }
}
