//! Answers that do not come, transactions that come late or twice, owners that do not know that they are none any more.

use std::sync::Arc;

use futures_util::future::join_all;
use prost::Message as _;
use weft_journal::{CommitError, JobId, Record, Shard};
use weft_proto::weft::state::v1 as state;
use weft_store::{Op, Range, Store, Txn};

use super::desk::{Desk, ROOT, ended, eventually, holding, keys, next, offer, options, record, reserve, slots_known};
use super::faulty::{Fate, Faulty};
use super::history;

/// A desk that has every shard, over a line that works so far.
async fn behind(line: &Arc<Faulty>, id: &str) -> Desk {
    let desk = Desk::start(Arc::clone(line) as Arc<dyn Store>, options(id));
    desk.owns(256).await;
    desk
}

/// The record of a job in the store.
async fn stored(store: &Arc<dyn Store>, job: &Record) -> Record {
    let key = format!("{ROOT}saga/{:02x}/{}", job.id.shard(), job.id);
    let listing = store.read(Range::Key(key)).await.expect("the store answers");
    Record::decode(&listing.entries.first().expect("it is there").value).expect("it is readable")
}

/// Moves a job on so many times and ends it.
async fn live(shard: &Shard, mut job: Arc<Record>, moves: usize) {
    for _ in 0..moves {
        let after = next(&job, |_| {});
        shard.commit(Some(job), Arc::clone(&after)).await.expect("it moves on");
        job = after;
    }
    shard.commit(Some(Arc::clone(&job)), ended(&job)).await.expect("it ends");
}

/// Everything that can happen to a transaction happens, by chance; each is carried out once, and its caller hears of it.
pub(crate) async fn every_transition_happens_once(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let desk = behind(&line, "s-0").await;
    let fates = [Fate::Normal, Fate::Normal, Fate::Unanswered, Fate::Late, Fate::Twice, Fate::Gone];
    line.decide(move |_| fates[usize::from(rand::random::<u8>()) % fates.len()]);
    let jobs = (0..30).map(|_| async {
        let (shard, job) = desk.begin().await;
        live(&shard, job, 5).await;
    });
    let delivering = async {
        loop {
            line.deliver().await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = join_all(jobs) => {}
        () = delivering => {}
    }
    assert_eq!(line.deliver().await, 0, "a copy came after the sequence had moved on, and was carried out");
    assert_eq!(keys(&store, "done/").await.len(), 30);
    assert!(keys(&store, "saga/").await.is_empty());
    line.decide(|_| Fate::Normal);
    desk.stop().await;
    history::check(&store).await;
}

/// A copy of the first write is on its way while the job moves on: it must not put the job back.
pub(crate) async fn a_late_copy_changes_nothing(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let desk = behind(&line, "s-0").await;
    let (shard, first) = desk.begin().await;
    for fate in [Fate::Late, Fate::Twice] {
        let mut is_first = true;
        line.decide(move |_| if std::mem::take(&mut is_first) { fate } else { Fate::Normal });
        let before = Arc::new(stored(&store, &first).await);
        let second = next(&before, |record| record.job.paused = true);
        shard.commit(Some(before), Arc::clone(&second)).await.expect("the second copy arrives");
        let third = next(&second, |_| {});
        shard.commit(Some(second), Arc::clone(&third)).await.expect("it moves on");
        assert_eq!(line.deliver().await, 0, "{fate:?}");
        assert_eq!(stored(&store, &first).await, *third);
    }
    desk.stop().await;
    history::check(&store).await;
}

/// Its last write arrives when another scheduler owns the shard and has not written anything yet: only the fence is in its way.
pub(crate) async fn a_write_of_a_former_owner_is_void(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let first = behind(&line, "s-0").await;
    let (shard, job) = first.begin().await;
    line.decide(|_| Fate::Late);
    let astray = next(&job, |record| record.job.paused = true);
    let writing = shard.commit(Some(Arc::clone(&job)), astray);
    let replaced = async {
        eventually(async || !line.late().is_empty()).await;
        line.cut();
        let second = Desk::alone(&store, "s-1").await;
        assert_eq!(second.held.borrow().found.get(&job.id), Some(&job));
        assert_eq!(line.deliver().await, 0, "a former owner has written");
        assert_eq!(stored(&store, &job).await, *job);
        line.mend();
        second
    };
    let (outcome, second) = tokio::join!(writing, replaced);
    assert_eq!(outcome, Err(CommitError::Fenced));
    line.decide(|_| Fate::Normal);
    first.stop().await;
    second.stop().await;
    history::check(&store).await;
}

/// The slot is another job's when a transition's first copy is refused, and free again when that copy would arrive once more. Its caller
/// has been told that it lost, so it must have lost.
pub(crate) async fn who_was_told_that_it_lost_has_lost(store: Arc<dyn Store>) {
    offer(&store, "w-0", &[("gpu", 1)]).await;
    let line = Faulty::new(Arc::clone(&store));
    let desk = behind(&line, "s-0").await;
    slots_known(&desk, "gpu", 1).await;
    let wanted = [("gpu".to_owned(), 1)];
    let (other, owner) = desk.begin().await;
    let proposed = desk.journal.free_slots(&wanted, [], 1).expect("it is free");
    let owning = reserve(&desk, &other, &owner, &wanted).await.expect("it is free");
    let (shard, job) = desk.begin().await;
    let mut sent = 0;
    // The first copy is kept back, the second is refused because of the slot.
    line.decide(move |_| {
        sent += 1;
        if sent == 1 { Fate::Late } else { Fate::Normal }
    });
    let held = holding(&job, proposed);
    assert_eq!(shard.commit(Some(Arc::clone(&job)), held).await, Err(CommitError::SlotsTaken));
    other.commit(Some(Arc::clone(&owning)), ended(&owning)).await.expect("it ends");
    assert_eq!(line.deliver().await, 0, "the slot was taken for a job that does not know");
    assert!(keys(&store, "slot/").await.is_empty());
    desk.stop().await;
    history::check(&store).await;
}

/// While the store is away nothing is lost and nothing is promised; after that everything goes on.
pub(crate) async fn a_commit_waits_for_the_store(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    // Longer than the outage, so that the shards stay.
    let patient = weft_journal::Options { lease_ttl: std::time::Duration::from_secs(60), ..options("s-0") };
    let desk = Desk::start(Arc::clone(&line) as Arc<dyn Store>, patient);
    desk.owns(256).await;
    let (shard, job) = desk.begin().await;
    line.cut();
    let after = next(&job, |_| {});
    let mut waiting = Box::pin(shard.commit(Some(job), Arc::clone(&after)));
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut waiting).is_pending(), "nothing can have been logged");
        tokio::task::yield_now().await;
    }
    line.mend();
    waiting.await.expect("the store is back");
    assert_eq!(stored(&store, &after).await, *after);
    assert_eq!(desk.held.borrow().lost.len(), 0);
    desk.stop().await;
}

