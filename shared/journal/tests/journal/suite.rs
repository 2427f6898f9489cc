//! What the log promises over any store.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message as _;
use weft_journal::{CommitError, Durability, Error, JobId, Record};
use weft_proto::weft::state::v1 as state;
use weft_saga::Payload;
use weft_store::Store;

use super::desk::{
    Desk, ROOT, ended, eventually, holding, keys, next, offer, options, put, record, reserve, slots_known,
};
use super::faulty::{Fate, Faulty};
use super::history;

pub(crate) async fn a_job_is_logged_from_its_beginning_to_its_end(store: Arc<dyn Store>) {
    let desk = Desk::alone(&store, "s-0").await;
    let (shard, first) = desk.begin().await;
    assert_eq!(keys(&store, "saga/").await.len(), 1);
    let second = next(&first, |record| record.job.decided = true);
    shard.commit(Some(Arc::clone(&first)), Arc::clone(&second)).await.expect("it moves on");
    // A transition that follows an older state would undo the one between.
    let astray = next(&first, |record| record.job.paused = true);
    assert_eq!(shard.commit(Some(first), astray).await, Err(CommitError::Stale));
    assert_eq!(desk.journal.ended(&second.id).await.expect("the store answers"), None);
    let last = ended(&second);
    shard.commit(Some(second), Arc::clone(&last)).await.expect("it ends");
    assert!(keys(&store, "saga/").await.is_empty());
    assert_eq!(desk.journal.ended(&last.id).await.expect("the store answers"), Some(Arc::clone(&last)));
    let again = next(&last, |_| {});
    assert_eq!(shard.commit(Some(Arc::clone(&last)), again).await, Err(CommitError::Stale));
    let other = desk.journal.list_ended(shard.number(), |record| record.id < last.id, 9).await;
    assert!(other.expect("the store answers").is_empty());
    assert_eq!(desk.journal.list_ended(shard.number(), |_| true, 9).await.expect("the store answers"), [last]);
    desk.stop().await;
    history::check(&store).await;
}

pub(crate) async fn a_key_stands_for_one_job(store: Arc<dyn Store>) {
    let desk = Desk::alone(&store, "s-0").await;
    let submit = async |hash: u8| {
        let (shard, mut record) = desk.new_job();
        (record.key, record.request_hash) = ("order-1".into(), [hash; 32]);
        let record = Arc::new(record);
        (shard.commit(None, Arc::clone(&record)).await, record)
    };
    // Ten at once, some of them in one batch, some in different shards: one of them is the job.
    let outcomes = join_all((0..10).map(|_| submit(1))).await;
    let made: Vec<&Arc<Record>> = outcomes.iter().filter(|(done, _)| done.is_ok()).map(|(_, record)| record).collect();
    assert_eq!(made.len(), 1, "{outcomes:?}");
    let id = made[0].id.clone();
    for (outcome, record) in &outcomes {
        let other = CommitError::KeyTaken { id: id.clone(), same: true };
        assert!(record.id == id || *outcome == Err(other), "{outcome:?}");
    }
    assert_eq!(submit(2).await.0, Err(CommitError::KeyTaken { id: id.clone(), same: false }));
    assert_eq!(desk.journal.by_key("default", "order-1").await.expect("the store answers"), Some((id, [1; 32])));
    assert_eq!(desk.journal.by_key("other", "order-1").await.expect("the store answers"), None);
    assert_eq!(keys(&store, "saga/").await.len(), 1);
    desk.stop().await;
    history::check(&store).await;
}

/// Two schedulers, many jobs, few slots: each is taken and given back again and again.
pub(crate) async fn slots_are_never_given_twice(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 2)]).await;
    offer(&store, "w-1", &[("gpu", 1)]).await;
    let desks = [Desk::start(Arc::clone(&store), options("s-0")), Desk::start(Arc::clone(&store), options("s-1"))];
    let shared = async |desk: &Desk| {
        desk.until(|held| !held.shards.is_empty()).await;
        slots_known(desk, "gpu", 1).await;
    };
    join_all(desks.iter().map(shared)).await;
    let jobs = (0..24).map(|number| {
        let desk = &desks[number % 2];
        async move {
            let wanted = [("gpu".to_owned(), 1 + u32::from(number % 3 == 0))];
            let (shard, mut job) = begin(desk).await;
            loop {
                if let Some(held) = reserve(desk, &shard, &job, &wanted).await {
                    let done = ended(&held);
                    shard.commit(Some(held), done).await.expect("it ends");
                    return;
                }
                tokio::task::yield_now().await;
                let same = next(&job, |_| {});
                shard.commit(Some(job), Arc::clone(&same)).await.expect("it moves on");
                job = same;
            }
        }
    });
    join_all(jobs).await;
    assert!(keys(&store, "slot/").await.is_empty());
    for desk in desks {
        desk.stop().await;
    }
    assert!(history::check(&store).await > 24);
}

