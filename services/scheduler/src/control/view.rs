//! What operators see: what is wanted beside what is, as of one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_client::{Record, ReplicaKey, Snapshot};
use weft_policy::place::{self, Offers, Unplaced, World};
use weft_proto::weft::control::v1::{Model, ModelView, PlacedReplica, Replica, WorkerView};
use weft_proto::weft::scheduler::v1 as scheduler;
use weft_proto::weft::state::v1::{ReplicaState, Scale, Worker};
use weft_types::{ModelName, WorkerId};

use crate::failures::Failures;
use crate::options::ModelControl;

/// A snapshot with what placement makes of it.
pub(crate) struct View {
    snapshot: Arc<Snapshot>,
    control: ModelControl,
    unplaced: Lacks,
    offered: BTreeMap<ModelName, BTreeSet<u64>>,
    replicas: BTreeMap<ModelName, Vec<Replica>>,
}

/// Replicas that have no place, by model.
pub(crate) type Lacks = BTreeMap<ModelName, Vec<Lack>>;

/// Replicas of a version that have no place, and why.
pub(crate) struct Lack {
    version: u64,
    missing: usize,
    pub(super) reason: String,
}

impl View {
    /// Of a snapshot, what placement sees of it, and what has no place in its plan.
    pub(crate) fn new(snapshot: Arc<Snapshot>, control: ModelControl, world: &World, unplaced: Lacks) -> Self {
        let mut offered: BTreeMap<ModelName, BTreeSet<u64>> = BTreeMap::new();
        // Workers with one repository share what they offer.
        let offers: BTreeMap<*const Offers, &Offers> =
            world.workers.iter().map(|worker| (Arc::as_ptr(&worker.offers), &*worker.offers)).collect();
        for (name, versions) in offers.into_values().flatten() {
            offered.entry(name.clone()).or_default().extend(versions.keys().map(|version| version.get()));
        }
        let mut replicas: BTreeMap<ModelName, Vec<Replica>> = BTreeMap::new();
        for key in keys(&snapshot) {
            replicas.entry(key.model.clone()).or_default().push(replica(&snapshot, key));
        }
        Self { control, unplaced, offered, replicas, snapshot }
    }

    /// Whether a model is wanted or offered.
    pub(crate) fn knows(&self, name: &ModelName) -> bool {
        self.snapshot.models.contains_key(name) || self.offered.contains_key(name)
    }

    /// One model; `None` when nobody wants, offers or holds it.
    pub(crate) fn model(&self, name: &ModelName) -> Option<ModelView> {
        let applied = self.snapshot.models.get(name);
        let replicas = self.replicas.get(name);
        if replicas.is_none() && !self.knows(name) {
            return None;
        }
        let unasked = u32::from(self.control == ModelControl::Auto && self.offered.contains_key(name));
        let default = || Model { name: name.to_string(), replicas: unasked, ..Model::default() };
        Some(ModelView {
            model: Some(applied.map_or_else(default, |record| record.value.clone())),
            applied: applied.is_some(),
            replicas: replicas.cloned().unwrap_or_default(),
            offered_versions: self.offered.get(name).into_iter().flatten().copied().collect(),
            unplaced_reason: self.unplaced_reason(name),
            scale: applied.filter(|record| record.value.autoscaling.is_some()).and_then(|_| self.scale(name)),
        })
    }

    fn scale(&self, name: &ModelName) -> Option<Scale> {
        self.snapshot.scales.get(name).map(|record| record.value.clone())
    }

    /// Every model, by name.
    pub(crate) fn models(&self) -> Vec<ModelView> {
        let names: BTreeSet<&ModelName> =
            self.snapshot.models.keys().chain(self.offered.keys()).chain(self.replicas.keys()).collect();
        names.into_iter().filter_map(|name| self.model(name)).collect()
    }

