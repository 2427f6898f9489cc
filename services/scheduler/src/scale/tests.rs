//! Whole schedulers over the embedded store, with a metrics service whose figures the test decides and workers that do as they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message as _;
use tonic::Code;
use weft_client::{Keys, Snapshot};
use weft_proto::error_of;
use weft_proto::weft::control::v1::events_server::Events as _;
use weft_proto::weft::control::v1::models_server::Models as _;
use weft_proto::weft::control::v1::{
    ApplyModelRequest, Autoscaling, GetModelRequest, ListEventsRequest, Model, Rollout, RolloutPhase, RolloutStatus,
    Route, RouteTarget,
};
use weft_proto::weft::metrics::v1::ModelSummary;
use weft_proto::weft::scheduler::v1::WakeModelRequest;
use weft_proto::weft::scheduler::v1::scheduler_server::Scheduler as _;
use weft_proto::weft::state::v1::{Replica, ReplicaState, Scale};
use weft_proto::{duration, timestamp};
use weft_runtime::Tasks;
use weft_types::{Reason, SystemClock};

use super::*;
use crate::fixture::{key, record, snapshot as mesh_of, worker};
use crate::grpc::Surface;
use crate::planted::Planted;
use crate::tests::{Cluster, request};
use crate::{ModelControl, Options};
use weft_policy::scale::Why;

const M: &str = "m";

fn options() -> Options {
    Options { model_control: ModelControl::Explicit, ..Options::default() }
}

fn scaled(min_replicas: u32, max_replicas: u32, idle_after: Duration) -> Model {
    let idle_after = Some(duration(idle_after));
    let autoscaling = Autoscaling { min_replicas, max_replicas, idle_after, ..Autoscaling::default() };
    Model { name: M.to_owned(), autoscaling: Some(autoscaling), ..Model::default() }
}

/// What a metrics service tells of a model whose replicas were kept busy by so many executions on average.
fn told(busy: f64) -> ModelSummary {
    ModelSummary {
        model: M.to_owned(),
        version: 1,
        calls: 100,
        compute_seconds: busy * 10.0,
        mean_batch: 1.0,
        since_last_call: Some(duration(Duration::ZERO)),
        ..ModelSummary::default()
    }
}

fn name() -> ModelName {
    M.parse().expect("a name")
}

fn target(snapshot: &Snapshot) -> Option<u32> {
    snapshot.scales.get(&name()).map(|record| record.value.target)
}

fn placements(snapshot: &Snapshot) -> usize {
    snapshot.placements.keys().filter(|key| key.model == name()).count()
}

/// A cluster with six workers and a metrics service.
async fn cluster() -> (Cluster, Planted, Tasks) {
    let (cluster, planted, tasks) = (Cluster::new(), Planted::default(), Tasks::new());
    let service = planted.serve(&tasks).await;
    cluster.put(cluster.keys.service("metrics", "metrics"), &service).await;
    for number in 1..=6 {
        let worker = worker(&format!("w{number}"), 1, &[(M, 1)]);
        cluster.put(cluster.keys.worker(&worker.id.parse().expect("an id")), &worker).await;
    }
    (cluster, planted, tasks)
}

async fn apply(surface: &Surface, model: Model) {
    surface.apply_model(request(ApplyModelRequest { model: Some(model) })).await.expect("applied");
}

async fn wake(surface: &Surface, model: &str, passed_on: bool) -> Result<(), tonic::Status> {
    surface.wake_model(request(WakeModelRequest { model: model.to_owned(), passed_on })).await.map(drop)
}

