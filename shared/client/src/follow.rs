//! Keeps a snapshot of the mesh up to date.

mod probe;
mod retain;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use weft_policy::guard::Settings;
use weft_runtime::Tasks;
use weft_store::{Change, Mirror, MirrorEvent, Range, Store};
use weft_telemetry::{Scope, SnapshotState};
use weft_types::{SystemClock, WorkerId};

use crate::{Keys, SavedFile, Snapshot};
use probe::Probing;
use retain::{Standing, Suspect};
use writer::Writer;

/// The mesh as this process knows it. Clones share one snapshot and its watches.
///
/// The snapshot outlives the store: when the store cannot be reached, the last one stands, and its age tells for how long.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    snapshot: ArcSwap<Snapshot>,
    changes: watch::Sender<i64>,
    synced: watch::Sender<bool>,
    /// Read with every call that is routed: the flag behind `synced` has a lock.
    known: AtomicBool,
    /// Held while one event is applied, never across an await.
    writer: Mutex<Writer>,
    /// Workers that the prober has not seen yet. Held for an addition or a look.
    suspects: Mutex<Vec<Suspect>>,
    suspected: Notify,
}

/// What a mesh follows.
struct Scoped {
    store: Arc<dyn Store>,
    /// One watch for each prefix.
    prefixes: Vec<String>,
    guard: Option<(Settings, Probing)>,
}

impl Mesh {
    /// Follows the whole cluster through one watch, so that every snapshot is the store as it was at one revision.
    ///
    /// When many workers vanish at once, those that still answer are kept. With `saved`, what was found on disk stands until the
    /// store answers, and the newest snapshot is kept there.
    pub fn follow(store: Arc<dyn Store>, keys: &Keys, tasks: &Tasks, saved: Option<SavedFile>) -> Self {
        Self::follow_with(store, keys, tasks, saved, Duration::ZERO)
    }

    /// As [`Self::follow`], where workers' records may outlive them by as much as `lease_ttl`: that is how far apart those
    /// vanish that were cut off at once.
    pub fn follow_with(
        store: Arc<dyn Store>,
        keys: &Keys,
        tasks: &Tasks,
        saved: Option<SavedFile>,
        lease_ttl: Duration,
    ) -> Self {
        let guard = Some((Settings::for_leases(lease_ttl), Probing::default()));
        Self::over(keys, tasks, Scoped { store, prefixes: vec![keys.root().to_owned()], guard }, saved)
    }

    /// Follows only what one worker needs: its own placements and who leads. Thousands of workers that all follow everything
    /// would cost the store their number squared.
    pub fn follow_worker(
        store: Arc<dyn Store>,
        keys: &Keys,
        worker: &WorkerId,
        tasks: &Tasks,
        saved: Option<SavedFile>,
    ) -> Self {
        let prefixes = vec![keys.placements_of(worker), keys.leaders()];
        Self::over(keys, tasks, Scoped { store, prefixes, guard: None }, saved)
    }

    fn over(keys: &Keys, tasks: &Tasks, scoped: Scoped, saved: Option<SavedFile>) -> Self {
        let Scoped { store, prefixes, guard } = scoped;
        let writer = Writer::new(keys.root(), prefixes.len(), guard.map(|(settings, _)| settings));
        let inner = Inner {
            snapshot: ArcSwap::default(),
            changes: watch::Sender::new(0),
            synced: watch::Sender::new(false),
            known: AtomicBool::new(false),
            writer: Mutex::new(writer),
            suspects: Mutex::default(),
            suspected: Notify::new(),
        };
        let mesh = Self { inner: Arc::new(inner) };
        let restored = saved.and_then(|file| mesh.restore(file, &prefixes, tasks)).unwrap_or_default();
        for (part, prefix) in prefixes.into_iter().enumerate() {
            let known = restored.iter().filter(|key| key.starts_with(&prefix)).cloned().collect::<Vec<_>>();
            let mirror = Mirror::new(Arc::clone(&store), Range::Prefix(prefix)).knowing(known);
            let inner = Arc::clone(&mesh.inner);
            // A process that drains still has to see where replicas have moved.
            let finishing = tasks.finishing();
            tasks.spawn("mesh", async move { mirror.run(finishing, |event| inner.tell(part, event)).await });
        }
        if let Some((_, probing)) = guard {
            let (inner, own, finishing) = (Arc::clone(&mesh.inner), tasks.clone(), tasks.finishing());
            tasks.spawn("mesh guard", async move { probe::run(&inner, probing, &own, finishing).await });
        }
        mesh
    }

