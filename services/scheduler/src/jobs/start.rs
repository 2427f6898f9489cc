//! What jobs are made of when a scheduler starts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tonic::async_trait;
use weft_journal::{Journal, Keys, Shard, Wiring};
use weft_saga::{Fault, Payload};
use weft_store::Compare;
use weft_types::{RateLimit, SystemClock};

use super::act::{self, Actor};
use super::forward::Peers;
use super::programs::Programs;
use super::room::Room;
use super::table::Table;
use super::{Jobs, MAX_WATCHES, Shared, list, shards};
use crate::Inner;

/// How often it is said at most that the place of values cannot be used, and how often that a job waits for it.
const SAID_EVERY: Duration = Duration::from_secs(60);

impl Jobs {
    /// Runs the jobs of the shards that this scheduler gets, until the tasks stop.
    pub(crate) fn start(inner: &Arc<Inner>) -> Self {
        let (options, tasks) = (inner.options.jobs.clone(), inner.tasks.clone());
        let (id, address) = (inner.options.id.clone(), inner.options.address.clone());
        let settings = weft_journal::Options {
            lease_ttl: inner.options.election_ttl,
            batch: options.batch,
            retain: options.retention,
            quota: options.quota,
            ..weft_journal::Options::new(id.clone(), address.clone())
        };
        let keys = Keys::new(inner.keys.root());
        let wiring = Wiring {
            store: Arc::clone(&inner.store),
            maintenance: Arc::clone(&inner.maintenance),
            keys: keys.clone(),
            payloads: options.payloads.clone(),
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            metrics: inner.scope.metrics().journal(),
        };
        let (journal, owned) = Journal::start(settings, wiring);
        let kept = Arc::new(Kept { journal: journal.clone(), warned: RateLimit::new(SAID_EVERY) });
        let shared = Arc::new(Shared {
            id,
            address,
            actor: Actor::new(Arc::clone(inner), kept, options.targets.clone()),
            room: Room::new(options.max_attempts),
            options,
            journal,
            keys,
            table: Table::default(),
            programs: Programs::default(),
            peers: Peers::default(),
            watchers: Arc::new(Semaphore::new(MAX_WATCHES)),
            reading: Semaphore::new(list::MAX_READING),
            metrics: inner.scope.metrics().jobs(),
            scope: inner.scope.clone(),
            tasks: tasks.clone(),
            waits: RateLimit::new(SAID_EVERY),
        });
        let counted = Arc::clone(&shared);
        inner.scope.metrics().observe_jobs(move || counted.table.count());
        let counted = Arc::clone(&shared);
        inner.scope.metrics().observe_shards(move || counted.table.shards());
        tasks.spawn("job shards", shards::follow(Arc::clone(&shared), owned, tasks.finishing()));
        Self(shared)
    }
}

impl Shared {
    /// What holds in the store while a shard is this scheduler's.
    pub(super) fn guard(&self, shard: &Shard) -> Compare {
        Compare::CreateRevision(format!("{}{:02x}", self.keys.owners(), shard.number()), shard.epoch())
    }
}

/// The journal as actions keep values in it.
struct Kept {
    journal: Journal,
    /// Whether to say again that the place of values cannot be used.
    warned: RateLimit,
}

#[async_trait]
impl act::Payloads for Kept {
    async fn load(&self, payload: &Payload) -> Result<Bytes, Fault> {
        self.journal.load(payload).await.map_err(|error| self.fault(&error))
    }

    async fn store(&self, text: Bytes, inline: usize) -> Result<Payload, Fault> {
        self.journal.store_within(text, inline).await.map_err(|error| self.fault(&error))
    }
}

impl Kept {
    fn fault(&self, error: &weft_journal::Error) -> Fault {
        if matches!(error, weft_journal::Error::Place(_)) && self.warned.allows(SystemClock::now()) {
            tracing::warn!(%error, "the place of long values cannot be used, and jobs that need it wait");
        } else {
            tracing::debug!(%error, "a value of a job");
        }
        fault(error)
    }
}

/// Why a step has no value, as its job tells it: without paths and addresses.
fn fault(error: &weft_journal::Error) -> Fault {
    let (code, message) = match error {
        weft_journal::Error::TooLarge { .. } => ("OUT_OF_RANGE", "a value is longer than values may be"),
        weft_journal::Error::NotKept => (
            "FAILED_PRECONDITION",
            "values above 4 KiB, or 32 KiB in one job, need the schedulers' setting --jobs-payloads",
        ),
        weft_journal::Error::Missing | weft_journal::Error::Corrupt => {
            ("DATA_LOSS", "a value of the job is not there any more, or not what was kept")
        }
        _ => ("UNAVAILABLE", "values cannot be read or kept at the moment"),
    };
    Fault::new(code, message)
}
