//! Keeps the records of workers whose registrations vanished with many others at once, for as long as they answer.
//!
//! This is the bookkeeping; `weft_policy::guard` decides, and `probe` asks the workers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use weft_policy::guard::{Guard, Settings};
use weft_proto::weft::state::v1::{Replica, Worker};
use weft_types::WorkerId;

use crate::mesh::Applied;
use crate::{Record, ReplicaKey, Snapshot};

/// A worker to be asked whether it is still there.
#[derive(Clone, Debug)]
pub(super) struct Suspect {
    pub(super) worker: WorkerId,
    pub(super) address: String,
    /// The revision of the record that is kept: another one means another registration.
    pub(super) revision: i64,
}

/// What its answers make of a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It answers: its records stay.
    Present,
    /// It does not, and may do so again: its records are taken out and remembered.
    Silent,
    /// It has ended.
    Gone,
}

/// Replicas of one worker.
type Replicas = Vec<(ReplicaKey, Arc<Record<Replica>>)>;

/// A worker that left, with what it took along.
struct Departed {
    record: Arc<Record<Worker>>,
    replicas: Replicas,
}

impl Departed {
    fn address(&self) -> &str {
        &self.record.value.address
    }
}

/// Who left, and who is kept nevertheless.
pub(super) struct Retention {
    guard: Guard,
    /// Who left in the changes that are being applied.
    leaving: BTreeMap<WorkerId, Arc<Record<Worker>>>,
    dropped: BTreeMap<WorkerId, Replicas>,
    /// Who left within the guard's window and is believed so far: one more may change that.
    departed: BTreeMap<WorkerId, Departed>,
    /// Whose records are kept.
    kept: BTreeMap<WorkerId, Departed>,
    /// Whose records would be kept if they answered.
    silent: BTreeMap<WorkerId, Departed>,
    /// Who registered in the changes that are being applied, and what was kept of older registrations of theirs.
    joined: BTreeSet<WorkerId>,
    returned: Vec<Departed>,
}

