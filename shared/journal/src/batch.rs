//! One transaction of a shard: what goes into it, and what its fate means. Nothing here does IO.
//!
//! Every transaction compares the owner's fence and the shard's sequence, and moves the sequence by one. So of all transactions that
//! were ever sent at one position at most one happens, however late it arrives, and the sequence's value says which.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use weft_store::{Compare, Entry, Op, Revision, Txn};

use crate::change::Change;

/// etcd takes 128, of which each transaction needs one for the sequence; with fewer, nobody waits long for the others.
const MAX_OPS: usize = 100;
/// etcd takes about 1.5 MiB.
const MAX_BYTES: usize = 512 * 1024;

/// What goes together: parts that fit one transaction and touch different keys.
#[derive(Default)]
pub(crate) struct Packing {
    keys: HashSet<String>,
    ops: usize,
    bytes: usize,
}

/// Whether a change goes into a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It is in.
    Yes,
    /// It touches what another one touches: the next transaction may take it.
    Collides,
    /// There is no room left.
    Full,
}

impl Packing {
    /// Takes a change in, if it fits. An empty room takes anything: what is too long for one transaction was refused before.
    pub(crate) fn take(&mut self, change: &Change) -> Fit {
        if change.ops.iter().any(|op| self.keys.contains(op.key())) {
            return Fit::Collides;
        }
        let (ops, bytes) = (self.ops + change.size(), self.bytes + change.bytes());
        if !self.keys.is_empty() && (ops > MAX_OPS || bytes > MAX_BYTES) {
            return Fit::Full;
        }
        (self.ops, self.bytes) = (ops, bytes);
        self.keys.extend(change.ops.iter().map(|op| op.key().to_owned()));
        Fit::Yes
    }
}

/// Where a shard's log stands.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    /// The key of the owner, and when it came into being.
    pub(crate) owner: String,
    /// The owner's fence.
    pub(crate) fence: Revision,
    /// The key of the sequence.
    pub(crate) sequence: String,
    /// How often it was put.
    pub(crate) version: i64,
}

/// One sending of some changes of a batch; they go under a number of their own.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// What the sequence holds if this is the one that happened.
    pub(crate) id: Bytes,
    /// Which changes of the batch.
    pub(crate) members: Vec<usize>,
}

impl Sending {
    /// The transaction.
    pub(crate) fn txn(&self, position: &Position, changes: &[Change]) -> Txn {
        let fence = Compare::CreateRevision(position.owner.clone(), position.fence);
        let place = Compare::Version(position.sequence.clone(), position.version);
        let next = Op::Put { key: position.sequence.clone(), value: self.id.clone(), lease: None };
        let (mut compares, mut ops) = (vec![fence, place], vec![next]);
        for change in self.members.iter().filter_map(|member| changes.get(*member)) {
            compares.extend(change.compares.iter().cloned());
            ops.extend(change.ops.iter().cloned());
        }
        Txn { compares, ops }
    }
}

/// What stands in the store after a sending whose fate is not known, or that was refused. The owner was read first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The owner's key.
    pub(crate) owner: Option<Entry>,
    /// The sequence's key.
    pub(crate) sequence: Option<Entry>,
    /// Other keys that were compared.
    pub(crate) others: HashMap<String, Entry>,
}

/// What that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The sending of this index has happened.
    Happened(usize),
    /// None has, and the newest may be sent again as it is.
    Again,
    /// None has, and these of the newest cannot: a comparison of theirs does not hold.
    Without(Vec<usize>),
    /// The shard has another owner, or a log that we do not know: nothing more may be written.
    Fenced,
}

/// Finds out which of `sendings`, all made at `position`, has happened.
pub(crate) fn judge(position: &Position, sendings: &[Sending], changes: &[Change], seen: &Seen) -> Verdict {
    let version = seen.sequence.as_ref().map_or(0, |entry| entry.version);
    if version == position.version + 1 {
        let value = seen.sequence.as_ref().map(|entry| &entry.value);
        let happened = sendings.iter().position(|sending| Some(&sending.id) == value);
        return happened.map_or(Verdict::Fenced, Verdict::Happened);
    }
    let is_ours = seen.owner.as_ref().is_some_and(|entry| entry.create_revision == position.fence);
    if !is_ours || version != position.version {
        return Verdict::Fenced;
    }
    let Some(newest) = sendings.last() else { return Verdict::Again };
    let fails =
        |member: &usize| changes.get(*member).is_some_and(|change| !change.compares.iter().all(|it| seen.holds(it)));
    let failed: Vec<usize> = newest.members.iter().copied().filter(fails).collect();
    if failed.is_empty() { Verdict::Again } else { Verdict::Without(failed) }
}

impl Seen {
    /// Whether a comparison holds by what was seen.
    pub(crate) fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::CreateRevision(key, revision) => {
                self.others.get(key).map_or(0, |entry| entry.create_revision) == *revision
            }
            Compare::ModRevision(key, revision) => {
                self.others.get(key).map_or(0, |entry| entry.mod_revision) == *revision
            }
            Compare::Version(key, version) => self.others.get(key).map_or(0, |entry| entry.version) == *version,
        }
    }
}

/// The key of a comparison.
pub(crate) fn compared(compare: &Compare) -> &str {
    match compare {
        Compare::CreateRevision(key, _) | Compare::ModRevision(key, _) | Compare::Version(key, _) => key,
    }
}

#[cfg(test)]
mod tests;
