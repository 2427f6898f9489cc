//! Shards that move, with jobs under way.

use tokio::sync::Semaphore;
use weft_saga::Payload;

use super::super::run::{self, First};
use super::*;

/// What the last scheduler had under way is of unknown outcome: it is tried again under the same key, in a later term.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_is_repeated_under_the_same_key() {
    let (store, tasks) = (Gate::new(), Tasks::new());
    let (witness, address) = Witness::serve(&store, &tasks).await;
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let steps = json!([{ "name": "call", "effect": "EFFECT_PURE", "action": call(&address, "slow") }]);
    let job = submit(&first.jobs, &asked(&steps, "")).await;
    witness.called(1).await;
    running.finish(PATIENCE).await;
    let (second, others) = cluster.scheduler("s2", options());
    witness.called(2).await;
    witness.released.send_replace(true);
    let mut last = None;
    eventually("its end", async || {
        last = get(&second.jobs, &job.id).await.ok().filter(|job| job.state() == JobState::Completed);
        last.is_some()
    })
    .await;
    let attempts = last.expect("it has ended").steps[0].attempts.clone();
    let told: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.outcome.as_str())).collect();
    assert_eq!(told, [(1, "UNKNOWN"), (2, "DONE")], "{attempts:?}");
    assert_eq!(witness.heard("weft-idempotency-key"), vec![format!("{}/call", job.id); 2]);
    assert_eq!(witness.heard("weft-attempt"), ["1", "2"]);
    let epochs: Vec<i64> = witness.heard("weft-epoch").iter().map(|epoch| epoch.parse().expect("a number")).collect();
    assert!(epochs[0] < epochs[1], "{epochs:?}");
    others.finish(PATIENCE).await;
    assert!(!others.failed());
}

/// Leaves a job's record so many bytes below the longest that the log takes of a job that goes on.
async fn fill(cluster: &Cluster, store: &Gate, job: &Job, room: usize) {
    const LONGEST: usize = 256 * 1024;
    let mut record = store.records().await.into_iter().find(|record| record.id.as_str() == job.id).expect("it is kept");
    // The history goes first when a record is too long.
    record.job.steps.iter_mut().flat_map(|step| &mut step.items).for_each(|item| item.history.clear());
    record.job.signals.push(("pad".to_owned(), Payload::Inline(Vec::new())));
    let mut text = LONGEST;
    loop {
        record.job.signals[0].1 = Payload::Inline(vec![b' '; text]);
        let length = record.encode().len();
        if length == LONGEST - room {
            break;
        }
        // The text is far longer than what else is in the record.
        text = text + LONGEST - room - length;
    }
    let key = format!("{}saga/{:02x}/{}", cluster.keys.root(), record.id.shard(), record.id);
    cluster.write(Op::Put { key, value: record.encode().into(), lease: None }).await;
}

/// What grows in a job costs it what it brings, or its way forward; never its end, and never another job.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_record_is_full_still_ends() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let text = "x".repeat(58);
    let compute = |more: Value| {
        let mut step = json!({ "name": "compute", "needs": ["wait"], "retry": { "maxAttempts": 1 }, "action": { "compute": { "value": text } } });
        step.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!([
            { "name": "wait", "action": { "wait": { "name": "go" } } },
            step,
            { "name": "end", "needs": ["compute"], "action": { "wait": { "name": "never" } } },
        ])
    };
    let many: Vec<u32> = (0..256).collect();
    let (long, wide) = (compute(json!({})), compute(json!({ "forEach": many })));
    let (long, wide) = (submit(&first.jobs, &asked(&long, "")).await, submit(&first.jobs, &asked(&wide, "")).await);
    let full = submit(&first.jobs, &asked(&waiting(), "")).await;
    running.finish(PATIENCE).await;
    for (job, room) in [(&long, 64), (&wide, 64), (&full, 2)] {
        fill(&cluster, &store, job, room).await;
    }
    let (second, others) = cluster.scheduler("s2", options());
    let jobs = &second.jobs;
    for job in [&long, &wide, &full] {
        eventually("the job", async || get(jobs, &job.id).await.is_ok()).await;
    }
    // What a caller brings is refused, and the job is as it was.
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("y".repeat(50))) };
    let bring = SignalJobRequest { id: long.id.clone(), name: "go".into(), value: Some(value) };
    let refused = jobs.signal_job(request(bring)).await.expect_err("there is no room for it");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(get(jobs, &long.id).await.expect("it is there").state(), JobState::Running);
    // An output that does not fit fails its step; what grows otherwise turns the job back.
    for (job, why) in [(&long, "its output is too large for the log"), (&wide, "it has become too large for the log")] {
        signal(jobs, &job.id).await.expect("there is room for it");
        let ended = end(jobs, &job.id).await;
        assert_eq!(ended.state(), JobState::Compensated, "{}", ended.stuck);
        assert!(ended.failure.contains(why), "{}", ended.failure);
    }
    assert_eq!(cancel(jobs, &full.id).await.expect("turning back always fits").state(), JobState::Compensated);
    others.finish(PATIENCE).await;
    assert!(!others.failed());
}

