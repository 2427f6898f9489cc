//! The mesh as the placement policy sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_client::{Keys, Record, ReplicaKey, Snapshot};
use weft_policy::place::{
    Device, DeviceId, Failure, Holding, Key, Offer, Offers, Priority, State, Wanted, Worker, World,
};
use weft_proto::weft::control::v1::{self as control, Model};
use weft_proto::weft::state::v1::{self as state, ModelOffer, ReplicaState};
use weft_types::{ModelName, Version, WorkerId};

use crate::options::ModelControl;
use crate::rollout;
use crate::scale::replicas;

/// More devices than a worker has; what a record tells beyond is passed over.
const MAX_DEVICES: usize = 64;

/// The placement policy's form of a replica's key.
pub(crate) fn place_key(key: &ReplicaKey) -> Key {
    Key { worker: key.worker.clone(), model: key.model.clone(), version: key.version }
}

/// The mesh's form of a placement's key.
pub(crate) fn replica_key(key: &Key) -> ReplicaKey {
    ReplicaKey { worker: key.worker.clone(), model: key.model.clone(), version: key.version }
}

/// Everything that placement looks at.
pub(crate) fn world(snapshot: &Snapshot, keys: &Keys, control: ModelControl, failures: Vec<Failure>) -> World {
    World {
        workers: workers(snapshot, keys),
        wanted: wanted(snapshot, control),
        holdings: holdings(snapshot),
        failures,
    }
}

/// What each worker offers, by model; names and versions that cannot be are passed over.
pub(crate) fn offers(told: &[ModelOffer]) -> Offers {
    let mut offers = Offers::new();
    let taken = |told: &state::VersionOffer| Offer {
        size: told.size_bytes,
        device_kind: told.device_kind.clone(),
        cpu_millis: told.cpu_millis.into(),
    };
    for offer in told {
        let Ok(name) = offer.name.parse::<ModelName>() else { continue };
        let versions = offer.versions.iter().filter_map(|told| Some((Version::new(told.version)?, taken(told))));
        offers.entry(name).or_default().extend(versions);
    }
    offers.retain(|_, versions| !versions.is_empty());
    offers
}

/// The workers. Those that tell the same offers, as they do with one repository, share them.
fn workers(snapshot: &Snapshot, keys: &Keys) -> Vec<Worker> {
    let mut known: Vec<(&[ModelOffer], Arc<Offers>)> = Vec::new();
    let mut shared = |told| match known.iter().rev().find(|(known, _)| *known == told) {
        Some((_, offers)) => Arc::clone(offers),
        None => {
            let offers = Arc::new(offers(told));
            known.push((told, Arc::clone(&offers)));
            offers
        }
    };
    snapshot
        .workers
        .iter()
        .map(|(id, record)| worker((snapshot, keys), (id, &record.value), shared(&*record.value.offers)))
        .collect()
}

fn worker(
    (snapshot, keys): (&Snapshot, &Keys),
    (id, told): (&WorkerId, &state::Worker),
    offers: Arc<Offers>,
) -> Worker {
    let cordon = snapshot.cordons.get(id);
    Worker {
        id: id.clone(),
        zone: told.zone.clone(),
        labels: told.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        memory: told.memory_bytes,
        devices: devices(told),
        cpu_millis: u64::from(told.threads).saturating_mul(1000),
        draining: told.draining || cordon.is_some_and(|cordon| cordon.value.drain),
        // What keeps its place although its registration is gone serves, but does not hear of anything new. Nor does anybody know what a
        // cordon asks for that cannot be read.
        cordoned: cordon.is_some()
            || snapshot.retained.contains(id)
            || (!snapshot.undecodable.is_empty() && snapshot.undecodable.contains_key(&keys.cordon(id))),
        offers,
    }
}

/// The devices, each once; a nameless kind is passed over.
fn devices(told: &state::Worker) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    for device in told.devices.iter().filter(|device| !device.kind.is_empty()).take(MAX_DEVICES) {
        let id = DeviceId { kind: device.kind.clone(), ordinal: device.ordinal };
        if devices.iter().all(|known| known.id != id) {
            devices.push(Device { id, memory: device.memory_bytes });
        }
    }
    devices
}

