//! Keeps the records of workers whose registrations vanished with many others at once, for as long as they answer.
//!
//! This is the bookkeeping; `weft_policy::guard` decides, and `probe` asks the workers.

use std::collections::BTreeMap;
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

/// Replicas of one worker.
type Replicas = Vec<(ReplicaKey, Arc<Record<Replica>>)>;

/// A worker that left, with what it took along.
struct Departed {
    record: Arc<Record<Worker>>,
    replicas: Replicas,
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
    /// Whose new registration came in the changes that are being applied, with what was kept of the old one.
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
                self.returned.extend(self.kept.remove(&worker));
            }
            Applied::Left(worker, record) => drop(self.leaving.insert(worker, record)),
            // A worker that leaves takes its replicas along in the same change of the store, and so in the same event.
            Applied::Dropped(key, record) => {
                self.dropped.entry(key.worker.clone()).or_default().push((key, record));
            }
            Applied::Quietly | Applied::Unreadable => {}
        }
    }

    /// Ends an event: puts back whoever is not believed to have ended, and returns those who are to be asked.
    pub(super) fn settle(&mut self, snapshot: &mut Snapshot, now: Instant) -> Vec<Suspect> {
        // What a worker no longer says of itself after its return was kept only for its absence.
        let returned = std::mem::take(&mut self.returned);
        returned.iter().for_each(|old| remove_replicas(snapshot, &old.replicas));
        let mut dropped = std::mem::take(&mut self.dropped);
        for (worker, record) in std::mem::take(&mut self.leaving) {
            self.guard.leave(worker.clone(), record.value.draining, now);
            let replicas = dropped.remove(&worker).unwrap_or_default();
            self.departed.insert(worker, Departed { record, replicas });
        }
        let doubted = self.guard.doubts(snapshot.workers.len().saturating_sub(self.kept.len()), now);
        // Not those whom the guard did not count, or does not any more.
        self.departed.retain(|worker, _| self.guard.has_left(worker));
        let suspects = if doubted { self.put_back(snapshot) } else { Vec::new() };
        if !(returned.is_empty() && suspects.is_empty()) {
            self.show(snapshot);
        }
        suspects
    }

    fn put_back(&mut self, snapshot: &mut Snapshot) -> Vec<Suspect> {
        let departed = std::mem::take(&mut self.departed);
        if !departed.is_empty() {
            let workers = departed.len();
            tracing::warn!(workers, "too many workers vanished at once to be believed: keeping those that answer");
        }
        let suspect = |(worker, departed): (WorkerId, Departed)| {
            snapshot.workers.insert(worker.clone(), Arc::clone(&departed.record));
            for (key, record) in &departed.replicas {
                snapshot.replicas.entry(key.clone()).or_insert_with(|| Arc::clone(record));
            }
            let (address, revision) = (departed.record.value.address.clone(), departed.record.mod_revision);
            self.kept.insert(worker.clone(), departed);
            Suspect { worker, address, revision }
        };
        departed.into_iter().map(suspect).collect()
    }

    /// Ends the keeping of workers that do not answer; false when there was nothing to end.
    pub(super) fn end(&mut self, snapshot: &mut Snapshot, gone: &[Suspect]) -> bool {
        let mut ended = false;
        for suspect in gone {
            if !self.keeps(suspect) {
                continue;
            }
            let Some(departed) = self.kept.remove(&suspect.worker) else { continue };
            ended = true;
            snapshot.workers.remove(&suspect.worker);
            remove_replicas(snapshot, &departed.replicas);
        }
        if ended {
            self.show(snapshot);
        }
        ended
    }

    /// Whether this registration is still kept, and no other has come.
    pub(super) fn keeps(&self, suspect: &Suspect) -> bool {
        self.kept.get(&suspect.worker).is_some_and(|kept| kept.record.mod_revision == suspect.revision)
    }

    fn show(&self, snapshot: &mut Snapshot) {
        snapshot.retained = Arc::new(self.kept.keys().cloned().collect());
    }
}

/// Removes the records that are still these: what was written since stays.
fn remove_replicas(snapshot: &mut Snapshot, old: &[(ReplicaKey, Arc<Record<Replica>>)]) {
    for (key, record) in old {
        if snapshot.replicas.get(key).is_some_and(|held| Arc::ptr_eq(held, record)) {
            snapshot.replicas.remove(key);
        }
    }
}
