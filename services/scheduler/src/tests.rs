//! Whole schedulers over the embedded store, with workers that do as they are told.

mod cordons;
mod killed;
mod late;
mod unread;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use weft_client::{Keys, Mesh, ReplicaKey, Snapshot};
use weft_proto::weft::control::v1::events_server::Events as _;
use weft_proto::weft::control::v1::models_server::Models as _;
use weft_proto::weft::control::v1::routes_server::Routes as _;
use weft_proto::weft::control::v1::*;
use weft_proto::weft::metrics::v1::ModelSummary;
use weft_proto::weft::state::v1::{Placement, Replica, ReplicaState, Worker};
use weft_runtime::{Api, Call, Health, Server, ServerOptions, Tasks};
use weft_store::{Commit, Maintain, Member, MemoryStore, Op, Range, Revision, Store, Txn};
use weft_telemetry::{Scope, TraceContext};
use weft_types::{Deadline, SystemClock};

use crate::fixture::{key, worker};
use crate::grpc::Surface;
use crate::options::ModelControl;
use crate::planted::Planted;
use crate::upkeep::Upkeep;
use crate::{Figures, Options, Scheduler, Wiring};

/// Far longer than anything here takes: a test that hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The store's members as the test tells them, and how far they were compacted.
#[derive(Clone, Default)]
pub(crate) struct Members {
    pub(crate) told: Arc<Mutex<Vec<Member>>>,
    compacted: watch::Sender<Revision>,
}

#[tonic::async_trait]
impl Maintain for Members {
    async fn compact(&self, revision: Revision) -> Result<(), weft_store::Error> {
        self.compacted.send_replace(revision);
        Ok(())
    }

    async fn members(&self) -> Vec<Member> {
        self.told.lock().expect("no test panics while it holds this").clone()
    }
}

/// A cluster's store and someone who watches it.
pub(crate) struct Cluster {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    tasks: Tasks,
    mesh: Mesh,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new(Arc::new(SystemClock))))
    }

    pub(crate) fn over(store: Arc<dyn Store>) -> Self {
        let (keys, tasks) = (Keys::new("test"), Tasks::new());
        let mesh = Mesh::follow(Arc::clone(&store), &keys, &tasks, None);
        Self { store, keys, tasks, mesh }
    }

    /// A scheduler in a process of its own.
    pub(crate) fn scheduler(&self, id: &str, options: Options) -> (Scheduler, Tasks) {
        self.scheduler_with(id, options, Members::default())
    }

    /// A scheduler whose view of the store's members the test decides.
    pub(crate) fn scheduler_with(&self, id: &str, options: Options, members: Members) -> (Scheduler, Tasks) {
        let tasks = Tasks::new();
        let wiring = Wiring {
            store: Arc::clone(&self.store),
            maintenance: Arc::new(members),
            mesh: Mesh::follow(Arc::clone(&self.store), &self.keys, &tasks, None),
            keys: self.keys.clone(),
            tasks: tasks.clone(),
            scope: Scope::disabled(),
            health: Health::default(),
        };
        (Scheduler::start(Options { id: id.to_owned(), ..options }, wiring), tasks)
    }

    /// A scheduler that others reach at an address of its own.
    pub(crate) async fn serving(&self, id: &str, options: Options, serving: &Tasks) -> (Scheduler, Tasks) {
        let server = Server::bind(ServerOptions::default()).await.expect("a free port");
        let address = server.address().to_string();
        let (scheduler, tasks) = self.scheduler(id, Options { address, ..options });
        server.serve(scheduler.serve(Api::new(&Health::default())), Scope::disabled(), serving).expect("descriptors");
        (scheduler, tasks)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.mesh.snapshot()
    }

    pub(crate) const fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) async fn write(&self, op: Op) {
        let commit = self.store.commit(Txn { compares: Vec::new(), ops: vec![op] }).await;
        assert!(matches!(commit, Ok(Commit::Done(_))), "{commit:?}");
    }

    pub(crate) async fn put(&self, key: String, value: &impl Message) {
        self.write(Op::Put { key, value: value.encode_to_vec().into(), lease: None }).await;
    }

    pub(crate) async fn join(&self, worker: &Worker) {
        self.put(self.keys.worker(&worker.id.parse().expect("a valid id")), worker).await;
    }

    pub(crate) async fn report(&self, key: &ReplicaKey, state: ReplicaState) {
        let replica =
            Replica { state: state.into(), reason: "planted".to_owned(), size_bytes: 10, ..Replica::default() };
        self.put(self.keys.replica(key), &replica).await;
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Snapshot) -> bool) {
        let mut changes = self.mesh.changes();
        let wait = changes.wait_for(|_| holds(&self.mesh.snapshot()));
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("never came: {what}; placed: {:?}", self.mesh.snapshot().placements);
        }
    }

    pub(crate) async fn until_placed(&self, keys: &[ReplicaKey]) {
        self.until("placements", |snapshot| snapshot.placements.keys().eq(keys)).await;
    }
}

