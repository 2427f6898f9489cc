//! What one transition of a job changes in the store: the difference of two records.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use weft_proto::weft::state::v1 as state;
use weft_saga::Hold;
use weft_store::{Compare, LeaseId, Op};

use crate::error::CommitError;
use crate::keys::Keys;
use crate::record::Record;

/// The longest record of a job that goes on. A job that ends may have a longer one: it must be able to.
pub(crate) const MAX_RECORD: usize = 256 * 1024;

/// The longest record of a job that can only end.
const MAX_ENDING: usize = 1024 * 1024;

/// The longest record at all: with it a transaction is still within etcd's limit. It is more than what has not ended may have, so that a job
/// which has no room left can be ended as it is.
const MAX_ENDED: usize = MAX_ENDING + 16 * 1024;

/// The most slots that one transition takes: all of them have to go in one transaction.
pub(crate) const MAX_TAKEN: usize = 64;

/// The most slots that one transition gives back or rewrites at once. The others follow.
const MAX_TOUCHED: usize = 24;

/// Writes with their conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// What has to hold.
    pub(crate) compares: Vec<Compare>,
    /// What is written then.
    pub(crate) ops: Vec<Op>,
    /// What may be written some time after that.
    pub(crate) later: Vec<Op>,
}

impl Change {
    /// The bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let size = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        };
        self.ops.iter().map(size).sum()
    }

    /// How much of a transaction it takes: etcd counts comparisons and operations apart, and limits both.
    pub(crate) fn size(&self) -> usize {
        self.ops.len().max(self.compares.len())
    }
}

/// Where and under which lease is written.
pub(crate) struct Frame<'a> {
    pub(crate) keys: &'a Keys,
    /// For what shall not outlive the scheduler.
    pub(crate) lease: LeaseId,
}

impl Frame<'_> {
    /// The difference between what is in the log and what shall be there.
    pub(crate) fn change(&self, before: Option<&Record>, transition: &Transition) -> Result<Change, CommitError> {
        let after = &*transition.after;
        let mut change = Change::default();
        let lease = (!after.is_journaled()).then_some(self.lease);
        if after.is_journaled() {
            self.write_record(before, transition, &mut change)?;
        }
        if before.is_none() && !after.key.is_empty() {
            let key = self.keys.idempotency(&after.tenant, &after.key);
            let value = state::JobKey { job: after.id.to_string(), request_hash: after.request_hash.to_vec() };
            change.compares.push(Compare::CreateRevision(key.clone(), 0));
            change.ops.push(Op::Put { key, value: value.encode_to_vec().into(), lease });
        }
        self.write_slots(before, after, lease, &mut change)?;
        Ok(change)
    }

    fn write_record(
        &self,
        before: Option<&Record>,
        transition: &Transition,
        change: &mut Change,
    ) -> Result<(), CommitError> {
        let after = &*transition.after;
        let value = encode(transition)?.into();
        if after.job.state.has_ended() {
            change.ops.extend(before.map(|_| Op::Delete(self.keys.job(&after.id))));
            change.ops.push(Op::Put { key: self.keys.ended(&after.id), value, lease: None });
        } else {
            change.ops.push(Op::Put { key: self.keys.job(&after.id), value, lease: None });
        }
        Ok(())
    }

    fn write_slots(
        &self,
        before: Option<&Record>,
        after: &Record,
        lease: Option<LeaseId>,
        change: &mut Change,
    ) -> Result<(), CommitError> {
        let had = by_slot(before.into_iter().flat_map(Record::holds));
        let has = by_slot(after.holds());
        if has.len() < after.holds().count() {
            // One of the job's own steps was faster, which no comparison would tell.
            return Err(CommitError::SlotsTaken);
        }
        let put = |hold: &Hold| {
            let value = state::JobSlot { job: after.id.to_string(), confirmed: hold.confirmed };
            Op::Put { key: self.keys.slot(hold), value: value.encode_to_vec().into(), lease }
        };
        let taken: Vec<&Hold> =
            has.iter().filter(|(slot, _)| !had.contains_key(*slot)).map(|(_, hold)| *hold).collect();
        if taken.len() > MAX_TAKEN {
            return Err(CommitError::TooLarge(format!(
                "{} slots at once, and at most {MAX_TAKEN} can be taken",
                taken.len()
            )));
        }
        for hold in taken {
            check(hold)?;
            change.compares.push(Compare::CreateRevision(self.keys.slot(hold), 0));
            change.ops.push(put(hold));
        }
        let rewritten =
            has.iter().filter(|(slot, hold)| had.get(*slot).is_some_and(|old| old.confirmed != hold.confirmed));
        let freed = had.iter().filter(|(slot, _)| !has.contains_key(*slot));
        let mut rest: Vec<Op> = freed.map(|(_, hold)| Op::Delete(self.keys.slot(hold))).collect();
        rest.extend(rewritten.map(|(_, hold)| put(hold)));
        // Only taking must be one with the record. What is given back late harms nobody.
        change.later = rest.split_off(rest.len().min(MAX_TOUCHED));
        change.ops.append(&mut rest);
        Ok(())
    }
}

fn by_slot<'a>(holds: impl Iterator<Item = &'a Hold>) -> BTreeMap<(&'a str, &'a str, u32), &'a Hold> {
    holds.map(|hold| ((hold.pool.as_str(), hold.worker.as_str(), hold.number), hold)).collect()
}

/// Refuses a name that would reach beyond its place in a key.
fn check(hold: &Hold) -> Result<(), CommitError> {
    let is_good = |name: &str| !name.is_empty() && name.len() <= 128 && !name.contains('/');
    if is_good(&hold.pool) && is_good(&hold.worker) {
        return Ok(());
    }
    Err(CommitError::Invalid("the names of a slot's pool and worker are 1 to 128 characters without '/'".into()))
}

fn encode(transition: &Transition) -> Result<Vec<u8>, CommitError> {
    let bytes = transition.after.encode_within(MAX_RECORD);
    let limit = match () {
        () if transition.after.job.state.has_ended() => MAX_ENDED,
        () if transition.is_ending() => MAX_ENDING,
        () => MAX_RECORD,
    };
    if bytes.len() > limit {
        return Err(CommitError::TooLarge(format!(
            "the job's record has {} bytes, and at most {limit} are kept",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// A transition to be written.
#[derive(Clone)]
pub(crate) struct Transition {
    /// What it follows; `None` for a new job.
    pub(crate) before: Option<Arc<Record>>,
    /// What it leads to.
    pub(crate) after: Arc<Record>,
    /// The job has no way back, although it does not show.
    pub(crate) is_bound: bool,
}

impl Transition {
    /// Whether it must always find room.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_bound || self.after.is_ending()
    }

    /// Whether the store has more to keep after it: a record, or slots that were free.
    pub(crate) fn takes_room(&self) -> bool {
        let had = by_slot(self.before.iter().flat_map(|before| before.holds()));
        self.after.is_journaled() || by_slot(self.after.holds()).keys().any(|slot| !had.contains_key(slot))
    }

    /// Whether `next` follows it.
    pub(crate) fn precedes(&self, next: &Self) -> bool {
        next.before.as_ref().is_some_and(|before| before.job.revision == self.after.job.revision)
    }

    /// Whether it follows what is in the log.
    pub(crate) fn follows(&self, live: Option<&Arc<Record>>) -> bool {
        match (&self.before, live) {
            (None, None) => true,
            (Some(before), Some(live)) => before.job.revision == live.job.revision,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
