//! The mesh as the store describes it: one immutable snapshot, swapped whole.

mod apply;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_proto::weft::control::v1::{Model, Rollout, Route};
use weft_proto::weft::state::v1::{Cordon, Leader, Placement, Replica, Scale, Service, Worker};
use weft_store::Compare;
use weft_types::{ModelName, Version, WorkerId};

pub use apply::Applied;

/// A record with its place in the store's history.
#[derive(Clone, Debug)]
pub struct Record<T> {
    /// The decoded value.
    pub value: T,
    /// When it came into being: the fence of its owner.
    pub create_revision: i64,
    /// When it last changed.
    pub mod_revision: i64,
}

impl Record<Placement> {
    /// Whether a leader of the past wrote this after its successor's term had begun at the revision `term`. What it wrote
    /// before then stays valid, since a term's end takes nothing back. Workers refuse such a record, and the leader takes it back.
    pub fn is_stale(&self, term: i64) -> bool {
        let epoch = i64::try_from(self.value.epoch).unwrap_or(i64::MAX);
        self.mod_revision > term && epoch < term
    }
}

/// Records of one kind, in a tree whose copies share what does not differ: a change of one among 30,000 copies a few nodes,
/// where a copy of the whole map took milliseconds (`benches/snapshot.rs`).
pub type Records<K, T> = imbl::OrdMap<K, Arc<Record<T>>>;

/// One version of a model on one worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaKey {
    /// The worker.
    pub worker: WorkerId,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
}

/// Everything that the services share, as of one revision.
///
/// Clones are cheap and share their records.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// `workers/`
    pub workers: Records<WorkerId, Worker>,
    /// `cordons/`: what operators keep from workers, registered or not. Only schedulers act on them, so they are not kept on disk.
    pub cordons: Records<WorkerId, Cordon>,
    /// `models/`
    pub models: Records<ModelName, Model>,
    /// `routes/`
    pub routes: Records<ModelName, Route>,
    /// `scales/`
    pub scales: Records<ModelName, Scale>,
    /// `rollouts/`
    pub rollouts: Records<ModelName, Rollout>,
    /// `placements/`
    pub placements: Records<ReplicaKey, Placement>,
    /// `replicas/`
    pub replicas: Records<ReplicaKey, Replica>,
    /// `services/`, by kind and id.
    pub services: Records<(String, String), Service>,
    /// `leader/scheduler`
    pub leader: Option<Arc<Record<Leader>>>,
    /// The newest revision applied.
    pub revision: i64,
    /// When the store last confirmed it to this process; `None` before the first listing.
    pub confirmed: Option<Instant>,
    /// It was read from disk, and the store has not been listed since: good enough to serve from, not to decide on.
    pub restored: bool,
    /// How old it was when it was read from disk, if it was.
    pub found: Option<Found>,
    /// Workers whose registrations vanished with many others at once and which still answer: their records are kept.
    pub retained: Arc<BTreeSet<WorkerId>>,
    /// Records that cannot be read, with the revision of each: where there was a good value before, it stands.
    pub undecodable: Arc<BTreeMap<String, i64>>,
}

/// How old a snapshot was when it was found on disk. Wall clocks tell it, so it is for people, never for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// When it was read.
    pub at: Instant,
    /// The time since the store had confirmed it.
    pub age: Duration,
}

impl Snapshot {
    /// The time since the store last confirmed it; `None` when it never did.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let since = |at: Instant| now.saturating_duration_since(at);
        let found = || self.found.map(|found| found.age.saturating_add(since(found.at)));
        self.confirmed.map(since).or_else(found)
    }

    /// That the record at `key` is still what this snapshot shows of it; `known` is its revision where it could be read, now or before.
    pub fn unchanged(&self, key: String, known: Option<i64>) -> Compare {
        match self.undecodable.get(&key).copied().or(known) {
            Some(revision) => Compare::ModRevision(key, revision),
            None => Compare::CreateRevision(key, 0),
        }
    }
}