/// As [`Desk::begin`], also while shards move.
async fn begin(desk: &Desk) -> (weft_journal::Shard, Arc<Record>) {
    loop {
        if let Some(shard) = desk.journal.shard_for_new() {
            let record = Arc::new(record(desk.journal.new_id(&shard)));
            if shard.commit(None, Arc::clone(&record)).await.is_ok() {
                return (shard, record);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// One slot of several is another job's: none is taken.
pub(crate) async fn a_reservation_takes_all_or_nothing(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 4), ("disk", 4)]).await;
    let desk = Desk::alone(&store, "s-0").await;
    slots_known(&desk, "disk", 4).await;
    let (shard, first) = desk.begin().await;
    let (other, second) = desk.begin().await;
    let wanted = [("gpu".to_owned(), 4), ("disk".to_owned(), 1)];
    let proposed = desk.journal.free_slots(&wanted, [], 1).expect("all are free");
    let stolen = proposed.iter().find(|hold| hold.pool == "disk").expect("one was asked for").clone();
    let first_held = holding(&first, vec![stolen]);
    shard.commit(Some(first), Arc::clone(&first_held)).await.expect("it is free");
    let second_held = holding(&second, proposed);
    let unrelated = desk.begin();
    let (taken, _) = tokio::join!(other.commit(Some(Arc::clone(&second)), second_held), unrelated);
    assert_eq!(taken, Err(CommitError::SlotsTaken));
    assert_eq!(keys(&store, "slot/").await.len(), 1);
    let missing = [("gpu".to_owned(), 5)];
    assert!(desk.journal.free_slots(&missing, [], 1).is_err());
    // The job goes on as if nothing had been asked.
    let on = next(&second, |_| {});
    other.commit(Some(second), on).await.expect("it moves on");
    desk.stop().await;
    history::check(&store).await;
}

pub(crate) async fn a_scheduler_that_stops_hands_over_at_once(store: Arc<dyn Store>) {
    // With a lease of an hour only a proper end frees the shards.
    let ttl = std::time::Duration::from_secs(3600);
    let start = |id: &str| Desk::start(Arc::clone(&store), weft_journal::Options { lease_ttl: ttl, ..options(id) });
    let first = start("s-0");
    first.owns(256).await;
    let jobs: Vec<Arc<Record>> =
        join_all((0..20).map(|_| first.begin())).await.into_iter().map(|(_, job)| job).collect();
    let second = start("s-1");
    let ((), held) = tokio::join!(first.stop(), second.until(|held| held.shards.len() == 256));
    for job in jobs {
        assert_eq!(held.found.get(&job.id), Some(&job));
    }
    second.stop().await;
    history::check(&store).await;
}

/// Its connection is cut and stays so. What it had logged is found by who comes after it; what it writes later is not.
pub(crate) async fn a_scheduler_that_vanishes_is_replaced(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let first = Desk::start(Arc::clone(&line) as Arc<dyn Store>, options("s-0"));
    first.owns(256).await;
    let (shard, job) = first.begin().await;
    assert!(shard.holds(weft_types::SystemClock::now()));
    line.cut();
    let second = Desk::alone(&store, "s-1").await;
    assert!(!shard.holds(weft_types::SystemClock::now()), "two schedulers begin steps of one job");
    assert_eq!(second.held.borrow().found.get(&job.id), Some(&job));
    let taken = second.shard(job.id.shard());
    assert!(taken.epoch() > shard.epoch());
    let owner = second.journal.owner(job.id.shard()).expect("it is owned");
    assert_eq!((owner.id.as_str(), owner.epoch), ("s-1", taken.epoch()));
    let on = next(&job, |_| {});
    taken.commit(Some(Arc::clone(&job)), Arc::clone(&on)).await.expect("it moves on");
    // The first one is back and thinks that it may go on.
    line.decide(|_| Fate::Normal);
    line.mend();
    let astray = next(&job, |record| record.job.paused = true);
    assert_eq!(shard.commit(Some(job), astray).await, Err(CommitError::Fenced));
    first.until(|held| held.lost.len() >= 256).await;
    // It joins again and gets its part, and nothing is given up but for that: not what it lost before, which was another's already.
    let (mut one, mut other) = (first.held.clone(), second.held.clone());
    eventually(async || {
        let (back, held) = (one.borrow_and_update().clone(), other.borrow_and_update().clone());
        let (mine, theirs) = (back.shards.len(), held.shards.len());
        mine + theirs == 256 && mine > 64 && theirs > 64 && held.lost.len() <= back.lost.len() + mine - 256
    })
    .await;
    first.stop().await;
    second.stop().await;
    history::check(&store).await;
}

pub(crate) async fn a_scheduler_that_comes_takes_its_part(store: Arc<dyn Store>) {
    let first = Desk::alone(&store, "s-0").await;
    let jobs: Vec<Arc<Record>> =
        join_all((0..20).map(|_| first.begin())).await.into_iter().map(|(_, job)| job).collect();
    let second = Desk::start(Arc::clone(&store), options("s-1"));
    let (mut one, mut other) = (first.held.clone(), second.held.clone());
    eventually(async || {
        let (one, other) = (one.borrow_and_update().clone(), other.borrow_and_update().clone());
        let (mine, theirs) = (one.shards.len(), other.shards.len());
        mine + theirs == 256 && mine > 64 && theirs > 64
    })
    .await;
    for job in jobs {
        let found = second.held.borrow().found.get(&job.id).cloned();
        let stays = first.held.borrow().shards.contains_key(&job.id.shard());
        assert!(stays != (found == Some(job)), "each job is with one of them");
    }
    first.stop().await;
    second.owns(256).await;
    second.stop().await;
    history::check(&store).await;
}

/// Jobs that are only in their scheduler's memory would end with a move, so their shards stay until they have ended.
pub(crate) async fn a_shard_waits_for_jobs_that_would_not_survive(store: Arc<dyn Store>) {
    let first = Desk::alone(&store, "s-0").await;
    let mut jobs = Vec::new();
    for number in 0..128 {
        let mut job = record(JobId::new(number, 1, 1));
        job.durability = Durability::None;
        let job = Arc::new(job);
        first.shard(number).commit(None, Arc::clone(&job)).await.expect("nothing is written");
        jobs.push(job);
    }
    let second = Desk::start(Arc::clone(&store), options("s-1"));
    // The others move, until nothing is left that could. New jobs begin where the shard stays.
    let count = |of: &Desk, low: bool| of.held.borrow().shards.keys().filter(|shard| (**shard < 128) == low).count();
    eventually(async || count(&second, false) > 32 && count(&first, false) + count(&second, false) == 128).await;
    assert_eq!((count(&first, true), count(&second, true)), (128, 0));
    let begun: Vec<u8> = (0..100).map(|_| first.journal.shard_for_new().expect("there are shards").number()).collect();
    for job in jobs {
        first.shard(job.id.shard()).commit(Some(Arc::clone(&job)), ended(&job)).await.expect("nothing is written");
    }
    eventually(async || count(&second, true) > 32 && count(&first, true) + count(&second, true) == 128).await;
    assert!(begun.iter().all(|shard| first.held.borrow().shards.contains_key(shard)), "{begun:?}");
    first.stop().await;
    second.stop().await;
}

pub(crate) async fn a_record_that_cannot_be_read_stops_nobody(store: Arc<dyn Store>) {
    let desk = Desk::alone(&store, "s-0").await;
    let (_, job) = desk.begin().await;
    desk.stop().await;
    let shard = job.id.shard();
    let bad = JobId::new(shard, 5, 5);
    let elsewhere = JobId::new(shard.wrapping_add(1), 5, 5);
    let newer = JobId::new(shard, 6, 6);
    let key = |id: &JobId| format!("{ROOT}saga/{shard:02x}/{id}");
    put(&store, key(&bad), b"\xff\xff\xff".to_vec()).await;
    put(&store, key(&elsewhere), record(elsewhere.clone()).encode()).await;
    put(&store, key(&newer), [record(newer.clone()).encode(), vec![8, 99]].concat()).await;
    put(&store, format!("{ROOT}saga/{shard:02x}/not-an-id"), record(bad.clone()).encode()).await;
    let desk = Desk::alone(&store, "s-0").await;
    let found = desk.held.borrow().found.clone();
    assert_eq!(found.keys().collect::<Vec<_>>(), [&job.id]);
    assert_eq!(desk.journal.quarantined().len(), 4, "{:?}", desk.journal.quarantined());
    let on = next(&job, |_| {});
    desk.shard(shard).commit(Some(job), on).await.expect("it moves on");
    // What cannot be read is left as it is: a newer build may understand it.
    assert!(keys(&store, "saga/").await.contains(&key(&newer)[ROOT.len()..]));
    desk.stop().await;
}

pub(crate) async fn a_worker_that_drains_gives_no_slots(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 2)]).await;
    let desk = Desk::alone(&store, "s-0").await;
    slots_known(&desk, "gpu", 2).await;
    let slots = [("gpu".to_owned(), 2)].into();
    let leaving = state::Worker { id: "w-0".into(), slots, draining: true, ..state::Worker::default() };
    put(&store, format!("{ROOT}workers/w-0"), leaving.encode_to_vec()).await;
    let wanted = [("gpu".to_owned(), 1)];
    eventually(async || desk.journal.free_slots(&wanted, [], 1).is_err_and(|missing| missing.offered == 0)).await;
    desk.stop().await;
}

