//! The embedded store behind a connection that can go silent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tonic::async_trait;
use weft_store::{Commit, Error, LeaseId, Listing, MemoryStore, Range, Revision, Store, Txn, Watch};
use weft_types::SystemClock;

/// Answers nothing while it is away, as a paused etcd: what is under way waits, a watch that is open stays open.
pub(crate) struct Absent {
    inner: MemoryStore,
    is_away: watch::Sender<bool>,
    /// Reads of this prefix fail as often, and the reads of it so far.
    failing: Mutex<Option<(String, usize)>>,
    reads: watch::Sender<usize>,
}

impl Absent {
    pub(crate) fn new() -> Self {
        Self {
            inner: MemoryStore::new(Arc::new(SystemClock)),
            is_away: watch::Sender::new(false),
            failing: Mutex::default(),
            reads: watch::Sender::new(0),
        }
    }

    pub(crate) fn go(&self) {
        self.is_away.send_replace(true);
    }

    /// From now on counts the reads of this prefix, of which the first `times` fail.
    pub(crate) fn fail(&self, prefix: String, times: usize) {
        *self.failing.lock().expect("no test panics with it") = Some((prefix, times));
    }

    /// How often the prefix given to [`Self::fail`] was read.
    pub(crate) fn reads(&self) -> watch::Receiver<usize> {
        self.reads.subscribe()
    }

    fn counted(&self, range: &Range) -> Result<(), Error> {
        let mut failing = self.failing.lock().expect("no test panics with it");
        let Some((prefix, times)) = failing.as_mut() else { return Ok(()) };
        if *range != Range::Prefix(prefix.clone()) {
            return Ok(());
        }
        self.reads.send_modify(|reads| *reads += 1);
        match times.checked_sub(1) {
            None => Ok(()),
            Some(left) => {
                *times = left;
                Err(Error::Unavailable("planted".to_owned()))
            }
        }
    }

    async fn back(&self) {
        let mut is_away = self.is_away.subscribe();
        is_away.wait_for(|away| !away).await.expect("this holds the sender");
    }
}

#[async_trait]
impl Store for Absent {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.back().await;
        self.counted(&range)?;
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.back().await;
        self.inner.watch(range, from).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        self.back().await;
        self.inner.commit(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.back().await;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.back().await;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.back().await;
        self.inner.revoke(lease).await
    }
}
