//! Whole schedulers over the embedded store, with workers that do as they are told.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Request};
use weft_client::{Keys, Mesh, ReplicaKey, Snapshot};
use weft_proto::weft::control::v1::models_server::Models as _;
use weft_proto::weft::control::v1::routes_server::Routes as _;
use weft_proto::weft::control::v1::*;
use weft_proto::weft::state::v1::{Replica, ReplicaState, Worker};
use weft_runtime::{Call, Health, Tasks};
use weft_store::{Commit, MemoryStore, Op, Store, Txn};
use weft_telemetry::{Scope, TraceContext};
use weft_types::{Deadline, SystemClock};

use crate::fixture::{key, worker};
use crate::grpc::Surface;
use crate::{Options, Scheduler, Wiring};

/// Far longer than anything here takes: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster's store and someone who watches it.
struct Cluster {
    store: Arc<dyn Store>,
    keys: Keys,
    tasks: Tasks,
    mesh: Mesh,
}

impl Cluster {
    fn new() -> Self {
        let (store, keys, tasks) =
            (Arc::new(MemoryStore::new(Arc::new(SystemClock))) as Arc<dyn Store>, Keys::new("test"), Tasks::new());
        let mesh = Mesh::follow(Arc::clone(&store), &keys, &tasks);
        Self { store, keys, tasks, mesh }
    }

    /// A scheduler in a process of its own.
    fn scheduler(&self, id: &str, options: Options) -> (Scheduler, Tasks) {
        let tasks = Tasks::new();
        let wiring = Wiring {
            store: Arc::clone(&self.store),
            mesh: Mesh::follow(Arc::clone(&self.store), &self.keys, &tasks),
            keys: self.keys.clone(),
            tasks: tasks.clone(),
            scope: Scope::disabled(),
            health: Health::default(),
        };
        (Scheduler::start(Options { id: id.to_owned(), ..options }, wiring), tasks)
    }

    async fn write(&self, op: Op) {
        let commit = self.store.commit(Txn { compares: Vec::new(), ops: vec![op] }).await;
        assert!(matches!(commit, Ok(Commit::Done(_))), "{commit:?}");
    }

    async fn put(&self, key: String, value: &impl Message) {
        self.write(Op::Put { key, value: value.encode_to_vec().into(), lease: None }).await;
    }

    async fn join(&self, worker: &Worker) {
        self.put(self.keys.worker(&worker.id.parse().expect("a valid id")), worker).await;
    }

    async fn report(&self, key: &ReplicaKey, state: ReplicaState) {
        let replica = Replica { state: state.into(), reason: "planted".to_owned(), size_bytes: 10 };
        self.put(self.keys.replica(key), &replica).await;
    }

    async fn until(&self, what: &str, holds: impl Fn(&Snapshot) -> bool) {
        let mut changes = self.mesh.changes();
        let wait = changes.wait_for(|_| holds(&self.mesh.snapshot()));
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("never came: {what}; placed: {:?}", self.mesh.snapshot().placements.keys());
        }
    }

    async fn until_placed(&self, keys: &[ReplicaKey]) {
        self.until("placements", |snapshot| snapshot.placements.keys().eq(keys)).await;
    }
}

fn request<T>(message: T) -> Request<T> {
    let now = SystemClock::now();
    let trace = TraceContext::new([1; 16], [1; 8], false).expect("not zero");
    let mut request = Request::new(message);
    request.extensions_mut().insert(Call { deadline: Deadline::after(now, PATIENCE), received: now, trace });
    request
}

fn model(name: &str, replicas: u32) -> Request<ApplyModelRequest> {
    request(ApplyModelRequest { model: Some(Model { name: name.to_owned(), replicas, ..Model::default() }) })
}