pub(crate) async fn what_is_not_journaled_ends_with_its_scheduler(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 2)]).await;
    let desk = Desk::alone(&store, "s-0").await;
    slots_known(&desk, "gpu", 2).await;
    let (shard, mut job) = desk.new_job();
    (job.durability, job.key) = (Durability::Lease, "call-1".into());
    let job = Arc::new(job);
    shard.commit(None, Arc::clone(&job)).await.expect("its key is free");
    let held = reserve(&desk, &shard, &job, &[("gpu".into(), 2)]).await.expect("both are free");
    assert!(keys(&store, "saga/").await.is_empty());
    assert_eq!(keys(&store, "slot/").await.len(), 2);
    // One that has ended is remembered by its scheduler alone.
    let (other, mut brief) = desk.new_job();
    brief.durability = Durability::None;
    let brief = Arc::new(brief);
    other.commit(None, Arc::clone(&brief)).await.expect("nothing is written");
    let done = ended(&brief);
    other.commit(Some(brief), Arc::clone(&done)).await.expect("nothing is written");
    assert_eq!(desk.journal.ended(&done.id).await.expect("the store answers"), Some(done));
    assert!(keys(&store, "done/").await.is_empty());
    let _ = held;
    desk.stop().await;
    assert!(keys(&store, "slot/").await.is_empty() && keys(&store, "idem/").await.is_empty());
}

