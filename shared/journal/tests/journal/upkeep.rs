//! What keeps the log small.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use weft_journal::{CommitError, Durability, Error, JobId, Options};
use weft_proto::weft::state::v1 as state;
use weft_saga::JobState;
use weft_store::Store;

use super::desk::{
    Desk, ROOT, Sized, Steps, ended, eventually, holding, keys, next, offer, options, put, reserve, slots_known,
};
use super::history;

pub(crate) async fn ended_jobs_are_forgotten_with_their_keys(store: Arc<dyn Store>) {
    let brief = Options { retain: Duration::ZERO, ..options("s-0") };
    let desk = Desk::start(Arc::clone(&store), brief);
    desk.owns(256).await;
    let (shard, mut job) = desk.new_job();
    job.key = "order-1".into();
    let job = Arc::new(job);
    shard.commit(None, Arc::clone(&job)).await.expect("it is logged");
    let (_, going) = desk.begin().await;
    shard.commit(Some(Arc::clone(&job)), ended(&job)).await.expect("it ends");
    eventually(async || keys(&store, "done/").await.is_empty()).await;
    assert!(keys(&store, "idem/").await.is_empty());
    assert_eq!(desk.journal.ended(&job.id).await.expect("the store answers"), None);
    assert_eq!(keys(&store, "saga/").await.len(), 1, "{} goes on", going.id);
    desk.stop().await;
    history::check(&store).await;
}

/// Also those that ended under another owner.
pub(crate) async fn the_next_owner_forgets(store: Arc<dyn Store>) {
    let desk = Desk::alone(&store, "s-0").await;
    for _ in 0..20 {
        let (shard, job) = desk.begin().await;
        shard.commit(Some(Arc::clone(&job)), ended(&job)).await.expect("it ends");
    }
    desk.stop().await;
    assert_eq!(keys(&store, "done/").await.len(), 20);
    let desk = Desk::start(Arc::clone(&store), Options { retain_records: 5, ..options("s-0") });
    eventually(async || keys(&store, "done/").await.len() <= 5).await;
    desk.stop().await;
    // Five where it had all shards when it forgot; with fewer it keeps as large a part of five.
    assert!(!keys(&store, "done/").await.is_empty(), "the last are kept");
}

pub(crate) async fn slots_that_no_job_has_are_freed(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 8)]).await;
    let desk = Desk::alone(&store, "s-0").await;
    slots_known(&desk, "gpu", 8).await;
    let (shard, job) = desk.begin().await;
    let held = reserve(&desk, &shard, &job, &[("gpu".into(), 2)]).await.expect("there are free ones");
    let kept = keys(&store, "slot/").await;
    let stray = |job: &JobId| state::JobSlot { job: job.to_string(), confirmed: false }.encode_to_vec();
    // One of a job that is no more, one of a job that never had it, and one that nobody can read.
    put(&store, format!("{ROOT}slot/disk/w-0/0"), stray(&JobId::new(9, 1, 1))).await;
    put(&store, format!("{ROOT}slot/disk/w-0/1"), stray(&held.id)).await;
    put(&store, format!("{ROOT}slot/disk/w-0/2"), b"\xff".to_vec()).await;
    let left = ["slot/disk/w-0/2".to_owned()].into_iter().chain(kept).collect();
    eventually(async || keys(&store, "slot/").await == left).await;
    // Whatever else the sweeps do, they leave a job its slots.
    shard.commit(Some(Arc::clone(&held)), ended(&held)).await.expect("it ends");
    assert_eq!(keys(&store, "slot/").await.len(), 1);
    desk.stop().await;
}

/// More slots than go into one transaction are given back all the same.
pub(crate) async fn many_slots_are_given_back(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 200)]).await;
    // It never sweeps: what a sweep would find stray is given back before that.
    let desk = Desk::swept(Arc::clone(&store), options("s-0"), Arc::new(Steps::new()));
    desk.owns(256).await;
    slots_known(&desk, "gpu", 200).await;
    let (shard, mut job) = desk.begin().await;
    for _ in 0..3 {
        // Whether the journal has heard of the ones before or not.
        let more = desk.journal.free_slots(&[("gpu".into(), 60)], job.holds(), 1).expect("there are free ones");
        let after = next(&job, |next| next.job.steps[0].items[0].holds.extend(more));
        shard.commit(Some(job), Arc::clone(&after)).await.expect("they are free");
        job = after;
    }
    assert_eq!(keys(&store, "slot/").await.len(), 180);
    shard.commit(Some(Arc::clone(&job)), ended(&job)).await.expect("it ends");
    eventually(async || keys(&store, "slot/").await.is_empty()).await;
    desk.stop().await;
}

