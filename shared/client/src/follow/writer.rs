//! Makes each next snapshot out of the last one and what the store tells.

use std::time::Instant;

use weft_policy::guard::Settings;
use weft_store::{Change, Revision};

use super::retain::{Retention, Standing, Suspect};
use crate::Snapshot;
use crate::mesh::{Applied, Found};
use crate::saved::Restored;

/// The writing side of a mesh. Readers hold snapshots that were published and never wait for it.
pub(super) struct Writer {
    snapshot: Snapshot,
    root: String,
    parts: Vec<Part>,
    /// Only where all workers are followed can many be told from few.
    retention: Option<Retention>,
}

/// What one watch last told.
#[derive(Clone, Copy, Default)]
struct Part {
    revision: Revision,
    confirmed: Option<Instant>,
    lost: bool,
}

impl Writer {
    pub(super) fn new(root: &str, parts: usize, guard: Option<Settings>) -> Self {
        Self {
            snapshot: Snapshot::default(),
            root: root.to_owned(),
            parts: vec![Part::default(); parts],
            retention: guard.map(Retention::new),
        }
    }

    /// Starts from what was found on disk; `changes` are its records.
    pub(super) fn restore(&mut self, restored: &Restored, changes: &[Change], now: Instant) {
        self.apply(changes);
        // Nobody can have left yet.
        self.snapshot.revision = restored.revision;
        self.snapshot.restored = true;
        self.snapshot.found = Some(Found { at: now, age: restored.age });
    }

    /// Takes over what one watch told, and returns the workers that are to be asked whether they are still there.
    pub(super) fn told(&mut self, part: usize, changes: &[Change], revision: Revision, now: Instant) -> Vec<Suspect> {
        self.apply(changes);
        // Whoever the first listing after a restart lacks left at some time in between, alone or with many others, and may
        // have been kept by the process before.
        let unseen = self.snapshot.restored;
        let settle = |retention: &mut Retention| retention.settle(&mut self.snapshot, unseen, now);
        let suspects = self.retention.as_mut().map(settle).unwrap_or_default();
        if let Some(part) = self.parts.get_mut(part) {
            // Not the greater of the two: after a restore from backup the store's revisions have gone back.
            *part = Part { revision, confirmed: Some(now), ..*part };
        }
        self.snapshot.revision = self.parts.iter().map(|part| part.revision).max().unwrap_or(revision);
        // `None` is the least: the snapshot is as old as its oldest part.
        self.snapshot.confirmed = self.parts.iter().map(|part| part.confirmed).min().flatten();
        self.snapshot.restored &= self.snapshot.confirmed.is_none();
        suspects
    }

    /// Takes note that one watch is lost, or not any more; false when that is no news.
    pub(super) fn set_lost(&mut self, part: usize, lost: bool) -> bool {
        self.parts.get_mut(part).is_some_and(|part| std::mem::replace(&mut part.lost, lost) != lost)
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let applied = self.snapshot.apply(&self.root, change);
            if let (Applied::Unreadable, Change::Put(entry)) = (&applied, change) {
                let (key, revision) = (&entry.key, entry.mod_revision);
                tracing::error!(key, revision, "a record in the store cannot be read: the last good one stands");
            }
            if let Some(retention) = &mut self.retention {
                retention.note(applied);
            }
        }
    }

    /// Takes over what the suspects' answers make of them; false when nothing changed for readers.
    pub(super) fn judge(&mut self, found: &[(&Suspect, Standing)]) -> bool {
        self.retention.as_mut().is_some_and(|retention| retention.judge(&mut self.snapshot, found))
    }

    /// Whether a worker's next answer still matters: it is not registered again, and not forgotten.
    pub(super) fn keeps(&self, suspect: &Suspect) -> bool {
        self.retention.as_ref().is_some_and(|retention| retention.keeps(suspect))
    }

    pub(super) const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}