pub(crate) async fn definitions_and_long_values_read_back(store: Arc<dyn Store>) {
    let desk = Desk::alone(&store, "s-0").await;
    let content = Bytes::from_static(b"a definition");
    let hash = desk.journal.put_definition(content.clone()).await.expect("it is kept");
    assert_eq!(desk.journal.put_definition(content.clone()).await.expect("it is there"), hash);
    assert_eq!(desk.journal.definition(&hash).await.expect("it is there"), content);
    assert!(matches!(desk.journal.definition(&[0; 32]).await, Err(Error::Missing)));
    // Beyond what fits one record, short values are kept apart, but not those that are no longer than a reference.
    for (len, inline, is_apart) in
        [(1000, 0, false), (1000, 31 * 1024, false), (1000, 32 * 1024, true), (64, 32 * 1024, false)]
    {
        let value = desk.journal.store_within(Bytes::from(vec![b' '; len]), inline).await.expect("it is kept");
        assert_eq!(matches!(value, Payload::Stored { .. }), is_apart, "{len} beside {inline}");
    }
    let long = Bytes::from(vec![0; 257 * 1024]);
    assert!(matches!(desk.journal.put_definition(long.clone()).await, Err(Error::TooLarge { .. })));
    for (text, is_inline) in [(long, false), (Bytes::from_static(b"1"), true), (Bytes::from(vec![b' '; 4096]), true)] {
        let payload = desk.journal.store(text.clone()).await.expect("it is kept");
        assert_eq!(matches!(payload, Payload::Inline(_)), is_inline);
        assert_eq!(desk.journal.load(&payload).await.expect("it is there"), text);
    }
    let crowded = desk.journal.store_within(Bytes::from(vec![b' '; 4096]), 32 * 1024).await.expect("it is kept");
    assert!(matches!(crowded, Payload::Stored { .. }));
    desk.stop().await;
}
