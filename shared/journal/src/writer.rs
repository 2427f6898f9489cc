//! The one writer of a shard: takes what comes, writes it in batches, one at a time, and tells who waits.

pub(crate) mod queue;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_store::{Commit, Compare, Op, Range, Revision};
use weft_types::Backoff;

use crate::batch::{Fit, Packing, Position, Seen, Sending, Verdict, compared, judge};
use crate::change::{Change, Frame, Transition};
use crate::error::CommitError;
use crate::id::JobId;
use crate::journal::Shared;
use crate::outage::Trouble;
use crate::quota::Pressure;
use crate::record::Record;
use crate::shard::State;
use queue::{Answer, Live, Queue, Work};

/// What waits outside the queue's bound waits in its callers.
const MAX_QUEUED: usize = 1024;

/// What a writer is asked.
pub(crate) enum Request {
    /// A job moves on.
    Commit { transition: Transition, answer: Answer },
    /// Ended jobs are to be forgotten, with the keys that stand for them. `done` is dropped when that has happened, or will not.
    Forget { jobs: Vec<JobId>, done: mpsc::Sender<Infallible> },
    /// Slots that stand for jobs of this shard, as they were seen just now.
    Reconcile { slots: Vec<Slot> },
}

/// A taken slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    pub(crate) key: String,
    /// When it was taken.
    pub(crate) taken_at: Revision,
    pub(crate) job: JobId,
}

/// Why a writer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to.
    Drained,
    /// It may not write any more.
    Fenced,
}

/// The writer of one shard.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shard: Arc<State>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) position: Position,
    pub(crate) live: Live,
    pub(crate) queue: Queue,
    /// Slots that no job had when they were last looked at.
    pub(crate) suspects: HashSet<Slot>,
}

/// A batch on its way.
struct Batch {
    works: Vec<Work>,
    changes: Vec<Change>,
}

impl Writer {
    /// Writes until `closing`, or until the shard is lost. Dropping this leaves a transaction with an unknown fate, which is
    /// the next owner's to see.
    pub(crate) async fn run(&mut self, closing: &CancellationToken) -> End {
        loop {
            if self.queue.is_empty() {
                // Nothing is under way here, so neither branch loses anything.
                let request = tokio::select! {
                    biased;
                    () = closing.cancelled() => return End::Drained,
                    request = self.requests.recv() => request,
                };
                match request {
                    Some(request) => self.take(request),
                    None => return End::Drained,
                }
            }
            if closing.is_cancelled() {
                return End::Drained;
            }
            let shared = Arc::clone(&self.shared);
            // Never closed.
            let Ok(_permit) = shared.flushes.acquire().await else { return End::Drained };
            while self.queue.len() < MAX_QUEUED
                && let Ok(request) = self.requests.try_recv()
            {
                self.take(request);
            }
            let batch = self.next_batch();
            if !batch.works.is_empty() && self.flush(batch).await == End::Fenced {
                return End::Fenced;
            }
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Commit { transition, answer } => match self.admit(&transition) {
                Ok(()) => self.queue.push(transition, answer),
                // Whoever does not wait any more does not want to know.
                Err(error) => drop(answer.send(Err(error))),
            },
            Request::Forget { jobs, done } => self.queue.push_front(Work::Forget { jobs, _done: done }),
            Request::Reconcile { slots } => self.reconcile(slots),
        }
    }

    /// Keeps what room is left for jobs that end.
    fn admit(&self, transition: &Transition) -> Result<(), CommitError> {
        let is_new = !self.live.contains_key(&transition.after.id);
        let is_refused = match self.shared.quota.pressure() {
            Pressure::None => false,
            Pressure::NoNewJobs => is_new,
            Pressure::OnlyEndings => is_new || !transition.is_ending() && transition.takes_room(),
        };
        if is_refused { Err(CommitError::Full) } else { Ok(()) }
    }

