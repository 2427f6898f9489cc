//! Keeps a snapshot of the mesh up to date from one watch.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use prost::Message;
use tokio::sync::watch;
use weft_runtime::Tasks;
use weft_store::{Change, Entry, Mirror, MirrorEvent, Range, Store};
use weft_telemetry::Scope;
use weft_types::SystemClock;

use crate::keys::replica_key;
use crate::{Keys, Record, ReplicaKey, Snapshot};

/// The mesh as this process knows it. Clones share one snapshot and one watch.
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
}

impl Mesh {
    /// Follows the whole cluster through one watch, so that every snapshot is the store as it was at one revision.
    pub fn follow(store: Arc<dyn Store>, keys: &Keys, tasks: &Tasks) -> Self {
        let inner =
            Inner { snapshot: ArcSwap::default(), changes: watch::Sender::new(0), synced: watch::Sender::new(false) };
        let mesh = Self { inner: Arc::new(inner) };
        let mirror = Mirror::new(store, Range::Prefix(keys.root().to_owned()));
        let applier = Applier { mesh: mesh.clone(), root: keys.root().to_owned() };
        // A process that drains still has to see where replicas have moved.
        let finishing = tasks.finishing();
        tasks.spawn("mesh", async move { mirror.run(finishing, |event| applier.tell(event)).await });
        mesh
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshot.load_full()
    }

    /// Tells the revision of each new snapshot.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.inner.changes.subscribe()
    }

    /// Whether the store has been listed at least once.
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Waits until the store has been listed once.
    pub async fn synced(&self) {
        // Fails only when the sender is gone, which `self` holds.
        let _ = self.inner.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Reports the snapshot's revision and age with every export of this service's metrics.
    pub fn observe(&self, scope: &Scope) {
        let mesh = self.clone();
        scope.metrics().observe_snapshot(move || {
            let snapshot = mesh.snapshot();
            let age = snapshot.confirmed.map(|at| SystemClock::now().saturating_duration_since(at)).unwrap_or_default();
            weft_telemetry::SnapshotState { revision: snapshot.revision, age }
        });
    }
}

/// Applies what the mirror tells.
struct Applier {
    mesh: Mesh,
    root: String,
}

impl Applier {
    fn tell(&self, event: MirrorEvent) {
        let now = SystemClock::now();
        match event {
            MirrorEvent::Changes { changes, revision, first } => {
                let mut snapshot = Snapshot::clone(&self.mesh.inner.snapshot.load());
                for change in &changes {
                    self.apply(&mut snapshot, change);
                }
                self.publish(snapshot, revision, now);
                if first {
                    self.mesh.inner.synced.send_replace(true);
                }
                self.mesh.inner.changes.send_replace(revision);
            }
            MirrorEvent::Confirmed { revision } => {
                self.publish(Snapshot::clone(&self.mesh.inner.snapshot.load()), revision, now);
            }
            MirrorEvent::Lost { error } => tracing::warn!(error, "the state store is out of reach: serving on"),
        }
    }

    fn publish(&self, mut snapshot: Snapshot, revision: i64, now: Instant) {
        snapshot.revision = revision;
        snapshot.confirmed = Some(now);
        self.mesh.inner.snapshot.store(Arc::new(snapshot));
    }

    /// A key or value that cannot be read is passed over: the last good value stands.
    fn apply(&self, snapshot: &mut Snapshot, change: &Change) {
        let Some((kind, rest)) = change.key().strip_prefix(&self.root).and_then(|rest| rest.split_once('/')) else {
            return;
        };
        let entry = match change {
            Change::Put(entry) => Some(entry),
            Change::Delete { .. } => None,
        };
        let applied = match kind {
            "workers" => set(Arc::make_mut(&mut snapshot.workers), rest.parse().ok(), entry),
            "models" => set(Arc::make_mut(&mut snapshot.models), rest.parse().ok(), entry),
            "routes" => set(Arc::make_mut(&mut snapshot.routes), rest.parse().ok(), entry),
            "placements" => set::<ReplicaKey, _>(Arc::make_mut(&mut snapshot.placements), replica_key(rest), entry),
            "replicas" => set::<ReplicaKey, _>(Arc::make_mut(&mut snapshot.replicas), replica_key(rest), entry),
            "services" => {
                let key = rest.split_once('/').map(|(kind, id)| (kind.to_owned(), id.to_owned()));
                set(Arc::make_mut(&mut snapshot.services), key, entry)
            }
            "leader" => leader(snapshot, entry),
            // A later version's record: not ours to judge.
            _ => true,
        };
        if !applied {
            tracing::error!(
                key = change.key(),
                "an undecodable record in the store is ignored: the last good one stands"
            );
        }
    }
}

fn leader(snapshot: &mut Snapshot, entry: Option<&Entry>) -> bool {
    let decoded = entry.map(decode);
    match decoded {
        None => snapshot.leader = None,
        Some(Some(record)) => snapshot.leader = Some(Arc::new(record)),
        Some(None) => return false,
    }
    true
}

fn set<K: Ord, T: Message + Default>(
    map: &mut std::collections::BTreeMap<K, Arc<Record<T>>>,
    key: Option<K>,
    entry: Option<&Entry>,
) -> bool {
    let Some(key) = key else { return false };
    match entry {
        None => drop(map.remove(&key)),
        Some(entry) => match decode(entry) {
            Some(record) => drop(map.insert(key, Arc::new(record))),
            None => return false,
        },
    }
    true
}

fn decode<T: Message + Default>(entry: &Entry) -> Option<Record<T>> {
    let value = T::decode(entry.value.clone()).ok()?;
    Some(Record { value, create_revision: entry.create_revision, mod_revision: entry.mod_revision })
}
