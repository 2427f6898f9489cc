//! Rollouts beside lost answers, silent services, models that sleep and versions that were mended.

use std::sync::Mutex;

use futures_util::FutureExt as _;
use weft_proto::duration;
use weft_proto::weft::control::v1::events_server::Events as _;
use weft_proto::weft::state::v1::Service;
use weft_store::{Error, LeaseId, Listing, Range, Watch};

use super::*;

/// The embedded store. The answer to the write that enters a rollout's second step is lost, and nobody calls the canary from then on.
struct Lossy {
    inner: MemoryStore,
    planted: Mutex<Option<Planted>>,
}

#[tonic::async_trait]
impl Store for Lossy {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(range, from).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let enters = txn.ops.iter().any(|op| match op {
            Op::Put { key, value, .. } if key.ends_with("/rollouts/m") => {
                Rollout::decode(&**value).is_ok_and(|rollout| rollout.status.is_some_and(|status| status.step == 1))
            }
            _ => false,
        });
        let planted = self.planted.lock().expect("no test panics while it holds this").take_if(|_| enters);
        let commit = self.inner.commit(txn).await;
        match planted {
            Some(planted) => {
                planted.tell(figures((0, 0), (0, 0)));
                Err(Error::Unavailable("the answer is lost".to_owned()))
            }
            None => commit,
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke(lease).await
    }
}

#[tokio::test]
async fn a_stage_whose_write_had_no_answer_is_a_stage_like_any() {
    let inner = MemoryStore::new(Arc::new(SystemClock));
    let store = Arc::new(Lossy { inner, planted: Mutex::default() });
    let stand = Stand::over(Arc::clone(&store) as Arc<dyn Store>, 1).await;
    *store.planted.lock().expect("no test panics while it holds this") = Some(stand.planted.clone());
    stand.tell((50, 0), (50, 0)).await;
    let steps = [50, 60].map(|percent| RolloutStep { percent, pause: seconds(0) }).into();
    stand.start(RolloutStrategy { steps, ..half() }).await;
    stand.until_placed(&[1, 2]).await;
    stand.report(2, ReplicaState::Ready).await;
    // It has no calls of its own yet: those of the stage before do not count for it.
    let second = stand.until("calls to wait for", |status| status.step == 1 && !status.message.is_empty()).await;
    assert_eq!((second.canary_percent, second.message.as_str()), (60, "waiting for calls: 0 of 50"));
    assert!(store.planted.lock().expect("no test panics while it holds this").is_none(), "no answer was lost");
    stand.planted.tell(figures((50, 0), (50, 0)));
    stand.until("the end", |status| status.phase() == RolloutPhase::Promoted).await;
}

/// Somebody takes its calls, and answers none of them.
#[tokio::test]
async fn a_metrics_service_that_says_nothing_holds_up_no_look() {
    let stand = Stand::new(1).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("it is bound").to_string();
    let service = Service { kind: "metrics".to_owned(), id: "metrics".to_owned(), address, ..Service::default() };
    stand.cluster.put(stand.cluster.keys.service("metrics", "metrics"), &service).await;
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    stand.report(2, ReplicaState::Ready).await;
    stand.until("half of the calls", |status| status.canary_percent == 50).await;
    let inner = &stand.scheduler.inner;
    let mesh = &inner.mesh;
    let is_canary = |snapshot: &Snapshot| snapshot.rollouts.values().all(|record| is_split(&record.value));
    mesh.changes().wait_for(|_| is_canary(&mesh.snapshot())).await.expect("the mesh lives");
    // Another one looks beside the scheduler's own, at times of the test's choice.
    let mut conductor = Conductor::new(Arc::clone(inner), Inquiry::new(Arc::clone(inner), Tasks::new()));
    conductor.pass().await.expect("the store answers");
    let later = SystemClock::now() + Duration::from_secs(10);
    conductor.ask(later);
    conductor.ask(later + Duration::from_secs(10));
    assert_eq!(conductor.questions.len(), 1, "one question for each rollout");
    assert!(conductor.questions.next().now_or_never().is_none(), "who could have answered?");
    let abort = request(AbortRolloutRequest { model: "m".to_owned() });
    stand.surface().abort_rollout(abort).await.expect("told");
    conductor.pass().await.expect("the store answers");
    assert_eq!(conductor.questions.len(), 1, "the look has waited for the answer");
    stand.until("the end", |status| status.phase() == RolloutPhase::RolledBack).await;
}

