//! Events that are written together with what they tell of, in one transaction: whoever is killed loses either both or neither.

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message as _;
use weft_store::{Commit, Error, Fence, LeaseId, Op, Txn};
use weft_types::SystemClock;

use super::hour_now;
use super::ledger::Due;
use super::moves::Batch;
use crate::Inner;

/// What a transaction tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    due: Vec<Due>,
    hour: u64,
    ops: Vec<Op>,
}

impl Inner {
    /// What each of these batches tells of itself; nothing once an hour has told enough of its kind. An event's key needs no comparison:
    /// it names the decision, which the transaction's own comparisons let happen once.
    pub(crate) async fn tellings(&self, batches: &[Batch], fence: &Fence) -> Result<Vec<Telling>, Error> {
        let hour = hour_now();
        let page = self.register.open(self, fence.create_revision, hour).await?;
        let mut counts = page.ledger.counts(hour);
        let due: Vec<Vec<Due>> =
            batches.iter().map(|batch| page.ledger.occurrences(&batch.found, &mut counts)).collect();
        drop(page);
        let lease = self.register.lease(&*self.store, hour).await?;
        let now = SystemClock::wall();
        let telling = |due: Vec<Due>| {
            let ops = due.iter().map(|due| self.put_event(due, hour, lease, now)).collect();
            Telling { due, hour, ops }
        };
        Ok(due.into_iter().map(telling).collect())
    }

    fn put_event(&self, due: &Due, hour: u64, lease: LeaseId, now: SystemTime) -> Op {
        let event = due.event(&self.options.id, now);
        let key = self.keys.event(hour, &due.id);
        Op::Put { key, value: Bytes::from(event.encode_to_vec()), lease: Some(lease) }
    }

    /// Commits a transaction with what it tells of itself, or without where the store takes one but not the other: what is told must not
    /// hold up what is done. The second value is whether the first one is told if it was done.
    pub(crate) async fn commit_telling(&self, txn: Txn, telling: Option<&Telling>) -> Result<(Commit, bool), Error> {
        let Some(telling) = telling else { return Ok((self.store.commit(txn).await?, false)) };
        let mut whole = txn.clone();
        whole.ops.extend(telling.ops.iter().cloned());
        match self.store.commit(whole).await {
            Ok(commit) => {
                if let Commit::Done(_) = commit {
                    self.register.told(&telling.due, telling.hour).await;
                }
                Ok((commit, true))
            }
            Err(error) if !telling.ops.is_empty() && may_do_without(&error, &txn) => {
                tracing::warn!(%error, "an event is to be told after what it tells of");
                if let Error::LeaseLost(lease) = error {
                    self.register.lost(lease).await;
                }
                // Should the first one have happened after all, or still happen, then the comparisons let only one of them.
                Ok((self.store.commit(txn).await?, false))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether it may be the events that the store did not take: their lease is gone, they are too much, or it is full and takes nothing but
/// removals.
fn may_do_without(error: &Error, txn: &Txn) -> bool {
    let is_definite = matches!(error, Error::Refused(_) | Error::LeaseLost(_));
    is_definite || txn.ops.iter().all(|op| matches!(op, Op::Delete(_)))
}
