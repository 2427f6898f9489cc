//! What the leader's loops share that tell events: what was told already, and the lease of the hour.

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use weft_store::{Error, LeaseId, Range, Revision, Store};

use super::ledger::{Due, KEPT_HOURS, Ledger};
use crate::Inner;

/// How long events are kept after the first of their hour was told.
const KEPT: Duration = Duration::from_secs(KEPT_HOURS * 3600);

/// What was told. It is held while the store is asked what that is: whoever tells needs the answer.
#[derive(Debug, Default)]
pub(crate) struct Register(Mutex<Page>);

#[derive(Debug, Default)]
pub(super) struct Page {
    /// The term for which the ledger was read; `None` when it must be read again.
    term: Option<Revision>,
    pub(super) ledger: Ledger,
    /// The hour whose events hang on this lease.
    lease: Option<(u64, LeaseId)>,
}

impl Register {
    /// What was told, by whomever: read from the store once in a term.
    pub(super) async fn open(&self, inner: &Inner, term: Revision, hour: u64) -> Result<MutexGuard<'_, Page>, Error> {
        let mut page = self.0.lock().await;
        if page.term != Some(term) {
            let events = inner.keys.events();
            let listing = inner.store.read(Range::Prefix(events.clone())).await?;
            let told = listing.entries.iter().filter_map(|entry| {
                let (hour, id) = entry.key.strip_prefix(&events)?.split_once('/')?;
                Some((hour.parse::<u64>().ok()?, id, entry.lease))
            });
            let lease = told.clone().find(|told| told.0 == hour).and_then(|(hour, _, lease)| Some((hour, lease?)));
            let ledger = Ledger::of(told.map(|(hour, id, _)| (hour, id)), hour);
            *page = Page { term: Some(term), ledger, lease };
        }
        Ok(page)
    }

    /// The lease that the hour's events hang on: one for all of them, never renewed.
    pub(super) async fn lease(&self, store: &dyn Store, hour: u64) -> Result<LeaseId, Error> {
        let mut page = self.0.lock().await;
        match page.lease {
            Some((of, lease)) if of == hour => Ok(lease),
            _ => {
                let lease = store.grant(KEPT).await?;
                page.lease = Some((hour, lease));
                Ok(lease)
            }
        }
    }

    /// This lease is gone: the next event needs another one.
    pub(super) async fn lost(&self, lease: LeaseId) {
        let mut page = self.0.lock().await;
        page.lease = page.lease.filter(|(_, of_hour)| *of_hour != lease);
    }

    /// These have been told, in this hour.
    pub(super) async fn told(&self, due: &[Due], hour: u64) {
        let mut page = self.0.lock().await;
        due.iter().for_each(|due| page.ledger.told(due, hour));
    }

    /// The leadership is over, or somebody else has told some of it: what was told must be read again.
    pub(super) async fn close(&self) {
        self.0.lock().await.term = None;
    }
}
