//! A store whose answers are lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use weft_store::{LeaseId, Listing, Revision, Watch};

use super::*;

type Answer<T> = std::result::Result<T, weft_store::Error>;

/// The embedded store; of the commits from `from` on every one is carried out, or not, and its answer is lost.
struct Forgetful {
    inner: MemoryStore,
    commits: AtomicUsize,
    from: usize,
    carries_out: bool,
    /// Another process over the same rows, which begins the same action just then.
    rival: Option<Barrier>,
}

#[async_trait]
impl Store for Forgetful {
    async fn read(&self, range: Range) -> Answer<Listing> {
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Answer<Watch> {
        self.inner.watch(range, from).await
    }

    async fn commit(&self, txn: Txn) -> Answer<Commit> {
        if self.commits.fetch_add(1, Ordering::SeqCst) < self.from {
            return self.inner.commit(txn).await;
        }
        if self.carries_out {
            self.inner.commit(txn).await?;
        }
        if let Some(rival) = &self.rival {
            drop(pass(rival.enter(&mark(Direction::Action, 1)).await));
        }
        Err(weft_store::Error::Unavailable("lost".into()))
    }

    async fn grant(&self, ttl: Duration) -> Answer<LeaseId> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Answer<Duration> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Answer<()> {
        self.inner.revoke(lease).await
    }
}

async fn forgetful(from: usize, carries_out: bool) -> Barrier {
    let clock = Arc::new(ManualClock::default());
    over(MemoryStore::new(clock), (from, carries_out), None).await
}

async fn over(inner: MemoryStore, (from, carries_out): (usize, bool), rival: Option<Barrier>) -> Barrier {
    let store = Forgetful { inner, commits: AtomicUsize::new(0), from, carries_out, rival };
    let clock = Arc::new(ManualClock::default());
    Barrier::open(Arc::new(store), clock, "rows/", Limits::default()).await.expect("it answers")
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_counts_when_it_stands() {
    let barrier = forgetful(0, true).await;
    ran(&barrier, KEY).await;
    let entry = barrier.enter(&mark(Direction::Action, 2)).await;
    assert!(matches!(&entry, Ok(Entry::Answer(answer)) if answer == "answer"), "{entry:?}");
}

#[tokio::test]
async fn a_write_that_does_not_stand_lets_nothing_run() {
    let barrier = forgetful(0, false).await;
    assert_eq!(reason(barrier.enter(&mark(Direction::Action, 1)).await), Reason::StoreUnavailable);
    assert_eq!(reason(barrier.enter(&mark(Direction::Undo, 1)).await), Reason::StoreUnavailable);
}

#[tokio::test]
async fn an_end_that_is_not_written_is_unknown() {
    let barrier = forgetful(1, false).await;
    let error = pass(barrier.enter(&mark(Direction::Action, 1)).await).done(Bytes::new()).await.expect_err("lost");
    assert_eq!(error.reason(), Reason::StoreUnavailable);
    // It cannot be written either that the next one has begun.
    assert_eq!(reason(barrier.enter(&mark(Direction::Undo, 1)).await), Reason::StoreUnavailable);
}

/// What stands there may be another's record of the very same thing.
#[tokio::test]
async fn a_record_of_another_is_not_taken_for_our_own() {
    let inner = MemoryStore::new(Arc::new(ManualClock::default()));
    let clock = Arc::new(ManualClock::default());
    let rival = Barrier::open(Arc::new(inner.clone()), clock, "rows/", Limits::default()).await.expect("it answers");
    let barrier = over(inner, (0, false), Some(rival)).await;
    assert_eq!(reason(barrier.enter(&mark(Direction::Action, 1)).await), Reason::StoreUnavailable);
}
