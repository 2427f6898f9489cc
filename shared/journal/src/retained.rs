//! Ended jobs that this scheduler's shards remember: which, since when, how much they take.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map};
use std::sync::Arc;

use weft_saga::Millis;
use weft_store::Op;

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
struct Kept {
    bytes: usize,
    /// The key that stands for it, if it was submitted with one.
    key: Option<String>,
    /// The record itself, of a job that the log never had.
    record: Option<Arc<Record>>,
}

/// Ended jobs, by shard.
#[derive(Default)]
pub(crate) struct Retained {
    shards: BTreeMap<u8, OfShard>,
    /// Those that are not being forgotten.
    records: usize,
    /// What these take.
    bytes: usize,
}

/// The ended jobs of a shard, the oldest first.
#[derive(Default)]
struct OfShard {
    kept: BTreeMap<Age, Kept>,
    ended_at: HashMap<JobId, Millis>,
    /// What is being forgotten. Until that is over, nothing else of the shard is.
    leaving: HashSet<JobId>,
}

/// When a job ended, and which one it is.
type Age = (Millis, JobId);

impl Retained {
    pub(crate) fn insert(&mut self, record: &Arc<Record>, keys: &Keys) {
        let key = (!record.key.is_empty()).then(|| keys.idempotency(&record.tenant, &record.key));
        // As it stands in the log, and its keys.
        let bytes = record.encode_within(MAX_RECORD).len() + 256;
        let ended_at = record.job.ended_at.unwrap_or(record.job.created_at);
        let kept = Kept { bytes, key, record: (!record.is_journaled()).then(|| Arc::clone(record)) };
        self.forget(std::slice::from_ref(&record.id));
        (self.records, self.bytes) = (self.records + 1, self.bytes + bytes);
        let shard = self.shards.entry(record.id.shard()).or_default();
        shard.ended_at.insert(record.id.clone(), ended_at);
        shard.kept.insert((ended_at, record.id.clone()), kept);
    }

    pub(crate) fn forget(&mut self, jobs: &[JobId]) {
        for id in jobs {
            let Some(shard) = self.shards.get_mut(&id.shard()) else { continue };
            let at = shard.ended_at.remove(id);
            let Some(kept) = at.and_then(|at| shard.kept.remove(&(at, id.clone()))) else { continue };
            if !shard.leaving.remove(id) {
                (self.records, self.bytes) = (self.records - 1, self.bytes - kept.bytes);
            }
        }
    }

    /// Forgets a shard that has another owner now: what stands in the log is the owner's to forget.
    pub(crate) fn leave(&mut self, shard: u8) {
        let Some(left) = self.shards.remove(&shard) else { return };
        for ((_, id), kept) in &left.kept {
            if !left.leaving.contains(id) {
                (self.records, self.bytes) = (self.records - 1, self.bytes - kept.bytes);
            }
        }
    }

    /// What has to be deleted of these jobs. Of one that is not remembered any more, nothing is: its key may be another's by now.
    pub(crate) fn deletions(&self, jobs: &[JobId], keys: &Keys) -> Vec<Op> {
        let known = jobs.iter().filter_map(|id| Some((id, self.get(id)?)));
        known.flat_map(|(id, kept)| [Some(keys.ended(id)), kept.key.clone()]).flatten().map(Op::Delete).collect()
    }

    fn get(&self, id: &JobId) -> Option<&Kept> {
        let shard = self.shards.get(&id.shard())?;
        shard.kept.get(&(*shard.ended_at.get(id)?, id.clone()))
    }

    /// The record of a job that the log never had.
    pub(crate) fn volatile(&self, id: &JobId) -> Option<Arc<Record>> {
        self.get(id)?.record.clone()
    }

    /// As [`Self::volatile`], all of a shard.
    pub(crate) fn all_volatile(&self, shard: u8) -> Vec<Arc<Record>> {
        let of_shard = self.shards.get(&shard).into_iter().flat_map(|shard| shard.kept.values());
        of_shard.filter_map(|kept| kept.record.clone()).collect()
    }

    /// What is over the bounds and is to be forgotten now, the oldest first: at most `limit` of each of these shards, and nothing of one
    /// whose last lot is not done. However much is kept, no more than that is looked at.
    pub(crate) fn expired(
        &mut self,
        bounds: Bounds,
        limit: usize,
        is_owned: impl Fn(u8) -> bool,
    ) -> BTreeMap<u8, Vec<JobId>> {
        let expired = self.oldest(bounds, limit, is_owned);
        for (number, jobs) in &expired {
            let Some(shard) = self.shards.get_mut(number) else { continue };
            for ((_, id), kept) in shard.kept.iter().take(jobs.len()) {
                (self.records, self.bytes) = (self.records - 1, self.bytes - kept.bytes);
                shard.leaving.insert(id.clone());
            }
        }
        expired
    }

    fn oldest(&self, bounds: Bounds, limit: usize, is_owned: impl Fn(u8) -> bool) -> BTreeMap<u8, Vec<JobId>> {
        let mut expired: BTreeMap<u8, Vec<JobId>> = BTreeMap::new();
        // The oldest one of each shard, and those behind it.
        let mut heads: BTreeMap<&Age, (&Kept, btree_map::Iter<'_, Age, Kept>)> = BTreeMap::new();
        // What a shard has to forget later is older than what others have behind it, and goes before that if only the number counts.
        let mut barrier: Option<&Age> = None;
        for (_, shard) in self.shards.iter().filter(|(number, _)| is_owned(**number)) {
            let mut rest = shard.kept.iter();
            let Some((age, kept)) = rest.by_ref().nth(shard.leaving.len()) else { continue };
            if shard.leaving.is_empty() {
                heads.insert(age, (kept, rest));
            } else {
                barrier = Some(barrier.map_or(age, |other| other.min(age)));
            }
        }
        let (mut records, mut bytes) = (self.records, self.bytes);
        while let Some((age, (kept, mut rest))) = heads.pop_first() {
            let is_too_much = records > bounds.records || bytes > bounds.bytes;
            let is_next = barrier.is_none_or(|barrier| age < barrier);
            if age.0 >= bounds.since && !(is_too_much && is_next) {
                break;
            }
            (records, bytes) = (records - 1, bytes - kept.bytes);
            let of_shard = expired.entry(age.1.shard()).or_default();
            of_shard.push(age.1.clone());
            let Some((age, kept)) = rest.next() else { continue };
            if of_shard.len() < limit {
                heads.insert(age, (kept, rest));
            } else {
                barrier = Some(barrier.map_or(age, |other| other.min(age)));
            }
        }
        expired
    }

    /// The last lot of a shard is done: what was not forgotten stays for now. Returns how many that were.
    pub(crate) fn keep(&mut self, shard: u8) -> usize {
        let Some(shard) = self.shards.get_mut(&shard) else { return 0 };
        let stays = std::mem::take(&mut shard.leaving);
        for id in &stays {
            let at = shard.ended_at.get(id).copied();
            let bytes = at.and_then(|at| shard.kept.get(&(at, id.clone()))).map_or(0, |kept| kept.bytes);
            (self.records, self.bytes) = (self.records + 1, self.bytes + bytes);
        }
        stays.len()
    }
}

#[cfg(test)]
mod tests;
