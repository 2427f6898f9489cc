//! A range of the store, followed for ever.
//!
//! List, watch from the next revision. When the watch ends for whatever reason, go on after the last change that was told;
//! where that is not safe, list again and tell only what differs. Nothing that was told is ever taken back in between.
//!
//! It is safe if the store is the one that was followed before: one read of a single key shows its number and its
//! revision, which goes back when it is restored from a backup. The key is the newest that is known, so that a restored
//! store which has grown past our place since is found out, too, unless that key has changed again. When the history in
//! between is compacted, the watch says so.

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

/// The longest wait of the first attempts: an election in etcd takes about two seconds.
const MAX_EARLY_BACKOFF: Duration = Duration::from_millis(500);

/// How many attempts are made that fast: some three seconds of them.
const EARLY_ATTEMPTS: u32 = 16;

/// The ceiling of the first wait.
const MIN_BACKOFF: Duration = Duration::from_millis(50);

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
    /// Where to go on; `None` when only a listing can tell.
    place: Option<Place>,
    pace: Pace,
}

/// How far a store was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    store: u64,
    revision: Revision,
}

impl Mirror {
    /// A mirror that has not told anything yet.
    pub fn new(store: Arc<dyn Store>, range: Range) -> Self {
        let (known, inherited) = (BTreeMap::new(), BTreeSet::new());
        Self { store, range, known, inherited, listed: false, place: None, pace: Pace::new() }
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
                Err(error) => {
                    if matches!(error, Error::Compacted(_)) {
                        self.place = None;
                    }
                    sink(MirrorEvent::Lost { error: error.to_string() });
                }
            }
            tokio::time::sleep(self.pace.next()).await;
        }
    }

    /// Resumes or lists, and watches until the watch ends.
    async fn follow(&mut self, sink: &mut (impl FnMut(MirrorEvent) + Send)) -> Result<Infallible, Error> {
        let place = match self.place {
            Some(place) if self.can_resume(place, sink).await? => place,
            _ => self.list(sink).await?,
        };
        let mut watch = self.store.watch(self.range.clone(), place.revision + 1).await?;
        while let Some(told) = watch.next().await {
            let told = told?;
            // Only a watch that works ends the backoff: otherwise a store that lists but cannot be watched is hammered.
            self.pace = Pace::new();
            let revision = told.revision.max(place.revision);
            self.place = Some(Place { revision, ..place });
            let news = told.changes.into_iter().filter(|change| self.learn(change)).collect();
            sink(event(news, revision, false));
        }
        Err(Error::Unavailable("the watch ended".into()))
    }

    /// Lists and tells what differs.
    async fn list(&mut self, sink: &mut (impl FnMut(MirrorEvent) + Send)) -> Result<Place, Error> {
        let listing = self.store.read(self.range.clone()).await?;
        let place = Place { store: listing.store, revision: listing.revision };
        let changes = self.differences(listing);
        self.place = Some(place);
        let first = !std::mem::replace(&mut self.listed, true);
        sink(event(changes, place.revision, first));
        Ok(place)
    }

    /// Whether everything after `place` is still to be had from the store that answers now.
    async fn can_resume(&self, place: Place, sink: &mut (impl FnMut(MirrorEvent) + Send)) -> Result<bool, Error> {
        let newest = self.known.values().max_by_key(|entry| entry.mod_revision);
        let probe = newest.map_or_else(|| probe(&self.range), |entry| entry.key.clone());
        let listing = self.store.read(Range::Key(probe)).await?;
        let found = listing.entries.first();
        let altered = found.is_some_and(|found| found.mod_revision <= place.revision && Some(found) != newest);
        if listing.store != place.store || listing.revision < place.revision || altered {
            tracing::warn!(revision = place.revision, "the state store is not the one that it was, listing it anew");
            return Ok(false);
        }
        if listing.revision == place.revision {
            // Nothing at all has happened meanwhile. Otherwise the watch will show whether anything has.
            sink(MirrorEvent::Confirmed { revision: place.revision });
        }
        Ok(true)
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

/// A key of the range, there or not, whose reading shows where the store is.
fn probe(range: &Range) -> String {
    match range {
        // No store has an empty key.
        Range::Prefix(prefix) if prefix.is_empty() => "-".to_owned(),
        Range::Prefix(key) | Range::Key(key) => key.clone(),
    }
}

/// How long to wait before each attempt: short waits at first, long ones for an outage that lasts.
struct Pace {
    attempts: u32,
    early: Backoff,
    late: Backoff,
}

impl Pace {
    const fn new() -> Self {
        let early = Backoff::new(MIN_BACKOFF, MAX_EARLY_BACKOFF);
        Self { attempts: 0, early, late: Backoff::new(MAX_EARLY_BACKOFF, MAX_BACKOFF) }
    }

    fn next(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let backoff = if self.attempts <= EARLY_ATTEMPTS { &mut self.early } else { &mut self.late };
        backoff.next(rand::random())
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
