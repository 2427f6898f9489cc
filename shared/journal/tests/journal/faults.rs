//! Answers that do not come, transactions that come late or twice, owners that do not know that they are none any more.

use std::sync::Arc;

use futures_util::future::join_all;
use weft_journal::{CommitError, Record, Shard};
use weft_store::{Range, Store};

use super::desk::{Desk, ROOT, ended, holding, keys, next, offer, options, reserve, slots_known};
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
        super::desk::eventually(async || !line.late().is_empty()).await;
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
