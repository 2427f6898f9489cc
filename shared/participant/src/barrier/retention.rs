//! How long rows are kept, and how many.
//!
//! Rows hang on leases, so the store forgets them by itself. A lease for each would be a load of its own: those of an eighth of the
//! retention share one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_store::{LeaseId, Store};
use weft_types::{Clock, Error, Reason, Result};

use super::Limits;

/// How long a caller waits who found no room.
const FULL: Duration = Duration::from_secs(1);

/// Rows that end together.
#[derive(Debug)]
struct Bucket {
    lease: LeaseId,
    /// When its lease was asked for, or when it was found in the store.
    since: Instant,
    /// Whether it takes more rows; those of earlier processes do not, since what is left of their lease is not known.
    is_ours: bool,
    rows: usize,
}

pub(super) struct Retention {
    clock: Arc<dyn Clock>,
    limits: Limits,
    // Held for a lookup or a change, never across an await.
    buckets: Mutex<Vec<Bucket>>,
    // Held while a lease is asked for, so that one is.
    granting: tokio::sync::Mutex<()>,
}

impl Retention {
    pub(super) fn new(clock: Arc<dyn Clock>, limits: Limits) -> Self {
        Self { clock, limits, buckets: Mutex::default(), granting: tokio::sync::Mutex::default() }
    }

    /// Counts rows that were found, each by its lease.
    pub(super) fn inherit(&self, leases: impl Iterator<Item = LeaseId>) {
        let now = self.clock.now();
        let mut buckets = self.live();
        for lease in leases {
            match buckets.iter_mut().find(|bucket| bucket.lease == lease) {
                Some(bucket) => bucket.rows += 1,
                None => buckets.push(Bucket { lease, since: now, is_ours: false, rows: 1 }),
            }
        }
    }

    /// Fails when there is no room for another row.
    pub(super) fn admit(&self, is_undo: bool) -> Result<()> {
        let most = if is_undo { self.limits.rows } else { self.limits.rows - self.limits.rows / 10 };
        let rows: usize = self.live().iter().map(|bucket| bucket.rows).sum();
        if rows < most {
            return Ok(());
        }
        Err(Error::new(Reason::Overloaded, "the barrier has no room for another row").retry_after(FULL))
    }

    /// The lease on which a row that is written now shall hang.
    pub(super) async fn lease(&self, store: &dyn Store) -> Result<LeaseId> {
        if let Some(lease) = self.current() {
            return Ok(lease);
        }
        let _granting = self.granting.lock().await;
        if let Some(lease) = self.current() {
            return Ok(lease);
        }
        let since = self.clock.now();
        let lease = store.grant(self.lifetime()).await?;
        self.live().push(Bucket { lease, since, is_ours: true, rows: 0 });
        Ok(lease)
    }

    /// Says that a row hangs on another lease now, or is new.
    pub(super) fn moved(&self, from: Option<LeaseId>, to: LeaseId) {
        let mut buckets = self.live();
        for bucket in buckets.iter_mut() {
            if Some(bucket.lease) == from {
                bucket.rows = bucket.rows.saturating_sub(1);
            }
            if bucket.lease == to {
                bucket.rows += 1;
            }
        }
    }

    /// Says that a lease has ended before its time, and its rows with it.
    pub(super) fn forget(&self, lease: LeaseId) {
        self.live().retain(|bucket| bucket.lease != lease);
    }

    fn current(&self) -> Option<LeaseId> {
        let (now, slice) = (self.clock.now(), self.slice());
        let buckets = self.live();
        let mut ours = buckets.iter().filter(|bucket| bucket.is_ours);
        ours.find(|bucket| now.saturating_duration_since(bucket.since) < slice).map(|bucket| bucket.lease)
    }

    /// The buckets whose time is not over.
    fn live(&self) -> MutexGuard<'_, Vec<Bucket>> {
        let (now, lifetime) = (self.clock.now(), self.lifetime());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|bucket| now.saturating_duration_since(bucket.since) < lifetime);
        buckets
    }

    fn slice(&self) -> Duration {
        self.limits.retention / 8
    }

    /// Of a lease: the last row that it takes is kept for the whole retention. No store has shorter ones than a second.
    fn lifetime(&self) -> Duration {
        self.limits.retention.saturating_add(self.slice()).max(Duration::from_secs(1))
    }
}