#[tokio::test]
async fn replicas_follow_demand_and_the_next_leader_goes_on() {
    let (cluster, planted, _metrics) = cluster().await;
    let (first, first_tasks) = cluster.scheduler("s1", options());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    let surface = Surface(Arc::clone(&first.inner));
    planted.tell(vec![told(0.1)]);
    apply(&surface, scaled(1, 6, Duration::from_secs(300))).await;
    cluster.until("the least", |snapshot| target(snapshot) == Some(1) && placements(snapshot) == 1).await;
    // 2.5 executions at 0.7 of a replica's time take four.
    planted.tell(vec![told(2.5)]);
    cluster.until("four", |snapshot| target(snapshot) == Some(4) && placements(snapshot) == 4).await;
    let view = surface.get_model(request(GetModelRequest { name: M.to_owned() })).await.expect("known");
    let scale = view.into_inner().model.and_then(|view| view.scale).expect("demand decides");
    assert_eq!((scale.target, scale.why), (4, Why::Demand.to_string()));

    // A new leader has seen nothing of that, and keeps what is decided although little is asked for now.
    planted.tell(vec![told(0.1)]);
    let (second, _second_tasks) = cluster.scheduler("s2", options());
    first_tasks.finish(crate::tests::PATIENCE).await;
    let mut figures = second.figures();
    let known = tokio::time::timeout(crate::tests::PATIENCE, figures.wait_for(|figures| figures.at.is_some())).await;
    drop(known.expect("it leads and asks").expect("it lives"));
    let went_down = AtomicBool::new(false);
    planted.tell(vec![told(4.0)]);
    let grown = |snapshot: &Snapshot| {
        went_down.fetch_or(target(snapshot).is_none_or(|target| target < 4), Ordering::SeqCst);
        target(snapshot) == Some(6)
    };
    cluster.until("six", grown).await;
    assert!(!went_down.load(Ordering::SeqCst), "it went down on the way");

    // The reasons are told as events, and what no longer follows demand has no record.
    let surface = Surface(Arc::clone(&second.inner));
    until("an event", async || {
        let listed = surface.list_events(request(ListEventsRequest::default())).await.expect("listed").into_inner();
        listed.events.iter().any(|event| event.reason == "Autoscaled" && event.subject == "models/m")
    })
    .await;
    apply(&surface, Model { name: M.to_owned(), replicas: 2, ..Model::default() }).await;
    cluster.until("two", |snapshot| snapshot.scales.is_empty() && placements(snapshot) == 2).await;
}

/// Each version gets a part of the calls, and must be able to take all of them: the rollout may end at any moment, this way or that.
#[test]
fn a_rollout_keeps_the_replicas_that_all_calls_take() {
    let (now, model) = (SystemClock::now(), name());
    let mut mesh = mesh_of(&[]);
    mesh.models.insert(name(), record(scaled(1, 10, Duration::from_secs(300)), 1));
    let scale = Scale { target: 4, ..Scale::default() };
    mesh.scales.insert(name(), record(scale, 1));
    for worker in ["w1", "w2", "w3", "w4"] {
        for version in [1, 2] {
            crate::fixture::placement(&mut mesh, &key(worker, M, version), 1);
            crate::fixture::replica(&mut mesh, &key(worker, M, version), ReplicaState::Ready, 1);
        }
    }
    let rollout = |phase: RolloutPhase| {
        let status = RolloutStatus { phase: phase.into(), ..RolloutStatus::default() };
        record(Rollout { stable: 1, canary: 2, status: Some(status), ..Rollout::default() }, 1)
    };
    // 2.5 executions at 0.7 of a replica's time take four; of halves, each version alone would take two.
    let wanted = |mesh: &Snapshot, busy: [f64; 2]| {
        let version = |(version, busy)| {
            let figures = crate::VersionFigures { calls: 100, compute_seconds: busy * 10.0, ..Default::default() };
            ((name(), weft_types::Version::new(version).expect("not zero")), figures)
        };
        let versions = [1, 2].into_iter().zip(busy).map(version).collect();
        let figures = crate::Figures { at: Some(now), window: Duration::from_secs(10), versions };
        let bounds = bounds(&scaled(1, 10, Duration::from_secs(300)), false).expect("demand decides");
        let mut scaler = begin(mesh.scales.get(&name()), 4, &bounds, now);
        for second in 0..120 {
            let now = now + Duration::from_secs(second);
            let figures = crate::Figures { at: Some(now), ..figures.clone() };
            scaler.decide(&bounds, &Measured::new(&figures, mesh, now).seen(&model), now);
        }
        scaler.decision().target
    };
    for phase in [RolloutPhase::Canary, RolloutPhase::Promoted, RolloutPhase::RolledBack, RolloutPhase::Shadowing] {
        mesh.rollouts.insert(name(), rollout(phase));
        let busy = match phase {
            RolloutPhase::Promoted => [0.0, 2.5],
            RolloutPhase::RolledBack => [2.5, 0.0],
            // Copies are no calls: they end with the shadow.
            RolloutPhase::Shadowing => [2.5, 2.5],
            _ => [1.25, 1.25],
        };
        assert_eq!(wanted(&mesh, busy), 4, "{phase:?}");
    }
    mesh.rollouts = Default::default();
    assert_eq!(wanted(&mesh, [1.25, 1.25]), 2, "versions that are called by their numbers");
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(crate::tests::PATIENCE, looking).await.is_ok(), "never came: {what}");
}