    /// Frees slots that no job has had twice in a row. Nothing is under way here, so what is live is what the log says; the
    /// sequence that the write compares proves that nobody changed it since.
    fn reconcile(&mut self, slots: Vec<Slot>) {
        let has = |slot: &Slot| {
            let holds = self.live.get(&slot.job).into_iter().flat_map(|record| record.holds());
            holds.into_iter().any(|hold| self.shared.keys.slot(hold) == slot.key)
        };
        // What a record that cannot be read holds is not known: a newer build may go on with it.
        let is_unread = |slot: &Slot| self.shared.quarantined().contains_key(&self.shared.keys.job(&slot.job));
        let stray: HashSet<Slot> = slots.into_iter().filter(|slot| !has(slot) && !is_unread(slot)).collect();
        for slot in stray.intersection(&self.suspects) {
            tracing::warn!(slot = slot.key, job = %slot.job, "a slot that no job has is freed");
            let compares = vec![Compare::CreateRevision(slot.key.clone(), slot.taken_at)];
            let change = Change { compares, ops: vec![Op::Delete(slot.key.clone())], later: Vec::new() };
            self.queue.push_front(Work::Chore(change));
        }
        self.suspects = stray;
    }

    /// Takes as much out of the queue as fits one transaction. What needs no write at all is done at once.
    fn next_batch(&mut self) -> Batch {
        let mut batch = Batch { works: Vec::new(), changes: Vec::new() };
        let mut packing = Packing::default();
        for place in self.queue.places() {
            if batch.works.len() >= self.shared.options.batch {
                break;
            }
            let Some(work) = self.queue.get(place) else { continue };
            let is_alone = matches!(work, Work::Move { alone: true, .. });
            if is_alone && !batch.works.is_empty() {
                break;
            }
            let change = match self.change_of(work) {
                Ok(change) => change,
                Err(error) => {
                    self.queue.remove(place).into_iter().for_each(|work| work.answer(&Err(error.clone())));
                    continue;
                }
            };
            if change.ops.is_empty() {
                self.queue.remove(place).into_iter().for_each(|work| self.settle(work, &Change::default()));
                continue;
            }
            match packing.take(&change) {
                Fit::Yes => {
                    batch.works.extend(self.queue.remove(place));
                    batch.changes.push(change);
                }
                Fit::Collides => {}
                Fit::Full => break,
            }
            if is_alone {
                break;
            }
        }
        batch
    }

    fn change_of(&self, work: &Work) -> Result<Change, CommitError> {
        match work {
            Work::Chore(change) => Ok(change.clone()),
            // By what is remembered now: since it was asked for, a job may have been forgotten and its key taken by the next.
            Work::Forget { jobs, .. } => {
                let ops = self.shared.retained().deletions(jobs, &self.shared.keys);
                Ok(Change { ops, ..Change::default() })
            }
            Work::Move { transition, .. } => {
                let live = self.live.get(&transition.after.id);
                if !transition.follows(live) {
                    return Err(CommitError::Stale);
                }
                let frame = Frame { keys: &self.shared.keys, lease: self.shard.term.lease };
                frame.change(live.map(|live| &**live), transition)
            }
        }
    }

    /// Sends a batch until its fate is known. Changes that cannot happen are left out; their callers hear of it only once the
    /// sequence has moved on, since an earlier copy of the transaction may still arrive before that.
    async fn flush(&mut self, batch: Batch) -> End {
        let Batch { works, changes } = batch;
        let mut sendings = vec![Sending { id: number(), members: (0..works.len()).collect() }];
        let mut losers: HashMap<usize, CommitError> = HashMap::new();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let began = self.shared.clock.now();
        let members = loop {
            let Some(sending) = sendings.last() else { return End::Fenced };
            let seen = match self.shared.store.commit(sending.txn(&self.position, &changes)).await {
                Ok(Commit::Done(_)) => break sending.members.clone(),
                Err(weft_store::Error::LeaseLost(_)) => return End::Fenced,
                Err(weft_store::Error::Refused(text)) => {
                    self.refused(works, &text);
                    return End::Drained;
                }
                Ok(Commit::Lost(_)) => self.look(&changes).await,
                Err(error) => {
                    self.shared.outage.tell(Trouble::Write, self.shard.number, &error, self.shared.clock.now());
                    tokio::time::sleep(backoff.next(rand::random())).await;
                    self.look(&changes).await
                }
            };
            let Ok(seen) = seen else {
                tokio::time::sleep(backoff.next(rand::random())).await;
                continue;
            };
            match judge(&self.position, &sendings, &changes, &seen) {
                Verdict::Happened(index) => {
                    break sendings.get(index).map(|sending| sending.members.clone()).unwrap_or_default();
                }
                Verdict::Fenced => return End::Fenced,
                Verdict::Again => {}
                Verdict::Without(failed) => {
                    losers
                        .extend(failed.iter().map(|member| (*member, reason(works.get(*member), &seen, &self.shared))));
                    let left = sending.members.iter().copied().filter(|member| !failed.contains(member)).collect();
                    // With nobody left it still moves the sequence on.
                    sendings.push(Sending { id: number(), members: left });
                }
            }
        };
        let transitions: usize = members.iter().filter_map(|member| works.get(*member)).map(Work::transitions).sum();
        if transitions > 0 {
            self.shared.metrics.record_commit(transitions, self.shared.clock.now().saturating_duration_since(began));
        }
        self.conclude(works, changes, &members, &losers);
        End::Drained
    }

