//! A set of keys that shall exist as long as this process does.
//!
//! Level-triggered: callers say what shall be there, the driver makes the store agree, for as long as it takes. An
//! outage of the store changes nothing but the time; a lost lease is replaced and everything is put again.

mod ledger;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use weft_types::Backoff;

use crate::limits;
use crate::port::{Error, LeaseId, Op, Store};
use ledger::Ledger;

/// The set, for those who change it. Clones share it.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
    written: watch::Receiver<u64>,
}

/// The driver has ended, so nothing more will be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keys are no longer kept")]
pub struct Stopped;

struct Shared {
    // Held for a lookup or a change, never across an await.
    desired: Mutex<Desired>,
    changed: Notify,
}

/// What shall be there.
#[derive(Default)]
struct Desired {
    keys: BTreeMap<String, Bytes>,
    // Grows with every change; `written` follows it.
    generation: u64,
}

impl Presence {
    /// An empty set whose keys shall vanish `ttl` after this process does, and the driver that must run for it.
    pub fn new(store: Arc<dyn Store>, ttl: Duration) -> (Self, PresenceDriver) {
        let shared = Arc::new(Shared { desired: Mutex::default(), changed: Notify::new() });
        let (written, seen) = watch::channel(0);
        (Self { shared: shared.clone(), written: seen }, PresenceDriver::new(store, ttl, shared, written))
    }

    /// Says that `key` shall hold `value`. Fails if the store would never take it.
    pub fn set(&self, key: impl Into<String>, value: impl Into<Bytes>) -> Result<(), Error> {
        let (key, value) = (key.into(), value.into());
        limits::check_op(&Op::Put { key: key.clone(), value: value.clone(), lease: None })?;
        self.change(|keys| keys.insert(key, value.clone()).as_ref() != Some(&value));
        Ok(())
    }

    /// Says that `key` shall not be there.
    pub fn remove(&self, key: &str) {
        self.change(|keys| keys.remove(key).is_some());
    }

    /// Waits until everything said so far has been written. It has no limit of its own: the store may be away for hours.
    pub async fn flush(&self) -> Result<(), Stopped> {
        let wanted = self.shared.desired().generation;
        self.written.clone().wait_for(|written| *written >= wanted).await.map(|_| ()).map_err(|_| Stopped)
    }

    /// Changes that come before the driver looks again are written as one.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Bytes>) -> bool) {
        let mut desired = self.shared.desired();
        if change(&mut desired.keys) {
            desired.generation += 1;
            self.shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn desired(&self) -> MutexGuard<'_, Desired> {
        // A change is one map operation: a panic elsewhere cannot have left it half done.
        self.desired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the store agree with a [`Presence`].
pub struct PresenceDriver {
    store: Arc<dyn Store>,
    ttl: Duration,
    shared: Arc<Shared>,
    written: watch::Sender<u64>,
    lease: Option<LeaseId>,
    ledger: Ledger,
    // `None` before the first lease.
    renewal: Option<Pin<Box<Sleep>>>,
}

impl PresenceDriver {
    fn new(store: Arc<dyn Store>, ttl: Duration, shared: Arc<Shared>, written: watch::Sender<u64>) -> Self {
        Self { store, ttl, shared, written, lease: None, ledger: Ledger::default(), renewal: None }
    }

    /// Runs until cancelled, then ends the lease, so that the keys are gone at once.
    pub async fn run(mut self, cancel: CancellationToken) {
        // A write that is cut off here fails at the store when it comes after the end of its lease.
        let _: Option<()> = cancel.run_until_cancelled(self.converge_for_ever()).await;
        if let Some(lease) = self.lease
            && let Err(error) = self.store.revoke(lease).await
        {
            tracing::warn!(%error, "the lease was not ended, its keys stay until it expires");
        }
    }

    async fn converge_for_ever(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), (self.ttl / 3).min(Duration::from_secs(5)));
        let mut renew = false;
        loop {
            match self.converge(renew).await {
                Ok(()) => {
                    backoff.reset();
                    // Neither branch loses anything: a notification is kept, and so is the timer.
                    renew = tokio::select! {
                        () = self.shared.changed.notified() => false,
                        () = due(&mut self.renewal) => true,
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "registration is behind");
                    // After any trouble the lease has to prove itself first, and what was written as well: the store may have
                    // come back from a backup that has the lease and not all of its keys.
                    renew = true;
                    self.ledger.doubt();
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
            }
        }
    }

    /// One pass: the lease, then whatever differs.
    async fn converge(&mut self, renew: bool) -> Result<(), Error> {
        let lease = self.hold_lease(renew).await?;
        let (keys, generation) = {
            let desired = self.shared.desired();
            (desired.keys.clone(), desired.generation)
        };
        match self.ledger.write(&*self.store, lease, &keys).await {
            Ok(()) => {
                self.written.send_replace(generation);
                Ok(())
            }
            Err(error) => {
                if matches!(error, Error::LeaseLost(_)) {
                    self.lease = None;
                }
                Err(error)
            }
        }
    }

    /// The lease: renewed if that is due, a new one if there is none.
    async fn hold_lease(&mut self, renew: bool) -> Result<LeaseId, Error> {
        if let Some(lease) = self.lease {
            if !renew {
                return Ok(lease);
            }
            match self.store.keep_alive(lease).await {
                Ok(left) => {
                    self.renew_after(left);
                    return Ok(lease);
                }
                Err(Error::LeaseLost(_)) => {
                    tracing::warn!("the lease was lost, registering again");
                    self.lease = None;
                }
                Err(error) => return Err(error),
            }
        }
        let lease = self.store.grant(self.ttl).await?;
        self.lease = Some(lease);
        // What the last lease held is gone or about to go.
        self.ledger = Ledger::default();
        self.renew_after(self.ttl);
        Ok(lease)
    }

    /// At a third of what remains, two renewals can fail before the keys are in danger.
    fn renew_after(&mut self, left: Duration) {
        self.renewal = Some(Box::pin(tokio::time::sleep(left / 3)));
    }
}

async fn due(renewal: &mut Option<Pin<Box<Sleep>>>) {
    match renewal {
        Some(renewal) => renewal.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