#[tokio::test]
async fn a_model_sleeps_until_a_call_wakes_it() {
    let (cluster, _planted, _metrics) = cluster().await;
    let (scheduler, _tasks) = cluster.scheduler("s1", options());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    let surface = Surface(Arc::clone(&scheduler.inner));
    apply(&surface, scaled(0, 3, Duration::from_secs(4))).await;
    cluster.until("a record", |snapshot| target(snapshot) == Some(0)).await;
    assert_eq!(placements(&cluster.snapshot()), 0, "nobody has called it");
    wake(&surface, M, false).await.expect("woken");
    cluster.until("a replica", |snapshot| target(snapshot) == Some(1) && placements(snapshot) == 1).await;
    // Figures tell that nobody calls it: it goes by itself.
    cluster.until("sleep", |snapshot| target(snapshot) == Some(0) && placements(snapshot) == 0).await;
    let unknown = wake(&surface, "nothing", false).await.expect_err("no such model");
    assert_eq!(unknown.code(), Code::NotFound);
    let bad = wake(&surface, "../x", false).await.expect_err("no name");
    assert_eq!((bad.code(), error_of(&bad).field()), (Code::InvalidArgument, Some("model")));
}

#[tokio::test]
async fn without_figures_nothing_goes() {
    let cluster = Cluster::new();
    let worker = worker("w1", 1, &[(M, 1)]);
    cluster.put(cluster.keys.worker(&"w1".parse().expect("an id")), &worker).await;
    let (scheduler, _tasks) = cluster.scheduler("s1", options());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    let surface = Surface(Arc::clone(&scheduler.inner));
    apply(&surface, scaled(0, 3, Duration::from_secs(1))).await;
    wake(&surface, M, false).await.expect("woken");
    cluster.until("a replica", |snapshot| placements(snapshot) == 1).await;
    // Far beyond its time: what it was called by is not known.
    let mut autoscaler = Autoscaler::new(Arc::clone(&scheduler.inner));
    let snapshot = cluster.snapshot();
    let now = SystemClock::now();
    for second in 0..100 {
        autoscaler.look(&snapshot, now + Duration::from_secs(second));
    }
    assert_eq!(autoscaler.models[&name()].decision().target, 1);
    assert!(scheduler.inner.scaling.state().idle.is_empty(), "it must not give way either");
}

