//! A range of the store, followed for ever.
//!
//! List, watch from the next revision; when the watch ends for whatever reason, list again and tell only what differs.
//! A watch is never resumed: after a restore from backup the store's revisions go back, and only a listing shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use weft_types::Backoff;

use crate::port::{Change, Entry, Error, Listing, Range, Revision, Store};

/// The longest wait between two attempts; the waits are jittered, so that a thousand mirrors do not return at once.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The ceiling of the first wait.
const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// What a mirror tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorEvent {
    /// These keys differ from what was told before.
    Changes {
        /// In the order of their revisions; after a new listing deletions come first, each key once.
        changes: Vec<Change>,
        /// Everything up to this revision is told now.
        revision: Revision,
        /// Whether this is the first listing, whole and possibly empty.
        first: bool,
    },
    /// Nothing changed and the store is there.
    Confirmed {
        /// Everything up to this revision is told.
        revision: Revision,
    },
    /// The store cannot be followed at the moment. What was told stands; the mirror goes on trying.
    Lost {
        /// Why, for the log.
        error: String,
    },
}

/// Follows a range. [`Self::run`] does the work.
pub struct Mirror {
    store: Arc<dyn Store>,
    range: Range,
    known: BTreeMap<String, Entry>,
    /// Keys told by a predecessor, until the first listing.
    inherited: BTreeSet<String>,
    listed: bool,
    backoff: Backoff,
}

impl Mirror {
    /// A mirror that has not told anything yet.
    pub fn new(store: Arc<dyn Store>, range: Range) -> Self {
        let backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
        Self { store, range, known: BTreeMap::new(), inherited: BTreeSet::new(), listed: false, backoff }
    }

    /// What a predecessor has told already: those of `keys` that the first listing lacks are told as deleted.
    #[must_use]
    pub fn knowing(mut self, keys: impl IntoIterator<Item = String>) -> Self {
        self.inherited = keys.into_iter().collect();
        self
    }

    /// Follows until cancelled, telling `sink`, which must not block.
    pub async fn run(mut self, cancel: CancellationToken, mut sink: impl FnMut(MirrorEvent) + Send) {
        // Only reads are under way when this is cancelled.
        let _: Option<Infallible> = cancel.run_until_cancelled(self.follow_for_ever(&mut sink)).await;
    }

    async fn follow_for_ever(&mut self, sink: &mut (impl FnMut(MirrorEvent) + Send)) -> Infallible {
        loop {
            match self.follow(sink).await {
                Ok(never) => return never,
                Err(error) => sink(MirrorEvent::Lost { error: error.to_string() }),
            }
            tokio::time::sleep(self.backoff.next(rand::random())).await;
        }
    }

    /// Lists and watches until the watch ends.
    async fn follow(&mut self, sink: &mut (impl FnMut(MirrorEvent) + Send)) -> Result<Infallible, Error> {
        let listing = self.store.read(self.range.clone()).await?;
        let revision = listing.revision;
        let changes = self.differences(listing);
        let first = !std::mem::replace(&mut self.listed, true);
        sink(event(changes, revision, first));

        let mut watch = self.store.watch(self.range.clone(), revision + 1).await?;
        while let Some(told) = watch.next().await {
            let told = told?;
            // Only a watch that works ends the backoff: otherwise a store that lists but cannot be watched is hammered.
            self.backoff.reset();
            let news = told.changes.into_iter().filter(|change| self.learn(change)).collect();
            sink(event(news, told.revision, false));
        }
        Err(Error::Unavailable("the watch ended".into()))
    }

    /// Takes over a listing and returns what it changes.
    fn differences(&mut self, listing: Listing) -> Vec<Change> {
        let listed: BTreeMap<String, Entry> =
            listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let inherited = std::mem::take(&mut self.inherited);
        let gone = self.known.keys().chain(&inherited).filter(|key| !listed.contains_key(*key));
        let mut changes: Vec<Change> =
            gone.map(|key| Change::Delete { key: key.clone(), mod_revision: listing.revision }).collect();
        let mut put: Vec<&Entry> = listed.values().filter(|entry| self.known.get(&entry.key) != Some(*entry)).collect();
        put.sort_by_key(|entry| entry.mod_revision);
        changes.extend(put.into_iter().cloned().map(Change::Put));
        self.known = listed;
        changes
    }

    /// Takes over one change; false if it is not news, since some versions of etcd tell a change twice.
    fn learn(&mut self, change: &Change) -> bool {
        let known = self.known.get(change.key()).map(|entry| entry.mod_revision);
        match change {
            Change::Put(entry) => {
                let news = known.is_none_or(|known| known < entry.mod_revision);
                if news {
                    self.known.insert(entry.key.clone(), entry.clone());
                }
                news
            }
            Change::Delete { key, mod_revision } => {
                let news = known.is_some_and(|known| known < *mod_revision);
                if news {
                    self.known.remove(key);
                }
                news
            }
        }
    }
}

fn event(changes: Vec<Change>, revision: Revision, first: bool) -> MirrorEvent {
    if changes.is_empty() && !first {
        MirrorEvent::Confirmed { revision }
    } else {
        MirrorEvent::Changes { changes, revision, first }
    }
}

#[cfg(test)]
mod tests;
