//! What goes wrong with one job is its own: others go on, and nobody acts who may not.

use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Metadata, Subscriber};
use weft_client::Keys;
use weft_journal::JobId;
use weft_proto::weft::state::v1 as state;
use weft_store::Compare;

use super::*;
use crate::fixture::worker;

fn id(job: &Job) -> JobId {
    job.id.parse().expect("an id")
}

/// Takes a slot and keeps it. What ends with its reservation needs none.
fn reserving() -> Value {
    json!([
        { "name": "slot", "action": { "reserve": { "pools": [{ "pool": "gpu" }] } } },
        { "name": "wait", "needs": ["slot"], "action": { "wait": { "name": "go" } } },
    ])
}

/// Panics in whoever logs this.
struct Mine(&'static str);

impl Subscriber for Mine {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Values<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        assert!(text.0 != self.0, "as a test wants it");
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_panic_of_one_job_leaves_it_visible_and_others_alone() {
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let (job, other) = (submit(&jobs, &asked(&waiting(), "")).await, submit(&jobs, &asked(&waiting(), "")).await);
    {
        let _mine = tracing::subscriber::set_default(Mine("an event changed nothing"));
        // Nothing is stuck, so the event is refused, and that is logged.
        let retry = ResolveJobRequest { id: job.id.clone(), verb: Verb::Retry.into(), ..ResolveJobRequest::default() };
        let lost = jobs.resolve_job(request(retry)).await.expect_err("it panicked");
        assert_eq!(lost.code(), Code::Unavailable, "{lost}");
    }
    eventually("the job stands still", async || !get(&jobs, &job.id).await.expect("it is shown").stuck.is_empty())
        .await;
    assert_eq!(signal(&jobs, &job.id).await.expect_err("nobody runs it").code(), Code::FailedPrecondition);
    whole(&jobs).await;
    let stuck = ListJobsRequest { stuck: true, ..ListJobsRequest::default() };
    let stuck = jobs.list_jobs(request(stuck)).await.expect("a listing").into_inner().jobs;
    assert_eq!(stuck.iter().map(|job| &job.id).collect::<Vec<_>>(), [&job.id]);
    signal(&jobs, &other.id).await.expect("it goes on");
    assert_eq!(end(&jobs, &other.id).await.state(), JobState::Completed);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn a_panic_of_an_attempt_is_an_unknown_outcome() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    let (scheduler, running) = cluster.scheduler("s1", options());
    cluster.until_placed(&[crate::fixture::key("w1", "m", 1)]).await;
    store.decide(|txn| match txn.ops.iter().any(|op| op.key().contains("/models/")) {
        true => Fate::Panic,
        false => Fate::Normal,
    });
    let steps = json!([{ "name": "load", "action": { "load": { "model": "m" } }, "retry": { "maxAttempts": 1 } }]);
    let job = submit(&scheduler.jobs, &asked(&steps, "")).await;
    eventually("the attempt's end", async || {
        let job = get(&scheduler.jobs, &job.id).await.expect("it is shown");
        let first = job.steps[0].attempts.first().cloned().unwrap_or_default();
        (first.outcome.as_str(), first.code.as_str()) == ("UNKNOWN", "INTERNAL")
    })
    .await;
    store.decide(|_| Fate::Normal);
    assert_eq!(end(&scheduler.jobs, &job.id).await.state(), JobState::Compensated);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// Its transition can never be written: the worker's name would reach beyond its place in a key.
#[tokio::test]
async fn a_job_whose_transition_cannot_be_written_stands_still() {
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let offer = state::Worker { slots: [("gpu".to_owned(), 1)].into(), ..state::Worker::default() };
    cluster.put(format!("{}workers/x/y", cluster.keys.root()), &offer).await;
    let job = submit(&jobs, &asked(&reserving(), "")).await;
    eventually("it stands still", async || {
        get(&jobs, &job.id).await.expect("it is shown").stuck.contains("defect of its scheduler")
    })
    .await;
    assert_eq!(cancel(&jobs, &job.id).await.expect_err("nobody runs it").code(), Code::FailedPrecondition);
    let other = submit(&jobs, &asked(&waiting(), "")).await;
    signal(&jobs, &other.id).await.expect("it goes on");
    assert_eq!(end(&jobs, &other.id).await.state(), JobState::Completed);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// A job that another build has begun and this one cannot run.
#[tokio::test]
async fn a_job_that_this_build_cannot_run_is_shown_and_left_alone() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let (misfit, lost) =
        (submit(&first.jobs, &asked(&waiting(), "")).await, submit(&first.jobs, &asked(&waiting(), "")).await);
    running.finish(PATIENCE).await;
    for mut record in store.records().await {
        match record.id == id(&misfit) {
            true => record.job.steps.push(record.job.steps[0].clone()),
            false => record.definition = [9; 32],
        }
        let key = format!("/weft/v1/test/saga/{:02x}/{}", record.id.shard(), record.id);
        cluster.write(Op::Put { key, value: record.encode().into(), lease: None }).await;
    }
    let (second, running) = cluster.scheduler("s2", options());
    for (job, why) in [(&misfit, "does not fit its definition"), (&lost, "cannot be run by this build")] {
        eventually("it is parked", async || get(&second.jobs, &job.id).await.is_ok_and(|job| job.stuck.contains(why)))
            .await;
        assert_eq!(signal(&second.jobs, &job.id).await.expect_err("nobody runs it").code(), Code::FailedPrecondition);
    }
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// While its lease is in doubt a scheduler takes what happens and begins nothing.
#[tokio::test]
async fn whoever_may_not_own_a_shard_begins_nothing() {
    let (store, tasks) = (Gate::new(), Tasks::new());
    let (witness, address) = Witness::serve(&store, &tasks).await;
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let few = Options {
        election_ttl: Duration::from_secs(2),
        jobs: JobOptions { max_attempts: 1, ..options().jobs },
        ..options()
    };
    let offer = state::Worker { slots: [("gpu".to_owned(), 1)].into(), ..state::Worker::default() };
    cluster.put(format!("{}workers/w1", cluster.keys.root()), &offer).await;
    let (scheduler, running) = cluster.scheduler("s1", few);
    let jobs = scheduler.jobs.clone();
    eventually("the offer", async || jobs.0.journal.free_slots(&[("gpu".to_owned(), 1)], [], 1).is_ok()).await;
    let steps = |name: &str| {
        json!([
            { "name": "wait", "action": { "wait": { "name": "go" } } },
            { "name": "call", "needs": ["wait"], "effect": "EFFECT_PURE", "action": call(&address, name) },
        ])
    };
    let mut ids = Vec::new();
    for name in ["slow", "queued", "late"] {
        ids.push(submit(&jobs, &asked(&steps(name), "")).await.id);
    }
    let mut slots = reserving();
    slots[0]["needs"] = json!(["first"]);
    slots[1]["action"]["wait"]["name"] = json!("stay");
    let first = json!({ "name": "first", "action": { "wait": { "name": "go" } } });
    slots.as_array_mut().expect("a list").push(first);
    ids.push(submit(&jobs, &asked(&slots, "")).await.id);
    signal(&jobs, &ids[0]).await.expect("it goes on");
    witness.called(1).await;
    // It waits for the only place.
    signal(&jobs, &ids[1]).await.expect("it goes on");
    settle().await;
    store.alive.send_replace(false);
    let holds = async || {
        let shard = ids[2].parse::<JobId>().expect("an id").shard();
        jobs.0.journal.shard(shard).is_some_and(|shard| shard.holds(SystemClock::now()))
    };
    eventually("the lease is in doubt", async || !holds().await).await;
    for id in &ids[2..] {
        let refused = signal(&jobs, id).await.expect_err("it may be another scheduler's job");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    witness.released.send_replace(true);
    settle().await;
    assert_eq!(witness.calls.load(Ordering::SeqCst), 1, "something was begun by who may not");
    let slots = store.inner.read(Range::Prefix(format!("{}slot/", cluster.keys.root()))).await.expect("it is embedded");
    assert_eq!(slots.entries, [], "a slot was taken by who may not");
    store.alive.send_replace(true);
    for id in &ids[2..] {
        eventually("the lease", async || signal(&jobs, id).await.is_ok()).await;
    }
    let stay = SignalJobRequest { id: ids[3].clone(), name: "stay".into(), value: None };
    jobs.signal_job(request(stay)).await.expect("it is taken");
    for id in &ids {
        assert_eq!(end(&jobs, id).await.state(), JobState::Completed);
    }
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// Others are always faster: the step waits for its pause, and who wants something of the job is heard.
#[tokio::test]
async fn slots_that_others_take_are_given_up_for_a_while() {
    let store = Gate::new();
    store.hides_slots.store(true, Ordering::SeqCst);
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let offer = state::Worker { slots: [("gpu".to_owned(), 1)].into(), ..state::Worker::default() };
    cluster.put(format!("{}workers/w1", cluster.keys.root()), &offer).await;
    let slot = format!("{}slot/gpu/w1/0", cluster.keys.root());
    cluster.put(slot.clone(), &state::JobSlot::default()).await;
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    eventually("the offer", async || jobs.0.journal.free_slots(&[("gpu".to_owned(), 1)], [], 1).is_ok()).await;
    let (first, second) =
        (submit(&jobs, &asked(&reserving(), "")).await, submit(&jobs, &asked(&reserving(), "")).await);
    let looked = async |job: &Job| get(&jobs, &job.id).await.is_ok_and(|job| !job.steps[0].attempts.is_empty());
    eventually("a look that found none", async || looked(&first).await && looked(&second).await).await;
    assert_eq!(cancel(&jobs, &first.id).await.expect("it is heard").state(), JobState::Compensated);
    cluster.write(Op::Delete(slot)).await;
    signal(&jobs, &second.id).await.expect("it is kept until somebody waits for it");
    assert_eq!(end(&jobs, &second.id).await.state(), JobState::Completed);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// What looks for slots is a transition each; what needs none does not wait for them, nor does a caller.
#[tokio::test]
async fn slots_that_are_looked_for_hold_nothing_up() {
    let (store, tasks) = (Gate::new(), Tasks::new());
    let (witness, address) = Witness::serve(&store, &tasks).await;
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let offer = state::Worker { slots: [("gpu".to_owned(), 8)].into(), ..state::Worker::default() };
    cluster.put(format!("{}workers/w1", cluster.keys.root()), &offer).await;
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    eventually("the offer", async || jobs.0.journal.free_slots(&[("gpu".to_owned(), 8)], [], 1).is_ok()).await;
    // The first one of them cannot be written, and so the others are not looked for.
    store.decide(|txn| match txn.ops.iter().any(|op| op.key().contains("/slot/")) {
        true => Fate::Refused,
        false => Fate::Normal,
    });
    let each: Vec<u32> = (0..8).collect();
    let steps = json!([
        { "name": "wait", "action": { "wait": { "name": "go" } } },
        { "name": "slots", "needs": ["wait"], "action": { "reserve": { "pools": [{ "pool": "gpu", "slots": 8 }] } } },
        { "name": "call", "needs": ["wait"], "effect": "EFFECT_PURE", "action": call(&address, "m"), "forEach": each },
    ]);
    let job = submit(&jobs, &asked(&steps, "")).await;
    signal(&jobs, &job.id).await.expect("it goes on");
    witness.called(8).await;
    eventually("the results", async || get(&jobs, &job.id).await.expect("known").steps[2].state() == StepState::Done)
        .await;
    store.decide(|_| Fate::Normal);
    assert_eq!(end(&jobs, &job.id).await.state(), JobState::Completed);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn a_transition_that_the_store_refuses_waits() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let job = submit(&jobs, &asked(&waiting(), "")).await;
    store.decide(|txn| match txn.ops.iter().any(|op| op.key().contains("/saga/")) {
        true => Fate::Refused,
        false => Fate::Normal,
    });
    let signalling = signal(&jobs, &job.id);
    tokio::pin!(signalling);
    tokio::select! {
        biased;
        answer = &mut signalling => panic!("answered before the commit: {answer:?}"),
        () = settle() => {}
    }
    store.decide(|_| Fate::Normal);
    assert_eq!(signalling.await.expect("it is taken").state(), JobState::Completed);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// A load is written under the fence of the job's shard.
#[tokio::test]
async fn models_are_changed_only_by_who_owns_the_job() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    let (scheduler, running) = cluster.scheduler("s1", options());
    cluster.until_placed(&[crate::fixture::key("w1", "m", 1)]).await;
    let steps = json!([{ "name": "load", "action": { "load": { "model": "m" } } }]);
    let job = submit(&scheduler.jobs, &asked(&steps, "")).await;
    let written = || store.of_models.lock().expect("no test panics while it holds this").clone();
    eventually("the load is written", async || !written().is_empty()).await;
    let shard = id(&job).shard();
    let epoch = scheduler.jobs.0.journal.shard(shard).expect("it is owned").epoch();
    let guard = Compare::CreateRevision(format!("{}own/{shard:02x}", Keys::new("test").root()), epoch);
    assert!(written().iter().all(|txn| txn.compares.contains(&guard)), "{:?}", written());
    cancel(&scheduler.jobs, &job.id).await.expect("it is undone");
    assert_eq!(end(&scheduler.jobs, &job.id).await.state(), JobState::Compensated);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}
