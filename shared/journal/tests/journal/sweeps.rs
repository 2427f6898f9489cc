//! What one sweep does, and what it leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message as _;
use weft_journal::{Error, JobId, Options, Record};
use weft_proto::weft::state::v1 as state;
use weft_store::{Op, Store, Txn};

use super::desk::{Desk, ROOT, Steps, ended, eventually, keys, now, offer, options, put, record, slots_known};
use super::faulty::{Fate, Faulty};
use super::history;

/// A desk with every shard that sweeps when it is told to.
async fn stepwise(store: &Arc<dyn Store>, more: impl FnOnce(Options) -> Options) -> (Desk, Steps) {
    let steps = Steps::new();
    let often = Options { sweep: Duration::from_millis(1), ..options("s-0") };
    let desk = Desk::swept(Arc::clone(store), more(often), Arc::new(steps.clone()));
    desk.owns(256).await;
    (desk, steps)
}

/// Jobs of one shard, and their ends.
async fn some_ended(desk: &Desk, shard: u8, count: u32) -> Vec<Arc<Record>> {
    let one = |number: u32| async move {
        let mut job = record(JobId::new(shard, now(), number.into()));
        job.key = format!("order-{shard}-{number}");
        let job = Arc::new(job);
        desk.shard(shard).commit(None, Arc::clone(&job)).await.expect("it is logged");
        let last = ended(&job);
        desk.shard(shard).commit(Some(job), Arc::clone(&last)).await.expect("it ends");
        last
    };
    join_all((0..count).map(one)).await
}

/// The clock has moved on since something ended.
async fn later() {
    let at = now();
    eventually(async || now() > at).await;
}

/// More than a shard is asked for at a time.
pub(crate) async fn much_is_forgotten_after_one_sweep(store: Arc<dyn Store>) {
    let (desk, steps) = stepwise(&store, |often| Options { retain: Duration::ZERO, ..often }).await;
    some_ended(&desk, 7, 300).await;
    later().await;
    assert_eq!(keys(&store, "done/").await.len(), 300);
    steps.sweep().await;
    eventually(async || keys(&store, "done/").await.is_empty()).await;
    assert!(keys(&store, "idem/").await.is_empty());
    desk.stop().await;
    history::check(&store).await;
}

/// What cannot be written now is written after a later sweep, and nothing else waits for it.
pub(crate) async fn what_could_not_be_forgotten_is_forgotten_later(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let behind = Arc::clone(&line) as Arc<dyn Store>;
    let (desk, steps) = stepwise(&behind, |often| Options { retain: Duration::ZERO, ..often }).await;
    for shard in [7, 8] {
        some_ended(&desk, shard, 3).await;
    }
    later().await;
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    line.decide(move |txn| {
        let is_refused = txn.ops.iter().any(|op| op.key().contains("/done/07/"));
        counted.fetch_add(usize::from(is_refused), Ordering::SeqCst);
        if is_refused { Fate::Refused } else { Fate::Normal }
    });
    steps.sweep().await;
    eventually(async || refused.load(Ordering::SeqCst) > 0 && keys(&store, "done/").await.len() == 3).await;
    line.decide(|_| Fate::Normal);
    eventually(async || {
        steps.sweep().await;
        keys(&store, "done/").await.is_empty()
    })
    .await;
    desk.stop().await;
}

/// Only that waits for a store, or a place of values, that does not answer; and it is not begun a second time meanwhile.
pub(crate) async fn a_look_for_what_is_not_needed_holds_nothing_up(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let behind = Arc::clone(&line) as Arc<dyn Store>;
    let eager = |often| Options { retain: Duration::ZERO, collect: Duration::ZERO, ..often };
    line.hold(Some("/def/"));
    let (desk, steps) = stepwise(&behind, eager).await;
    let listed = || line.listed(&format!("{ROOT}def/"));
    eventually(async || {
        steps.sweep().await;
        listed() == 1
    })
    .await;
    some_ended(&desk, 7, 3).await;
    later().await;
    for _ in 0..3 {
        steps.sweep().await;
    }
    eventually(async || keys(&store, "done/").await.is_empty()).await;
    assert_eq!(listed(), 1, "two at a time");
    line.hold(None);
    eventually(async || {
        steps.sweep().await;
        listed() > 2
    })
    .await;
    desk.stop().await;
}

