//! The embedded store: etcd's semantics in one process, for `weft dev` and tests.
//!
//! Watches pull: each keeps only its place in one shared, bounded history, so a reader that lags costs nothing and is
//! told [`Error::Compacted`] once the history has moved past it. Contents live as long as the process.

mod history;
mod state;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_types::Clock;

use crate::limits;
use crate::port::{Changes, Commit, Error, LeaseId, Listing, Maintain, Member, Range, Revision, Store, Txn, Watch};
use state::State;

/// How many changes are kept for watches by default.
const HISTORY: usize = 16 * 1024;

/// An empty store is at revision 1, as etcd's is, so this is the revision of the first change.
const FIRST_CHANGE: Revision = 2;

/// A quiet watch confirms itself this often.
const PROGRESS: Duration = Duration::from_secs(5);

/// A store in this process. Clones share their contents.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    // Held for a lookup or one transaction, never across an await.
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
    granted: Notify,
}

impl MemoryStore {
    /// An empty store at revision 1, as etcd begins. Leases are measured on `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_history(clock, HISTORY)
    }

    /// As [`Self::new`], keeping the last `changes` changes for watches.
    pub fn with_history(clock: Arc<dyn Clock>, changes: usize) -> Self {
        let state = State::new(rand::random(), changes);
        let revision = watch::Sender::new(state.revision());
        Self { shared: Arc::new(Shared { clock, state: Mutex::new(state), revision, granted: Notify::new() }) }
    }

    /// Ends leases when their time has come, until cancelled. Without it they end when the store is next used.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            let next = self.with(|state| state.next_expiry());
            let expiry = async {
                match next {
                    Some(at) => tokio::time::sleep(at.saturating_duration_since(self.shared.clock.now())).await,
                    None => std::future::pending().await,
                }
            };
            // Nothing is lost by cancellation at any branch: the loop reads the state anew.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.shared.granted.notified() => {}
                () = expiry => {}
            }
        }
    }

    /// Looks at or changes the state as of now: leases that are over have ended first, and watches hear of any change.
    fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        let now = self.shared.clock.now();
        // A transaction checks everything before its first change, so a panic cannot leave a half-made state behind.
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(now);
        let out = action(&mut state);
        let revision = state.revision();
        // Told under the lock, so that revisions are told in order.
        self.shared.revision.send_if_modified(|told| std::mem::replace(told, revision) != revision);
        out
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        Ok(self.with(|state| state.read(&range)))
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        let revisions = self.shared.revision.subscribe();
        let follower =
            Follower { store: self.clone(), revisions, range, next: from.max(FIRST_CHANGE), confirmed: false };
        self.with(|state| state.history.check(follower.next))?;
        Ok(Box::pin(stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(changes) => Some((Ok(changes), Some(follower))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        limits::check(&txn)?;
        self.with(|state| state.commit(&txn))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let now = self.shared.clock.now();
        let lease = self.with(|state| state.grant(ttl, now));
        // The timer may be asleep until a later expiry.
        self.shared.granted.notify_one();
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let now = self.shared.clock.now();
        self.with(|state| state.renew(lease, now))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.with(|state| state.end(lease))
    }
}

#[async_trait]
impl Maintain for MemoryStore {
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.with(|state| state.history.compact(revision))
    }

    async fn members(&self) -> Vec<Member> {
        let bytes = self.with(|state| state.bytes());
        let version = concat!("embedded ", env!("CARGO_PKG_VERSION")).to_owned();
        let database_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        vec![Member { version, database_bytes, used_bytes: database_bytes, leader: true, ..Member::default() }]
    }
}

/// One watch: a place in the history.
struct Follower {
    store: MemoryStore,
    revisions: watch::Receiver<Revision>,
    range: Range,
    next: Revision,
    // The first message comes at once: whoever resumes learns that it is current.
    confirmed: bool,
}

impl Follower {
    async fn next(&mut self) -> Result<Changes, Error> {
        let progress = tokio::time::sleep(PROGRESS);
        tokio::pin!(progress);
        loop {
            // Marked as seen before the history is read: a change in between wakes us again, none is missed.
            self.revisions.borrow_and_update();
            let told = self.store.with(|state| state.history.since(&self.range, self.next))?;
            self.next = self.next.max(told.revision + 1);
            if !told.changes.is_empty() || !std::mem::replace(&mut self.confirmed, true) {
                return Ok(told);
            }
            // The timer outlives the changes of other keys, so that a busy store confirms itself, too. The sender of
            // revisions lives in the store that this watch holds, so `changed` cannot fail.
            tokio::select! {
                _ = self.revisions.changed() => {}
                () = &mut progress => return Ok(told),
            }
        }
    }
}

#[cfg(test)]
mod tests;
