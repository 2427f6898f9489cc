//! Workers that are nothing but records, so that schedulers can be watched while they place thousands of replicas.
//!
//! [`Fleet`] registers the workers and answers placements with READY replicas; [`Placements`] follows every revision of what schedulers
//! write, and finds what must never be: a model on more workers than wanted, and a worker with more than its memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message;
use weft_client::{Keys, Mesh, ReplicaKey, Snapshot};
use weft_proto::weft::control::v1::Model;
use weft_proto::weft::state::v1::{ModelOffer, Placement, Replica, ReplicaState, VersionOffer, Worker};
use weft_runtime::Tasks;
use weft_store::{Change, Commit, LeaseId, Op, Range, Revision, Store, Txn, Watch};
use weft_types::SystemClock;

/// What one replica takes.
const SIZE: u64 = 1 << 30;
/// Writes in one transaction.
const BATCH: usize = 100;
/// How long the fleet's records outlive it: nothing renews them.
const LEASE: Duration = Duration::from_secs(3600);

/// How many of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Workers.
    pub workers: usize,
    /// Models.
    pub models: usize,
    /// Replicas of each model.
    pub replicas: u32,
    /// Models that each worker offers; each model is offered by as many workers as any other.
    pub offers: usize,
    /// Replicas that a worker has the memory for.
    pub capacity: u64,
}

/// The workers' records.
#[derive(Clone)]
pub struct Fleet {
    store: Arc<dyn Store>,
    keys: Keys,
    lease: LeaseId,
    size: Size,
}

impl Fleet {
    /// Registers the workers.
    pub async fn register(store: Arc<dyn Store>, keys: Keys, size: Size) -> Result<Self> {
        let lease = store.grant(LEASE).await?;
        let fleet = Self { store, keys, lease, size };
        let put = |number: usize| {
            let record = fleet.worker(number);
            Ok(fleet.put(fleet.keys.worker(&record.id.parse()?), &record, true))
        };
        fleet.write((0..size.workers).map(put).collect::<Result<Vec<Op>>>()?).await?;
        Ok(fleet)
    }

    fn worker(&self, number: usize) -> Worker {
        let size = self.size;
        let offer = |model: usize| ModelOffer {
            name: format!("m{model:04}"),
            engine: "builtin".to_owned(),
            versions: vec![VersionOffer { version: 1, size_bytes: SIZE, ..VersionOffer::default() }],
        };
        // Neighbours offer models that overlap, and all of them together each model equally often.
        let first = number * size.models / size.workers;
        Worker {
            id: format!("w{number:04}"),
            address: "127.0.0.1:1".to_owned(),
            zone: format!("z{}", number % 3),
            memory_bytes: SIZE * size.capacity,
            threads: 1,
            offers: (first..first + size.offers).map(|model| offer(model % size.models)).collect(),
            epoch: 1,
            ..Worker::default()
        }
    }

    /// Wants the models of this range.
    pub async fn apply(&self, models: std::ops::Range<usize>) -> Result<()> {
        let put = |number: usize| {
            let model = Model { name: format!("m{number:04}"), replicas: self.size.replicas, ..Model::default() };
            Ok(self.put(self.keys.model(&model.name.parse()?), &model, false))
        };
        self.write(models.map(put).collect::<Result<Vec<Op>>>()?).await
    }