/// What was applied and, under [`ModelControl::Auto`], one replica of everything else that is offered.
fn wanted(snapshot: &Snapshot, control: ModelControl) -> Vec<Wanted> {
    let applied = |(name, record): (&ModelName, &std::sync::Arc<Record<Model>>)| Wanted {
        model: name.clone(),
        replicas: replicas(snapshot, name, &record.value),
        versions: record.value.versions.iter().copied().filter_map(Version::new).collect(),
        selector: record.value.selector.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        priority: priority(record.value.priority()),
        anti_affinity: record.value.anti_affinity.iter().filter_map(|name| name.parse().ok()).collect(),
        idle: None,
        waits: None,
        exclusive: false,
    };
    let mut wanted: Vec<Wanted> = snapshot.models.iter().map(applied).collect();
    if control == ModelControl::Auto {
        let offered: BTreeSet<ModelName> =
            snapshot.workers.values().flat_map(|record| offers(&record.value.offers).into_keys()).collect();
        let unasked = offered.into_iter().filter(|name| !snapshot.models.contains_key(name));
        wanted.extend(unasked.map(|model| Wanted {
            model,
            replicas: 1,
            versions: BTreeSet::new(),
            selector: BTreeMap::new(),
            priority: Priority::default(),
            anti_affinity: BTreeSet::new(),
            idle: None,
            waits: None,
            exclusive: false,
        }));
    }
    for wanted in &mut wanted {
        // A rollout alone says which versions are served: both while it is under way, the one that answers afterwards.
        if let Some(rollout) = snapshot.rollouts.get(&wanted.model) {
            let versions = rollout::versions(&rollout.value);
            if !versions.is_empty() {
                (wanted.versions, wanted.exclusive) = (versions, rollout::is_over(&rollout.value));
            }
        }
    }
    wanted
}

const fn priority(told: control::Priority) -> Priority {
    match told {
        control::Priority::Unspecified => Priority::Standard,
        control::Priority::Realtime => Priority::Realtime,
        control::Priority::Batch => Priority::Batch,
    }
}

/// Placements that their workers refuse, because a leader of the past wrote them after the term that began at `term` had
/// begun. The store takes such a write only from someone who did not compare its fence.
pub(crate) fn refused(snapshot: &Snapshot, term: i64) -> Vec<Key> {
    snapshot.placements.iter().filter(|(_, record)| record.is_stale(term)).map(|(key, _)| place_key(key)).collect()
}

/// Placements of what was told to make way, and whether each may go: its worker has begun with it, or is gone, or does not know of this.
pub(crate) fn yielding(snapshot: &Snapshot) -> BTreeMap<Key, bool> {
    let yields = snapshot.placements.iter().filter(|(_, record)| record.value.yields);
    let knows = |key: &ReplicaKey| snapshot.workers.get(&key.worker).is_some_and(|record| record.value.yields);
    let serves =
        |key: &ReplicaKey| snapshot.replicas.get(key).is_some_and(|record| record.value.state() == ReplicaState::Ready);
    yields.map(|(key, _)| (place_key(key), !(serves(key) && knows(key)))).collect()
}

/// Every replica that is placed, or that a worker still reports. What makes way counts as if its placement were gone, until it is.
fn holdings(snapshot: &Snapshot) -> Vec<Holding> {
    let keys: BTreeSet<&ReplicaKey> = snapshot.placements.keys().chain(snapshot.replicas.keys()).collect();
    let holding = |key: &ReplicaKey| {
        let replica = snapshot.replicas.get(key).map(|record| &record.value);
        let placement = snapshot.placements.get(key);
        let yields = placement.is_some_and(|record| record.value.yields);
        let unseen = if yields { State::Draining } else { State::Pending };
        let device = placement.and_then(|record| record.value.device.as_ref());
        Holding {
            key: place_key(key),
            placed: placement.is_some() && !yields,
            state: replica.map_or(unseen, |replica| state_of(replica.state())),
            size: replica.map_or(0, |replica| replica.size_bytes),
            device: device.map(|device| DeviceId { kind: device.kind.clone(), ordinal: device.ordinal }),
            since: placement.map_or(0, |record| u64::try_from(record.create_revision).unwrap_or(0)),
        }
    };
    keys.into_iter().map(holding).collect()
}

