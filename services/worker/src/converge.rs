//! Placements become replicas: level-triggered, one task, never in the way of a call.
//!
//! Each round compares what the mesh's snapshot wants of this worker with what it holds, and starts what is missing. Loads
//! and drains run in tasks of their own and report back. Nothing is remembered that the next round could not find out
//! again, so a missed change costs a round and no more.

mod announce;
mod load;
mod plan;
mod recovery;
mod successors;
mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use weft_client::Snapshot;
use weft_proto::weft::state::v1::FailureKind;
use weft_runtime::Running;
use weft_store::{Presence, Store};
use weft_types::SystemClock;

use crate::Shared;
use crate::replica::Replica;
use crate::replicas::Held;
use announce::Announcer;
pub(crate) use load::{config_type, datatype_of};
use plan::{Key, Phase, Step, plan};
use recovery::{LOADS, Losses, Recovery};
use successors::Offered;
use terms::{Sorted, Terms};

/// Reports that may wait for the task; a load or drain that cannot report waits.
const REPORTS: usize = 64;

/// What a task of the converger reports.
struct Report {
    key: Key,
    /// Reports of a task that was replaced meanwhile are void.
    attempt: u64,
    outcome: Outcome,
}

enum Outcome {
    Loaded(Arc<Replica>),
    Failed(String),
    /// There is no room for it now.
    NoRoom,
    /// The process that held it is gone.
    Lost(String),
    Unloaded,
}

/// One version under the converger's care.
struct Entry {
    phase: Phase,
    attempt: u64,
    recovery: Recovery,
    /// Memory that it takes or will take, as placement counts it, too.
    bytes: u64,
    /// Ends with the entry.
    task: Option<Running>,
}

/// The converging task's state.
pub(crate) struct Converger {
    shared: Arc<Shared>,
    announcer: Announcer,
    entries: BTreeMap<Key, Entry>,
    attempts: u64,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    terms: Terms,
    /// What others could take over, while the worker drains.
    offered: watch::Receiver<Offered>,
    /// Keeps `offered` up to date; ends with the converger.
    _looking: Running,
}

impl Converger {
    pub(crate) fn new(shared: Arc<Shared>, store: Arc<dyn Store>, presence: Presence) -> Self {
        let (told, offered) = watch::channel(None);
        Self {
            announcer: Announcer::new(presence, &shared),
            entries: BTreeMap::new(),
            attempts: 0,
            reports: mpsc::channel(REPORTS),
            terms: Terms::default(),
            offered,
            _looking: shared.tasks.attach(successors::look(Arc::clone(&shared), store, told)),
            shared,
        }
    }

    /// Runs until the worker leaves.
    pub(crate) async fn run(mut self) {
        let mut changes = self.shared.mesh.changes();
        let mut draining = self.shared.draining.subscribe();
        let mut repository = self.shared.repository.subscribe();
        let leaving = self.shared.leaving.clone();
        let shared = Arc::clone(&self.shared);
        loop {
            let wake = self.round(*draining.borrow_and_update());
            // Nothing is lost by cancellation at any branch: the next round looks at everything anew.
            tokio::select! {
                () = leaving.cancelled() => return,
                Ok(()) = changes.changed() => {}
                Ok(()) = draining.changed() => {}
                Ok(()) = repository.changed() => self.read_again(),
                Ok(()) = self.offered.changed() => {}
                Some(report) = self.reports.1.recv() => self.settle(report),
                () = shared.quarantines.changed() => self.tell_again(),
                () = tokio::time::sleep_until(wake.unwrap_or_else(SystemClock::now).into()), if wake.is_some() => {}
            }
        }
    }

    /// One comparison; returns when to compare again although nothing has changed.
    fn round(&mut self, draining: bool) -> Option<Instant> {
        let shared = Arc::clone(&self.shared);
        self.announcer.worker(&shared, draining);
        // Before the first listing nothing is known, which is not the same as nothing being wanted. What was restored from
        // disk is known: a worker that starts while the store is away loads what it held. Asked before the snapshot is
        // taken, so that the snapshot is at least as new as the answer.
        let is_known = shared.mesh.is_known();
        let snapshot = shared.mesh.snapshot();
        let wake = if is_known { self.compare(&snapshot, draining) } else { None };
        let wake = [wake, self.forgive(SystemClock::now())].into_iter().flatten().min();
        let done = draining && self.can_move_nothing();
        shared.drained.send_if_modified(|drained| std::mem::replace(drained, done) != done);
        wake
    }

    fn compare(&mut self, snapshot: &Snapshot, draining: bool) -> Option<Instant> {
        let Sorted { wanted, yielding, .. } = self.sorted(snapshot);
        let held = self.entries.iter().map(|(key, entry)| (key.clone(), entry.phase)).collect();
        let (steps, wake) = plan(&held, &wanted, !draining, SystemClock::now());
        for step in steps {
            match step {
                Step::Load(key) => self.load(key),
                Step::Unload(key) => self.unload(&key, yielding.contains(&key)),
                Step::Forget(key) => self.forget(&key),
            }
        }
        wake
    }