pub(crate) fn request<T>(message: T) -> Request<T> {
    let now = SystemClock::now();
    let trace = TraceContext::new([1; 16], [1; 8], false).expect("not zero");
    let mut request = Request::new(message);
    request.extensions_mut().insert(Call { deadline: Deadline::after(now, PATIENCE), received: now, trace });
    request
}

pub(crate) fn model(name: &str, replicas: u32) -> Request<ApplyModelRequest> {
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

    // The worker goes, its placement with it where another one serves, and what cannot be placed is told.
    cluster.report(&key("w2", "m", 1), ReplicaState::Ready).await;
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
    let status = second.inner.status().await.expect("synced");
    assert_eq!((status.id.as_str(), status.leader, status.epoch, status.moves_written), ("s2", true, new, 1));
}

/// Its worker is told to stop it at once, and what it made way for comes when it has gone.
#[tokio::test]
async fn a_batch_model_makes_way_for_a_realtime_one() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) =
        cluster.scheduler("s1", Options { model_control: ModelControl::Explicit, ..Options::default() });
    let surface = Surface(Arc::clone(&scheduler.inner));
    cluster.join(&Worker { yields: true, ..worker("w1", 1, &[("m", 1), ("n", 1)]) }).await;
    let (batch, urgent) = (key("w1", "m", 1), key("w1", "n", 1));
    let apply = async |name: &str, priority: Priority| {
        let anti_affinity = vec![if name == "m" { "n" } else { "m" }.to_owned()];
        let model =
            Model { name: name.to_owned(), replicas: 1, priority: priority.into(), anti_affinity, ..Model::default() };
        surface.apply_model(request(ApplyModelRequest { model: Some(model) })).await.expect("applied");
    };
    apply("m", Priority::Batch).await;
    cluster.until_placed(std::slice::from_ref(&batch)).await;
    cluster.report(&batch, ReplicaState::Ready).await;
    apply("n", Priority::Realtime).await;
    let yields = |snapshot: &Snapshot| snapshot.placements.get(&batch).is_some_and(|record| record.value.yields);
    cluster.until("the wish", yields).await;
    cluster.report(&batch, ReplicaState::Draining).await;
    cluster.until_placed(&[]).await;
    cluster.write(Op::Delete(cluster.keys.replica(&batch))).await;
    cluster.until_placed(std::slice::from_ref(&urgent)).await;
    let told = surface.list_events(request(ListEventsRequest::default())).await.expect("listed").into_inner().events;
    let told: Vec<_> = told.iter().rev().map(|event| (event.reason.as_str(), event.subject.as_str())).collect();
    let moves = [("ReplicasPlaced", "models/m"), ("ReplicasRemoved", "models/m"), ("ReplicasPlaced", "models/n")];
    let told: Vec<_> =
        told.into_iter().filter(|(reason, _)| ["ReplicasPlaced", "ReplicasRemoved"].contains(reason)).collect();
    assert_eq!(told, moves);
}

/// What it was to make way for goes before it has: it is placed again once its old placement is gone, and nothing else is held up.
#[tokio::test]
async fn what_makes_way_for_nobody_any_more_comes_back() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) =
        cluster.scheduler("s1", Options { model_control: ModelControl::Explicit, ..Options::default() });
    let surface = Surface(Arc::clone(&scheduler.inner));
    cluster.join(&Worker { yields: true, ..worker("w1", 1, &[("m", 1), ("n", 1), ("o", 1)]) }).await;
    let (batch, other) = (key("w1", "m", 1), key("w1", "o", 1));
    let apply = async |name: &str, priority: Priority, shunned: &str| {
        let anti_affinity = if shunned.is_empty() { Vec::new() } else { vec![shunned.to_owned()] };
        let model =
            Model { name: name.to_owned(), replicas: 1, priority: priority.into(), anti_affinity, ..Model::default() };
        surface.apply_model(request(ApplyModelRequest { model: Some(model) })).await.expect("applied");
    };
    apply("m", Priority::Batch, "n").await;
    cluster.until_placed(std::slice::from_ref(&batch)).await;
    cluster.report(&batch, ReplicaState::Ready).await;
    apply("n", Priority::Realtime, "m").await;
    let yields = |snapshot: &Snapshot| snapshot.placements.get(&batch).is_some_and(|record| record.value.yields);
    cluster.until("the wish", yields).await;
    let withdrawn = DeleteModelRequest { name: "n".to_owned() };
    surface.delete_model(request(withdrawn)).await.expect("deleted");
    apply("o", Priority::Realtime, "").await;
    cluster.until_placed(&[batch.clone(), other.clone()]).await;
    cluster.report(&batch, ReplicaState::Draining).await;
    let placed = |snapshot: &Snapshot| snapshot.placements.get(&batch).is_some_and(|record| !record.value.yields);
    cluster.until("its new placement", placed).await;
}