/// Each reads the whole log.
pub(crate) async fn a_look_that_failed_is_not_repeated_at_once(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let behind = Arc::clone(&line) as Arc<dyn Store>;
    line.fail(Some("/def/"));
    let (desk, steps) = stepwise(&behind, |often| often).await;
    let listed = || line.listed(&format!("{ROOT}def/"));
    eventually(async || {
        steps.sweep().await;
        listed() > 0
    })
    .await;
    for _ in 0..10 {
        steps.sweep().await;
    }
    assert_eq!(listed(), 1);
    desk.stop().await;
}

pub(crate) async fn ended_jobs_are_known_for_their_time(store: Arc<dyn Store>) {
    let (desk, steps) = stepwise(&store, |often| often).await;
    let jobs = some_ended(&desk, 7, 3).await;
    later().await;
    for _ in 0..3 {
        steps.sweep().await;
    }
    desk.settled(7).await;
    assert_eq!((keys(&store, "done/").await.len(), keys(&store, "idem/").await.len()), (3, 3));
    for job in jobs {
        let known = desk.journal.by_key(&job.tenant, &job.key).await.expect("the store answers");
        assert_eq!(known, Some((job.id.clone(), job.request_hash)));
    }
    desk.stop().await;
}

pub(crate) async fn ended_jobs_are_bounded_in_bytes_and_over_all_schedulers(store: Arc<dyn Store>) {
    let (desk, steps) = stepwise(&store, |often| often).await;
    for shard in 0..128 {
        some_ended(&desk, shard, 1).await;
    }
    steps.sweep().await;
    desk.stop().await;
    assert_eq!(keys(&store, "done/").await.len(), 128);
    // A record's text, and what else is remembered of it.
    let bytes = 60 * (record(JobId::new(0, 1, 1)).inline_bytes() + 256);
    let (desk, steps) = stepwise(&store, |often| Options { retain_bytes: bytes, ..often }).await;
    eventually(async || {
        steps.sweep().await;
        keys(&store, "done/").await.len() <= 60
    })
    .await;
    desk.stop().await;
    // A record's whole text counts, which is more than its values.
    assert!(keys(&store, "done/").await.len() > 20);
    let start = |id| Desk::start(Arc::clone(&store), Options { retain_records: 20, ..options(id) });
    let desks = [start("s-0"), start("s-1")];
    eventually(async || keys(&store, "done/").await.len() <= 20).await;
    for desk in desks {
        desk.stop().await;
    }
}

fn slot_of(job: &JobId) -> Vec<u8> {
    state::JobSlot { job: job.to_string(), confirmed: false }.encode_to_vec()
}

const SLOT: &str = "slot/disk/w-0/0";

/// What is seen may be older than the record: one look is not enough.
pub(crate) async fn a_slot_is_freed_when_it_was_stray_twice(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("disk", 2)]).await;
    let (desk, steps) = stepwise(&store, |often| often).await;
    slots_known(&desk, "disk", 2).await;
    put(&store, format!("{ROOT}{SLOT}"), slot_of(&JobId::new(9, 1, 1))).await;
    eventually(async || desk.journal.free_slots(&[("disk".into(), 2)], [], 1).is_err()).await;
    steps.sweep().await;
    desk.settled(9).await;
    assert!(keys(&store, "slot/").await.contains(SLOT), "one look was enough");
    steps.sweep().await;
    eventually(async || keys(&store, "slot/").await.is_empty()).await;
    desk.stop().await;
    history::check(&store).await;
}