    /// What this worker's placements ask for, but for those that a leader of the past wrote.
    fn sorted(&mut self, snapshot: &Snapshot) -> Sorted {
        self.terms.observe(snapshot.leader.as_deref());
        let own = snapshot.placements.iter().filter(|(key, _)| key.worker == self.shared.options.id);
        let own = own.map(|(key, record)| ((key.model.clone(), key.version), record.as_ref()));
        let mut sorted = self.terms.sort(own);
        for refusal in sorted.refusals.drain(..) {
            let terms::Refusal { key: (model, version), epoch, term } = refusal;
            tracing::warn!(
                %model,
                %version,
                epoch,
                term,
                reason = "its writer had lost the leadership before it wrote",
                "a placement is refused"
            );
            self.shared.scope.metrics().record_placement_refused();
        }
        sorted
    }

    /// Whether there is nothing left that another worker could take over; a drain does not wait for what cannot happen.
    /// Before the first look at the others nothing is known of them.
    fn can_move_nothing(&mut self) -> bool {
        let offered = self.offered.borrow_and_update();
        let stays = |key| offered.as_ref().is_some_and(|offered| !offered.contains(key));
        // What could not be loaded serves nobody.
        let failed = |entry: &Entry| matches!(entry.phase, Phase::Failed { .. });
        self.entries.iter().all(|(key, entry)| failed(entry) || stays(key))
    }

