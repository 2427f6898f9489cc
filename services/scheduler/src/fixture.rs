//! Made-up meshes for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_client::{Record, ReplicaKey, Snapshot};
use weft_proto::weft::control::v1::Model;
use weft_proto::weft::state::v1::{ModelOffer, Placement, Replica, ReplicaState, VersionOffer, Worker};
use weft_types::Version;

pub(crate) fn key(worker: &str, model: &str, version: u64) -> ReplicaKey {
    ReplicaKey {
        worker: worker.parse().expect("a valid id"),
        model: model.parse().expect("a valid name"),
        version: Version::new(version).expect("not zero"),
    }
}

/// A worker with room for ten replicas, which offers these versions at ten bytes each.
pub(crate) fn worker(id: &str, epoch: u64, offers: &[(&str, u64)]) -> Worker {
    let mut models: BTreeMap<&str, Vec<VersionOffer>> = BTreeMap::new();
    for (name, version) in offers {
        models.entry(name).or_default().push(VersionOffer {
            version: *version,
            size_bytes: 10,
            ..VersionOffer::default()
        });
    }
    let offer = |(name, versions): (&str, _)| ModelOffer { name: name.to_owned(), engine: "fake".to_owned(), versions };
    Worker {
        id: id.to_owned(),
        memory_bytes: 100,
        epoch,
        offers: models.into_iter().map(offer).collect(),
        ..Worker::default()
    }
}

pub(crate) fn record<T>(value: T, revision: i64) -> Arc<Record<T>> {
    Arc::new(Record { value, create_revision: revision, mod_revision: revision })
}

pub(crate) fn snapshot(workers: &[Worker]) -> Snapshot {
    let known = |worker: &Worker| (worker.id.parse().expect("a valid id"), record(worker.clone(), 1));
    Snapshot { workers: workers.iter().map(known).collect(), ..Snapshot::default() }
}

pub(crate) fn apply(snapshot: &mut Snapshot, name: &str, replicas: u32) {
    let model = Model { name: name.to_owned(), replicas, ..Model::default() };
    snapshot.models.insert(name.parse().expect("a valid name"), record(model, 1));
}

pub(crate) fn placement(snapshot: &mut Snapshot, key: &ReplicaKey, revision: i64) {
    snapshot.placements.insert(key.clone(), record(Placement::default(), revision));
}

pub(crate) fn replica(snapshot: &mut Snapshot, key: &ReplicaKey, state: ReplicaState, revision: i64) {
    let reason = if state == ReplicaState::Failed { "told by the worker" } else { "" };
    let replica = Replica { state: state.into(), reason: reason.to_owned(), ..Replica::default() };
    snapshot.replicas.insert(key.clone(), record(replica, revision));
}