    /// Starts from what was found on disk, and keeps the file from now on. Returns the keys of what was taken over.
    fn restore(&self, mut file: SavedFile, prefixes: &[String], tasks: &Tasks) -> Option<Vec<String>> {
        let restored = file.take();
        let keeper = file.keep(self.clone(), tasks.finishing());
        tasks.spawn("mesh file", keeper);
        let restored = restored?;
        let ours = |change: &&Change| prefixes.iter().any(|prefix| change.key().starts_with(prefix.as_str()));
        let changes: Vec<Change> = restored.changes.iter().filter(ours).cloned().collect();
        let mut writer = lock(&self.inner.writer);
        writer.restore(&restored, &changes, SystemClock::now());
        self.inner.publish(&writer, true);
        self.inner.known.store(true, Ordering::Release);
        Some(changes.iter().map(|change| change.key().to_owned()).collect())
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshot.load_full()
    }

    /// Tells the revision of each new snapshot.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.inner.changes.subscribe()
    }

    /// Whether there is something to serve from: listed from the store, or restored from disk.
    pub fn is_known(&self) -> bool {
        self.inner.known.load(Ordering::Acquire)
    }

    /// Whether the store has been listed at least once by this process.
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Waits until the store has been listed once.
    pub async fn synced(&self) {
        // Fails only when the sender is gone, which `self` holds.
        let _ = self.inner.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Reports the snapshot's state with every export of this service's metrics.
    pub fn observe(&self, scope: &Scope) {
        let mesh = self.clone();
        scope.metrics().observe_snapshot(move || {
            let snapshot = mesh.snapshot();
            SnapshotState {
                revision: snapshot.revision,
                age: snapshot.age(SystemClock::now()).unwrap_or_default(),
                retained: snapshot.retained.len() as u64,
                undecodable: snapshot.undecodable.len() as u64,
            }
        });
    }
}

impl Inner {
    /// Takes over what one watch tells.
    fn tell(&self, part: usize, event: MirrorEvent) {
        let (changes, revision, changed) = match event {
            MirrorEvent::Changes { changes, revision, .. } => (changes, revision, true),
            MirrorEvent::Confirmed { revision } => (Vec::new(), revision, false),
            MirrorEvent::Lost { error } => {
                // Told when it begins: it may last for hours, and each attempt fails.
                if lock(&self.writer).set_lost(part, true) {
                    tracing::warn!(error, "the state store is out of reach: serving on");
                }
                return;
            }
        };
        let mut writer = lock(&self.writer);
        if writer.set_lost(part, false) {
            tracing::info!(revision, "the state store is followed again");
        }
        let suspects = writer.told(part, &changes, revision, SystemClock::now());
        self.publish(&writer, changed);
        if !suspects.is_empty() {
            lock(&self.suspects).extend(suspects);
            self.suspected.notify_one();
        }
    }

    /// Takes over what the suspects' answers make of them.
    fn judge(&self, found: &[(&Suspect, Standing)]) {
        let mut writer = lock(&self.writer);
        if writer.judge(found) {
            let absent = found.iter().filter(|(_, standing)| *standing != Standing::Present);
            let absent: Vec<&str> = absent.map(|(suspect, _)| suspect.worker.as_str()).collect();
            let (number, workers) = (absent.len(), absent.get(..10).unwrap_or(&absent));
            if number > 0 {
                tracing::warn!(number, ?workers, "workers that vanished do not answer: they are taken out");
            } else {
                tracing::info!("workers that vanished answer again: they are put back");
            }
            self.publish(&writer, true);
        }
    }

    /// Shows readers what the writer has made. `changed` is false when only its age is new.
    fn publish(&self, writer: &Writer, changed: bool) {
        let snapshot = writer.snapshot();
        self.snapshot.store(Arc::new(snapshot.clone()));
        if snapshot.confirmed.is_some() {
            self.known.store(true, Ordering::Release);
            self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
        if changed {
            self.changes.send_replace(snapshot.revision);
        }
    }
}

/// What is behind these locks is whole at any point that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