    fn load(&mut self, key: Key) {
        let bytes = self.shared.size_of(&key);
        let taken: u64 = self.entries.iter().filter(|(other, _)| **other != key).map(|(_, entry)| entry.bytes).sum();
        let fits = taken.saturating_add(bytes) <= self.shared.memory_bytes;
        self.attempts += 1;
        let attempt = self.attempts;
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            phase: Phase::Loading,
            attempt,
            recovery: Recovery::default(),
            bytes,
            task: None,
        });
        (entry.phase, entry.attempt, entry.bytes) = (Phase::Loading, attempt, bytes);
        if !fits {
            return self.settle(Report { key, attempt, outcome: Outcome::NoRoom });
        }
        self.show(&key, Some(&Held::Loading));
        let (shared, reports, loading) = (Arc::clone(&self.shared), self.reports.0.clone(), key.clone());
        let task = self.shared.tasks.attach(async move {
            let outcome = match load::load(&shared, &loading).await {
                Ok(replica) => Outcome::Loaded(replica),
                Err(reason) => Outcome::Failed(reason),
            };
            // Fails only when the worker has left.
            let _ = reports.send(Report { key: loading, attempt, outcome }).await;
        });
        self.keep(&key, task);
    }

    /// Announces the drain, gives routers time to see it, serves what has come, and lets go. What `yields` does so with streams alone: calls are
    /// sent elsewhere, or wait until it is back.
    fn unload(&mut self, key: &Key, yields: bool) {
        let Some(replica) =
            self.shared.replicas.all().get(&key.0).and_then(|versions| versions.get(&key.1)?.replica().cloned())
        else {
            return self.forget(key);
        };
        self.attempts += 1;
        let attempt = self.attempts;
        self.set_phase(key, Phase::Draining, attempt);
        self.show(key, Some(&Held::Draining(Arc::clone(&replica))));
        let (notice, grace) = (self.shared.options.drain_notice, self.shared.options.drain_grace);
        let told = self.announcer.told(notice);
        let (reports, unloading) = (self.reports.0.clone(), key.clone());
        let task = self.shared.tasks.attach(async move {
            if !(yields && replica.give_way()) {
                told.await;
                tokio::time::sleep(notice).await;
            }
            replica.drain(grace).await;
            drop(replica);
            let _ = reports.send(Report { key: unloading, attempt, outcome: Outcome::Unloaded }).await;
        });
        self.keep(key, task);
    }

    fn forget(&mut self, key: &Key) {
        self.entries.remove(key);
        self.show(key, None);
    }

    fn settle(&mut self, report: Report) {
        let Report { key, attempt, outcome } = report;
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.attempt == attempt) else { return };
        entry.task = None;
        let now = SystemClock::now();
        match outcome {
            Outcome::Loaded(replica) => {
                entry.phase = Phase::Ready;
                entry.recovery.loaded(now);
                entry.bytes = entry.bytes.max(replica.model.size_bytes());
                tracing::info!(model = %key.0, version = %key.1, "ready");
                crate::batch::start(&replica, &self.shared.tasks);
                crate::sequence::start(&replica, &self.shared.tasks);
                let watching = self.watch(&key, attempt, &replica);
                self.keep(&key, watching);
                self.show(&key, Some(&Held::Ready(replica)));
            }
            Outcome::Failed(reason) => {
                entry.recovery.failed();
                self.fail(&key, now, reason, FailureKind::Unspecified);
            }
            Outcome::NoRoom => {
                self.fail(&key, now, "the worker has not enough memory for it".to_owned(), FailureKind::NoRoom);
            }
            Outcome::Lost(reason) => {
                entry.recovery.lost(&reason, SystemClock::wall());
                self.shared.scope.metrics().model(&key.0, key.1).record_lost();
                let held = self.shared.replicas.all().get(&key.0).and_then(|held| held.get(&key.1)?.replica().cloned());
                self.fail(&key, now, format!("its process was lost: {reason}"), FailureKind::Lost);
                // After nobody new can find it: what waits there goes elsewhere.
                if let Some(replica) = held {
                    replica.lose();
                }
            }
            Outcome::Unloaded => {
                tracing::info!(model = %key.0, version = %key.1, "unloaded");
                self.forget(&key);
            }
        }
    }

    /// Shows a failure, and has the load tried again later, unless it has failed for good.
    fn fail(&mut self, key: &Key, now: Instant, mut reason: String, kind: FailureKind) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let retry_at = entry.recovery.retry_at(now, rand::random());
        (entry.phase, entry.bytes) = (Phase::Failed { retry_at }, 0);
        if retry_at.is_none() {
            reason = format!("quarantined after {LOADS} loads, until it is applied anew or its files change: {reason}");
        }
        let wait = retry_at.map(|at| at.saturating_duration_since(now).as_millis());
        tracing::warn!(model = %key.0, version = %key.1, %reason, retry_ms = wait, "not loaded");
        self.show(key, Some(&Held::Failed(reason, kind)));
    }

    /// Tells what could be loaded by now, and tries again what could not be before.
    fn read_again(&mut self) {
        self.announcer.offers(&self.shared);
        let now = SystemClock::now();
        for entry in self.entries.values_mut().filter(|entry| entry.phase == Phase::Failed { retry_at: None }) {
            entry.recovery.anew();
            entry.phase = Phase::Failed { retry_at: Some(now) };
        }
    }

    /// Reports the loss of a replica's process. The task ends with the entry, and so lets go of the model.
    fn watch(&self, key: &Key, attempt: u64, replica: &Arc<Replica>) -> Running {
        let (model, reports, key) = (Arc::clone(&replica.model), self.reports.0.clone(), key.clone());
        self.shared.tasks.attach(async move {
            let reason = crate::error::presentable(&model.lost().await);
            drop(model);
            let _ = reports.send(Report { key, attempt, outcome: Outcome::Lost(reason) }).await;
        })
    }

    /// Forgets the losses of what has run undisturbed since; returns when the next one will have.
    fn forgive(&mut self, now: Instant) -> Option<Instant> {
        let forgiven =
            self.entries.iter_mut().filter_map(|(key, entry)| entry.recovery.forgive(now).then(|| key.clone()));
        for key in forgiven.collect::<Vec<Key>>() {
            self.tell(&key);
        }
        self.entries.values().filter_map(|entry| entry.recovery.settled_at()).min()
    }

    /// Tells the others where a version stands, as calls find it.
    fn tell(&self, key: &Key) {
        let all = self.shared.replicas.all();
        if let Some(held) = all.get(&key.0).and_then(|versions| versions.get(&key.1)) {
            self.announcer.replica(&self.shared, key, Some((held, &self.losses(key), self.bytes(key))));
        }
    }

    fn tell_again(&self) {
        self.entries.keys().for_each(|key| self.tell(key));
    }

    fn losses(&self, key: &Key) -> Losses {
        self.entries.get(key).map(|entry| entry.recovery.losses().clone()).unwrap_or_default()
    }

    fn bytes(&self, key: &Key) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.bytes)
    }

    fn set_phase(&mut self, key: &Key, phase: Phase, attempt: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            (entry.phase, entry.attempt) = (phase, attempt);
        }
    }

    fn keep(&mut self, key: &Key, task: Running) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.task = Some(task);
        }
    }

    /// Shows where a version stands: to calls first, then to the others, then to load balancers.
    fn show(&self, key: &Key, held: Option<&Held>) {
        let (shared, losses) = (&self.shared, self.losses(key));
        shared.replicas.set(&key.0, key.1, held);
        self.announcer.replica(shared, key, held.map(|held| (held, &losses, self.bytes(key))));
        match shared.replicas.all().contains_key(&key.0) {
            true => shared.health.set(key.0.as_str(), shared.replicas.any_ready(&key.0)),
            false => shared.health.remove(key.0.as_str()),
        }
    }
}

#[cfg(test)]
mod tests;
