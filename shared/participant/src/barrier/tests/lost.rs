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
    let store = Forgetful { inner: MemoryStore::new(clock.clone()), commits: AtomicUsize::new(0), from, carries_out };
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