#[tokio::test]
async fn a_version_that_was_mended_is_tried_again() {
    let stand = Stand::new(3).await;
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    stand.report(2, ReplicaState::Failed).await;
    stand.until("the end", |status| status.phase() == RolloutPhase::RolledBack).await;
    stand.until_placed(&[1]).await;
    for id in &stand.workers {
        // As the worker does when its placement goes.
        stand.cluster.write(Op::Delete(stand.cluster.keys.replica(&key(id, "m", 2)))).await;
    }
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    stand.report(2, ReplicaState::Ready).await;
    stand.until("half of the calls", |status| status.canary_percent == 50).await;
}

#[tokio::test]
async fn a_rollout_of_a_model_that_sleeps_waits_for_a_call() {
    let stand = Stand::new(1).await;
    let autoscaling =
        Autoscaling { max_replicas: 1, idle_after: Some(duration(Duration::from_secs(1))), ..Autoscaling::default() };
    let model = Model { name: "m".to_owned(), autoscaling: Some(autoscaling), versions: vec![1], ..Model::default() };
    stand.tell((0, 0), (0, 0)).await;
    stand.surface().apply_model(request(ApplyModelRequest { model: Some(model) })).await.expect("applied");
    let asleep = |snapshot: &Snapshot| snapshot.scales.values().any(|record| record.value.target == 0);
    stand.cluster.until("sleep", asleep).await;
    let mesh = &stand.scheduler.inner.mesh;
    mesh.changes().wait_for(|_| asleep(&mesh.snapshot())).await.expect("the mesh lives");
    stand.start(RolloutStrategy { progress_deadline: seconds(1), ..half() }).await;
    let waits = stand.until("the wait", |status| status.message == "waiting until replicas are wanted").await;
    assert_eq!(waits.phase(), RolloutPhase::Unspecified);
}

#[tokio::test]
async fn a_rollout_is_told_by_events() {
    let stand = Stand::new(1).await;
    stand.tell((50, 0), (50, 0)).await;
    stand.start(half()).await;
    stand.until_placed(&[1, 2]).await;
    let name = || "m".to_owned();
    let surface = stand.surface();
    surface.pause_rollout(request(PauseRolloutRequest { model: name() })).await.expect("told");
    let told = async |wanted: &[&str]| {
        let mut changes = stand.cluster.mesh().changes();
        loop {
            let listed = surface.list_events(request(ListEventsRequest::default())).await.expect("listed").into_inner();
            let of_rollout = |event: &&weft_proto::weft::state::v1::Event| event.subject == "rollouts/m";
            let mut reasons: Vec<String> =
                listed.events.iter().filter(of_rollout).map(|event| event.reason.clone()).collect();
            reasons.sort_unstable();
            if reasons == wanted {
                return;
            }
            let change = tokio::time::timeout(PATIENCE, changes.changed()).await;
            change.unwrap_or_else(|_| panic!("told: {reasons:?}")).expect("the mesh lives");
        }
    };
    told(&["RolloutPaused", "RolloutStarted"]).await;
    surface.resume_rollout(request(ResumeRolloutRequest { model: name() })).await.expect("told");
    told(&["RolloutPaused", "RolloutResumed", "RolloutStarted"]).await;
    stand.report(2, ReplicaState::Ready).await;
    stand.until("the end", |status| status.phase() == RolloutPhase::Promoted).await;
    told(&["RolloutPaused", "RolloutPromoted", "RolloutResumed", "RolloutStage", "RolloutStarted"]).await;
}