    /// Every worker, by id.
    pub(crate) fn workers(&self) -> Vec<WorkerView> {
        let mut held: BTreeMap<&WorkerId, Vec<&ReplicaKey>> = BTreeMap::new();
        for key in keys(&self.snapshot) {
            held.entry(&key.worker).or_default().push(key);
        }
        let none = Vec::new();
        let view = |(id, record): (_, &Arc<_>)| self.worker_view(id, record, held.get(id).unwrap_or(&none));
        self.snapshot.workers.iter().map(view).collect()
    }

    /// One worker; `None` when it is not registered.
    pub(crate) fn worker(&self, id: &WorkerId) -> Option<WorkerView> {
        let held: Vec<&ReplicaKey> = keys(&self.snapshot).into_iter().filter(|key| key.worker == *id).collect();
        Some(self.worker_view(id, self.snapshot.workers.get(id)?, &held))
    }

    fn worker_view(&self, id: &WorkerId, record: &Record<Worker>, held: &[&ReplicaKey]) -> WorkerView {
        let worker = &record.value;
        let cordon = self.snapshot.cordons.get(id).map(|record| &record.value);
        let draining = worker.draining || cordon.is_some_and(|cordon| cordon.drain);
        let placed = |key: &&&ReplicaKey| self.snapshot.placements.contains_key::<ReplicaKey>(key);
        let left = if draining { held.iter().filter(placed).count() } else { 0 };
        WorkerView {
            registered_at: worker.registered_at,
            worker: Some(worker.clone()),
            replicas: held.iter().map(|key| self.placed_replica(key, draining)).collect(),
            cordoned: cordon.is_some(),
            draining,
            drained: draining && held.is_empty(),
            cordon: cordon.cloned(),
            replicas_left: u32::try_from(left).unwrap_or(u32::MAX),
        }
    }

    fn placed_replica(&self, key: &ReplicaKey, draining: bool) -> PlacedReplica {
        let Replica { version, state, reason, .. } = replica(&self.snapshot, key);
        let is_lack = |lack: &&Lack| lack.version == version || lack.version == 0;
        let lack = || self.unplaced.get(&key.model)?.iter().find(is_lack);
        let stays = Some(()).filter(|()| draining && self.snapshot.placements.contains_key(key)).and_then(|()| lack());
        let stays = stays.map(|lack| lack.reason.clone()).unwrap_or_default();
        PlacedReplica { model: key.model.to_string(), version, state, reason, stays }
    }

    /// Everything that has no place.
    pub(crate) fn unplaced(&self) -> Vec<scheduler::Unplaced> {
        let lacks = self.unplaced.iter().flat_map(|(model, lacks)| lacks.iter().map(move |lack| (model, lack)));
        let unplaced = lacks.map(|(model, lack)| scheduler::Unplaced {
            model: model.to_string(),
            version: lack.version,
            missing: u32::try_from(lack.missing).unwrap_or(u32::MAX),
            reason: lack.reason.clone(),
        });
        unplaced.collect()
    }

    fn unplaced_reason(&self, name: &ModelName) -> String {
        let tell = |lack: &Lack| match lack.version {
            0 => format!("{} missing: {}", lack.missing, lack.reason),
            version => format!("version {version}, {} missing: {}", lack.missing, lack.reason),
        };
        self.unplaced.get(name).into_iter().flatten().map(tell).collect::<Vec<_>>().join("; ")
    }
}

/// What has no place, with the worker's own words where a load failed.
/// What has no place in a plan. The plan is that of the function that the leader uses, so that what is told is what will be done.
pub(crate) fn lacks(unplaced: &[Unplaced], failures: &Failures) -> Lacks {
    let mut lacks = Lacks::new();
    for unplaced in unplaced {
        let failed = matches!(unplaced.obstacle, place::Obstacle::Failed | place::Obstacle::FailedEverywhere);
        let told = failures.reason(&unplaced.model, unplaced.version).filter(|told| failed && !told.is_empty());
        let reason = match told {
            Some(told) => format!("{} ({told})", unplaced.obstacle),
            None => unplaced.obstacle.to_string(),
        };
        let version = unplaced.version.map_or(0, |version| version.get());
        lacks.entry(unplaced.model.clone()).or_default().push(Lack { version, missing: unplaced.missing, reason });
    }
    lacks
}