    /// Answers placements until the tasks stop: what is placed is READY, and what is no longer placed is gone.
    pub fn answer(&self, mesh: &Mesh, tasks: &Tasks) {
        let (fleet, mesh, stopping) = (self.clone(), mesh.clone(), tasks.stopping());
        let work = async move {
            let mut changes = mesh.changes();
            loop {
                if let Err(error) = fleet.follow(&mesh.snapshot()).await {
                    tracing::warn!(%error, "the fleet's replicas are behind");
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tasks.spawn("fleet", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = work => {}
            }
        });
    }

    async fn follow(&self, snapshot: &Snapshot) -> Result<()> {
        let ready = Replica { state: ReplicaState::Ready.into(), size_bytes: SIZE, ..Replica::default() };
        let placed = snapshot.placements.keys().filter(|key| !snapshot.replicas.contains_key(*key));
        let mut ops: Vec<Op> = placed.map(|key| self.put(self.keys.replica(key), &ready, true)).collect();
        let gone = snapshot.replicas.keys().filter(|key| !snapshot.placements.contains_key(*key));
        ops.extend(gone.map(|key| Op::Delete(self.keys.replica(key))));
        self.write(ops).await
    }

    fn put(&self, key: String, value: &impl Message, leased: bool) -> Op {
        Op::Put { key, value: Bytes::from(value.encode_to_vec()), lease: leased.then_some(self.lease) }
    }

    async fn write(&self, ops: Vec<Op>) -> Result<()> {
        for batch in ops.chunks(BATCH) {
            let txn = Txn { compares: Vec::new(), ops: batch.to_vec() };
            ensure!(
                matches!(self.store.commit(txn).await?, Commit::Done(_)),
                "a transaction without conditions was lost"
            );
        }
        Ok(())
    }
}

/// Every placement, revision by revision.
pub struct Placements {
    watch: Watch,
    prefix: String,
    size: Size,
    placed: BTreeMap<String, BTreeSet<String>>,
    workers: BTreeMap<String, u64>,
    /// Replicas that were placed, whether or not they still are.
    pub written: usize,
    /// The largest epoch that was seen, and when it was first seen.
    pub newest: Option<(u64, Instant)>,
    /// When the first and the last placement was seen.
    pub span: Option<(Instant, Instant)>,
    /// What must never be.
    pub violations: Vec<String>,
}

impl Placements {
    /// Follows what is written from now on; nothing must be placed yet.
    pub async fn follow(store: &Arc<dyn Store>, keys: &Keys, size: Size) -> Result<Self> {
        let prefix = format!("{}placements/", keys.root());
        let listing = store.read(Range::Prefix(prefix.clone())).await?;
        ensure!(listing.entries.is_empty(), "something is placed already");
        let watch = store.watch(Range::Prefix(prefix.clone()), listing.revision + 1).await?;
        let (placed, workers) = (BTreeMap::new(), BTreeMap::new());
        let violations = Vec::new();
        Ok(Self { watch, prefix, size, placed, workers, written: 0, newest: None, span: None, violations })
    }

    /// Replicas that are placed now.
    pub fn count(&self) -> usize {
        self.placed.values().map(BTreeSet::len).sum()
    }

    /// Models that have as many replicas as they shall have.
    pub fn complete(&self) -> usize {
        self.placed.values().filter(|workers| workers.len() == self.size.replicas as usize).count()
    }

    /// Reads on until `holds`, within `limit`.
    pub async fn until(&mut self, what: &str, limit: Duration, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let work = async {
            while !holds(self) {
                let told = self.watch.next().await.context("the watch ended")??;
                self.take(told.changes, SystemClock::now())?;
            }
            anyhow::Ok(())
        };
        let ended = tokio::time::timeout(limit, work).await;
        ended.with_context(|| format!("gave up waiting for {what}: {} are placed", self.count()))?
    }