const fn state_of(state: ReplicaState) -> State {
    match state {
        ReplicaState::Unspecified => State::Pending,
        ReplicaState::Loading => State::Loading,
        ReplicaState::Ready => State::Ready,
        ReplicaState::Draining => State::Draining,
        ReplicaState::Failed => State::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{apply, key, placement, replica, snapshot, worker};

    fn names(wanted: &[Wanted]) -> Vec<(&str, usize)> {
        wanted.iter().map(|wanted| (wanted.model.as_str(), wanted.replicas)).collect()
    }

    #[test]
    fn what_is_offered_is_wanted_unless_told_otherwise() {
        let mut mesh = snapshot(&[worker("w1", 1, &[("a", 1), ("b", 1)]), worker("w2", 1, &[("b", 2), ("../x", 1)])]);
        apply(&mut mesh, "b", 0);
        apply(&mut mesh, "c", 2);
        assert_eq!(names(&wanted(&mesh, ModelControl::Auto)), [("b", 0), ("c", 2), ("a", 1)]);
        assert_eq!(names(&wanted(&mesh, ModelControl::Explicit)), [("b", 0), ("c", 2)]);
    }

    #[test]
    fn workers_tell_their_devices_and_share_what_they_offer_alike() {
        let device = |kind: &str, ordinal, memory_bytes| state::WorkerDevice {
            kind: kind.to_owned(),
            ordinal,
            memory_bytes,
            memory_node: 0,
        };
        let mut told = worker("w1", 1, &[("a", 1)]);
        told.threads = u32::MAX;
        told.devices = vec![device("cpu", 0, 7), device("", 0, 8), device("cuda", 1, u64::MAX), device("cpu", 0, 9)];
        told.devices.extend((2..99).map(|ordinal| device("cuda", ordinal, 1)));
        told.offers[0].versions[0] =
            state::VersionOffer { version: 1, size_bytes: 5, device_kind: "cuda".to_owned(), cpu_millis: 1500 };
        let mut alike = told.clone();
        alike.id = "w2".to_owned();
        let seen = workers(&snapshot(&[told, alike, worker("w3", 1, &[("a", 1)])]), &Keys::new("t"));
        let [one, two, three] = &*seen else { panic!("three workers") };
        assert!(Arc::ptr_eq(&one.offers, &two.offers) && !Arc::ptr_eq(&one.offers, &three.offers));
        assert_eq!(one.cpu_millis, u64::from(u32::MAX) * 1000);
        let id = |kind: &str, ordinal| DeviceId { kind: kind.to_owned(), ordinal };
        let first = [Device { id: id("cpu", 0), memory: 7 }, Device { id: id("cuda", 1), memory: u64::MAX }];
        assert_eq!(
            one.devices[..2],
            first,
            "a kind without a name and a second one of the same number are passed over"
        );
        assert!(one.devices.len() <= MAX_DEVICES);
        let offer =
            &one.offers["a".parse::<ModelName>().as_ref().expect("a name")][&Version::new(1).expect("not zero")];
        assert_eq!(*offer, Offer { size: 5, device_kind: "cuda".to_owned(), cpu_millis: 1500 });
        // Builds of before tell none of it.
        assert_eq!((three.devices.len(), three.memory, three.cpu_millis), (0, 100, 0));
    }

    /// What it holds stays, but it hears of nothing new, or nobody knows what is asked of it.
    #[test]
    fn a_worker_out_of_reach_or_with_a_cordon_that_cannot_be_read_takes_nothing_new() {
        let keys = Keys::new("t");
        let mut mesh = snapshot(&[worker("w1", 1, &[]), worker("w2", 1, &[]), worker("w3", 1, &[])]);
        mesh.retained = Arc::new(["w1".parse().expect("an id")].into());
        mesh.undecodable = Arc::new([(keys.cordon(&"w2".parse().expect("an id")), 7)].into());
        let told: Vec<_> = workers(&mesh, &keys).iter().map(|worker| (worker.cordoned, worker.draining)).collect();
        assert_eq!(told, [(true, false), (true, false), (false, false)]);
    }

    #[test]
    fn placements_tell_where_and_in_which_order_they_were_made() {
        let mut mesh = snapshot(&[worker("w1", 1, &[("a", 1), ("b", 1)])]);
        placement(&mut mesh, &key("w1", "a", 1), 3);
        let device = state::PlacementDevice { kind: "cuda".to_owned(), ordinal: 2 };
        let placed = state::Placement { epoch: 1, device: Some(device), yields: false };
        mesh.placements.insert(key("w1", "b", 1), crate::fixture::record(placed, 4));
        let told: Vec<_> = holdings(&mesh).into_iter().map(|holding| (holding.since, holding.device)).collect();
        assert_eq!(told, [(3, None), (4, Some(DeviceId { kind: "cuda".to_owned(), ordinal: 2 }))]);
    }

    #[test]
    fn priorities_and_what_must_not_be_beside_a_model_are_wanted() {
        let mut mesh = snapshot(&[]);
        let model = Model {
            name: "a".to_owned(),
            priority: control::Priority::Batch.into(),
            anti_affinity: vec!["b".to_owned(), "../x".to_owned()],
            ..Model::default()
        };
        mesh.models.insert("a".parse().expect("a name"), crate::fixture::record(model, 1));
        let wanted = wanted(&mesh, ModelControl::Explicit);
        assert_eq!(wanted[0].priority, Priority::Batch);
        assert_eq!(wanted[0].anti_affinity, BTreeSet::from(["b".parse().expect("a name")]));
    }

    /// Nor does one of before or after that has no versions at all: the model would be unloaded everywhere.
    #[test]
    fn a_rollout_that_cannot_be_meant_changes_nothing() {
        let mut mesh = snapshot(&[]);
        let name: ModelName = "a".parse().expect("a name");
        let model = Model { name: "a".to_owned(), versions: vec![3, 0], ..Model::default() };
        mesh.models.insert(name.clone(), crate::fixture::record(model, 1));
        let mut versions = |stable, canary| {
            let rollout = control::Rollout { model: "a".to_owned(), stable, canary, ..control::Rollout::default() };
            mesh.rollouts.insert(name.clone(), crate::fixture::record(rollout, 2));
            let [wanted] = &*wanted(&mesh, ModelControl::Explicit) else { panic!("one model") };
            wanted.versions.iter().map(|version| version.get()).collect::<Vec<_>>()
        };
        for (stable, canary) in [(0, 0), (0, 2), (1, 0), (2, 2)] {
            assert_eq!(versions(stable, canary), [3], "{stable} {canary}");
        }
        assert_eq!(versions(1, 2), [1, 2]);
    }

    #[test]
    fn what_makes_way_is_on_its_way_out_until_its_placement_is_gone() {
        let mut mesh = snapshot(&[state::Worker { yields: true, ..worker("w1", 1, &[("a", 1)]) }]);
        let placed = state::Placement { epoch: 1, device: None, yields: true };
        mesh.placements.insert(key("w1", "a", 1), crate::fixture::record(placed, 3));
        let told = |mesh: &Snapshot| {
            let holdings = holdings(mesh);
            (holdings[0].placed, holdings[0].state, yielding(mesh)[&holdings[0].key])
        };
        replica(&mut mesh, &key("w1", "a", 1), ReplicaState::Ready, 4);
        assert_eq!(told(&mesh), (false, State::Ready, false));
        replica(&mut mesh, &key("w1", "a", 1), ReplicaState::Draining, 5);
        assert_eq!(told(&mesh), (false, State::Draining, true));
        mesh.replicas = Default::default();
        assert_eq!(told(&mesh), (false, State::Draining, true), "placed anew it would be refused");
    }

    #[test]
    fn placed_and_reported_replicas_are_told_together() {
        let mut mesh = snapshot(&[worker("w1", 1, &[("a", 1)])]);
        placement(&mut mesh, &key("w1", "a", 1), 3);
        placement(&mut mesh, &key("gone", "a", 1), 3);
        replica(&mut mesh, &key("w1", "a", 1), ReplicaState::Ready, 4);
        replica(&mut mesh, &key("w1", "old", 1), ReplicaState::Draining, 4);
        let told: Vec<_> = holdings(&mesh).into_iter().map(|holding| (holding.placed, holding.state)).collect();
        assert_eq!(told, [(true, State::Pending), (true, State::Ready), (false, State::Draining)]);
    }
}
