//! What must hold in every revision of the store, checked by reading its whole history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt as _;
use prost::Message as _;
use weft_journal::Record;
use weft_proto::weft::state::v1 as state;
use weft_store::{Change, Range, Store};

use super::desk::ROOT;

/// The store as of one revision, as far as jobs are concerned.
#[derive(Default)]
struct World {
    /// Live records of journaled jobs by their keys.
    jobs: BTreeMap<String, Record>,
    ended: BTreeSet<String>,
    /// Who has which slot.
    slots: BTreeMap<String, String>,
    sequences: BTreeMap<String, i64>,
    batches: usize,
}

/// Reads the history from the beginning and fails where it breaks a promise. Returns how many batches were written.
pub(crate) async fn check(store: &Arc<dyn Store>) -> usize {
    let newest = store.read(Range::Key("-".into())).await.expect("the store answers").revision;
    let mut watch = store.watch(Range::Prefix(ROOT.into()), 1).await.expect("nothing is compacted");
    let (mut world, mut told) = (World::default(), 0);
    let mut changes: Vec<Change> = Vec::new();
    while told < newest {
        let news = watch.next().await.expect("the watch goes on").expect("the history is whole");
        told = news.revision;
        changes.extend(news.changes);
    }
    let revision = |change: &Change| match change {
        Change::Put(entry) => entry.mod_revision,
        Change::Delete { mod_revision, .. } => *mod_revision,
    };
    for batch in changes.chunk_by(|a, b| revision(a) == revision(b)) {
        world.apply(batch);
        world.check_slots(revision(&batch[0]));
    }
    world.batches
}

impl World {
    fn apply(&mut self, batch: &[Change]) {
        let shards: BTreeSet<&str> = batch.iter().filter_map(|change| within(change.key(), "seq/")).collect();
        self.batches += shards.len();
        for change in batch {
            let key = change.key();
            for (folder, length) in [("saga/", 2), ("done/", 2)] {
                if let Some(rest) = within(key, folder) {
                    assert!(shards.contains(&rest[..length]), "{key} was written without the shard's sequence");
                }
            }
            self.apply_sequence(change);
            self.apply_job(change);
            self.apply_slot(change);
        }
    }

    /// Every batch moves its shard's sequence by one, and by nothing else.
    fn apply_sequence(&mut self, change: &Change) {
        let Some(shard) = within(change.key(), "seq/") else { return };
        let Change::Put(entry) = change else { panic!("the sequence of {shard} was deleted") };
        let last = self.sequences.insert(shard.to_owned(), entry.version).unwrap_or(0);
        assert_eq!(entry.version, last + 1, "the sequence of {shard} has a gap");
    }

    /// Records move on, never back, and an ended job stays as it is.
    fn apply_job(&mut self, change: &Change) {
        if let Some(rest) = within(change.key(), "saga/") {
            let before = self.jobs.remove(rest);
            if let Change::Put(entry) = change
                && let Ok(record) = Record::decode(&entry.value)
            {
                assert!(!self.ended.contains(rest), "{rest} was written after its end");
                let last = before.map_or(0, |before| before.job.revision);
                assert!(record.job.revision > last, "{rest} went from {last} to {}", record.job.revision);
                self.jobs.insert(rest.to_owned(), record);
            }
        }
        if let (Some(rest), Change::Put(_)) = (within(change.key(), "done/"), change) {
            assert!(self.ended.insert(rest.to_owned()), "{rest} has ended twice");
        }
    }

    /// A slot goes from hand to hand only through being free.
    fn apply_slot(&mut self, change: &Change) {
        let Some(slot) = within(change.key(), "slot/") else { return };
        match change {
            Change::Put(entry) => {
                let job = state::JobSlot::decode(entry.value.clone()).expect("it is a slot's record").job;
                let before = self.slots.insert(slot.to_owned(), job.clone());
                assert!(before.as_ref().is_none_or(|before| *before == job), "{slot} went from {before:?} to {job}");
            }
            Change::Delete { .. } => drop(self.slots.remove(slot)),
        }
    }

    /// What records hold and which slots are taken is the same, in every revision.
    fn check_slots(&self, revision: i64) {
        let mut held: BTreeMap<String, String> = BTreeMap::new();
        for record in self.jobs.values() {
            for hold in record.holds() {
                let slot = format!("{}/{}/{}", hold.pool, hold.worker, hold.number);
                let other = held.insert(slot.clone(), record.id.to_string());
                assert_eq!(other, None, "two jobs hold {slot} at revision {revision}");
            }
        }
        let journaled = |job: &String| self.jobs.values().any(|record| record.id.as_str() == job);
        let taken: BTreeMap<String, String> = self
            .slots
            .iter()
            .filter(|(_, job)| journaled(job))
            .map(|(slot, job)| (slot.clone(), job.clone()))
            .collect();
        assert_eq!(held, taken, "slots and records differ at revision {revision}");
    }
}

fn within<'a>(key: &'a str, folder: &str) -> Option<&'a str> {
    key.strip_prefix(ROOT)?.strip_prefix(folder)
}