    /// Takes over changes, a revision at a time: within one, all of them happen at once.
    fn take(&mut self, changes: Vec<Change>, now: Instant) -> Result<()> {
        let mut at: Revision = 0;
        for change in changes {
            let revision = match &change {
                Change::Put(entry) => entry.mod_revision,
                Change::Delete { mod_revision, .. } => *mod_revision,
            };
            let before = std::mem::replace(&mut at, revision);
            if before != revision {
                self.check(before);
            }
            let rest = change.key().strip_prefix(&self.prefix).context("the key of a placement")?;
            let (worker, model) = rest.split_once('/').context("the key of a placement")?;
            let (worker, model) = (worker.to_owned(), model.to_owned());
            match change {
                Change::Put(entry) => {
                    let epoch = Placement::decode(entry.value)?.epoch;
                    if self.newest.is_none_or(|(newest, _)| epoch > newest) {
                        self.newest = Some((epoch, now));
                    }
                    self.span = Some((self.span.map_or(now, |(first, _)| first), now));
                    self.written += 1;
                    if self.placed.entry(model).or_default().insert(worker.clone()) {
                        *self.workers.entry(worker).or_default() += 1;
                    }
                }
                Change::Delete { .. } => {
                    if self.placed.get_mut(&model).is_some_and(|workers| workers.remove(&worker)) {
                        *self.workers.entry(worker).or_default() -= 1;
                    }
                }
            }
        }
        self.check(at);
        Ok(())
    }

    fn check(&mut self, revision: Revision) {
        let wanted = self.size.replicas as usize;
        let models = self.placed.iter().filter(|(_, workers)| workers.len() > wanted);
        let doubled = models.map(|(model, on)| format!("revision {revision}: {model} is on {} workers", on.len()));
        let full = self.workers.iter().filter(|(_, count)| **count > self.size.capacity);
        let burst = full.map(|(worker, count)| format!("revision {revision}: {worker} has {count} replicas"));
        let found: Vec<String> = doubled.chain(burst).take(10).collect();
        if self.violations.len() < 100 {
            self.violations.extend(found);
        }
    }
}

/// The replicas of a snapshot that are READY.
pub fn ready(snapshot: &Snapshot) -> usize {
    let is_ready = |key: &&ReplicaKey| {
        snapshot.replicas.get(*key).is_some_and(|record| record.value.state() == ReplicaState::Ready)
    };
    snapshot.placements.keys().filter(is_ready).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_store::Entry;

    fn placements() -> Placements {
        Placements {
            watch: Box::pin(futures_util::stream::empty()),
            prefix: "p/".to_owned(),
            size: Size { workers: 3, models: 3, replicas: 1, offers: 3, capacity: 2 },
            placed: BTreeMap::new(),
            workers: BTreeMap::new(),
            written: 0,
            newest: None,
            span: None,
            violations: Vec::new(),
        }
    }

    fn put(key: &str, revision: Revision) -> Change {
        let value = Bytes::from(Placement { epoch: 7, ..Placement::default() }.encode_to_vec());
        let (create_revision, mod_revision) = (revision, revision);
        Change::Put(Entry { key: format!("p/{key}"), value, create_revision, mod_revision, version: 1, lease: None })
    }

    fn delete(key: &str, mod_revision: Revision) -> Change {
        Change::Delete { key: format!("p/{key}"), mod_revision }
    }

    #[test]
    fn what_must_never_be_is_found_in_the_revision_where_it_was() {
        let mut seen = placements();
        let doubled = vec![put("w1/a@1", 2), put("w2/a@1", 3), delete("w1/a@1", 4)];
        seen.take(doubled, SystemClock::now()).expect("keys of placements");
        assert_eq!(seen.violations, ["revision 3: a@1 is on 2 workers"]);
        assert_eq!((seen.count(), seen.complete(), seen.newest.map(|(epoch, _)| epoch)), (1, 1, Some(7)));

        let mut seen = placements();
        let burst = vec![put("w1/a@1", 2), put("w1/b@1", 2), put("w1/c@1", 3)];
        seen.take(burst, SystemClock::now()).expect("keys of placements");
        assert_eq!(seen.violations, ["revision 3: w1 has 3 replicas"]);
    }

    #[test]
    fn a_move_within_one_revision_is_none() {
        let mut seen = placements();
        let moved = vec![put("w1/a@1", 2), put("w2/a@1", 3), delete("w1/a@1", 3)];
        seen.take(moved, SystemClock::now()).expect("keys of placements");
        assert_eq!((seen.violations.as_slice(), seen.count()), (&[] as &[String], 1));
    }
}
