//! The leader's loop: whenever the mesh has changed, makes the placements agree with what is wanted.
//!
//! Level-triggered: each pass looks at the newest snapshot and writes the whole difference, so changes that come while a
//! pass runs are one, and a pass that was cut off is made good by the next.

mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_client::{Keys, Snapshot};
use weft_policy::place::{Key, Move, Plan, Unplaced, Why, place};
use weft_store::{Commit, Fence, Op, Revision, Txn};
use weft_types::{Backoff, SystemClock};

use crate::Inner;
use crate::events::{Batch, Telling, batches};
use crate::observe::{refused, world, yielding};

/// Transactions that are on their way to the store at once.
const IN_FLIGHT: usize = 8;

/// What the loop remembers between passes.
pub(crate) struct Placer {
    inner: Arc<Inner>,
    fence: watch::Receiver<Option<Fence>>,
    /// The revision of the last own write of this term. A snapshot from before it would lead to the same decision again, or to
    /// another one for the same lack.
    written: Revision,
    /// The term in which that was: after a restore from a backup the store's revisions are smaller than in a term before.
    term: Revision,
    /// The revision of the barrier that writes of moves compare; `None` before the first in a term, and once a write may have been lost
    /// sight of: such a write may still arrive, after a decision that knows nothing of it.
    barrier: Option<Revision>,
}

/// One transaction of a plan.
struct Write {
    moves: Vec<Move>,
    txn: Txn,
    /// What tells of it in the same transaction; `None` where that cannot be written.
    telling: Option<Telling>,
}