/// It is freed by its owner and taken by another job before the write arrives.
pub(crate) async fn a_slot_that_was_taken_anew_is_not_freed(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("disk", 2)]).await;
    let line = Faulty::new(Arc::clone(&store));
    let behind = Arc::clone(&line) as Arc<dyn Store>;
    let (desk, steps) = stepwise(&behind, |often| often).await;
    slots_known(&desk, "disk", 2).await;
    let key = format!("{ROOT}{SLOT}");
    put(&store, key.clone(), slot_of(&JobId::new(9, 1, 1))).await;
    eventually(async || desk.journal.free_slots(&[("disk".into(), 2)], [], 1).is_err()).await;
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tried);
    line.decide(move |txn| match txn.ops.iter().any(|op| op.key().contains("/slot/")) {
        true => {
            counted.fetch_add(1, Ordering::SeqCst);
            Fate::Gone
        }
        false => Fate::Normal,
    });
    steps.sweep().await;
    steps.sweep().await;
    eventually(async || tried.load(Ordering::SeqCst) > 0).await;
    store.commit(Txn { compares: vec![], ops: vec![Op::Delete(key.clone())] }).await.expect("the store takes it");
    put(&store, key, slot_of(&JobId::new(10, 1, 1))).await;
    line.decide(|_| Fate::Normal);
    desk.settled(9).await;
    assert!(keys(&store, "slot/").await.contains(SLOT), "another job's slot was freed");
    desk.stop().await;
}

/// A newer build may go on with the job, and with its slots.
pub(crate) async fn what_a_record_that_cannot_be_read_holds_stays(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("disk", 2)]).await;
    let bad = JobId::new(9, 5, 5);
    put(&store, format!("{ROOT}saga/09/{bad}"), b"\xff\xff\xff".to_vec()).await;
    put(&store, format!("{ROOT}{SLOT}"), slot_of(&bad)).await;
    let (desk, steps) = stepwise(&store, |often| often).await;
    slots_known(&desk, "disk", 1).await;
    eventually(async || desk.journal.free_slots(&[("disk".into(), 2)], [], 1).is_err()).await;
    for _ in 0..3 {
        steps.sweep().await;
        desk.settled(9).await;
    }
    assert!(keys(&store, "slot/").await.contains(SLOT));
    desk.stop().await;
}

/// Lets sweeps happen until all was looked for once more that no job refers to, from beginning to end.
async fn looked(line: &Faulty, steps: &Steps) {
    let begun = || line.listed(&format!("{ROOT}saga/"));
    let before = begun();
    eventually(async || {
        steps.sweep().await;
        // Only one happens at a time: when the second one begins, the first has ended.
        begun() >= before + 2
    })
    .await;
}

/// Of what ended jobs refer to, of what was kept a moment ago, and of everything while a record cannot be read.
pub(crate) async fn what_may_be_needed_is_kept(store: Arc<dyn Store>) {
    let eager = |often| Options { collect: Duration::ZERO, keep_unused: Duration::ZERO, ..often };
    let line = Faulty::new(Arc::clone(&store));
    let behind = Arc::clone(&line) as Arc<dyn Store>;
    let (desk, steps) = stepwise(&behind, |often| Options { collect: Duration::ZERO, ..often }).await;
    let used = desk.journal.put_definition(Bytes::from_static(b"used")).await.expect("it is kept");
    let unused = desk.journal.put_definition(Bytes::from_static(b"unused")).await.expect("it is kept");
    let mut job = record(JobId::new(7, now(), 1));
    job.definition = used;
    let job = Arc::new(job);
    desk.shard(7).commit(None, Arc::clone(&job)).await.expect("it is logged");
    desk.shard(7).commit(Some(Arc::clone(&job)), ended(&job)).await.expect("it ends");
    let is_there = async |desk: &Desk, hash: &[u8; 32]| match desk.journal.definition(hash).await {
        Ok(_) => true,
        Err(Error::Missing) => false,
        Err(error) => panic!("{error}"),
    };
    later().await;
    looked(&line, &steps).await;
    assert!(is_there(&desk, &unused).await, "it was kept a moment ago");
    desk.stop().await;
    let bad = format!("{ROOT}saga/09/{}", JobId::new(9, 5, 5));
    put(&store, bad.clone(), b"\xff\xff\xff".to_vec()).await;
    let (desk, steps) = stepwise(&behind, eager).await;
    looked(&line, &steps).await;
    assert!(is_there(&desk, &unused).await, "a record that cannot be read may refer to it");
    store.commit(Txn { compares: vec![], ops: vec![Op::Delete(bad)] }).await.expect("the store takes it");
    looked(&line, &steps).await;
    assert!(!is_there(&desk, &unused).await && is_there(&desk, &used).await);
    desk.stop().await;
}
