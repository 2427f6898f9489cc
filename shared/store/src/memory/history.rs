//! What watches are told from: the last changes, bounded in number and bytes.

use std::collections::VecDeque;

use crate::port::{Change, Changes, Error, Range, Revision};

/// The most bytes of keys and values kept.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A watch that catches up is told about this many changes at a time.
const MAX_TOLD: usize = 1024;

/// The changes of one revision.
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

/// Every change since `first`, one batch for each revision.
pub(super) struct History {
    batches: VecDeque<Batch>,
    first: Revision,
    changes: usize,
    bytes: usize,
    max_changes: usize,
}

impl History {
    /// An empty history whose first batch will be of revision `first`.
    pub(super) fn new(first: Revision, max_changes: usize) -> Self {
        Self { batches: VecDeque::new(), first, changes: 0, bytes: 0, max_changes }
    }

    /// Adds the next revision's changes and drops the oldest ones over the bounds.
    pub(super) fn push(&mut self, changes: Vec<Change>) {
        let bytes = changes.iter().map(size).sum();
        self.changes += changes.len();
        self.bytes += bytes;
        self.batches.push_back(Batch { changes, bytes });
        while self.changes > self.max_changes || self.bytes > MAX_BYTES {
            self.drop_oldest();
        }
    }

    /// Drops what is older than `first`, which must have happened; what is gone already is no error.
    pub(super) fn compact(&mut self, first: Revision) -> Result<(), Error> {
        if first > self.newest() {
            return Err(Error::Refused("a compaction up to a revision that is yet to come".into()));
        }
        while self.first < first {
            self.drop_oldest();
        }
        Ok(())
    }

    /// The bytes of keys and values kept.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a watch can start at `from`.
    pub(super) fn check(&self, from: Revision) -> Result<(), Error> {
        if from < self.first { Err(Error::Compacted(self.first)) } else { Ok(()) }
    }

    /// The changes in `range` from revision `from` on, whole revisions only, up to the newest or some [`MAX_TOLD`].
    pub(super) fn since(&self, range: &Range, from: Revision) -> Result<Changes, Error> {
        self.check(from)?;
        let skipped = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let mut told = Vec::new();
        let mut revision = self.newest();
        for (index, batch) in self.batches.iter().enumerate().skip(skipped) {
            told.extend(batch.changes.iter().filter(|change| range.contains(change.key())).cloned());
            if told.len() >= MAX_TOLD {
                revision = self.first + i64::try_from(index).unwrap_or(i64::MAX);
                break;
            }
        }
        Ok(Changes { revision, changes: told })
    }

    fn newest(&self) -> Revision {
        self.first + i64::try_from(self.batches.len()).unwrap_or(i64::MAX) - 1
    }

    fn drop_oldest(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.first += 1;
            self.changes -= batch.changes.len();
            self.bytes -= batch.bytes;
        }
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete { key, .. } => key.len(),
    }
}