impl Retention {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            guard: Guard::new(settings),
            leaving: BTreeMap::new(),
            dropped: BTreeMap::new(),
            departed: BTreeMap::new(),
            kept: BTreeMap::new(),
            silent: BTreeMap::new(),
            joined: BTreeSet::new(),
            returned: Vec::new(),
        }
    }

    /// Takes note of one change that was applied.
    pub(super) fn note(&mut self, applied: Applied) {
        match applied {
            Applied::Joined(worker) => {
                self.guard.join(&worker);
                self.leaving.remove(&worker);
                self.departed.remove(&worker);
                self.silent.remove(&worker);
                self.returned.extend(self.kept.remove(&worker));
                self.joined.insert(worker);
            }
            Applied::Left(worker, record) => drop(self.leaving.insert(worker, record)),
            // A worker that leaves takes its replicas along in the same change of the store, and so in the same event.
            Applied::Dropped(key, record) => {
                self.dropped.entry(key.worker.clone()).or_default().push((key, record));
            }
            Applied::Quietly | Applied::Unreadable => {}
        }
    }

    /// Ends an event: puts back whoever is not believed to have ended, and returns those who are to be asked. When `unseen`,
    /// they left while this process was not there to see how many went with them: none is believed.
    pub(super) fn settle(&mut self, snapshot: &mut Snapshot, unseen: bool, now: Instant) -> Vec<Suspect> {
        // What a worker no longer says of itself after its return was kept only for its absence.
        let returned = std::mem::take(&mut self.returned);
        returned.iter().for_each(|old| remove_replicas(snapshot, &old.replicas));
        let replaced = self.end_replaced(snapshot);
        let mut dropped = std::mem::take(&mut self.dropped);
        for (worker, record) in std::mem::take(&mut self.leaving) {
            self.guard.leave(worker.clone(), record.value.draining, now);
            let replicas = dropped.remove(&worker).unwrap_or_default();
            self.departed.insert(worker, Departed { record, replicas });
        }
        let doubted = self.guard.doubts(snapshot.workers.len().saturating_sub(self.kept.len()), now) || unseen;
        // Not those whom the guard did not count, or does not any more.
        self.departed.retain(|worker, _| self.guard.has_left(worker));
        let suspects = if doubted { self.put_back(snapshot) } else { Vec::new() };
        if replaced || !(returned.is_empty() && suspects.is_empty()) {
            self.list(snapshot);
        }
        suspects
    }

    /// Ends the keeping of workers at whose address another one has registered now: it would answer for them for ever.
    fn end_replaced(&mut self, snapshot: &mut Snapshot) -> bool {
        let joined = std::mem::take(&mut self.joined);
        if self.kept.is_empty() && self.silent.is_empty() {
            return false;
        }
        let records = joined.iter().filter_map(|worker| snapshot.workers.get(worker));
        let taken: HashSet<String> = records.map(|record| record.value.address.clone()).collect();
        self.silent.retain(|_, departed| !taken.contains(departed.address()));
        let replaced: Vec<_> = self.kept.extract_if(.., |_, departed| taken.contains(departed.address())).collect();
        replaced.iter().for_each(|(worker, departed)| remove(snapshot, worker, departed));
        !replaced.is_empty()
    }

    fn put_back(&mut self, snapshot: &mut Snapshot) -> Vec<Suspect> {
        let mut departed = std::mem::take(&mut self.departed);
        let taken = self.taken(snapshot, &departed);
        departed.retain(|_, departed| !taken.contains(departed.address()));
        if !departed.is_empty() {
            let workers = departed.len();
            tracing::warn!(workers, "too many workers vanished at once to be believed: keeping those that answer");
        }
        let suspect = |(worker, departed): (WorkerId, Departed)| {
            insert(snapshot, &worker, &departed);
            let (address, revision) = (departed.address().to_owned(), departed.record.mod_revision);
            self.kept.insert(worker.clone(), departed);
            Suspect { worker, address, revision }
        };
        departed.into_iter().map(suspect).collect()
    }

    /// The addresses of departed workers at which a registered one is: a process that restarted under another name.
    fn taken(&self, snapshot: &Snapshot, departed: &BTreeMap<WorkerId, Departed>) -> HashSet<String> {
        if departed.is_empty() {
            return HashSet::new();
        }
        let left: HashSet<&str> = departed.values().map(Departed::address).collect();
        let there = snapshot.workers.iter().filter(|(_, record)| left.contains(record.value.address.as_str()));
        let registered = there.filter(|&(worker, _)| !self.kept.contains_key(worker));
        registered.map(|(_, record)| record.value.address.clone()).collect()
    }

    /// Takes over what the suspects' answers make of them; false when nothing changed for readers.
    pub(super) fn judge(&mut self, snapshot: &mut Snapshot, found: &[(&Suspect, Standing)]) -> bool {
        let mut changed = false;
        for (suspect, standing) in found {
            changed |= self.keeps(suspect) && self.place(snapshot, suspect, *standing);
        }
        if changed {
            self.list(snapshot);
        }
        changed
    }

    fn place(&mut self, snapshot: &mut Snapshot, suspect: &Suspect, standing: Standing) -> bool {
        let worker = &suspect.worker;
        if standing == Standing::Present {
            let Some(departed) = self.silent.remove(worker) else { return false };
            insert(snapshot, worker, &departed);
            self.kept.insert(worker.clone(), departed);
            return true;
        }
        if standing == Standing::Gone {
            self.silent.remove(worker);
        }
        let Some(departed) = self.kept.remove(worker) else { return false };
        remove(snapshot, worker, &departed);
        if standing == Standing::Silent {
            self.silent.insert(worker.clone(), departed);
        }
        true
    }

    /// Whether this registration is still kept or remembered, and no other has come.
    pub(super) fn keeps(&self, suspect: &Suspect) -> bool {
        let found = self.kept.get(&suspect.worker).or_else(|| self.silent.get(&suspect.worker));
        found.is_some_and(|departed| departed.record.mod_revision == suspect.revision)
    }

    fn list(&self, snapshot: &mut Snapshot) {
        snapshot.retained = Arc::new(self.kept.keys().cloned().collect());
    }
}

fn insert(snapshot: &mut Snapshot, worker: &WorkerId, departed: &Departed) {
    snapshot.workers.insert(worker.clone(), Arc::clone(&departed.record));
    for (key, record) in &departed.replicas {
        snapshot.replicas.entry(key.clone()).or_insert_with(|| Arc::clone(record));
    }
}

fn remove(snapshot: &mut Snapshot, worker: &WorkerId, departed: &Departed) {
    snapshot.workers.remove(worker);
    remove_replicas(snapshot, &departed.replicas);
}

/// Removes the records that are still these: what was written since stays.
fn remove_replicas(snapshot: &mut Snapshot, old: &[(ReplicaKey, Arc<Record<Replica>>)]) {
    for (key, record) in old {
        if snapshot.replicas.get(key).is_some_and(|held| Arc::ptr_eq(held, record)) {
            snapshot.replicas.remove(key);
        }
    }
}