/// Two schedulers, of which the second passes the wish on to the first over the wire.
#[tokio::test]
async fn any_scheduler_takes_a_wake() {
    let (cluster, _planted, _metrics) = cluster().await;
    let serving = Tasks::new();
    let (first, _first_tasks) = cluster.serving("s1", options(), &serving).await;
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    let (second, _second_tasks) = cluster.scheduler("s2", options());
    second.inner.mesh.synced().await;
    apply(&Surface(Arc::clone(&first.inner)), scaled(0, 3, Duration::from_secs(300))).await;
    let surface = Surface(Arc::clone(&second.inner));
    let refused = wake(&surface, M, true).await.expect_err("it must not go round in circles");
    assert_eq!(error_of(&refused).reason(), Reason::NoReadyReplica);
    wake(&surface, M, false).await.expect("passed on");
    cluster.until("a replica", |snapshot| target(snapshot) == Some(1) && placements(snapshot) == 1).await;
}

#[tokio::test]
async fn a_leader_of_the_past_decides_nothing() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", options());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    let models = BTreeMap::new();
    let fence = scheduler.inner.fence.borrow().clone().expect("it leads");
    let past = Fence { create_revision: fence.create_revision - 1, ..fence.clone() };
    let now = SystemClock::now();
    let mut mesh = mesh_of(&[]);
    mesh.scales.insert(name(), record(Scale { target: 9, ..Scale::default() }, 1));
    let mut asleep = begin(
        None,
        0,
        &weft_policy::scale::Bounds { min: 0, max: 3, utilization: 0.7, idle_after: Duration::ZERO },
        now,
    );
    asleep.wake(now);
    let one = BTreeMap::from([(name(), asleep)]);
    let all = changes(&models, &mesh, &cluster.keys, (&past, now)).into_iter().chain(changes(
        &one,
        &mesh_of(&[]),
        &cluster.keys,
        (&past, now),
    ));
    let mut tried = 0;
    for txn in all {
        tried += 1;
        assert!(matches!(cluster.store.commit(txn).await, Ok(Commit::Lost(_))), "a leader of the past wrote");
    }
    assert_eq!(tried, 2, "a record of what no longer follows demand goes, and one of what does comes");
    for txn in changes(&one, &mesh_of(&[]), &cluster.keys, (&fence, now)) {
        assert!(matches!(cluster.store.commit(txn).await, Ok(Commit::Done(_))));
    }
}

#[test]
fn a_new_leader_unloads_nothing_early_and_keeps_nothing_for_ever() {
    let (now, wall) = (SystemClock::now(), SystemClock::wall());
    let bounds = weft_policy::scale::Bounds { min: 0, max: 3, utilization: 0.7, idle_after: Duration::from_secs(300) };
    let of = |target, ago: Option<Duration>| {
        let last_called = ago.map(|ago| timestamp(wall - ago));
        let scale = Scale { target, last_called, ..Scale::default() };
        begin(Some(&record(scale, 1)), 1, &bounds, now)
    };
    let close = |idle: Duration, seconds: u64| idle.abs_diff(Duration::from_secs(seconds)) < Duration::from_secs(1);
    // It may have been called until half a minute later.
    assert!(close(of(2, Some(Duration::from_secs(200))).idle(now), 170));
    assert!(close(of(2, Some(Duration::from_secs(10))).idle(now), 0));
    assert_eq!(of(2, None).idle(now), Duration::ZERO);
    assert!(of(0, Some(Duration::from_secs(10))).idle(now) >= Duration::from_secs(300), "what sleeps goes on sleeping");
    assert_eq!(of(77, None).decision().target, 3, "a record cannot ask for more than the operator allows");
    let future =
        Scale { target: 1, last_called: Some(timestamp(wall + Duration::from_secs(9999))), ..Scale::default() };
    assert_eq!(begin(Some(&record(future, 1)), 1, &bounds, now).idle(now), Duration::ZERO, "clocks of machines differ");
    assert_eq!(begin(None, 2, &bounds, now).decision().target, 2, "it begins with what is there");
}

