//! Rollouts by whole schedulers over the embedded store: workers and the metrics service do as they are told.

mod hindered;

use tonic::Code;
use weft_proto::error_of;
use weft_proto::weft::control::v1::models_server::Models as _;
use weft_proto::weft::control::v1::rollouts_server::Rollouts as _;
use weft_proto::weft::control::v1::*;
use weft_proto::weft::metrics::v1::ModelSummary;
use weft_proto::weft::state::v1::ReplicaState;
use weft_runtime::Tasks;
use weft_store::{MemoryStore, Store};

use super::*;
use crate::fixture::{key, worker};
use crate::grpc::Surface;
use crate::planted::Planted;
use crate::tests::{Cluster, PATIENCE, model, request};
use crate::{ModelControl, Options, Scheduler};

/// A cluster with a model of two versions on so many workers, of which the first serves on all of them.
struct Stand {
    cluster: Cluster,
    scheduler: Scheduler,
    planted: Planted,
    tasks: Tasks,
    workers: Vec<String>,
}

impl Stand {
    async fn new(workers: usize) -> Self {
        Self::over(Arc::new(MemoryStore::new(Arc::new(SystemClock))), workers).await
    }

    async fn over(store: Arc<dyn Store>, workers: usize) -> Self {
        let cluster = Cluster::over(store);
        let (scheduler, tasks) = cluster.scheduler("s1", options());
        let workers: Vec<String> = (1..=workers).map(|number| format!("w{number}")).collect();
        let stand = Self { cluster, scheduler, planted: Planted::default(), tasks, workers };
        for id in &stand.workers {
            stand.cluster.join(&worker(id, 1, &[("m", 1), ("m", 2)])).await;
        }
        stand.cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
        stand.scheduler.inner.mesh.synced().await;
        let replicas = u32::try_from(stand.workers.len()).expect("few");
        let model = Model { name: "m".to_owned(), replicas, versions: vec![1], ..Model::default() };
        stand.surface().apply_model(request(ApplyModelRequest { model: Some(model) })).await.expect("applied");
        stand.until_placed(&[1]).await;
        stand.report(1, ReplicaState::Ready).await;
        stand
    }

    fn surface(&self) -> Surface {
        Surface(Arc::clone(&self.scheduler.inner))
    }

    /// Each worker is told to hold these versions, and nothing else.
    async fn until_placed(&self, versions: &[u64]) {
        let of_worker = |id: &String| versions.iter().map(|version| key(id, "m", *version)).collect::<Vec<_>>();
        let keys: Vec<_> = self.workers.iter().flat_map(of_worker).collect();
        self.cluster.until_placed(&keys).await;
    }

    async fn report(&self, version: u64, state: ReplicaState) {
        for id in &self.workers {
            self.cluster.report(&key(id, "m", version), state).await;
        }
        let seen = self.cluster.store.read(weft_store::Range::Key("/".to_owned())).await.expect("read").revision;
        let mut changes = self.scheduler.inner.mesh.changes();
        changes.wait_for(|revision| *revision >= seen).await.expect("the mesh lives");
    }

    /// A metrics service tells these figures from now on: calls and failed calls of both versions.
    async fn tell(&self, stable: (u64, u64), canary: (u64, u64)) {
        self.planted.tell(figures(stable, canary));
        let service = self.planted.serve(&self.tasks).await;
        self.cluster.put(self.cluster.keys.service("metrics", "metrics"), &service).await;
    }

    async fn start(&self, strategy: RolloutStrategy) -> Rollout {
        let started = self.surface().start_rollout(start(1, Some(strategy))).await;
        started.expect("started").into_inner().rollout.expect("it is told")
    }

    async fn until(&self, what: &str, holds: impl Fn(&RolloutStatus) -> bool) -> RolloutStatus {
        let status = |snapshot: &Snapshot| {
            snapshot.rollouts.values().next().and_then(|record| record.value.status.clone()).unwrap_or_default()
        };
        self.cluster.until(what, |snapshot| holds(&status(snapshot))).await;
        let surface = self.surface();
        let told = surface.get_rollout(request(GetRolloutRequest { model: "m".to_owned() })).await;
        told.expect("known").into_inner().rollout.and_then(|rollout| rollout.status).expect("it has one")
    }
}

