//! Cordons and drains, from the operator's call to what becomes of the replicas.

use std::time::Duration;

use weft_proto::weft::control::v1::events_server::Events as _;
use weft_proto::weft::control::v1::workers_server::Workers as _;
use weft_proto::weft::state::v1::Event;
use weft_types::WorkerId;

use super::*;
use crate::cordon::Expiry;

fn id(id: &str) -> WorkerId {
    id.parse().expect("an id")
}

async fn drain(surface: &Surface, id: &str) -> WorkerView {
    let asked = DrainWorkerRequest { id: id.to_owned(), reason: "new disk".to_owned(), by: "ann".to_owned() };
    surface.drain_worker(request(asked)).await.expect("drained").into_inner().worker.expect("a view")
}

async fn view(surface: &Surface, id: &str) -> WorkerView {
    let listed = surface.list_workers(request(ListWorkersRequest {})).await.expect("listed").into_inner().workers;
    let is_it = |view: &WorkerView| view.worker.as_ref().is_some_and(|worker| worker.id == id);
    listed.into_iter().find(is_it).expect("registered")
}

/// Waits for the scheduler's own view to tell so.
async fn until_view(surface: &Surface, id: &str, holds: impl Fn(&WorkerView) -> bool) -> WorkerView {
    let mut changes = surface.0.mesh.changes();
    loop {
        let view = view(surface, id).await;
        if holds(&view) {
            return view;
        }
        tokio::time::timeout(PATIENCE, changes.changed()).await.expect("it never came").expect("the mesh lives");
    }
}

/// The events of one reason, once there is one.
async fn told(surface: &Surface, reason: &str) -> Vec<Event> {
    let mut changes = surface.0.mesh.changes();
    loop {
        let listed = surface.list_events(request(ListEventsRequest { limit: 1000 })).await.expect("listed");
        let events: Vec<Event> =
            listed.into_inner().events.into_iter().filter(|event| event.reason == reason).collect();
        if !events.is_empty() {
            return events;
        }
        tokio::time::timeout(PATIENCE, changes.changed()).await.expect(reason).expect("the mesh lives");
    }
}

#[tokio::test]
async fn a_drained_worker_lets_go_once_others_serve_and_stays_empty() {
    let cluster = Cluster::new();
    let (first, first_tasks) = cluster.scheduler("s1", Options::default());
    let surface = Surface(Arc::clone(&first.inner));
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    cluster.report(&key("w1", "m", 1), ReplicaState::Ready).await;
    cluster.join(&worker("w2", 1, &[("m", 1)])).await;

    let view = drain(&surface, "w1").await;
    assert_eq!((view.cordoned, view.draining, view.drained, view.replicas_left), (true, true, false, 1));
    assert_eq!(view.cordon.map(|cordon| (cordon.by, cordon.reason)), Some(("ann".to_owned(), "new disk".to_owned())));
    cluster.until_placed(&[key("w1", "m", 1), key("w2", "m", 1)]).await;
    cluster.report(&key("w2", "m", 1), ReplicaState::Ready).await;
    cluster.until_placed(&[key("w2", "m", 1)]).await;
    // The worker reports it until it has unloaded it: only then may it go.
    assert!(!until_view(&surface, "w1", |view| view.replicas_left == 0).await.drained);
    cluster.write(Op::Delete(cluster.keys.replica(&key("w1", "m", 1)))).await;
    until_view(&surface, "w1", |view| view.drained).await;
    let events = told(&surface, "WorkerDrained").await;
    assert_eq!(events.iter().map(|event| event.subject.as_str()).collect::<Vec<_>>(), ["workers/w1"]);

    // A restart of the worker and another leader change nothing about it.
    cluster.write(Op::Delete(cluster.keys.worker(&id("w1")))).await;
    cluster.join(&worker("w1", 2, &[("m", 1), ("n", 1)])).await;
    first_tasks.finish(PATIENCE).await;
    let (second, _second_tasks) = cluster.scheduler("s2", Options::default());
    let surface = Surface(Arc::clone(&second.inner));
    second.inner.mesh.synced().await;
    surface.apply_model(model("n", 1)).await.expect("applied");
    told(&surface, "ReplicasUnplaced").await;
    let get = request(GetModelRequest { name: "n".to_owned() });
    let unplaced = surface.get_model(get).await.expect("known").into_inner().model.expect("a view").unplaced_reason;
    assert!(unplaced.ends_with("the workers that could take it are cordoned"), "{unplaced}");
    let drained = told(&surface, "WorkerDrained").await;
    assert!(drained.iter().all(|event| event.reporter == "s1"), "told again by the next leader: {drained:?}");

    let uncordon = || request(UncordonWorkerRequest { id: "w1".to_owned() });
    let view = surface.uncordon_worker(uncordon()).await.expect("uncordoned").into_inner().worker.expect("a view");
    assert_eq!((view.cordoned, view.draining, view.drained), (false, false, false));
    cluster.until_placed(&[key("w1", "n", 1), key("w2", "m", 1)]).await;
    told(&surface, "WorkerUncordoned").await;
    surface.uncordon_worker(uncordon()).await.expect("what is so already is no error");
}

