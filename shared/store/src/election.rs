//! One leader among many candidates.
//!
//! A lease alone is not mutual exclusion: a leader that was paused learns late that it no longer leads. So every write of
//! a leader compares its [`Fence`], and a leader stops by itself before its lease can have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_types::{Backoff, Clock};

use crate::port::{Change, Compare, Error, LeaseId, Op, Range, Revision, Store, Txn};

/// Proof of leadership: put [`Self::compare`] into every transaction that only the leader may make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The key that is held.
    pub key: String,
    /// When it was won: grows with every change of leader.
    pub create_revision: Revision,
    /// Nobody else can hold the key before this instant, if the clocks run at about one rate.
    pub valid_until: Instant,
}

impl Fence {
    /// Holds in the store exactly as long as this term does.
    pub fn compare(&self) -> Compare {
        Compare::CreateRevision(self.key.clone(), self.create_revision)
    }

    /// Whether the holder may act on it at `now` without asking the store.
    pub fn holds(&self, now: Instant) -> bool {
        now < self.valid_until
    }
}

/// What a candidate stands for.
#[derive(Clone, Debug)]
pub struct Candidacy {
    /// The key to hold.
    pub key: String,
    /// What the winner writes there: who it is.
    pub value: Bytes,
    /// How long the key outlives a leader that vanished; whole seconds.
    pub ttl: Duration,
}

/// A candidate. [`Self::run`] does the work.
pub struct Election {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    candidacy: Candidacy,
    fence: watch::Sender<Option<Fence>>,
    lease: Option<LeaseId>,
}

/// A lease that has just been renewed.
struct Renewed {
    lease: LeaseId,
    left: Duration,
    valid_until: Instant,
}

impl Election {
    /// A candidate and where to read whether it leads: `Some` while it does, told again with every renewal.
    ///
    /// A new `create_revision` is a new term; a later `valid_until` is the same one, prolonged.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        candidacy: Candidacy,
    ) -> (Self, watch::Receiver<Option<Fence>>) {
        let (fence, seen) = watch::channel(None);
        (Self { store, clock, candidacy, fence, lease: None }, seen)
    }

    /// Campaigns until cancelled, then resigns.
    pub async fn run(mut self, cancel: CancellationToken) {
        let expiry = expire(self.fence.clone(), self.clock.clone());
        // What is cut off here is settled by ending the lease: a late write under it fails.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.campaign_for_ever() => {}
            () = expiry => {}
        }
        self.publish(None);
        self.give_up_lease().await;
    }

    async fn campaign_for_ever(&mut self) {
        let mut backoff =
            Backoff::new(Duration::from_millis(100), (self.candidacy.ttl / 3).min(Duration::from_secs(5)));
        loop {
            match self.campaign().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(%error, key = self.candidacy.key, "election is behind");
                    if matches!(error, Error::LeaseLost(_)) {
                        self.lease = None;
                        self.publish(None);
                    }
                    // A term goes on through an outage, until `expire` ends it.
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
            }
        }
    }

    /// One round: prolong the term, wait for a vacancy, or stand. The store says which, so that a commit whose answer
    /// was lost needs no case of its own.
    async fn campaign(&mut self) -> Result<(), Error> {
        let renewed = self.renew().await?;
        let listing = self.store.read(Range::Key(self.candidacy.key.clone())).await?;
        match (listing.entries.first(), renewed) {
            (Some(entry), Some(renewed)) if entry.lease == Some(renewed.lease) => {
                self.publish(Some(Fence {
                    key: entry.key.clone(),
                    create_revision: entry.create_revision,
                    valid_until: renewed.valid_until,
                }));
                tokio::time::sleep(renewed.left / 3).await;
                Ok(())
            }
            (Some(_), _) => {
                self.publish(None);
                self.give_up_lease().await;
                self.await_vacancy(listing.revision).await
            }
            (None, _) => {
                self.publish(None);
                self.stand().await
            }
        }
    }

    /// Renews the lease, if there is one. Its time counts from before the call, when the store cannot yet have begun.
    async fn renew(&mut self) -> Result<Option<Renewed>, Error> {
        let Some(lease) = self.lease else { return Ok(None) };
        let sent = self.clock.now();
        let left = self.store.keep_alive(lease).await?;
        // For clocks that drift and for the time it takes to stop: a fifth, at most a second.
        let margin = (left / 5).min(Duration::from_secs(1));
        Ok(Some(Renewed { lease, left, valid_until: sent + (left - margin) }))
    }

    /// Writes the key if nobody holds it. Who won is read from the store, in the next round.
    async fn stand(&mut self) -> Result<(), Error> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => self.store.grant(self.candidacy.ttl).await?,
        };
        self.lease = Some(lease);
        let Candidacy { key, value, .. } = self.candidacy.clone();
        let vacant = Compare::CreateRevision(key.clone(), 0);
        self.store
            .commit(Txn { compares: vec![vacant], ops: vec![Op::Put { key, value, lease: Some(lease) }] })
            .await?;
        Ok(())
    }

    /// Returns when the key was deleted after `revision`, or after a while in any case: a watch is a hint.
    async fn await_vacancy(&self, revision: Revision) -> Result<(), Error> {
        let mut watch = self.store.watch(Range::Key(self.candidacy.key.clone()), revision + 1).await?;
        let vacancy = async {
            while let Some(told) = watch.next().await {
                if told?.changes.iter().any(|change| matches!(change, Change::Delete { .. })) {
                    return Ok(());
                }
            }
            Err(Error::Unavailable("the watch ended".into()))
        };
        tokio::time::timeout(self.candidacy.ttl.max(Duration::from_secs(5)), vacancy).await.unwrap_or(Ok(()))
    }

    async fn give_up_lease(&mut self) {
        if let Some(lease) = self.lease.take()
            && let Err(error) = self.store.revoke(lease).await
        {
            tracing::debug!(%error, "the lease was not ended, it expires by itself");
        }
    }

    fn publish(&self, fence: Option<Fence>) {
        self.fence.send_if_modified(|published| {
            let changed = *published != fence;
            *published = fence;
            changed
        });
    }
}

/// Ends a term on time, whatever the campaign is waiting for. Never returns.
async fn expire(fence: watch::Sender<Option<Fence>>, clock: Arc<dyn Clock>) {
    let mut seen = fence.subscribe();
    loop {
        let until = seen.borrow_and_update().as_ref().map(|fence| fence.valid_until);
        let end = async {
            match until {
                Some(until) => tokio::time::sleep(until.saturating_duration_since(clock.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // We hold a sender, so this cannot fail.
            _ = seen.changed() => {}
            () = end => {
                // Looked at again under the lock: it may have been prolonged just now.
                fence.send_if_modified(|fence| {
                    let over = fence.as_ref().is_some_and(|fence| !fence.holds(clock.now()));
                    if over {
                        tracing::warn!("leadership was not renewed in time");
                        *fence = None;
                    }
                    over
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