impl Placer {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { fence: inner.fence.clone(), inner, written: 0, term: 0, barrier: None }
    }

    /// Looks and writes until cancelled. A write that is cut off here is whole or not there.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changes = self.inner.mesh.changes();
        let mut idle = self.inner.scaling.idle();
        let mut backoff = Backoff::new(Duration::from_millis(100), self.inner.options.resync);
        loop {
            let pass = tokio::select! {
                () = cancel.cancelled() => return,
                pass = self.pass() => pass,
            };
            let wait = match pass {
                Ok(()) => {
                    backoff.reset();
                    self.inner.options.resync
                }
                Err(error) => {
                    tracing::warn!(%error, "placements are behind: trying again");
                    backoff.next(rand::random())
                }
            };
            // Whichever comes first, the next pass starts from the newest state, so a cancelled branch loses nothing.
            let gone = tokio::select! {
                () = cancel.cancelled() => true,
                changed = changes.changed() => changed.is_err(),
                changed = self.fence.changed() => changed.is_err(),
                changed = idle.changed() => changed.is_err(),
                () = tokio::time::sleep(wait) => false,
            };
            if gone {
                return;
            }
        }
    }

    /// One look, and what follows from it.
    async fn pass(&mut self) -> Result<(), weft_store::Error> {
        let (now, snapshot) = (SystemClock::now(), self.inner.mesh.snapshot());
        if snapshot.confirmed.is_none() {
            return Ok(());
        }
        let failures = self.inner.note_failures(&snapshot, now);
        let fence = self.fence.borrow().clone();
        if let Some(fence) = &fence
            && fence.create_revision != self.term
        {
            (self.term, self.written, self.barrier) = (fence.create_revision, 0, None);
        }
        if fence.as_ref().is_none_or(|fence| !fence.holds(now)) {
            self.tell_unplaced(&[]);
        }
        let Some(fence) = fence.filter(|fence| may_decide(fence, snapshot.revision, self.written, now)) else {
            return Ok(());
        };
        // What no worker obeys is taken back first, or it would count as placed for ever, and what a worker has given up and somebody
        // wants anew. The next pass, on a snapshot that shows it gone, decides what is missing then.
        let refused = refused(&snapshot, fence.create_revision);
        let renewed = self.inner.failures().renewed(&snapshot, self.inner.options.failure_memory, now);
        let mut plan = match (&*refused, &*renewed) {
            ([], []) => {
                let mut world = world(&snapshot, &self.inner.keys, self.inner.options.model_control, failures);
                self.inner.scaling.mark(&mut world, now);
                let mut plan = place(&world);
                spare_unread(&mut plan, &snapshot, &self.inner.keys);
                self.tell_unplaced(&plan.unplaced);
                plan
            }
            // It is not known yet what has no place.
            _ => take_back(refused, renewed),
        };
        take_leave(&mut plan, yielding(&snapshot));
        if plan.moves.is_empty() {
            return Ok(());
        }
        let Some(barrier) = self.barrier else { return self.raise(&fence).await };
        let mut span = self.inner.scope.start_internal("weft.scheduler.place", None);
        span.set("weft.epoch", fence.create_revision);
        span.set("weft.moves", i64::try_from(plan.moves.len()).unwrap_or(i64::MAX));
        let writes = self.writes(&plan, &snapshot, (&fence, barrier)).await;
        self.write(writes).await.inspect_err(|_| span.fail("STORE_UNAVAILABLE"))
    }

    /// The plan as transactions, each with what tells of it.
    async fn writes(&self, plan: &Plan, snapshot: &Snapshot, (fence, barrier): (&Fence, Revision)) -> Vec<Write> {
        let batches = batches(&plan.moves, snapshot.revision);
        let tellings = self.inner.tellings(&batches, fence).await.inspect_err(|error| {
            tracing::warn!(%error, "events of moves cannot be written now: they are told after them");
        });
        let mut tellings = tellings.into_iter().flatten();
        let write = |Batch { moves, .. }: Batch| {
            let txn = write::transaction(&moves, plan, snapshot, &self.inner.keys, (fence, barrier));
            Write { moves, txn, telling: tellings.next() }
        };
        batches.into_iter().map(write).collect()
    }

    /// Writes the barrier: what was sent before it and has not arrived does nothing any more. The next pass decides on a snapshot that shows
    /// it, and so all that has arrived.
    async fn raise(&mut self, fence: &Fence) -> Result<(), weft_store::Error> {
        let put = Op::Put { key: self.inner.keys.barrier(), value: Default::default(), lease: None };
        match self.inner.store.commit(Txn { compares: vec![fence.compare()], ops: vec![put] }).await? {
            Commit::Done(revision) => (self.written, self.barrier) = (self.written.max(revision), Some(revision)),
            Commit::Lost(revision) => tracing::info!(revision, "the leadership is over: nothing is placed"),
        }
        Ok(())
    }

    /// Commits the transactions, some at a time, and tells what was done where they did not. One that is lost or fails ends the pass
    /// after those beside it: the leadership is over, or the records have changed, and in both cases news is on its way. Each transaction
    /// holds or not by itself, so their order does not matter.
    async fn write(&mut self, writes: Vec<Write>) -> Result<(), weft_store::Error> {
        let mut writes = writes.into_iter();
        let (mut untold, mut outcome) = (Vec::new(), Ok(true));
        while let Ok(true) = outcome {
            let some: Vec<Write> = writes.by_ref().take(IN_FLIGHT).collect();
            if some.is_empty() {
                break;
            }
            let inner = &self.inner;
            let commit = |Write { moves, txn, telling }: Write| async move {
                (moves, inner.commit_telling(txn, telling.as_ref()).await)
            };
            for (moves, commit) in join_all(some.into_iter().map(commit)).await {
                match commit {
                    Ok((Commit::Done(revision), is_told)) => {
                        self.written = self.written.max(revision);
                        self.inner.moves_written.fetch_add(moves.len() as u64, Ordering::Relaxed);
                        moves.iter().for_each(|change| tracing::info!(?change, "placement written"));
                        untold.extend(moves.into_iter().filter(|_| !is_told));
                    }
                    Ok((Commit::Lost(revision), _)) => {
                        tracing::info!(revision, "the mesh has changed under a placement: looking again");
                        // Perhaps it was the barrier that has changed: one whose write was lost sight of has arrived.
                        (outcome, self.barrier) = (outcome.and(Ok(false)), None);
                    }
                    Err(error) => (outcome, self.barrier) = (Err(error), None),
                }
            }
        }
        if !untold.is_empty() {
            self.inner.occurred.moved(&untold, self.written);
        }
        outcome.map(drop)
    }

    fn tell_unplaced(&self, unplaced: &[Unplaced]) {
        let differs = self.inner.unplaced.send_if_modified(|told| {
            let differs = **told != *unplaced;
            if differs {
                *told = unplaced.into();
            }
            differs
        });
        if differs {
            self.inner.occurred.wake();
        }
    }
}

