//! The open jobs of this scheduler, by shard.
//!
//! A shard that is lost takes its jobs along at once: dropping a job's entry ends its task, and with it whatever the task had under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use weft_journal::{JobId, Record, Shard};
use weft_runtime::Running;
use weft_saga::{Event, JobState};
use weft_telemetry::OpenJobs;
use weft_types::Result;

use super::Program;

/// Who waits for what became of a verb.
pub(super) type Reply = oneshot::Sender<Result<Arc<Record>>>;

/// What somebody wants of a job. It is answered after its commit.
pub(super) struct Command {
    pub(super) event: Event,
    pub(super) reply: Reply,
}

/// An open job, as others reach it.
#[derive(Clone)]
pub(super) struct Handle {
    /// While it holds, nobody else can have moved the job on.
    pub(super) shard: Shard,
    /// `None` where this build cannot run it.
    pub(super) program: Option<Arc<Program>>,
    pub(super) commands: mpsc::Sender<Command>,
    /// The newest committed record; `None` until the first one is.
    pub(super) newest: watch::Receiver<Option<Arc<Record>>>,
}

impl Handle {
    /// The job as it is in the log.
    pub(super) fn record(&self) -> Option<Arc<Record>> {
        self.newest.borrow().clone()
    }

    /// Whether what [`Self::record`] tells can still change here: the job is run, or kept for who asks.
    pub(super) fn is_kept(&self) -> bool {
        self.newest.has_changed().is_ok()
    }
}

/// A job with what runs it. Dropping it ends that.
pub(super) struct Entry {
    pub(super) handle: Handle,
    pub(super) _task: Running,
}

struct OfShard {
    shard: Shard,
    /// Whether jobs are missing here that another scheduler ran.
    recovering: bool,
    jobs: HashMap<JobId, Entry>,
}

#[derive(Default)]
struct State {
    shards: BTreeMap<u8, OfShard>,
    open: usize,
}

/// Every open job.
#[derive(Default)]
pub(super) struct Table(Mutex<State>);

impl Table {
    /// From now on this scheduler runs the shard's jobs.
    pub(super) fn acquire(&self, shard: Shard) {
        let mut state = self.lock();
        let number = shard.number();
        let before = state.shards.insert(number, OfShard { shard, recovering: true, jobs: HashMap::new() });
        state.open -= before.map_or(0, |before| before.jobs.len());
    }

    /// All jobs that another scheduler ran are here.
    pub(super) fn recovered(&self, number: u8, epoch: i64) {
        if let Some(of) = self.lock().shards.get_mut(&number).filter(|of| of.shard.epoch() == epoch) {
            of.recovering = false;
        }
    }

    /// Whether jobs of the shard may be missing.
    pub(super) fn is_recovering(&self, number: u8) -> bool {
        self.lock().shards.get(&number).is_some_and(|of| of.recovering)
    }

    /// Lets go of a shard with all of its jobs.
    pub(super) fn lose(&self, number: u8) {
        let mut state = self.lock();
        let Some(lost) = state.shards.remove(&number) else { return };
        state.open -= lost.jobs.len();
        drop(state);
        // Outside the lock: it ends many tasks.
        drop(lost);
    }

    /// The shard, while it is this scheduler's.
    pub(super) fn shard(&self, number: u8) -> Option<Shard> {
        self.lock().shards.get(&number).map(|of| of.shard.clone())
    }

    /// How many shards are this scheduler's.
    pub(super) fn shards(&self) -> usize {
        self.lock().shards.len()
    }

    /// How many jobs are open.
    pub(super) fn open(&self) -> usize {
        self.lock().open
    }

    /// Adds a job with what `start` begins to run it; false where its shard has gone meanwhile. `start` must not come back here.
    pub(super) fn insert(&self, id: &JobId, epoch: i64, start: impl FnOnce() -> Entry) -> bool {
        let mut state = self.lock();
        let Some(of) = state.shards.get_mut(&id.shard()).filter(|of| of.shard.epoch() == epoch) else { return false };
        if of.jobs.insert(id.clone(), start()).is_none() {
            state.open += 1;
        }
        true
    }

    /// Forgets a job. The last thing that its task does: it ends with its entry.
    pub(super) fn remove(&self, id: &JobId, epoch: i64) {
        let mut state = self.lock();
        let Some(of) = state.shards.get_mut(&id.shard()).filter(|of| of.shard.epoch() == epoch) else { return };
        let removed = of.jobs.remove(id);
        state.open -= usize::from(removed.is_some());
        drop(state);
        drop(removed);
    }

    pub(super) fn get(&self, id: &JobId) -> Option<Handle> {
        self.lock().shards.get(&id.shard())?.jobs.get(id).map(|entry| entry.handle.clone())
    }

    /// The committed records of all open jobs, and the shards of which none are missing: nobody else can own them at `now`.
    pub(super) fn records(&self, now: Instant) -> (Vec<Arc<Record>>, BTreeSet<u8>) {
        let state = self.lock();
        let records = state.shards.values().flat_map(|of| of.jobs.values()).filter_map(|entry| entry.handle.record());
        let whole =
            state.shards.iter().filter(|(_, of)| !of.recovering && of.shard.holds(now)).map(|(number, _)| *number);
        (records.collect(), whole.collect())
    }

    pub(super) fn count(&self) -> OpenJobs {
        let state = self.lock();
        let mut counted = OpenJobs::default();
        for record in state.shards.values().flat_map(|of| of.jobs.values()).filter_map(|entry| entry.handle.record()) {
            match record.job.state {
                JobState::Running => counted.running += 1,
                JobState::Compensating => counted.compensating += 1,
                JobState::Completed | JobState::Compensated | JobState::Abandoned => continue,
            }
            counted.stuck += u64::from(record.job.stuck.is_some());
        }
        counted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each entry is whole at any point: a panic elsewhere cannot have left one half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
