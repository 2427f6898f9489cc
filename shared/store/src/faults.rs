//! For tests: the embedded store behind a connection that fails when told to.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use weft_types::{Clock, SystemClock};

use crate::memory::MemoryStore;
use crate::port::{Commit, Error, LeaseId, Listing, Op, Range, Revision, Store, Txn, Watch};

/// Far more than any test here takes: one that would hang fails instead.
const LIMIT: Duration = Duration::from_secs(20);

/// Fails a test that hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it hangs")
}

/// What the connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Works.
    Up,
    /// Nothing arrives.
    Down,
    /// Changes arrive, their answers do not.
    Deaf,
    /// Changes arrive when [`Faulty::release`] says so; their senders have given up by then.
    Late,
}

/// The store as seen through the connection; [`Self::inner`] is the truth behind it.
pub(crate) struct Faulty {
    pub(crate) inner: MemoryStore,
    mode: AtomicU8,
    cut: watch::Sender<u64>,
    late: Mutex<Vec<Txn>>,
    // What answers instead of `inner`, and whether it goes by the same number.
    restored: Mutex<Option<(MemoryStore, bool)>>,
    reads: Mutex<Vec<Range>>,
}

impl Faulty {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_clock(Arc::new(SystemClock))
    }

    pub(crate) fn with_clock(clock: Arc<dyn Clock>) -> Arc<Self> {
        let inner = MemoryStore::new(clock);
        Arc::new(Self {
            inner,
            mode: AtomicU8::new(0),
            cut: watch::Sender::new(0),
            late: Mutex::default(),
            restored: Mutex::default(),
            reads: Mutex::default(),
        })
    }

    /// Leaving `Up` ends every watch.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
        if mode != Mode::Up {
            self.cut.send_modify(|cut| *cut += 1);
        }
    }

    /// Puts another store in the place of `inner`, as after a restore from a backup.
    pub(crate) fn restore(&self, store: MemoryStore, same_number: bool) {
        *self.restored.lock().expect("no test panics with it") = Some((store, same_number));
    }

    /// What was read since this was last asked.
    pub(crate) fn reads(&self) -> Vec<Range> {
        std::mem::take(&mut *self.reads.lock().expect("no test panics with it"))
    }

    fn answering(&self) -> (MemoryStore, bool) {
        let restored = self.restored.lock().expect("no test panics with it").clone();
        restored.unwrap_or_else(|| (self.inner.clone(), true))
    }

    /// Puts a key past the connection.
    pub(crate) async fn put(&self, key: &str, value: &'static str) {
        let op = Op::Put { key: key.into(), value: Bytes::from_static(value.as_bytes()), lease: None };
        self.inner.commit(Txn { compares: vec![], ops: vec![op] }).await.expect("memory takes it");
    }

    /// Deletes a key past the connection.
    pub(crate) async fn delete(&self, key: &str) {
        let ops = vec![Op::Delete(key.into())];
        self.inner.commit(Txn { compares: vec![], ops }).await.expect("memory takes it");
    }

    /// Everything that is really there, as text.
    pub(crate) async fn contents(&self) -> Vec<(String, String)> {
        let listing = self.inner.read(Range::Prefix(String::new())).await.expect("memory answers");
        let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        listing.entries.iter().map(|entry| (entry.key.clone(), text(&entry.value))).collect()
    }

    /// Carries out what was sent while [`Mode::Late`], and says how much there was.
    pub(crate) async fn release(&self) -> usize {
        let late = std::mem::take(&mut *self.late.lock().expect("no test panics with it"));
        for txn in &late {
            self.inner.commit(txn.clone()).await.expect("memory answers");
        }
        late.len()
    }

    /// Whether something is under way since [`Mode::Late`].
    pub(crate) fn has_late(&self) -> bool {
        !self.late.lock().expect("no test panics with it").is_empty()
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }

    fn reach(&self) -> Result<(), Error> {
        if self.is(Mode::Down) { Err(Error::Unavailable("down".into())) } else { Ok(()) }
    }

    fn answer<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if self.is(Mode::Deaf) { Err(Error::Unavailable("deaf".into())) } else { answer }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.reach()?;
        self.reads.lock().expect("no test panics with it").push(range.clone());
        let (store, same_number) = self.answering();
        let own = self.inner.read(Range::Key("number".into())).await?.store;
        let listing = store.read(range).await?;
        Ok(if same_number { Listing { store: own, ..listing } } else { listing })
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        let mut cut = self.cut.subscribe();
        self.reach()?;
        let watch = self.answering().0.watch(range, from).await?;
        Ok(Box::pin(watch.take_until(async move { cut.changed().await.is_ok() })))
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        self.reach()?;
        if self.is(Mode::Late) {
            self.late.lock().expect("no test panics with it").push(txn);
            return Err(Error::Unavailable("late".into()));
        }
        self.answer(self.inner.commit(txn).await)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.reach()?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.reach()?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.reach()?;
        self.inner.revoke(lease).await
    }
}
