//! What is told and done of jobs whose scheduler has changed, or may have.

use prost::Message as _;
use weft_journal::JobId;
use weft_proto::weft::state::v1 as state;
use weft_saga::JobState as Status;

use super::*;

/// Asks until it holds.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let asked = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it comes");
}

fn resolve(id: &str, verb: Verb) -> Request<ResolveJobRequest> {
    let reason = "nobody wants it".to_owned();
    request(ResolveJobRequest { id: id.to_owned(), verb: verb.into(), reason, ..ResolveJobRequest::default() })
}

/// Its lease may be over, and its jobs another's.
#[tokio::test]
async fn who_is_cut_off_from_the_store_does_not_speak_for_its_jobs() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let brief = Options { election_ttl: Duration::from_secs(2), ..options() };
    let (scheduler, running) = cluster.scheduler("s1", brief);
    let jobs = scheduler.jobs.clone();
    let job = submit(&jobs, &asked(&waiting(), "")).await;
    let watch = request(WatchJobRequest { id: job.id.clone(), after_revision: job.revision });
    let mut watch = jobs.watch_job(watch).await.expect("a watch").into_inner();
    store.cut.send_replace(true);
    let end = tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch ends");
    let end = end.expect("with a status").expect_err("nothing has changed");
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    assert!(error_of(&end).pushback().is_some(), "{end}");
    let refused = get(&jobs, &job.id).await.expect_err("nobody knows");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let refused = jobs.list_jobs(request(ListJobsRequest::default())).await.expect_err("nobody knows");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    store.cut.send_replace(false);
    until(async || get(&jobs, &job.id).await.is_ok()).await;
    running.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_job_whose_record_cannot_be_read_is_told_of() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let job = submit(&first.jobs, &asked(&waiting(), "key")).await;
    let seen = submit(&first.jobs, &asked(&waiting(), "")).await;
    running.finish(PATIENCE).await;
    let id: JobId = job.id.parse().expect("an id");
    let key = weft_journal::Keys::new("/weft/v1/test/").job(&id);
    let kept = store.inner.read(Range::Key(key.clone())).await.expect("it is embedded").entries;
    let newer = state::Job { format: 99, ..state::Job::decode(kept[0].value.clone()).expect("a record") };
    cluster.put(key, &newer).await;

    let (second, running) = cluster.scheduler("s2", options());
    let jobs = second.jobs.clone();
    until(async || get(&jobs, &seen.id).await.is_ok()).await;
    until(async || get(&jobs, &job.id).await.is_err_and(|status| status.code() != Code::Unavailable)).await;
    let told = get(&jobs, &job.id).await.expect_err("it cannot be read");
    assert_eq!(told.code(), Code::FailedPrecondition, "{told}");
    let again = jobs.submit_job(request(asked(&waiting(), "key"))).await.expect_err("the key stands for it");
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
    let list = async |asked: ListJobsRequest| {
        until(async || jobs.list_jobs(request(asked.clone())).await.is_ok()).await;
        let listed = jobs.list_jobs(request(asked)).await.expect("a listing").into_inner().jobs;
        listed.into_iter().map(|job| (job.id, job.stuck.is_empty())).collect::<Vec<_>>()
    };
    let mut listed = list(ListJobsRequest::default()).await;
    listed.sort();
    let mut expected = vec![(job.id.clone(), false), (seen.id.clone(), true)];
    expected.sort();
    assert_eq!(listed, expected);
    let stuck = ListJobsRequest { stuck: true, ..ListJobsRequest::default() };
    assert_eq!(list(stuck).await, [(job.id, false)]);
    let of_somebody = ListJobsRequest { tenant: "default".into(), ..ListJobsRequest::default() };
    assert_eq!(list(of_somebody).await, [(seen.id, true)], "whose it is nobody knows");
    running.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_job_without_its_definition_can_be_abandoned() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let job = submit(&first.jobs, &asked(&waiting(), "")).await;
    running.finish(PATIENCE).await;
    cluster.write(Op::Delete(format!("/weft/v1/test/def/{}", job.definition_hash))).await;
    let (second, running) = cluster.scheduler("s2", options());
    let jobs = second.jobs.clone();
    until(async || get(&jobs, &job.id).await.is_ok_and(|job| !job.stuck.is_empty())).await;
    let refused = jobs.resolve_job(resolve(&job.id, Verb::Pause)).await.expect_err("nobody runs it");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let watched = told(&jobs, &job.id, 0);
    let abandoned = async {
        let answer = jobs.resolve_job(resolve(&job.id, Verb::Abandon)).await.expect("it is taken");
        assert_eq!(answer.into_inner().job.expect("a job").state(), JobState::Abandoned);
    };
    let (watched, ()) = tokio::join!(watched, abandoned);
    assert_eq!(watched.last().expect("something").as_ref().expect("its end").state(), JobState::Abandoned);
    assert_eq!(get(&jobs, &job.id).await.expect("it is remembered").state(), JobState::Abandoned);
    assert!(store.records().await.iter().all(|record| record.job.state.has_ended()));
    running.finish(PATIENCE).await;
}

/// More jobs than are taken over at once cannot be written down; those that end, and so make room, are behind them.
#[tokio::test]
async fn jobs_that_wait_for_room_let_those_go_on_that_make_it() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = silent.local_addr().expect("it is bound").to_string();
    let call = json!({ "target": target, "method": "weft.control.v1.Models/GetModel", "request": { "name": "m" } });
    let steps = json!([{ "name": "a", "effect": "EFFECT_PURE", "action": { "call": call } }]);
    submit(&first.jobs, &asked(&steps, "")).await;
    running.finish(PATIENCE).await;
    let running_job = store.records().await.pop().expect("it is open");
    assert_eq!(running_job.job.steps[0].items[0].state, Step::Started);
    let keys = weft_journal::Keys::new("/weft/v1/test/");
    for number in 0..620_u128 {
        let mut record = running_job.clone();
        record.id = JobId::new(7, 1_000, number);
        if number >= 600 {
            (record.job.state, record.job.undo_since) = (Status::Compensating, Some(1));
            record.job.steps[0].items[0].state = Step::FailedClean;
        }
        let (key, value) = (keys.job(&record.id), record.encode().into());
        cluster.write(Op::Put { key, value, lease: None }).await;
    }
    store.refusing.send_replace(true);
    let (_second, running) = cluster.scheduler("s2", options());
    until(async || {
        let ended = store.inner.read(Range::Prefix("/weft/v1/test/done/".to_owned())).await.expect("it is embedded");
        ended.entries.len() == 20
    })
    .await;
    running.finish(PATIENCE).await;
}
