//! What the journal can be told, and what it is connected to.

use std::sync::Arc;
use std::time::Duration;

use weft_runtime::Tasks;
use weft_store::{Maintain, Store};
use weft_telemetry::JournalMetrics;
use weft_types::Clock;

use crate::keys::Keys;
use crate::payloads::Payloads;

/// The journal's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The scheduler's id: one of its kind.
    pub id: String,
    /// host:port of its gRPC server, for other schedulers.
    pub address: String,
    /// How long its shards outlive it when it vanishes; whole seconds.
    pub lease_ttl: Duration,
    /// The most transactions under way at once. More only wait inside etcd, which then answers each of them later.
    pub flushes: usize,
    /// The most jobs whose transitions go into one transaction. With 1 new jobs go to all shards: they have nobody to meet there.
    pub batch: usize,
    /// How long a job is known after its end; its idempotency key as long.
    pub retain: Duration,
    /// The most ended jobs that all schedulers together remember.
    pub retain_records: usize,
    /// The most bytes that their records take.
    pub retain_bytes: usize,
    /// etcd's `--quota-backend-bytes`: from 75 % of it no job begins, from 90 % jobs only end.
    pub quota: u64,
    /// How often the journal looks for what can be freed: ended jobs, and slots that no job has.
    pub sweep: Duration,
    /// How often it looks for payloads and definitions that no job refers to.
    pub collect: Duration,
    /// How long such a payload or definition is kept.
    pub keep_unused: Duration,
}

impl Options {
    /// The defaults, for a scheduler of this name.
    pub fn new(id: impl Into<String>, address: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            address: address.into(),
            lease_ttl: Duration::from_secs(5),
            flushes: 16,
            batch: 100,
            retain: Duration::from_secs(3600),
            retain_records: 100_000,
            retain_bytes: 64 << 20,
            quota: 2 << 30,
            sweep: Duration::from_secs(5),
            collect: Duration::from_secs(3600),
            keep_unused: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a journal is connected to.
pub struct Wiring {
    /// The state store.
    pub store: Arc<dyn Store>,
    /// Its members, for their size.
    pub maintenance: Arc<dyn Maintain>,
    /// Where the records stand.
    pub keys: Keys,
    /// Where long values stand.
    pub payloads: Payloads,
    /// Where its loops run.
    pub tasks: Tasks,
    /// What leases are measured on.
    pub clock: Arc<dyn Clock>,
    /// What its transactions are recorded with.
    pub metrics: JournalMetrics,
}