#[tokio::test]
async fn the_last_place_of_a_model_stays_and_says_why() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    let surface = Surface(Arc::clone(&scheduler.inner));
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    cluster.report(&key("w1", "m", 1), ReplicaState::Ready).await;
    drain(&surface, "w1").await;
    told(&surface, "WorkerDraining").await;
    let view = until_view(&surface, "w1", |view| view.draining).await;
    assert_eq!((view.drained, view.replicas_left), (false, 1));
    assert_eq!(view.replicas[0].stays, "the workers that could take it are cordoned");
    cluster.until_placed(&[key("w1", "m", 1)]).await;

    // A cordon ends the drain: what is left stays for good.
    let asked = CordonWorkerRequest { id: "w1".to_owned(), ..CordonWorkerRequest::default() };
    let view = surface.cordon_worker(request(asked)).await.expect("cordoned").into_inner().worker.expect("a view");
    assert_eq!((view.cordoned, view.draining, view.replicas_left), (true, false, 0));
    cluster.join(&worker("w2", 1, &[("n", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1), key("w2", "n", 1)]).await;
}

#[tokio::test]
async fn bad_wishes_name_what_is_wrong() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    let surface = Surface(Arc::clone(&scheduler.inner));
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    let wish = |id: &str, reason: &str, by: &str| {
        let (id, reason, by) = (id.to_owned(), reason.to_owned(), by.to_owned());
        request(DrainWorkerRequest { id, reason, by })
    };
    for (bad, code, word) in [
        (wish("w9", "", ""), Code::NotFound, "w9"),
        (wish("../x", "", ""), Code::InvalidArgument, "id"),
        (wish("", "", ""), Code::InvalidArgument, "id"),
        (wish("w1", &"x".repeat(257), ""), Code::InvalidArgument, "reason"),
        (wish("w1", "a\nb", ""), Code::InvalidArgument, "reason"),
        (wish("w1", "", &"x".repeat(129)), Code::InvalidArgument, "by"),
    ] {
        let refused = surface.drain_worker(bad).await.expect_err(word);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    let unknown = surface.uncordon_worker(request(UncordonWorkerRequest { id: "w9".to_owned() })).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    assert!(cluster.mesh.snapshot().cordons.is_empty());
}

#[tokio::test]
async fn a_cordon_goes_when_its_worker_was_gone_for_a_day() {
    let cluster = Cluster::new();
    let (scheduler, tasks) = cluster.scheduler("s1", Options::default());
    let surface = Surface(Arc::clone(&scheduler.inner));
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    drain(&surface, "w1").await;
    cluster.write(Op::Delete(cluster.keys.worker(&id("w1")))).await;
    cluster.until_placed(&[]).await;
    let expiry = Expiry::new(Arc::clone(&scheduler.inner));
    let day = Duration::from_secs(24 * 3600);
    let noted = |snapshot: &Snapshot| snapshot.cordons.get(&id("w1")).and_then(|cordon| cordon.value.absent_since);
    let now = SystemClock::wall();
    let sees = async |holds: &dyn Fn(&Snapshot) -> bool| {
        let mesh = &scheduler.inner.mesh;
        let wait = async { mesh.changes().wait_for(|_| holds(&mesh.snapshot())).await.map(|_| ()) };
        tokio::time::timeout(PATIENCE, wait).await.expect("it never came").expect("the mesh lives");
    };
    sees(&|snapshot| snapshot.workers.is_empty()).await;
    expiry.pass(now).await.expect("noted");
    sees(&|snapshot| noted(snapshot).is_some()).await;
    // Absent it can still be cordoned, which begins the wait anew.
    let view = drain(&surface, "w1").await;
    assert!(view.cordoned && view.draining);
    expiry.pass(now).await.expect("noted");
    sees(&|snapshot| noted(snapshot).is_some()).await;
    expiry.pass(now + day - Duration::from_secs(1)).await.expect("nothing to do");
    assert_eq!(cluster.mesh.snapshot().cordons.len(), 1);
    expiry.pass(now + day).await.expect("removed");
    sees(&|snapshot| snapshot.cordons.is_empty()).await;
    tasks.finish(PATIENCE).await;
    assert!(!tasks.failed());
}
