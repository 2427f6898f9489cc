//! Rows in the store.

use std::sync::Arc;

use weft_store::{Commit, Compare, LeaseId, Op, Range, Revision, Store, Txn};
use weft_types::{Clock, Reason, Result};

use super::Limits;
use super::retention::Retention;
use crate::mark::Key;
use crate::row::{Row, State};

/// A row as it was read or written.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) row: Option<Row>,
    /// When it last changed; 0 when there is none.
    revision: Revision,
    lease: Option<LeaseId>,
}

/// The rows of a barrier.
pub(super) struct Rows {
    store: Arc<dyn Store>,
    prefix: String,
    retention: Retention,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rows").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Rows {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, prefix: String, limits: Limits) -> Self {
        Self { store, prefix, retention: Retention::new(clock, limits) }
    }

    /// Counts what earlier processes left.
    pub(super) async fn count(&self) -> Result<()> {
        let listing = self.store.read(Range::Prefix(self.prefix.clone())).await?;
        self.retention.inherit(listing.entries.iter().filter_map(|entry| entry.lease));
        Ok(())
    }

    pub(super) async fn read(&self, key: &Key) -> Result<Seen> {
        let listing = self.store.read(Range::Key(self.path(key))).await?;
        let Some(entry) = listing.entries.first() else { return Ok(Seen { row: None, revision: 0, lease: None }) };
        Ok(Seen { row: Some(Row::decode(&entry.value)?), revision: entry.mod_revision, lease: entry.lease })
    }

    /// Writes a row in the place of the one that was seen; `None` when another stands there by now.
    pub(super) async fn swap(&self, key: &Key, seen: &Seen, row: Row) -> Result<Option<Seen>> {
        let lease = self.place(seen, &row).await?;
        let written = self.write(key, seen, (&row, lease), Txn::default()).await?;
        Ok(match written {
            Commit::Done(revision) => Some(Seen { row: Some(row), revision, lease: Some(lease) }),
            Commit::Lost(_) => None,
        })
    }

    /// As [`Self::swap`], together with what else shall happen or not.
    pub(super) async fn commit(&self, key: &Key, seen: &Seen, row: Row, effect: Txn) -> Result<Commit> {
        let lease = self.place(seen, &row).await?;
        self.write(key, seen, (&row, lease), effect).await
    }

    async fn write(&self, key: &Key, seen: &Seen, put: (&Row, LeaseId), effect: Txn) -> Result<Commit> {
        let (row, lease) = put;
        let (path, value) = (self.path(key), row.encode(rand::random()));
        let mut txn = Txn { compares: vec![Compare::ModRevision(path.clone(), seen.revision)], ops: Vec::new() };
        txn.ops.push(Op::Put { key: path.clone(), value: value.clone(), lease: Some(lease) });
        txn.compares.extend(effect.compares);
        txn.ops.extend(effect.ops);
        let commit = match self.store.commit(txn).await {
            Err(weft_store::Error::LeaseLost(lease)) => {
                self.retention.forget(lease);
                return Err(weft_types::Error::new(
                    Reason::StoreUnavailable,
                    "the lease of the barrier's rows has ended",
                ));
            }
            // It may have happened all the same: then this very record stands there.
            Err(lost @ weft_store::Error::Unavailable(_)) => {
                let listing = self.store.read(Range::Key(path)).await?;
                match listing.entries.first() {
                    Some(entry) if entry.value == value => Commit::Done(entry.mod_revision),
                    _ => return Err(lost.into()),
                }
            }
            outcome => outcome?,
        };
        if matches!(commit, Commit::Done(_)) {
            self.retention.moved(seen.lease, lease);
        }
        Ok(commit)
    }

    /// The lease for a row, while there is room for it.
    async fn place(&self, seen: &Seen, row: &Row) -> Result<LeaseId> {
        if seen.row.is_none() {
            let is_undo = matches!(row.state, State::Undoing | State::Undone(_) | State::Tombstone);
            self.retention.admit(is_undo)?;
        }
        self.retention.lease(&*self.store).await
    }

    fn path(&self, key: &Key) -> String {
        format!("{}{}", self.prefix, key.as_str())
    }
}