#[tokio::test]
async fn places_moves_and_unloads() {
    let cluster = Cluster::new();
    let (scheduler, tasks) = cluster.scheduler("s1", Options::default());
    let surface = Surface(Arc::clone(&scheduler.inner));
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    cluster.report(&key("w1", "m", 1), ReplicaState::Ready).await;
    let fence = scheduler.epoch().and_then(|epoch| u64::try_from(epoch).ok());
    let placed = cluster.mesh.snapshot().placements[&key("w1", "m", 1)].value.epoch;
    assert_eq!(Some(placed), fence);

    // A second replica by request, seen by whoever asked as soon as the request is answered.
    cluster.join(&worker("w2", 1, &[("m", 1)])).await;
    let view = surface.apply_model(model("m", 2)).await.expect("applied").into_inner().model.expect("a view");
    assert!(view.applied);
    cluster.until_placed(&[key("w1", "m", 1), key("w2", "m", 1)]).await;

    // The worker goes, its placement with it, and what cannot be placed is told.
    cluster.write(Op::Delete(cluster.keys.replica(&key("w1", "m", 1)))).await;
    cluster.write(Op::Delete(cluster.keys.worker(&"w1".parse().expect("a valid id")))).await;
    cluster.until_placed(&[key("w2", "m", 1)]).await;
    let seen = cluster.mesh.snapshot().revision;
    let mut changes = scheduler.inner.mesh.changes();
    changes.wait_for(|revision| *revision >= seen).await.expect("the mesh lives");
    let get = request(GetModelRequest { name: "m".to_owned() });
    let view = surface.get_model(get).await.expect("known").into_inner().model.expect("a view");
    assert_eq!(view.unplaced_reason, "version 1, 1 missing: every worker that could take it already has it");

    // No replicas at all, then the default again.
    surface.apply_model(model("m", 0)).await.expect("applied");
    cluster.until_placed(&[]).await;
    surface.delete_model(request(DeleteModelRequest { name: "m".to_owned() })).await.expect("deleted");
    cluster.until_placed(&[key("w2", "m", 1)]).await;
    let again = surface.delete_model(request(DeleteModelRequest { name: "m".to_owned() })).await;
    assert_eq!(again.expect_err("nothing to delete").code(), Code::NotFound);
    tasks.finish(PATIENCE).await;
    assert!(!tasks.failed());
}

#[tokio::test]
async fn a_failed_load_moves_to_another_worker() {
    let cluster = Cluster::new();
    let (_scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    for id in ["w1", "w2", "w3", "w4"] {
        cluster.join(&worker(id, 1, &[("m", 1)])).await;
    }
    for id in ["w1", "w2", "w3"] {
        cluster.until_placed(&[key(id, "m", 1)]).await;
        cluster.report(&key(id, "m", 1), ReplicaState::Failed).await;
        if id != "w3" {
            // As the worker does when its placement goes.
            cluster.until("the move", |snapshot| !snapshot.placements.contains_key(&key(id, "m", 1))).await;
            cluster.write(Op::Delete(cluster.keys.replica(&key(id, "m", 1)))).await;
        }
    }
    // Three have failed, so it stays where it is; another model is not held up.
    cluster.join(&worker("w5", 1, &[("n", 1)])).await;
    cluster.until_placed(&[key("w3", "m", 1), key("w5", "n", 1)]).await;
}

#[tokio::test]
async fn the_next_scheduler_takes_over_when_the_leader_goes() {
    let cluster = Cluster::new();
    let (first, first_tasks) = cluster.scheduler("s1", Options::default());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    let (second, _second_tasks) = cluster.scheduler("s2", Options::default());
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    let old = first.epoch().expect("the first leads");
    assert_eq!(second.epoch(), None);

    // Both answer operators: the second writes what the first acts on.
    let surface = Surface(Arc::clone(&second.inner));
    surface.apply_model(model("m", 0)).await.expect("applied");
    cluster.until_placed(&[]).await;

    first_tasks.finish(PATIENCE).await;
    cluster
        .until("a new leader", |snapshot| snapshot.leader.as_ref().is_some_and(|leader| leader.value.id == "s2"))
        .await;
    cluster.join(&worker("w2", 1, &[("n", 1)])).await;
    cluster.until_placed(&[key("w2", "n", 1)]).await;
    let new = second.epoch().expect("the second leads");
    assert!(new > old, "the epoch must grow: {old} then {new}");
    assert_eq!(first.epoch(), None);
    let status = second.inner.status().expect("synced");
    assert_eq!((status.id.as_str(), status.leader, status.epoch, status.moves_written), ("s2", true, new, 1));
}

#[tokio::test]
async fn routes_are_checked_and_kept() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    let surface = Surface(Arc::clone(&scheduler.inner));
    let early = surface.list_routes(request(ListRoutesRequest {})).await;
    assert_eq!(early.expect_err("nothing was seen yet").code(), Code::Unavailable);
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    let route = |model: &str| Route {
        name: "public".to_owned(),
        targets: vec![RouteTarget { model: model.to_owned(), version: 0, weight: 1 }],
    };
    let unknown = surface.apply_route(request(ApplyRouteRequest { route: Some(route("nothing")) })).await;
    assert_eq!(unknown.expect_err("unknown model").code(), Code::NotFound);
    surface.apply_route(request(ApplyRouteRequest { route: Some(route("m")) })).await.expect("applied");
    let get = || request(GetRouteRequest { name: "public".to_owned() });
    assert_eq!(surface.get_route(get()).await.expect("kept").into_inner().route, Some(route("m")));
    surface.delete_route(request(DeleteRouteRequest { name: "public".to_owned() })).await.expect("deleted");
    assert_eq!(surface.get_route(get()).await.expect_err("gone").code(), Code::NotFound);
    let bad = surface.get_route(request(GetRouteRequest { name: "../x".to_owned() })).await;
    assert_eq!(bad.expect_err("not a name").code(), Code::InvalidArgument);
    assert!(!cluster.tasks.failed());
}
