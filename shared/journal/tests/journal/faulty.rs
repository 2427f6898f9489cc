//! A way to the store that loses answers, delays transactions and delivers them twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use weft_store::{Commit, Error, LeaseId, Listing, Range, Revision, Store, Txn, Watch};

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives and is answered.
    Normal,
    /// It arrives, and its answer does not.
    Unanswered,
    /// It arrives when [`Faulty::deliver`] says so; its sender does not know.
    Late,
    /// It arrives and is answered, and a copy of it arrives when [`Faulty::deliver`] says so.
    Twice,
    /// It never arrives; its sender does not know.
    Gone,
    /// The store says that it will never take it.
    Refused,
}

type Decide = Box<dyn FnMut(&Txn) -> Fate + Send>;

/// The store behind a connection at fault. Only transactions of the job log, and those that win shards or give them up, have a fate; everything else works unless it is cut.
pub(crate) struct Faulty {
    inner: Arc<dyn Store>,
    decide: Mutex<Decide>,
    late: Mutex<Vec<Txn>>,
    is_cut: AtomicBool,
    cut: watch::Sender<u64>,
    listed: Mutex<Vec<String>>,
    /// What is listed with this in its prefix is not answered.
    held: watch::Sender<Option<&'static str>>,
    failing: watch::Sender<Option<&'static str>>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            decide: Mutex::new(Box::new(|_| Fate::Normal)),
            late: Mutex::default(),
            is_cut: AtomicBool::new(false),
            cut: watch::Sender::new(0),
            listed: Mutex::default(),
            held: watch::Sender::new(None),
            failing: watch::Sender::new(None),
        })
    }

    pub(crate) fn decide(&self, decide: impl FnMut(&Txn) -> Fate + Send + 'static) {
        *self.decide.lock().expect("no test panics with it") = Box::new(decide);
    }

    /// Nothing gets through any more, and watches end.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.send_modify(|cut| *cut += 1);
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }

    /// Lets lists of these keys wait for their answer, until there are none of these any more.
    pub(crate) fn hold(&self, below: Option<&'static str>) {
        self.held.send_replace(below);
    }

    /// As [`Self::hold`], for lists that fail.
    pub(crate) fn fail(&self, below: Option<&'static str>) {
        self.failing.send_replace(below);
    }

    /// How often a prefix was listed.
    pub(crate) fn listed(&self, prefix: &str) -> usize {
        let listed = self.listed.lock().expect("no test panics with it");
        listed.iter().filter(|listed| *listed == prefix).count()
    }

    /// What is still on its way.
    pub(crate) fn late(&self) -> MutexGuard<'_, Vec<Txn>> {
        self.late.lock().expect("no test panics with it")
    }

    /// Delivers everything that is on its way, and says of how much of it something came.
    pub(crate) async fn deliver(&self) -> usize {
        let late = std::mem::take(&mut *self.late());
        let mut done = 0;
        for txn in late {
            done += usize::from(matches!(self.inner.commit(txn).await, Ok(Commit::Done(_))));
        }
        done
    }

    fn reach(&self) -> Result<(), Error> {
        if self.is_cut.load(Ordering::SeqCst) { Err(lost()) } else { Ok(()) }
    }
}

fn lost() -> Error {
    Error::Unavailable("planted".into())
}

#[async_trait::async_trait]
impl Store for Faulty {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.reach()?;
        if let Range::Prefix(prefix) = &range {
            self.listed.lock().expect("no test panics with it").push(prefix.clone());
            let is_free = |held: &Option<&str>| held.is_none_or(|held| !prefix.contains(held));
            if self.failing.borrow().is_some_and(|failing| prefix.contains(failing)) {
                return Err(lost());
            }
            self.held.subscribe().wait_for(is_free).await.expect("it is here");
        }
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        let mut cut = self.cut.subscribe();
        self.reach()?;
        let watch = self.inner.watch(range, from).await?;
        Ok(Box::pin(watch.take_until(async move { cut.changed().await.is_ok() })))
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        self.reach()?;
        if !txn.ops.iter().any(|op| op.key().contains("/seq/") || op.key().contains("/own/")) {
            return self.inner.commit(txn).await;
        }
        let fate = (self.decide.lock().expect("no test panics with it"))(&txn);
        match fate {
            Fate::Normal => self.inner.commit(txn).await,
            Fate::Unanswered => {
                self.inner.commit(txn).await?;
                Err(lost())
            }
            Fate::Late => {
                self.late().push(txn);
                Err(lost())
            }
            Fate::Twice => {
                self.late().push(txn.clone());
                self.inner.commit(txn).await
            }
            Fate::Gone => Err(lost()),
            Fate::Refused => Err(Error::Refused("planted".into())),
        }
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