/// Of transitions that go together, the one that the store will never take fails alone.
pub(crate) async fn what_the_store_refuses_takes_nothing_along(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let desk = behind(&line, "s-0").await;
    let jobs: Vec<Arc<Record>> = (0..10).map(|number| Arc::new(record(JobId::new(7, 1, number)))).collect();
    let bad = jobs[5].id.clone();
    let key = bad.to_string();
    line.decide(move |txn| match txn.ops.iter().any(|op| op.key().ends_with(&key)) {
        true => Fate::Refused,
        false => Fate::Normal,
    });
    let shard = desk.shard(7);
    let outcomes = join_all(jobs.iter().map(|job| shard.commit(None, Arc::clone(job)))).await;
    for (job, outcome) in jobs.iter().zip(outcomes) {
        assert_eq!(matches!(outcome, Err(CommitError::Refused(_))), job.id == bad, "{outcome:?}");
    }
    assert_eq!(keys(&store, "saga/").await.len(), 9);
    line.decide(|_| Fate::Normal);
    shard.commit(None, Arc::clone(&jobs[5])).await.expect("the store takes it now");
    desk.stop().await;
    history::check(&store).await;
}

/// Nobody else can win a shard while its last owner's key stands.
pub(crate) async fn a_shard_is_given_up_however_often_that_fails(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    let first = behind(&line, "s-0").await;
    line.decide(|txn| match txn.ops.iter().any(|op| matches!(op, Op::Delete(key) if key.contains("/own/"))) {
        true => Fate::Gone,
        false => Fate::Normal,
    });
    let second = Desk::start(Arc::clone(&store), options("s-1"));
    first.until(|held| held.lost.len() >= 32).await;
    line.decide(|_| Fate::Normal);
    let count = |of: &Desk| of.held.borrow().shards.len();
    eventually(async || count(&second) > 64 && count(&first) + count(&second) == 256).await;
    first.stop().await;
    second.stop().await;
    history::check(&store).await;
}

/// Its wish to own every shard arrives when another one owns some of them.
pub(crate) async fn a_shard_that_has_an_owner_is_not_won(store: Arc<dyn Store>) {
    let line = Faulty::new(Arc::clone(&store));
    line.decide(|_| Fate::Late);
    let first = Desk::start(Arc::clone(&line) as Arc<dyn Store>, options("s-0"));
    eventually(async || line.late().len() >= 4).await;
    let second = Desk::start(Arc::clone(&store), options("s-1"));
    second.until(|held| held.shards.len() > 64).await;
    line.deliver().await;
    let held = second.held.borrow().clone();
    for (number, shard) in &held.shards {
        let listing = store.read(Range::Key(format!("{ROOT}own/{number:02x}"))).await.expect("the store answers");
        let owner = state::JobOwner::decode(listing.entries[0].value.clone()).expect("it is readable");
        assert_eq!((owner.id.as_str(), listing.entries[0].create_revision), ("s-1", shard.epoch()));
    }
    line.decide(|_| Fate::Normal);
    first.stop().await;
    second.stop().await;
}

/// However it went, the shard is not this scheduler's any more, until it has won it anew.
pub(crate) async fn a_shard_whose_key_has_gone_is_lost(store: Arc<dyn Store>) {
    let desk = Desk::alone(&store, "s-0").await;
    let before = desk.shard(7);
    store.commit(Txn { compares: vec![], ops: vec![Op::Delete(format!("{ROOT}own/07"))] }).await.expect("it is taken");
    let lost = |held: &super::desk::Held| held.lost == [7u8] && held.shards.contains_key(&7);
    let held = desk.until(lost).await;
    assert!(held.shards[&7].epoch() > before.epoch());
    desk.settled(7).await;
    desk.stop().await;
    history::check(&store).await;
}