/// What room is left belongs to jobs that end.
pub(crate) async fn a_full_store_takes_only_endings(store: Arc<dyn Store>) {
    let (size, told) = watch::channel(0);
    let desk = Desk::swept(Arc::clone(&store), Options { quota: 1000, ..options("s-0") }, Arc::new(Sized(told)));
    desk.owns(256).await;
    let (shard, job) = desk.begin().await;
    let begins = async || {
        let (shard, job) = desk.new_job();
        shard.commit(None, Arc::new(job)).await != Err(CommitError::Full)
    };
    let kept = Bytes::from_static(b"kept");
    desk.journal.put_definition(kept.clone()).await.expect("there is room");
    size.send_replace(750);
    eventually(async || !begins().await).await;
    for content in [kept, Bytes::from_static(b"another")] {
        assert!(matches!(desk.journal.put_definition(content).await, Err(Error::Full)));
    }
    assert_eq!(keys(&store, "def/").await.len(), 1);
    let on = next(&job, |_| {});
    shard.commit(Some(job), Arc::clone(&on)).await.expect("what has begun goes on");
    size.send_replace(900);
    let mut on = on;
    eventually(async || {
        let after = next(&on, |_| {});
        match shard.commit(Some(Arc::clone(&on)), Arc::clone(&after)).await {
            Ok(()) => on = after,
            Err(error) => {
                assert_eq!(error, CommitError::Full);
                return true;
            }
        }
        false
    })
    .await;
    let undoing = next(&on, |record| record.job.state = JobState::Compensating);
    shard.commit(Some(on), Arc::clone(&undoing)).await.expect("it is undone");
    shard.commit(Some(Arc::clone(&undoing)), ended(&undoing)).await.expect("it ends");
    size.send_replace(0);
    eventually(begins).await;
    desk.stop().await;
}

/// Jobs that are not journaled have keys and slots in it, too.
pub(crate) async fn a_full_store_takes_nothing_of_jobs_that_are_not_journaled(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 2)]).await;
    let (size, told) = watch::channel(0);
    let desk = Desk::swept(Arc::clone(&store), Options { quota: 1000, ..options("s-0") }, Arc::new(Sized(told)));
    desk.owns(256).await;
    slots_known(&desk, "gpu", 2).await;
    let begin = async |durability| {
        let (shard, mut job) = desk.new_job();
        job.durability = durability;
        let job = Arc::new(job);
        (shard.commit(None, Arc::clone(&job)).await.map(|()| shard), job)
    };
    let mut jobs = Vec::new();
    for durability in [Durability::None, Durability::Lease] {
        let (shard, job) = begin(durability).await;
        jobs.push((shard.expect("there is room"), job));
    }
    size.send_replace(900);
    for durability in [Durability::None, Durability::Lease] {
        eventually(async || begin(durability).await.0.err() == Some(CommitError::Full)).await;
    }
    for (shard, job) in jobs {
        let slots = desk.journal.free_slots(&[("gpu".into(), 1)], [], 1).expect("both are free");
        let held = shard.commit(Some(Arc::clone(&job)), holding(&job, slots)).await;
        assert_eq!(held, Err(CommitError::Full));
        shard.commit(Some(Arc::clone(&job)), next(&job, |_| {})).await.expect("it takes no room");
    }
    desk.stop().await;
}

pub(crate) async fn what_no_job_refers_to_is_removed(store: Arc<dyn Store>) {
    let eager = Options { collect: Duration::ZERO, keep_unused: Duration::ZERO, ..options("s-0") };
    let desk = Desk::start(Arc::clone(&store), Options { collect: Duration::from_secs(3600), ..options("s-0") });
    desk.owns(256).await;
    let used = desk.journal.put_definition(Bytes::from_static(b"used")).await.expect("it is kept");
    let unused = desk.journal.put_definition(Bytes::from_static(b"unused")).await.expect("it is kept");
    let (shard, mut job) = desk.new_job();
    job.definition = used;
    shard.commit(None, Arc::new(job)).await.expect("it is logged");
    desk.stop().await;
    let desk = Desk::start(Arc::clone(&store), eager);
    desk.owns(256).await;
    eventually(async || matches!(desk.journal.definition(&unused).await, Err(Error::Missing))).await;
    assert_eq!(desk.journal.definition(&used).await.expect("a job uses it"), "used");
    let long = desk.journal.store(Bytes::from(vec![b' '; 5000])).await.expect("it is kept");
    eventually(async || matches!(desk.journal.load(&long).await, Err(Error::Missing))).await;
    desk.stop().await;
}
