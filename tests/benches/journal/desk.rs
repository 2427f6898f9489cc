//! A scheduler as far as the log is concerned.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use weft_journal::{Durability, JobId, Journal, Keys, Options, Owned, Payloads, Record, Wiring};
use weft_runtime::{Running, Tasks};
use weft_saga::job::{Item, JobState, Node};
use weft_saga::{Job, Payload};
use weft_store::{EtcdStore, etcd};
use weft_telemetry::Scope;
use weft_types::SystemClock;

/// A running journal that has taken shards over.
pub(crate) struct Desk {
    pub(crate) journal: Journal,
    pub(crate) tasks: Tasks,
    /// How many open jobs each of its shards had.
    pub(crate) shards: watch::Receiver<BTreeMap<u8, usize>>,
    _reader: Running,
}

impl Desk {
    pub(crate) async fn start(url: &str, id: &str) -> Result<Self> {
        let options = etcd::Options::new(vec![url.to_owned()]);
        let maintenance = Arc::new(etcd::Maintenance::try_new(&options)?);
        let store = Arc::new(EtcdStore::connect(options).await?);
        let tasks = Tasks::new();
        let wiring = Wiring {
            store,
            maintenance,
            keys: Keys::new("/weft/v1/bench/"),
            payloads: Payloads::memory(),
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            metrics: Scope::disabled().metrics().journal(),
        };
        let (journal, mut owned) = Journal::start(Options::new(id, format!("{id}:1")), wiring);
        let (told, shards) = watch::channel(BTreeMap::new());
        let reader = tasks.attach(async move {
            while let Some(owned) = owned.recv().await {
                told.send_modify(|shards| match owned {
                    Owned::Acquired(shard, records) => drop(shards.insert(shard.number(), records.len())),
                    Owned::Lost(shard) => drop(shards.remove(&shard)),
                });
            }
        });
        Ok(Self { journal, tasks, shards, _reader: reader })
    }

    /// Waits until it has every shard, and says how many jobs were in them.
    pub(crate) async fn owns_all(&self) -> Result<usize> {
        let mut shards = self.shards.clone();
        let all = shards.wait_for(|shards| shards.len() == 256).await.context("the journal runs")?;
        Ok(all.values().sum())
    }
}

/// A job of seven steps whose record takes about 600 bytes.
pub(crate) fn record(id: JobId) -> Record {
    let item = Item { output: Some(Payload::Inline(vec![b'1'; 40])), attempts: 1, ..Item::default() };
    let job = Job {
        state: JobState::Running,
        revision: 1,
        paused: false,
        stuck: None,
        failure: None,
        decided: false,
        created_at: 1,
        deadline: u64::MAX,
        undo_since: None,
        ended_at: None,
        takeovers: 0,
        steps: vec![Node { ruled: true, items: vec![item] }; 7],
        signals: Vec::new(),
    };
    Record {
        id,
        tenant: "default".into(),
        key: String::new(),
        request_hash: [1; 32],
        definition: [2; 32],
        definition_name: "bench".into(),
        durability: Durability::Journaled,
        input: Payload::Inline(vec![b'1'; 40]),
        output: None,
        trace_id: [3; 16],
        span: 4,
        sampled: true,
        job,
    }
}

/// The next state of a job.
pub(crate) fn next(record: &Record) -> Arc<Record> {
    let mut next = record.clone();
    next.job.revision += 1;
    Arc::new(next)
}