#[test]
fn what_nobody_calls_may_give_way_and_is_not_brought_back() {
    let (scaling, now) = (Scaling::default(), SystemClock::now());
    let mut mesh = mesh_of(&[worker("w1", 1, &[(M, 1), ("n", 1)])]);
    for model in [
        scaled(0, 3, Duration::from_secs(300)),
        Model { name: "n".to_owned(), ..scaled(0, 3, Duration::from_secs(300)) },
    ] {
        mesh.models.insert(model.name.parse().expect("a name"), record(model, 1));
    }
    for model in [M, "n"] {
        let scale = Scale { target: 1, ..Scale::default() };
        mesh.scales.insert(model.parse().expect("a name"), record(scale, 1));
    }
    crate::fixture::placement(&mut mesh, &key("w1", M, 1), 1);
    let mark = |now| {
        let mut world = crate::observe::world(&mesh, &Keys::new("t"), ModelControl::Explicit, Vec::new());
        scaling.mark(&mut world, now);
        world.wanted.iter().map(|wanted| (wanted.idle, wanted.replicas)).collect::<Vec<_>>()
    };
    assert_eq!(mark(now), [(None, 1), (None, 1)]);
    scaling.note([(name(), now), ("n".parse().expect("a name"), now)].into(), BTreeMap::new());
    let ten = Duration::from_secs(10);
    assert_eq!(mark(now + ten), [(Some(ten), 1), (Some(ten), 0)], "what is there may go, and what is not stays away");
    scaling.wake(name(), now + ten);
    assert_eq!(mark(now + ten), [(None, 1), (Some(ten), 0)]);
    // A look that began before the call must not take it for idle.
    scaling.note([(name(), now)].into(), BTreeMap::new());
    assert_eq!(mark(now + ten)[0], (None, 1));
}

/// Each look keeps since when that is, until a replica serves or none is wanted any more.
#[tokio::test]
async fn a_model_waits_from_the_first_call_until_a_replica_serves() {
    // Nothing of it runs before this test waits for something.
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", options());
    let mut autoscaler = Autoscaler::new(Arc::clone(&scheduler.inner));
    let now = SystemClock::now();
    let second = Duration::from_secs(1);
    let mut mesh = mesh_of(&[worker("w1", 1, &[(M, 1)])]);
    mesh.models.insert(name(), record(scaled(0, 3, 300 * second), 1));
    mesh.scales.insert(name(), record(Scale::default(), 1));
    let waits = |mesh: &Snapshot, now| {
        let mut world = crate::observe::world(mesh, &Keys::new("t"), ModelControl::Explicit, Vec::new());
        scheduler.inner.scaling.mark(&mut world, now);
        world.wanted[0].waits
    };
    autoscaler.look(&mesh, now);
    assert_eq!(waits(&mesh, now), None, "it sleeps");
    scheduler.inner.scaling.wake(name(), now);
    for seconds in 1..4 {
        autoscaler.look(&mesh, now + second * seconds);
        assert_eq!(waits(&mesh, now + second * seconds), Some(second * seconds));
        scheduler.inner.scaling.wake(name(), now + second * seconds);
    }
    crate::fixture::placement(&mut mesh, &key("w1", M, 1), 1);
    crate::fixture::replica(&mut mesh, &key("w1", M, 1), ReplicaState::Loading, 1);
    autoscaler.look(&mesh, now + 4 * second);
    assert_eq!(waits(&mesh, now + 4 * second), Some(4 * second), "it loads");
    crate::fixture::replica(&mut mesh, &key("w1", M, 1), ReplicaState::Ready, 1);
    autoscaler.look(&mesh, now + 5 * second);
    assert_eq!(waits(&mesh, now + 5 * second), None);
}