/// Calls and failed calls of both versions.
fn figures(stable: (u64, u64), canary: (u64, u64)) -> Vec<ModelSummary> {
    let of = |version, (calls, failed): (u64, u64)| ModelSummary {
        model: "m".to_owned(),
        version,
        calls,
        errors: [("INTERNAL".to_owned(), failed)].into(),
        ..ModelSummary::default()
    };
    vec![of(1, stable), of(2, canary)]
}

/// Only what is asked for is placed: the second version would be otherwise, before there is a rollout.
fn options() -> Options {
    Options { model_control: ModelControl::Explicit, ..Options::default() }
}

fn start(expected_version: u64, strategy: Option<RolloutStrategy>) -> tonic::Request<StartRolloutRequest> {
    request(StartRolloutRequest { model: "m".to_owned(), version: 2, expected_version, strategy })
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// One step, of half of the calls, that ends as soon as enough of them were seen.
fn half() -> RolloutStrategy {
    let analysis = Some(RolloutAnalysis { min_calls: Some(50), ..RolloutAnalysis::default() });
    RolloutStrategy {
        steps: vec![RolloutStep { percent: 50, pause: seconds(0) }],
        analysis,
        ..RolloutStrategy::default()
    }
}

#[tokio::test]
async fn a_good_version_is_promoted_and_the_old_one_goes() {
    let stand = Stand::new(2).await;
    stand.tell((50, 0), (50, 0)).await;
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    stand.cluster.report(&key("w1", "m", 2), ReplicaState::Ready).await;
    let waiting = stand.until("one of two", |status| status.message.contains("1 of 2 replicas")).await;
    assert_eq!((waiting.canary_percent, waiting.header), (0, false), "a call before parity: {waiting:?}");
    stand.report(2, ReplicaState::Ready).await;
    let over = stand.until("the end", |status| status.phase() == RolloutPhase::Promoted).await;
    assert_eq!(over.message, "its steps are done");
    stand.until_placed(&[2]).await;

    // And back again, by hand, without steps: as soon as the old version's replicas are ready again.
    for id in &stand.workers {
        stand.cluster.write(Op::Delete(stand.cluster.keys.replica(&key(id, "m", 1)))).await;
    }
    let undo = || request(UndoRolloutRequest { model: "m".to_owned() });
    stand.surface().undo_rollout(undo()).await.expect("undone");
    stand.until_placed(&[1, 2]).await;
    stand.report(1, ReplicaState::Ready).await;
    stand.until_placed(&[1]).await;
    let rollout = stand.scheduler.inner.get_rollout("m").expect("known");
    assert_eq!((rollout.stable, rollout.canary, answers(&rollout)), (2, 1, 1));

    // What has ended can be forgotten.
    let delete = request(DeleteRolloutRequest { model: "m".to_owned() });
    stand.surface().delete_rollout(delete).await.expect("deleted");
    let gone = stand.surface().undo_rollout(undo()).await;
    assert_eq!(gone.expect_err("it is forgotten").code(), Code::NotFound);
}

#[tokio::test]
async fn a_version_that_fails_is_rolled_back_by_itself() {
    let stand = Stand::new(2).await;
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    stand.report(2, ReplicaState::Ready).await;
    let waiting = stand.until("half of the calls", |status| status.message.contains("no metrics service")).await;
    assert_eq!((waiting.phase(), waiting.canary_percent), (RolloutPhase::Canary, 50));
    stand.tell((30, 0), (30, 30)).await;
    let over = stand.until("the end", |status| status.phase() == RolloutPhase::RolledBack).await;
    assert!(over.message.starts_with("errors: 100.00 % of its 30 calls"), "{over:?}");
    assert_eq!((over.canary_percent, over.header), (0, false));
    stand.until_placed(&[1]).await;
}

#[tokio::test]
async fn a_version_that_does_not_load_is_rolled_back_with_the_reason() {
    let stand = Stand::new(4).await;
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    for id in ["w1", "w2"] {
        stand.cluster.report(&key(id, "m", 2), ReplicaState::Failed).await;
    }
    stand.cluster.report(&key("w3", "m", 2), ReplicaState::Loading).await;
    // Two are not several: it is still tried.
    let seen = stand.until("waiting", |status| status.message.contains("0 of 4 replicas are ready")).await;
    assert_eq!(seen.phase(), RolloutPhase::Unspecified);
    stand.cluster.report(&key("w3", "m", 2), ReplicaState::Failed).await;
    let over = stand.until("the end", |status| status.phase() == RolloutPhase::RolledBack).await;
    assert_eq!(over.message, "it cannot be loaded: planted");
    stand.until_placed(&[1]).await;
}

#[tokio::test]
async fn a_version_that_never_comes_is_given_up() {
    let stand = Stand::new(1).await;
    stand.start(RolloutStrategy { progress_deadline: seconds(1), ..half() }).await;
    let over = stand.until("the end", |status| status.phase() == RolloutPhase::RolledBack).await;
    assert_eq!(over.message, "no progress within 1 s: 0 of 1 replicas are ready");
}

#[tokio::test]
async fn only_the_expected_version_is_left_and_one_rollout_at_a_time() {
    let stand = Stand::new(1).await;
    let surface = stand.surface();
    let wrong = surface
        .start_rollout(request(StartRolloutRequest { version: 3, ..start(2, None).into_inner() }))
        .await
        .expect_err("it is not there");
    assert_eq!(wrong.code(), Code::FailedPrecondition);
    assert_eq!(
        (error_of(&wrong).field(), wrong.message()),
        (Some("expected_version"), "expected_version: version 1 answers now")
    );
    let unknown = StartRolloutRequest { model: "n".to_owned(), ..start(1, None).into_inner() };
    assert_eq!(surface.start_rollout(request(unknown)).await.expect_err("unknown").code(), Code::NotFound);
    for (model, version, expected_version, field) in
        [("../m", 2, 1, "model"), ("m", 0, 1, "version"), ("m", 2, 0, "expected_version"), ("m", 1, 1, "version")]
    {
        let bad = StartRolloutRequest { model: model.to_owned(), version, expected_version, strategy: None };
        let refused = surface.start_rollout(request(bad)).await.expect_err(field);
        assert_eq!((refused.code(), error_of(&refused).field()), (Code::InvalidArgument, Some(field)));
    }
    surface.start_rollout(start(1, None)).await.expect("as expected");
    let second = surface.start_rollout(start(1, None)).await.expect_err("one is under way");
    assert_eq!(second.code(), Code::FailedPrecondition);
    let name = || "m".to_owned();
    let undo = surface.undo_rollout(request(UndoRolloutRequest { model: name() })).await;
    assert_eq!(undo.expect_err("not promoted").code(), Code::FailedPrecondition);
    let delete = surface.delete_rollout(request(DeleteRolloutRequest { model: name() })).await;
    assert_eq!(delete.expect_err("under way").code(), Code::FailedPrecondition);
    let listed = surface.list_rollouts(request(ListRolloutsRequest {})).await.expect("listed").into_inner().rollouts;
    assert_eq!(listed.len(), 1);
    surface.abort_rollout(request(AbortRolloutRequest { model: name() })).await.expect("told");
    let over = stand.until("the end", |status| status.phase() == RolloutPhase::RolledBack).await;
    assert_eq!(over.message, "aborted by hand");
    let late = surface.pause_rollout(request(PauseRolloutRequest { model: name() })).await;
    assert_eq!(late.expect_err("it is over").code(), Code::FailedPrecondition);
    surface.start_rollout(start(1, None)).await.expect("after one that has ended");
}

#[tokio::test]
async fn a_model_that_serves_versions_by_their_names_has_no_rollouts() {
    let stand = Stand::new(1).await;
    let model = Model { name: "m".to_owned(), replicas: 1, versions: vec![1, 2], ..Model::default() };
    stand.surface().apply_model(request(ApplyModelRequest { model: Some(model) })).await.expect("applied");
    let refused = stand.surface().start_rollout(start(1, None)).await.expect_err("it serves two");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn hands_pause_resume_and_promote() {
    let stand = Stand::new(1).await;
    stand.tell((50, 0), (50, 0)).await;
    let surface = stand.surface();
    stand.start(half()).await;
    let name = || "m".to_owned();
    surface.pause_rollout(request(PauseRolloutRequest { model: name() })).await.expect("told");
    stand.until_placed(&[1, 2]).await;
    stand.report(2, ReplicaState::Ready).await;
    let paused = stand.until("the pause", |status| status.message == "paused by hand").await;
    assert_eq!((paused.phase(), paused.canary_percent), (RolloutPhase::Unspecified, 0));
    surface.promote_rollout(request(PromoteRolloutRequest { model: name() })).await.expect("told");
    let over = stand.until("the end", |status| status.phase() == RolloutPhase::Promoted).await;
    assert_eq!(over.message, "promoted by hand");
}

#[tokio::test]
async fn the_next_leader_goes_on_where_the_last_one_ended() {
    let stand = Stand::new(1).await;
    let (second, _tasks) = stand.cluster.scheduler("s2", options());
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    stand.report(2, ReplicaState::Ready).await;
    stand.until("half of the calls", |status| status.canary_percent == 50).await;
    stand.tasks.clone().finish(PATIENCE).await;
    // Between two leaders the stage stands. The figures come from a service of the test's own tasks.
    let stand = Stand { scheduler: second, tasks: Tasks::new(), ..stand };
    stand.tell((50, 0), (50, 0)).await;
    stand.until("the end", |status| status.phase() == RolloutPhase::Promoted).await;
    assert!(stand.scheduler.epoch().is_some(), "the second leads");
}

#[tokio::test]
async fn a_record_that_cannot_be_meant_is_left_alone() {
    let stand = Stand::new(1).await;
    for (stable, canary) in [(0, 2), (1, 0), (1, 1), (u64::MAX, u64::MAX)] {
        let odd = Rollout { model: "m".to_owned(), stable, canary, ..Rollout::default() };
        let name: ModelName = "m".parse().expect("a name");
        stand.cluster.put(stand.cluster.keys.rollout(&name), &odd).await;
        // Somebody else's model shows that the leader has looked at it, and goes on.
        let (id, other) = (format!("x{stable}-{canary}"), format!("n{stable}-{canary}"));
        stand.cluster.join(&worker(&id, 1, &[(&other, 1)])).await;
        stand.surface().apply_model(model(&other, 1)).await.expect("applied");
        stand
            .cluster
            .until("another model", |snapshot| snapshot.placements.keys().any(|key| key.worker.as_str() == id))
            .await;
        assert!(stand.cluster.mesh().snapshot().placements.contains_key(&key("w1", "m", 1)), "{stable} {canary}");
    }
    // Another one takes its place, and is led as any.
    stand.start(RolloutStrategy { progress_deadline: seconds(1), ..half() }).await;
    stand.until("the end", |status| status.phase() == RolloutPhase::RolledBack).await;
    assert!(!stand.tasks.failed());
}

#[tokio::test]
async fn only_the_leader_writes_and_only_over_what_it_has_read() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let put = |key: &str, value: Rollout| Txn {
        compares: Vec::new(),
        ops: vec![Op::Put { key: key.to_owned(), value: value.encode_to_vec().into(), lease: None }],
    };
    let done = |commit| match commit {
        Ok(Commit::Done(revision)) => Some(revision),
        _ => None,
    };
    let term = done(store.commit(put("leader", Rollout::default())).await).expect("nobody else writes");
    let read = Rollout { stable: 1, canary: 2, ..Rollout::default() };
    let revision = done(store.commit(put("m", read.clone())).await).expect("nobody else writes");
    let write = |term, revision| {
        let unchanged = Compare::ModRevision("m".to_owned(), revision);
        let valid_until = SystemClock::now();
        let fence = Fence { key: "leader".to_owned(), create_revision: term, valid_until };
        transaction("m".to_owned(), (&read, unchanged), &Status::default(), &fence)
    };
    assert_eq!(done(store.commit(write(term - 1, revision)).await), None, "a leader of the past wrote");
    assert_eq!(done(store.commit(write(term, revision - 1)).await), None, "it wrote over what it had not read");
    assert!(done(store.commit(write(term, revision)).await).is_some());
}
