//! The mesh as the store describes it: one immutable snapshot, swapped whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use weft_proto::weft::control::v1::{Model, Route};
use weft_proto::weft::state::v1::{Leader, Placement, Replica, Service, Worker};
use weft_types::{ModelName, Version, WorkerId};

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

/// Records of one kind, shared until they change.
pub type Records<K, T> = Arc<BTreeMap<K, Arc<Record<T>>>>;

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
/// Each kind of record is a map of its own behind a pointer: a change copies the map that it touches and shares the rest.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// `workers/`
    pub workers: Records<WorkerId, Worker>,
    /// `models/`
    pub models: Records<ModelName, Model>,
    /// `routes/`
    pub routes: Records<ModelName, Route>,
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
    /// When the store last confirmed it; `None` before the first listing.
    pub confirmed: Option<Instant>,
}