/// Removes placements of a leader of the past, and those that are to be made anew.
fn take_back(refused: Vec<Key>, renewed: Vec<Key>) -> Plan {
    if !refused.is_empty() {
        tracing::warn!(count = refused.len(), "placements that a leader of the past wrote are taken back");
    }
    let refused: BTreeMap<Key, Why> = refused.into_iter().map(|key| (key, Why::Stale)).collect();
    let mut all: BTreeMap<Key, Why> = renewed.into_iter().map(|key| (key, Why::Renewed)).collect();
    all.extend(refused);
    Plan { moves: all.into_iter().map(|(key, why)| Move::Remove(key, why)).collect(), ..Plan::default() }
}

/// Leaves alone what hangs on a record that cannot be read, and could not before: nobody knows what is wanted of it. What is missing may come.
fn spare_unread(plan: &mut Plan, snapshot: &Snapshot, keys: &Keys) {
    if snapshot.undecodable.is_empty() {
        return;
    }
    let unread = |key: String, is_known: bool| !is_known && snapshot.undecodable.contains_key(&key);
    plan.moves.retain(|change| match change {
        Move::Place(..) => true,
        Move::Remove(Key { worker, model, .. }, _) => {
            !(unread(keys.worker(worker), snapshot.workers.contains_key(worker))
                || unread(keys.model(model), snapshot.models.contains_key(model))
                || unread(keys.rollout(model), snapshot.rollouts.contains_key(model))
                || unread(keys.scale(model), snapshot.scales.contains_key(model)))
        }
    });
}

/// Removes what has made way. What is wanted again before its placement has gone is placed by a pass after that: a placement is never written
/// over another.
fn take_leave(plan: &mut Plan, yielding: BTreeMap<Key, bool>) {
    plan.moves.retain(|change| !matches!(change, Move::Place(key, _) if yielding.contains_key(key)));
    let removed: BTreeSet<Key> =
        plan.moves.iter().map(|(Move::Place(key, _) | Move::Remove(key, _))| key.clone()).collect();
    let gone = yielding.into_iter().filter(|(key, goes)| *goes && !removed.contains(key));
    plan.moves.extend(gone.map(|(key, _)| Move::Remove(key, Why::Yielded)));
}

/// Whether the leader may decide on a snapshot of `revision`: its term has not run out, and the snapshot shows what was
/// written last, by itself (`written`) and by the leader before it.
pub(crate) fn may_decide(fence: &Fence, revision: Revision, written: Revision, now: Instant) -> bool {
    fence.holds(now) && revision >= written.max(fence.create_revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::key;
    use crate::observe::place_key;

    #[test]
    fn what_is_taken_back_goes_once_and_says_why() {
        let [one, two] = ["w1", "w2"].map(|worker| place_key(&key(worker, "m", 1)));
        let plan = take_back(vec![one.clone()], vec![one.clone(), two.clone()]);
        assert_eq!(plan.moves, [Move::Remove(one, Why::Stale), Move::Remove(two, Why::Renewed)]);
    }

    #[test]
    fn what_makes_way_goes_once_and_is_not_placed_until_it_has() {
        let [one, two, three, four] = ["w1", "w2", "w3", "w4"].map(|worker| place_key(&key(worker, "m", 1)));
        let moves = vec![
            Move::Place(one.clone(), Why::Missing),
            Move::Place(two.clone(), Why::Missing),
            Move::Remove(three.clone(), Why::Renewed),
            Move::Place(four.clone(), Why::Missing),
        ];
        let mut plan = Plan { moves, ..Plan::default() };
        take_leave(&mut plan, [(one, false), (two.clone(), true), (three.clone(), true)].into());
        let left =
            [Move::Remove(three, Why::Renewed), Move::Place(four, Why::Missing), Move::Remove(two, Why::Yielded)];
        assert_eq!(plan.moves, left);
    }

    #[test]
    fn decides_only_in_its_term_and_on_what_it_has_seen() {
        let now = SystemClock::now();
        let fence = Fence { key: "leader".to_owned(), create_revision: 10, valid_until: now + Duration::from_secs(1) };
        for (revision, written, decides) in [(9, 0, false), (10, 0, true), (10, 11, false), (11, 11, true)] {
            assert_eq!(may_decide(&fence, revision, written, now), decides, "{revision} {written}");
        }
        assert!(!may_decide(&fence, 10, 0, fence.valid_until));
    }
}
