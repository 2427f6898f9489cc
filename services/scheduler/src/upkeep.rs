//! Keeps the store small: the leader makes it forget history that nobody can need any more.
//!
//! Every scheduler remembers where the store stood and when, so that a new leader goes on where the last one ended; only
//! the leader compacts. Nothing breaks when two do: the store forgets up to the later of the two revisions, and both are
//! old. Whoever watches from before it lists again.

mod samples;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use weft_store::Range;
use weft_types::SystemClock;

use crate::Inner;
use samples::Samples;

/// Samples in the time for which history is kept: more make the forgetting finer, and cost a read each.
const SAMPLES: u32 = 10;
/// The least time between two samples.
const LEAST: Duration = Duration::from_secs(1);

/// The loop and what it remembers.
pub(crate) struct Upkeep {
    inner: Arc<Inner>,
    samples: Samples,
}

impl Upkeep {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { samples: Samples::new(inner.options.history), inner }
    }

    /// Runs until cancelled; not at all when history is to be kept.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let history = self.inner.options.history;
        if history.is_zero() {
            return;
        }
        let between = (history / SAMPLES).max(LEAST);
        let work = async {
            loop {
                if let Err(error) = self.pass().await {
                    tracing::warn!(%error, "the store's history is not compacted: trying again");
                }
                tokio::time::sleep(between).await;
            }
        };
        // A compaction that is cut off here happens or does not; the next leader asks again.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    /// One sample, and a compaction if one is due.
    async fn pass(&mut self) -> Result<(), weft_store::Error> {
        // Read from the store, not from the snapshot, which may be behind or stand still. The time is taken after the
        // answer: whatever stands before that revision had happened by then, however long the answer took.
        let revision = self.inner.store.read(Range::Key(self.inner.keys.leader())).await?.revision;
        self.samples.note(revision, SystemClock::now());
        if self.inner.epoch().is_none() {
            return Ok(());
        }
        if let Some(revision) = self.samples.due(SystemClock::now()) {
            self.inner.maintenance.compact(revision).await?;
            self.samples.compacted(revision);
            tracing::debug!(revision, "the store's history is compacted");
        }
        Ok(())
    }
}
