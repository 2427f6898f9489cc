//! What one scheduler takes on, and listings that lack nothing.

use tonic::metadata::AsciiMetadataValue;
use weft_runtime::Call;
use weft_types::Deadline;

use super::*;

/// As many answers wait for a slow reader here as at the owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_passed_on_takes_a_place_of_its_own() {
    let (cluster, serving) = (Cluster::new(), Tasks::new());
    let (first, running) = cluster.serving("s1", options(), &serving).await;
    submit(&first.jobs, &asked(&waiting(), "")).await;
    let (second, others) = cluster.serving("s2", options(), &serving).await;
    let other = loop {
        // It has none until the first one gives some up.
        let job = submit(&second.jobs, &asked(&waiting(), "")).await;
        if job.scheduler == "s2" {
            break job;
        }
    };
    let places = &first.jobs.0.watchers;
    let all = places.available_permits();
    let watch = || request(WatchJobRequest { id: other.id.clone(), after_revision: 0 });
    let answers = first.jobs.watch_job(watch()).await.expect("passed on");
    assert_eq!(places.available_permits(), all - 1);
    drop(answers);
    assert_eq!(places.available_permits(), all, "its reader has left");
    let taken = places.try_acquire_many(u32::try_from(all).expect("few")).expect("all are free");
    let refused = first.jobs.watch_job(watch()).await.err().expect("there is no place left");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    drop(taken);
    for tasks in [running, others] {
        tasks.finish(PATIENCE).await;
        assert!(!tasks.failed());
    }
}

pub(super) fn listing(timeout: Duration) -> Request<ListJobsRequest> {
    let mut listing = request(ListJobsRequest::default());
    let call = listing.extensions_mut().get_mut::<Call>().expect("a call");
    call.deadline = Deadline::after(SystemClock::now(), timeout);
    listing
}

/// A shard whose jobs are being taken over is named, and a listing waits for it while there is time.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_lacks_no_job_that_is_being_taken_over() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (first, running) = cluster.scheduler("s1", options());
    let job = submit(&first.jobs, &asked(&waiting(), "")).await;
    running.finish(PATIENCE).await;
    // The next one has the shard, and cannot go on with its job yet.
    store.readable.send_replace(false);
    let (second, running) = cluster.scheduler("s2", options());
    let shard = &job.id[..2];
    let named = async {
        loop {
            match second.jobs.list_jobs(listing(Duration::from_millis(500))).await {
                Ok(listed) => panic!("it lacks a job: {listed:?}"),
                Err(status) if status.message().ends_with(&format!("of shards {shard}")) => return status,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, named).await.expect("only that shard is left");
    assert!(error_of(&refused).pushback().is_some(), "{refused}");
    // So does a scheduler that another one asks for that shard.
    let asked_for = |shards: &str| {
        let mut asked = listing(PATIENCE);
        asked.metadata_mut().insert("weft-forwarded", MetadataValue::from_static("1"));
        asked.metadata_mut().insert("weft-shards", AsciiMetadataValue::try_from(shards).expect("digits"));
        asked
    };
    let refused = second.jobs.list_jobs(asked_for(shard)).await.expect_err("it does not have its jobs yet");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let other = if shard == "00" { "01" } else { "00" };
    assert!(second.jobs.list_jobs(asked_for(other)).await.is_ok(), "nothing else was asked for");
    let (listed, ()) = tokio::join!(second.jobs.list_jobs(listing(PATIENCE)), async {
        settle().await;
        store.readable.send_replace(true);
    });
    let listed = listed.expect("it waits").into_inner().jobs;
    assert_eq!(listed.iter().map(|job| &job.id).collect::<Vec<_>>(), [&job.id]);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// No record says which values such a job still needs, and after a day they go.
#[tokio::test]
async fn a_job_that_is_not_journaled_takes_a_day_at_most() {
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", options());
    submit(&scheduler.jobs, &asked(&waiting(), "")).await;
    let with = |durability: Durability, seconds: i64| {
        let mut asked = asked(&waiting(), "");
        asked.timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        asked.definition.as_mut().expect("a definition").durability = durability.into();
        request(asked)
    };
    for durability in [Durability::None, Durability::Lease] {
        let refused = scheduler.jobs.submit_job(with(durability, 86_401)).await.expect_err("too long");
        assert_eq!((refused.code(), error_of(&refused).field()), (Code::InvalidArgument, Some("timeout")), "{refused}");
        scheduler.jobs.submit_job(with(durability, 86_400)).await.expect("a day");
    }
    scheduler.jobs.submit_job(with(Durability::Journaled, 30 * 86_400)).await.expect("thirty days");
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}