#[tokio::test]
async fn what_a_leader_of_the_past_placed_is_placed_anew() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    for (id, model) in [("w1", "m"), ("w2", "n")] {
        cluster.join(&worker(id, 1, &[(model, 1)])).await;
    }
    let wanted = [key("w1", "m", 1), key("w2", "n", 1)];
    cluster.until_placed(&wanted).await;
    let epoch = scheduler.epoch().and_then(|epoch| u64::try_from(epoch).ok()).expect("it leads");
    // A writer that does not compare its fence writes over one that is wanted, and places one that is not.
    let past = Placement { epoch: epoch - 1, ..Placement::default() };
    for placed in [&wanted[0], &key("w2", "m", 1)] {
        cluster.put(cluster.keys.placement(placed), &past).await;
    }
    let written = cluster.store.read(Range::Key(cluster.keys.leader())).await.expect("read").revision;
    cluster
        .until("the repair", |snapshot| {
            let placed = snapshot.placements.iter().filter(|_| snapshot.revision >= written);
            placed.map(|(key, record)| (key, record.value.epoch)).eq(wanted.iter().map(|key| (key, epoch)))
        })
        .await;
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
        targets: vec![RouteTarget { model: model.to_owned(), weight: 1, ..Default::default() }],
        ..Default::default()
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

#[tokio::test]
async fn only_the_leader_compacts_and_its_successor_goes_on() {
    let cluster = Cluster::new();
    let options = || Options { history: Duration::from_millis(1), ..Options::default() };
    let (leads, follows) = (Members::default(), Members::default());
    let (first, first_tasks) = cluster.scheduler_with("s1", options(), leads.clone());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    let (_second, _second_tasks) = cluster.scheduler_with("s2", options(), follows.clone());
    let compacted = async |members: &Members, beyond: Revision| {
        let mut told = members.compacted.subscribe();
        let told = tokio::time::timeout(PATIENCE, told.wait_for(|revision| *revision > beyond)).await;
        *told.expect("never compacted").expect("the sender lives")
    };
    let reached = compacted(&leads, 0).await;
    assert!(reached <= cluster.mesh.snapshot().revision, "what is to come cannot be forgotten");
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    compacted(&leads, reached).await;
    assert_eq!(*follows.compacted.borrow(), 0, "a follower compacted");
    first_tasks.finish(PATIENCE).await;
    assert_eq!(first.epoch(), None);
    cluster.join(&worker("w2", 1, &[("n", 1)])).await;
    // Its first compaction may be of a sample that is older than the last leader's last, which the store takes as done.
    compacted(&follows, *leads.compacted.borrow()).await;
}

#[tokio::test]
async fn the_leader_knows_the_meshs_figures_while_a_metrics_service_tells_them() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    let mut figures = scheduler.figures();
    assert!(figures.borrow().at.is_none(), "nobody has told any");
    let (planted, tasks) = (Planted::default(), Tasks::new());
    planted.tell(vec![ModelSummary { model: "m".to_owned(), version: 1, calls: 5, ..ModelSummary::default() }]);
    let service = planted.serve(&tasks).await;
    cluster.put(cluster.keys.service("metrics", "metrics"), &service).await;
    let calls = |told: &Arc<Figures>| told.versions.values().map(|version| version.calls).collect::<Vec<_>>();
    let told = tokio::time::timeout(PATIENCE, figures.wait_for(|told| calls(told) == [5])).await;
    let told = told.expect("they come").expect("the leader lives").clone();
    assert!(told.at.is_some() && told.window == Duration::from_secs(10), "{told:?}");
}

#[tokio::test]
async fn history_is_kept_where_that_is_wanted() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", Options { history: Duration::ZERO, ..Options::default() });
    let upkeep = Upkeep::new(Arc::clone(&scheduler.inner)).run(CancellationToken::new());
    tokio::time::timeout(PATIENCE, upkeep).await.expect("it has nothing to do");
}

#[tokio::test]
async fn the_status_tells_of_the_stores_members() {
    let cluster = Cluster::new();
    let members = Members::default();
    *members.told.lock().expect("not poisoned") =
        vec![Member { version: "3.5".to_owned(), database_bytes: 7, leader: true, ..Member::default() }];
    let (scheduler, _tasks) = cluster.scheduler_with("s1", Options::default(), members);
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    scheduler.inner.mesh.synced().await;
    let told = scheduler.inner.status().await.expect("synced").store_members;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].version.as_str(), told[0].database_bytes, told[0].leader), ("3.5", 7, true));
}