/// Everything that is placed or reported, by worker, model and version.
fn keys(snapshot: &Snapshot) -> BTreeSet<&ReplicaKey> {
    snapshot.placements.keys().chain(snapshot.replicas.keys()).collect()
}

fn replica(snapshot: &Snapshot, key: &ReplicaKey) -> Replica {
    let reported = snapshot.replicas.get(key).map(|record| &record.value);
    let reason = match reported {
        Some(replica) if !replica.reason.is_empty() => replica.reason.as_str(),
        Some(_) if !snapshot.placements.contains_key(key) => "no longer placed here",
        Some(_) => "",
        None if !snapshot.workers.contains_key(&key.worker) => "the worker is not registered",
        None => "the worker has not reported it yet",
    };
    Replica {
        worker: key.worker.to_string(),
        version: key.version.get(),
        state: reported.map_or(ReplicaState::Unspecified, |replica| replica.state()).into(),
        reason: reason.to_owned(),
        size_bytes: reported.map_or(0, |replica| replica.size_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, apply, key, placement, snapshot, worker};
    use crate::observe::world;
    use crate::options::Options;
    use weft_client::Keys;
    use weft_types::SystemClock;

    fn view(snapshot: Snapshot, control: ModelControl) -> View {
        let (options, now, mut failures) = (Options::default(), SystemClock::now(), Failures::default());
        failures.observe(&snapshot, options.failure_memory, now);
        let blocked = failures.list(&options, now);
        let world = world(&snapshot, &Keys::new("t"), control, blocked);
        View::new(Arc::new(snapshot), control, &world, lacks(&place::place(&world).unplaced, &failures))
    }

    fn name(name: &str) -> ModelName {
        name.parse().expect("a valid name")
    }

    #[test]
    fn tells_what_is_wanted_beside_what_is() {
        let mut mesh = snapshot(&[worker("w1", 1, &[("a", 1), ("a", 2), ("b", 1)])]);
        apply(&mut mesh, "a", 3);
        placement(&mut mesh, &key("w1", "a", 2), 4);
        fixture::replica(&mut mesh, &key("w1", "a", 2), ReplicaState::Failed, 5);
        placement(&mut mesh, &key("w2", "c", 1), 4);
        let view = view(mesh, ModelControl::Auto);
        let told = view.model(&name("a")).expect("wanted");
        assert!(told.applied);
        assert_eq!(told.offered_versions, [1, 2]);
        assert_eq!(
            told.replicas.iter().map(|replica| (replica.version, replica.state())).collect::<Vec<_>>(),
            [(2, ReplicaState::Failed)]
        );
        let reason = told.unplaced_reason;
        assert!(reason.starts_with("version 2, 3 missing: ") && reason.ends_with("(told by the worker)"), "{reason}");
        let unasked = view.model(&name("b")).expect("offered");
        assert_eq!((unasked.applied, unasked.model.map(|model| model.replicas)), (false, Some(1)));
        assert_eq!(view.model(&name("d")), None);
        let names: Vec<String> =
            view.models().into_iter().filter_map(|view| view.model).map(|model| model.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let workers = view.workers();
        assert_eq!(workers.len(), 1);
        assert_eq!(workers[0].replicas[0].reason, "told by the worker");
        assert_eq!(view.unplaced().len(), 1);
    }

    #[test]
    fn explicit_control_wants_nothing_by_itself() {
        let view = view(snapshot(&[worker("w1", 1, &[("a", 1)])]), ModelControl::Explicit);
        let told = view.model(&name("a")).and_then(|view| view.model).expect("offered");
        assert_eq!(told.replicas, 0);
    }
}