#[test]
fn calls_tell_when_a_model_was_called_last_and_what_it_takes() {
    let now = SystemClock::now();
    let mut mesh = mesh_of(&[worker("w1", 1, &[(M, 1)])]);
    let ready = Replica { state: ReplicaState::Ready.into(), concurrency: 4, ..Replica::default() };
    mesh.replicas.insert(key("w1", M, 1), record(ready, 1));
    crate::fixture::placement(&mut mesh, &key("w1", M, 1), 1);
    crate::fixture::placement(&mut mesh, &key("w2", M, 1), 1);
    let figures = |told: crate::VersionFigures| crate::Figures {
        at: Some(now),
        window: Duration::from_secs(10),
        versions: [((name(), weft_types::Version::new(1).expect("not zero")), told)].into(),
    };
    let version = crate::VersionFigures {
        calls: 100,
        errors: [("DEADLINE_EXCEEDED".to_owned(), 5)].into(),
        queue_p99: Some(Duration::from_millis(250)),
        compute_seconds: 60.0,
        mean_batch: 2.0,
        since_last_call: Some(Duration::from_secs(3)),
        ..crate::VersionFigures::default()
    };
    let known = figures(version);
    let measured = Measured::new(&known, &mesh, now);
    assert_eq!(measured.last_call(&name()), Some(now - Duration::from_secs(3)));
    let model = name();
    let seen = measured.seen(&model);
    let demand = seen.demand.expect("fresh");
    assert_eq!((demand.busy, demand.concurrency, demand.service), (3.0, 4.0, 0.6));
    assert_eq!((demand.wait, demand.missed), (0.25, 0.05));
    assert_eq!((seen.calls_known, seen.placed, seen.ready), (true, 2, 1));
    // A call under way is a call now, also where none has ended for long.
    let under_way = figures(crate::VersionFigures { in_flight: 2, ..crate::VersionFigures::default() });
    assert_eq!(Measured::new(&under_way, &mesh, now).last_call(&name()), Some(now));
    let old = Measured::new(&known, &mesh, now + Duration::from_secs(60)).seen(&model);
    assert_eq!((old.demand, old.calls_known), (None, false));
    let other: ModelName = "n".parse().expect("a name");
    assert_eq!(Measured::new(&known, &mesh, now).last_call(&other), None);
}

/// A model that routes only send calls to while it is ready would never be woken.
#[test]
fn what_calls_pass_by_keeps_a_replica() {
    let mut mesh = mesh_of(&[]);
    let drawn = |model: &str, weight| RouteTarget { model: model.to_owned(), weight, ..RouteTarget::default() };
    let route = |targets| Route { name: "r".to_owned(), targets, ..Route::default() };
    mesh.routes.insert("r".parse().expect("a name"), record(route(vec![drawn(M, 1), drawn("n", 3), drawn("o", 0)]), 1));
    let names = |mesh: &Snapshot| unwakeable(mesh).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&mesh), [M, "n"]);
    mesh.routes.insert("r".parse().expect("a name"), record(route(vec![drawn(M, 1), drawn("n", 0)]), 1));
    assert_eq!(names(&mesh), Vec::<String>::new(), "a call to the route is held for its only target");
    let model = scaled(0, 3, Duration::from_secs(1));
    assert_eq!([false, true].map(|unwakeable| bounds(&model, unwakeable).map(|bounds| bounds.min)), [Some(0), Some(1)]);
}

/// Records of another build, or of somebody else.
#[test]
fn foreign_records_are_bounded() {
    let mut mesh = mesh_of(&[]);
    let odd = Autoscaling {
        min_replicas: 9,
        max_replicas: 0,
        target_utilization: f64::NAN,
        idle_after: Some(prost_types::Duration { seconds: -5, nanos: 0 }),
    };
    let model = Model { name: M.to_owned(), replicas: 7, autoscaling: Some(odd), ..Model::default() };
    let read = Model::decode(&*model.encode_to_vec()).expect("it reads");
    let bounds = bounds(&read, false).expect("demand decides");
    assert_eq!((bounds.min, bounds.max, bounds.utilization, bounds.idle_after), (1, 1, 0.7, Duration::from_secs(300)));
    mesh.scales.insert(name(), record(Scale { target: u32::MAX, ..Scale::default() }, 1));
    assert_eq!(replicas(&mesh, &name(), &model), 1);
}
