//! The leader's loop: whenever the mesh has changed, makes the placements agree with what is wanted.
//!
//! Level-triggered: each pass looks at the newest snapshot and writes the whole difference, so changes that come while a
//! pass runs are one, and a pass that was cut off is made good by the next.

mod write;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_policy::place::{Move, Plan, Why, place};
use weft_store::{Commit, Fence, Revision};
use weft_types::{Backoff, SystemClock};

use crate::Inner;
use crate::observe::{refused, world};

/// What the loop remembers between passes.
pub(crate) struct Placer {
    inner: Arc<Inner>,
    fence: watch::Receiver<Option<Fence>>,
    /// The revision of the last own write of this term. A snapshot from before it would lead to the same decision again, or to
    /// another one for the same lack.
    written: Revision,
    /// The term in which that was: after a restore from a backup the store's revisions are smaller than in a term before.
    term: Revision,
}

impl Placer {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { fence: inner.fence.clone(), inner, written: 0, term: 0 }
    }

    /// Looks and writes until cancelled. A write that is cut off here is whole or not there.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changes = self.inner.mesh.changes();
        let mut backoff = Backoff::new(Duration::from_millis(100), self.inner.options.resync);
        loop {
            let pass = tokio::select! {
                () = cancel.cancelled() => return,
                pass = self.pass() => pass,
            };
            let wait = match pass {
                Ok(()) => {
                    backoff.reset();
                    self.inner.options.resync
                }
                Err(error) => {
                    tracing::warn!(%error, "placements are behind: trying again");
                    backoff.next(rand::random())
                }
            };
            // Whichever comes first, the next pass starts from the newest state, so a cancelled branch loses nothing.
            let gone = tokio::select! {
                () = cancel.cancelled() => true,
                changed = changes.changed() => changed.is_err(),
                changed = self.fence.changed() => changed.is_err(),
                () = tokio::time::sleep(wait) => false,
            };
            if gone {
                return;
            }
        }
    }

    /// One look, and what follows from it.
    async fn pass(&mut self) -> Result<(), weft_store::Error> {
        let (now, snapshot) = (SystemClock::now(), self.inner.mesh.snapshot());
        if snapshot.confirmed.is_none() {
            return Ok(());
        }
        let failures = self.inner.note_failures(&snapshot, now);
        let fence = self.fence.borrow().clone();
        if let Some(fence) = &fence
            && fence.create_revision != self.term
        {
            (self.term, self.written) = (fence.create_revision, 0);
        }
        let Some(fence) = fence.filter(|fence| may_decide(fence, snapshot.revision, self.written, now)) else {
            return Ok(());
        };
        // What no worker obeys is taken back first, or it would count as placed for ever. The next pass, on a snapshot that
        // shows it gone, decides what is missing then.
        let refused = refused(&snapshot, fence.create_revision);
        let plan = match refused.is_empty() {
            true => place(&world(&snapshot, self.inner.options.model_control, failures)),
            false => take_back(refused),
        };
        if plan.moves.is_empty() {
            return Ok(());
        }
        let mut span = self.inner.scope.start_internal("weft.scheduler.place", None);
        span.set("weft.epoch", fence.create_revision);
        span.set("weft.moves", i64::try_from(plan.moves.len()).unwrap_or(i64::MAX));
        let transactions = write::transactions(&plan, &snapshot, &self.inner.keys, &fence);
        self.write(transactions, &plan).await.inspect_err(|_| span.fail("STORE_UNAVAILABLE"))
    }

    /// Commits one transaction after the other. One that is lost ends the pass: the leadership is over, or the records have
    /// changed, and in both cases news is on its way.
    async fn write(&mut self, transactions: Vec<weft_store::Txn>, plan: &Plan) -> Result<(), weft_store::Error> {
        for transaction in transactions {
            let moves = transaction.ops.len() as u64;
            match self.inner.store.commit(transaction).await? {
                Commit::Done(revision) => {
                    self.written = self.written.max(revision);
                    self.inner.moves_written.fetch_add(moves, Ordering::Relaxed);
                }
                Commit::Lost(revision) => {
                    tracing::info!(revision, "the mesh has changed under a placement: looking again");
                    return Ok(());
                }
            }
        }
        for change in &plan.moves {
            tracing::info!(?change, "placement written");
        }
        Ok(())
    }
}

/// Removes placements of a leader of the past.
fn take_back(refused: Vec<weft_policy::place::Key>) -> Plan {
    tracing::warn!(count = refused.len(), "placements that a leader of the past wrote are taken back");
    Plan { moves: refused.into_iter().map(|key| Move::Remove(key, Why::Excess)).collect(), ..Plan::default() }
}

/// Whether the leader may decide on a snapshot of `revision`: its term has not run out, and the snapshot shows what was
/// written last, by itself (`written`) and by the leader before it.
fn may_decide(fence: &Fence, revision: Revision, written: Revision, now: Instant) -> bool {
    fence.holds(now) && revision >= written.max(fence.create_revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_only_in_its_term_and_on_what_it_has_seen() {
        let now = SystemClock::now();
        let fence = Fence { key: "leader".to_owned(), create_revision: 10, valid_until: now + Duration::from_secs(1) };
        for (revision, written, decides) in [(9, 0, false), (10, 0, true), (10, 11, false), (11, 11, true)] {
            assert_eq!(may_decide(&fence, revision, written, now), decides, "{revision} {written}");
        }
        assert!(!may_decide(&fence, 10, 0, fence.valid_until));
    }
}
