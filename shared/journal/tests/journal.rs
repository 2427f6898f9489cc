//! The log of jobs over the embedded store.

#[path = "journal/checks.rs"]
mod checks;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use checks::desk::{Desk, ROOT};
use tokio::sync::Notify;
use weft_journal::JobId;
use weft_store::{CancellationToken, Commit, Error, LeaseId, Listing, MemoryStore, Range, Revision, Store, Txn, Watch};
use weft_types::SystemClock;

/// Runs a check over an embedded store that ends leases in time and forgets nothing.
async fn over_memory<F: Future<Output = ()>>(check: impl FnOnce(Arc<dyn Store>) -> F) {
    let store = MemoryStore::with_history(Arc::new(SystemClock), 1 << 20);
    let cancel = CancellationToken::new();
    let checked = async {
        checks::within(check(Arc::new(store.clone()))).await;
        cancel.cancel();
    };
    tokio::join!(store.clone().run(cancel.clone()), checked);
}

checks::every!(over_memory);

/// A store in whose reads of one key a thread can be held up, and with it whatever runs on it.
struct Stalling {
    inner: MemoryStore,
    key: String,
    stalled: Mutex<Option<mpsc::Receiver<()>>>,
    at: Notify,
}

#[async_trait::async_trait]
impl Store for Stalling {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        let is_it = matches!(&range, Range::Key(key) if *key == self.key);
        let stalled = is_it.then(|| self.stalled.lock().unwrap_or_else(PoisonError::into_inner).take()).flatten();
        if let Some(stalled) = stalled {
            self.at.notify_one();
            // Whoever holds it up has gone: so nothing does.
            let _gone = stalled.recv();
        }
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(range, from).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let is_asked_for = self.stalled.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let is_it = txn.ops.iter().any(|op| op.key() == self.key.replace("/own/", "/seq/"));
        // Its answer is lost, so its writer looks what has become of it.
        let done = self.inner.commit(txn).await;
        if is_asked_for && is_it { Err(Error::Unavailable("planted".into())) } else { done }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke(lease).await
    }
}

/// What the last term left behind must not be taken for the end of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_that_is_won_anew_waits_for_the_end_of_its_last_term() {
    let inner = MemoryStore::with_history(Arc::new(SystemClock), 1 << 20);
    let cancel = CancellationToken::new();
    let (release, stalled) = mpsc::sync_channel(1);
    let store = Arc::new(Stalling {
        inner: inner.clone(),
        key: format!("{ROOT}own/07"),
        stalled: Mutex::default(),
        at: Notify::new(),
    });
    let tested = async {
        let desk = Desk::alone(&(Arc::clone(&store) as Arc<dyn Store>), "s-0").await;
        let before = desk.shard(7);
        *store.stalled.lock().expect("no test panics with it") = Some(stalled);
        let job = Arc::new(checks::desk::record(JobId::new(7, 1, 1)));
        let begins = desk.tasks.attach(async move { drop(before.commit(None, job).await) });
        store.at.notified().await;
        let lease = inner.read(Range::Key(format!("{ROOT}member/s-0"))).await.expect("it is embedded").entries[0].lease;
        let first = desk.shard(9).epoch();
        inner.revoke(lease.expect("it has one")).await.expect("it is embedded");
        let is_anew =
            |held: &checks::desk::Held, number: u8| held.shards.get(&number).is_some_and(|shard| shard.epoch() > first);
        desk.until(|held| (0..=255).all(|number| number == 7 || is_anew(held, number))).await;
        release.send(()).expect("it is stalled");
        let held = desk.until(|held| is_anew(held, 7) && held.lost.contains(&7)).await;
        assert_eq!(held.shards.len(), 256);
        drop(begins);
        desk.stop().await;
        cancel.cancel();
    };
    tokio::join!(inner.clone().run(cancel.clone()), checks::within(tested));
}
