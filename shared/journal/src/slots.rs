//! Slots that workers offer and jobs take. The truth is a key for each taken slot; what is known here is how things were a moment ago, so
//! a choice is a proposal that the transaction confirms or not.

mod choose;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use weft_proto::weft::state::v1 as state;
use weft_saga::Hold;
use weft_store::{Change, MirrorEvent, Revision};

use crate::error::Missing;
use crate::id::JobId;
use crate::keys::Keys;
use crate::writer::Slot;

/// Slots as they were last told.
#[derive(Default)]
pub(crate) struct Slots {
    // Held for a lookup or a few changes, never across an await.
    known: Mutex<Known>,
}

/// What is offered and what is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// How many slots of each pool each worker has.
    pub(crate) offers: BTreeMap<String, BTreeMap<String, u32>>,
    /// By pool, worker and number.
    pub(crate) taken: BTreeMap<(String, String, u32), Taken>,
}

/// A slot that is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    since: Revision,
    /// Who has it; `None` when the record cannot be read, and then nobody frees it.
    job: Option<JobId>,
}

impl Slots {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one map operation: a panic elsewhere cannot have left it half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proposes free slots: so many of each pool, none of which is among `own`.
    pub(crate) fn propose(
        &self,
        wanted: &[(String, u32)],
        own: &BTreeSet<(String, String, u32)>,
        random: u64,
    ) -> Result<Vec<Hold>, Missing> {
        choose::choose(&self.known(), wanted, own, random)
    }

    /// Taken slots by the shard of the job that has them.
    pub(crate) fn by_shard(&self, keys: &Keys) -> BTreeMap<u8, Vec<Slot>> {
        let mut by_shard: BTreeMap<u8, Vec<Slot>> = BTreeMap::new();
        for ((pool, worker, number), taken) in &self.known().taken {
            let Some(job) = &taken.job else { continue };
            let hold = Hold { pool: pool.clone(), worker: worker.clone(), number: *number, confirmed: false };
            let slot = Slot { key: keys.slot(&hold), taken_at: taken.since, job: job.clone() };
            by_shard.entry(job.shard()).or_default().push(slot);
        }
        by_shard
    }

    /// Takes news of workers.
    pub(crate) fn tell_workers(&self, keys: &Keys, event: MirrorEvent) {
        let MirrorEvent::Changes { changes, .. } = event else { return };
        let mut known = self.known();
        let prefix = keys.workers();
        for change in changes {
            let Some(worker) = change.key().strip_prefix(&prefix).map(str::to_owned) else { continue };
            let record = match &change {
                Change::Put(entry) => state::Worker::decode(entry.value.clone()).ok(),
                Change::Delete { .. } => None,
            };
            // One that is leaving is not given any more.
            match record.filter(|record| !record.draining) {
                Some(record) => known.offers.insert(worker, record.slots.into_iter().collect()),
                None => known.offers.remove(&worker),
            };
        }
    }

    /// Takes news of taken slots.
    pub(crate) fn tell_taken(&self, keys: &Keys, event: MirrorEvent) {
        let MirrorEvent::Changes { changes, .. } = event else { return };
        let mut known = self.known();
        for change in changes {
            let Some((pool, worker, number)) = keys.slot_of(change.key()) else { continue };
            let slot = (pool.to_owned(), worker.to_owned(), number);
            match &change {
                Change::Put(entry) => {
                    let record = state::JobSlot::decode(entry.value.clone()).ok();
                    let job = record.and_then(|record| record.job.parse().ok());
                    known.taken.insert(slot, Taken { since: entry.create_revision, job });
                }
                Change::Delete { .. } => drop(known.taken.remove(&slot)),
            }
        }
    }
}
