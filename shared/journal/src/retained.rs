//! Ended jobs that this scheduler's shards remember: which, since when, how much they take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_saga::Millis;

use crate::change::MAX_RECORD;
use crate::id::JobId;
use crate::keys::Keys;
use crate::record::Record;

/// How much may be remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Nothing that ended before this.
    pub(crate) since: Millis,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// One ended job.
#[derive(Clone)]
struct Kept {
    bytes: usize,
    /// The key that stands for it, if it was submitted with one.
    key: Option<String>,
    /// The record itself, of a job that the log never had.
    record: Option<Arc<Record>>,
}

/// Ended jobs, the oldest first.
#[derive(Default)]
pub(crate) struct Retained {
    kept: BTreeMap<(Millis, JobId), Kept>,
    ended_at: HashMap<JobId, Millis>,
    bytes: usize,
}

/// What one shard shall forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) jobs: Vec<JobId>,
    /// Their idempotency keys.
    pub(crate) keys: Vec<String>,
}

impl Retained {
    pub(crate) fn insert(&mut self, record: &Arc<Record>, keys: &Keys) {
        let key = (!record.key.is_empty()).then(|| keys.idempotency(&record.tenant, &record.key));
        // As it stands in the log, and its keys.
        let bytes = record.encode_within(MAX_RECORD).len() + 256;
        let ended_at = record.job.ended_at.unwrap_or(record.job.created_at);
        let kept = Kept { bytes, key, record: (!record.is_journaled()).then(|| Arc::clone(record)) };
        self.forget(std::slice::from_ref(&record.id));
        self.bytes += bytes;
        self.ended_at.insert(record.id.clone(), ended_at);
        self.kept.insert((ended_at, record.id.clone()), kept);
    }

    pub(crate) fn forget(&mut self, jobs: &[JobId]) {
        for id in jobs {
            let at = self.ended_at.remove(id);
            let kept = at.and_then(|at| self.kept.remove(&(at, id.clone())));
            self.bytes -= kept.map_or(0, |kept| kept.bytes);
        }
    }

    /// Forgets a shard that has another owner now: what stands in the log is the owner's to forget.
    pub(crate) fn leave(&mut self, shard: u8) {
        let jobs: Vec<JobId> = self.ended_at.keys().filter(|id| id.shard() == shard).cloned().collect();
        self.forget(&jobs);
    }

    /// The record of a job that the log never had.
    pub(crate) fn volatile(&self, id: &JobId) -> Option<Arc<Record>> {
        let at = self.ended_at.get(id)?;
        self.kept.get(&(*at, id.clone()))?.record.clone()
    }

    /// As [`Self::volatile`], all of a shard.
    pub(crate) fn all_volatile(&self, shard: u8) -> Vec<Arc<Record>> {
        let of_shard = self.kept.iter().filter(|((_, id), _)| id.shard() == shard);
        of_shard.filter_map(|(_, kept)| kept.record.clone()).collect()
    }

    /// What is over the bounds, by shard: the oldest, at most `limit` together and `rounds` times that of each.
    pub(crate) fn expired(&self, bounds: Bounds, limit: usize, rounds: usize) -> BTreeMap<u8, Vec<Expired>> {
        let (mut records, mut bytes) = (self.kept.len(), self.bytes);
        let mut expired: BTreeMap<u8, Vec<Expired>> = BTreeMap::new();
        for ((ended_at, id), kept) in &self.kept {
            if *ended_at >= bounds.since && records <= bounds.records && bytes <= bounds.bytes {
                break;
            }
            (records, bytes) = (records - 1, bytes - kept.bytes);
            let of_shard = expired.entry(id.shard()).or_default();
            if of_shard.last().is_none_or(|last| last.jobs.len() >= limit) {
                if of_shard.len() >= rounds {
                    continue;
                }
                of_shard.push(Expired::default());
            }
            if let Some(last) = of_shard.last_mut() {
                last.jobs.push(id.clone());
                last.keys.extend(kept.key.clone());
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests;