/// A job that is not here yet may be about to come: it is not unknown.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_being_taken_over_is_not_unknown() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let job = submit(&first.jobs, &asked(&waiting(), "")).await;
    running.finish(PATIENCE).await;
    store.readable.send_replace(false);
    let (second, others) = cluster.scheduler("s2", options());
    whole(&second.jobs).await;
    for _ in 0..100 {
        let refused = get(&second.jobs, &job.id).await.expect_err("it is not here yet");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        tokio::task::yield_now().await;
    }
    store.readable.send_replace(true);
    eventually("the job", async || get(&second.jobs, &job.id).await.is_ok()).await;
    let unknown = weft_journal::JobId::new(job.id.parse::<weft_journal::JobId>().expect("an id").shard(), 1, 1);
    assert_eq!(get(&second.jobs, unknown.as_str()).await.expect_err("unknown").code(), Code::NotFound);
    others.finish(PATIENCE).await;
    assert!(!others.failed());
}

/// What has moved away takes no room any more, and nobody is added to a term that is over.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_shard_that_has_moved_take_no_room() {
    const JOBS: usize = 40;
    let (cluster, serving) = (Cluster::new(), Tasks::new());
    let few = || Options { jobs: JobOptions { max_open: JOBS, ..options().jobs }, ..options() };
    let (first, running) = cluster.serving("s1", few(), &serving).await;
    for _ in 0..JOBS {
        submit(&first.jobs, &asked(&waiting(), "")).await;
    }
    let (second, others) = cluster.serving("s2", few(), &serving).await;
    eventually("some jobs move", async || second.jobs.0.table.open() > 0).await;
    eventually("room for another one", async || first.jobs.submit_job(request(asked(&waiting(), ""))).await.is_ok())
        .await;
    let shard = second.jobs.0.journal.shard_for_new().expect("it has some");
    let id = second.jobs.0.journal.new_id(&shard);
    let before = second.jobs.0.table.open();
    assert!(!second.jobs.0.table.insert(&id, shard.epoch() - 1, || panic!("it runs in a term that is over")));
    assert_eq!(second.jobs.0.table.open(), before);
    for tasks in [running, others] {
        tasks.finish(PATIENCE).await;
        assert!(!tasks.failed());
    }
}

/// The job's own writes fail a moment before its scheduler hears that the shard is lost.
#[tokio::test]
async fn a_job_of_a_shard_that_is_being_lost_is_not_unknown() {
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", options());
    let (jobs, shared) = (&scheduler.jobs, &scheduler.jobs.0);
    let job = submit(jobs, &asked(&waiting(), "")).await;
    let id = job.id.parse::<weft_journal::JobId>().expect("an id");
    let lost = shared.journal.shard(id.shard()).expect("it is owned");
    let handle = shared.table.get(&id).expect("it is open");
    let (record, program) = (handle.record().expect("it is logged"), handle.program.expect("it can be run"));
    cluster.write(Op::Delete(format!("{}own/{:02x}", cluster.keys.root(), id.shard()))).await;
    let is_new = || shared.table.shard(id.shard()).is_some_and(|shard| shard.epoch() > lost.epoch());
    eventually("the shard is won anew", async || is_new() && get(jobs, &job.id).await.is_ok()).await;
    // As it was before that was heard.
    shared.table.acquire(lost.clone());
    shared.table.recovered(id.shard(), lost.epoch());
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("it is open");
    assert!(run::open(shared, &lost, &program, record, First::TakenOver(permit)));
    for refused in [signal(jobs, &job.id).await, get(jobs, &job.id).await] {
        let refused = refused.expect_err("it is not this scheduler's any more");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}