    /// Reads what the fate of a batch can be told from; the owner first, so that a fence that held proves something.
    async fn look(&self, changes: &[Change]) -> Result<Seen, weft_store::Error> {
        let read = async |key: &str| {
            let listing = self.shared.store.read(Range::Key(key.to_owned())).await?;
            Ok::<_, weft_store::Error>(listing.entries.into_iter().next())
        };
        let owner = read(&self.position.owner).await?;
        let sequence = read(&self.position.sequence).await?;
        // As many at once as one transaction compares.
        let keys = changes.iter().flat_map(|change| &change.compares).map(compared);
        let found = try_join_all(keys.map(read)).await?;
        let others = found.into_iter().flatten().map(|entry| (entry.key.clone(), entry)).collect();
        Ok(Seen { owner, sequence, others })
    }

    /// The sequence has moved on: `members` are in the log, the others are not.
    fn conclude(
        &mut self,
        works: Vec<Work>,
        changes: Vec<Change>,
        members: &[usize],
        losers: &HashMap<usize, CommitError>,
    ) {
        self.position.version += 1;
        let members: HashSet<usize> = members.iter().copied().collect();
        for (index, (work, change)) in works.into_iter().zip(changes).enumerate() {
            if members.contains(&index) {
                self.settle(work, &change);
            } else {
                let error = losers.get(&index).cloned().unwrap_or(CommitError::SlotsTaken);
                work.answer(&Err(error));
            }
        }
    }

    /// Takes note of what is in the log now.
    fn settle(&mut self, work: Work, change: &Change) {
        match &work {
            Work::Chore(_) => {}
            Work::Forget { jobs, .. } => self.shared.retained().forget(jobs),
            Work::Move { transition, .. } => {
                let after = &transition.after;
                let was_live = if after.job.state.has_ended() {
                    self.shared.retained().insert(after, &self.shared.keys);
                    self.live.remove(&after.id).is_some()
                } else {
                    self.live.insert(after.id.clone(), Arc::clone(after)).is_some()
                };
                self.count(after, was_live);
            }
        }
        work.answer(&Ok(()));
        for ops in change.later.chunks(64) {
            let change = Change { ops: ops.to_vec(), ..Change::default() };
            self.queue.push_front(Work::Chore(change));
        }
    }

    /// Keeps count of the jobs that would not survive a move of the shard.
    fn count(&self, after: &Record, was_live: bool) {
        if after.is_journaled() {
            return;
        }
        match (was_live, after.job.state.has_ended()) {
            (false, false) => _ = self.shard.volatile.fetch_add(1, Ordering::AcqRel),
            (true, true) => _ = self.shard.volatile.fetch_sub(1, Ordering::AcqRel),
            _ => {}
        }
    }

    /// The store will never take this transaction. One of several is at fault: each is tried alone.
    fn refused(&mut self, works: Vec<Work>, text: &str) {
        let several = works.len() > 1;
        for work in works.into_iter().rev() {
            match work {
                Work::Move { transition, answers, .. } if several => {
                    self.queue.push_front(Work::Move { transition, answers, alone: true });
                }
                work => work.answer(&Err(CommitError::Refused(text.to_owned()))),
            }
        }
    }
}

/// A number that no other sending has.
fn number() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<[u8; 16]>())
}

/// Why a transition cannot happen.
fn reason(work: Option<&Work>, seen: &Seen, shared: &Shared) -> CommitError {
    let Some(Work::Move { transition, .. }) = work else { return CommitError::SlotsTaken };
    let after = &transition.after;
    let entry = seen.others.get(&shared.keys.idempotency(&after.tenant, &after.key));
    match entry.and_then(|entry| crate::journal::key_holder(&entry.value)) {
        Some((id, hash)) if transition.before.is_none() => {
            CommitError::KeyTaken { same: hash == after.request_hash, id }
        }
        _ => CommitError::SlotsTaken,
    }
}
