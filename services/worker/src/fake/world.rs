//! A whole worker over the embedded store, with an engine that the test drives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use weft_client::{Keys, Mesh, ReplicaKey, Snapshot};
use weft_engine::{Engine, Signature};
use weft_proto::weft::state::v1::{
    Leader, ModelOffer, Placement, Replica, ReplicaState, VersionOffer, Worker as Record,
};
use weft_runtime::{Health, Tasks};
use weft_store::{Op, Store, Txn};
use weft_telemetry::Scope;
use weft_types::Version;

use super::store::Absent;
use super::{Handle, fake};
use crate::{Options, Parts, Worker};

/// The worker and everything around it.
pub(crate) struct World {
    pub(crate) worker: Worker,
    /// The whole mesh; the worker itself follows its own part of it.
    pub(crate) mesh: Mesh,
    pub(crate) tasks: Tasks,
    pub(crate) health: Health,
    pub(crate) store: Arc<Absent>,
    pub(crate) keys: Keys,
}

impl World {
    pub(crate) async fn start(signature: Signature) -> (Self, Handle) {
        Self::start_with(signature, |_| {}).await
    }

    pub(crate) async fn start_with(signature: Signature, change: impl FnOnce(&mut Options)) -> (Self, Handle) {
        let (engine, handle) = fake(signature);
        let engines = BTreeMap::from([("builtin", engine as Arc<dyn Engine>)]);
        (Self::with_engines(engines, change).await, handle)
    }

    /// A worker with the engines of production.
    pub(crate) async fn wired() -> Self {
        Self::with_engines(crate::wiring::engines(Default::default(), &weft_runtime::Tasks::new()), |_| {}).await
    }

    /// A worker with these engines.
    pub(crate) async fn with_engines(
        engines: BTreeMap<&'static str, Arc<dyn Engine>>,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let store = Arc::new(Absent::new());
        let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let (keys, tasks, health) = (Keys::new("test"), Tasks::new(), Health::default());
        let mesh = Mesh::follow(Arc::clone(&shared), &keys, &Tasks::new(), None);
        let mut options = Options::new("w-1".parse().expect("a name"), "127.0.0.1:1");
        options.drain_notice = Duration::ZERO;
        options.drain_grace = Duration::from_secs(60);
        change(&mut options);
        let own = Mesh::follow_worker(Arc::clone(&shared), &keys, &options.id, &Tasks::new(), None);
        let parts = Parts {
            store: shared,
            mesh: own,
            keys: keys.clone(),
            scope: Scope::disabled(),
            tasks: tasks.clone(),
            health: health.clone(),
        };
        let worker = Worker::with_engines(options, parts, engines, crate::machine::Machine::detect());
        let world = Self { worker, mesh, tasks, health, store, keys };
        world.until(|snapshot| !snapshot.workers.is_empty()).await;
        world
    }

    pub(crate) fn key(worker: &str, model: &str) -> ReplicaKey {
        ReplicaKey {
            worker: worker.parse().expect("a name"),
            model: model.parse().expect("a name"),
            version: Version::new(1).expect("a version"),
        }
    }

    pub(crate) async fn place(&self, model: &str) {
        self.place_as(1, model).await;
    }

    /// Places as the leader of this epoch.
    pub(crate) async fn place_as(&self, epoch: i64, model: &str) {
        let epoch = u64::try_from(epoch).expect("not negative");
        self.put(model, Placement { epoch, ..Placement::default() }).await;
    }

    /// Has it make way for something more urgent.
    pub(crate) async fn preempt(&self, model: &str) {
        self.put(model, Placement { epoch: 1, yields: true, ..Placement::default() }).await;
    }

    async fn put(&self, model: &str, placement: Placement) {
        let (key, value) = (self.keys.placement(&Self::key("w-1", model)), placement.encode_to_vec().into());
        self.commit(Op::Put { key, value, lease: None }).await;
    }

    /// A new leader; returns its epoch.
    pub(crate) async fn lead(&self, id: &str) -> i64 {
        self.commit(Op::Delete(self.keys.leader())).await;
        let value = Leader { id: id.into(), ..Leader::default() }.encode_to_vec().into();
        self.commit(Op::Put { key: self.keys.leader(), value, lease: None }).await;
        // In the worker's own view, which may be behind the whole mesh's.
        let own = &self.worker.shared.mesh;
        let mut changes = own.changes();
        loop {
            let snapshot = own.snapshot();
            if let Some(leader) = snapshot.leader.as_ref().filter(|leader| leader.value.id == id) {
                return leader.create_revision;
            }
            changes.changed().await.expect("the mesh is followed");
        }
    }

    pub(crate) async fn unplace(&self, model: &str) {
        self.commit(Op::Delete(self.keys.placement(&Self::key("w-1", model)))).await;
    }

    /// Another worker, which could hold the model.
    pub(crate) async fn other(&self, id: &str, model: &str) {
        let versions = vec![VersionOffer { version: 1, ..VersionOffer::default() }];
        let offers = vec![ModelOffer { name: model.into(), engine: "builtin".into(), versions }];
        let value = Record { id: id.into(), offers, ..Record::default() }.encode_to_vec().into();
        self.commit(Op::Put { key: self.keys.worker(&id.parse().expect("a name")), value, lease: None }).await;
    }

    async fn commit(&self, op: Op) {
        self.store.commit(Txn { compares: vec![], ops: vec![op] }).await.expect("the store takes it");
    }

    /// Waits until the snapshot is as asked.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&Snapshot) -> bool) {
        let mut changes = self.mesh.changes();
        while !holds(&self.mesh.snapshot()) {
            changes.changed().await.expect("the mesh is followed");
        }
    }

    /// Waits until the worker has told this of a model.
    pub(crate) async fn told(&self, model: &str, state: ReplicaState) -> Replica {
        let key = Self::key("w-1", model);
        let mut found = None;
        self.until(|snapshot| {
            found = snapshot.replicas.get(&key).map(|record| record.value.clone());
            found.as_ref().is_some_and(|record| record.state() == state)
        })
        .await;
        found.expect("just found")
    }

    /// Waits until the worker has told that it holds nothing of a model.
    pub(crate) async fn gone(&self, model: &str) {
        let key = Self::key("w-1", model);
        self.until(|snapshot| !snapshot.replicas.contains_key(&key)).await;
    }
}
