//! What a worker can be told; the defaults are those of a laptop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use weft_engine_native::HostOptions;
use weft_types::WorkerId;

/// The settings of one worker.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its identity, stable over restarts.
    pub id: WorkerId,
    /// host:port of its gRPC server, as routers shall dial it.
    pub address: String,
    /// The failure zone it stands in; empty when there is none.
    pub zone: String,
    /// What the operator says of it, for placement by label.
    pub labels: BTreeMap<String, String>,
    /// What jobs can reserve of it: how many slots of each pool.
    pub slots: BTreeMap<String, u32>,
    /// The model repository; the built-in models are there without one.
    pub models_dir: Option<PathBuf>,
    /// Memory that models may take, in bytes; `None` takes 80 % of what the machine or container has.
    pub memory_bytes: Option<u64>,
    /// Threads that run models; `None` takes what the container may use.
    pub threads: Option<u32>,
    /// The most requests that wait for one replica: beyond it an answer in time is unlikely anyway.
    pub queue_limit: usize,
    /// The most tensor bytes that wait for one replica, so that few large requests cannot exhaust memory.
    pub queue_bytes: usize,
    /// How long a batch may wait for company where the model's configuration does not say. Zero: what waits goes
    /// together, and nothing waits in order to.
    pub max_queue_delay: Duration,
    /// The most models that load at once: loading competes with serving for the processor.
    pub parallel_loads: usize,
    /// How long a model may take to load; then it has failed, and another takes its turn.
    pub load_limit: Duration,
    /// How long the first execution, on made-up input, may take.
    pub warm_limit: Duration,
    /// How long the worker's records outlive it: the time after which its death is noticed at the latest.
    pub lease_ttl: Duration,
    /// How long a replica goes on taking calls after it has announced its drain, so that routers see it first.
    pub drain_notice: Duration,
    /// How long the calls of a replica that is unloaded may take to end.
    pub drain_grace: Duration,
    /// How long the drain of the worker waits for its replicas to be moved to other workers.
    pub move_grace: Duration,
    /// The longest message accepted, in bytes.
    pub message_limit: usize,
    /// How engines in processes of their own are run; without a program, there are none. Their threads are [`Self::threads`].
    pub engines: HostOptions,
}

impl Options {
    /// The defaults, for a worker of this name.
    pub fn new(id: WorkerId, address: impl Into<String>) -> Self {
        Self {
            id,
            address: address.into(),
            zone: String::new(),
            labels: BTreeMap::new(),
            slots: BTreeMap::from([("default".to_owned(), 16)]),
            models_dir: None,
            memory_bytes: None,
            threads: None,
            queue_limit: 1024,
            queue_bytes: 256 << 20,
            max_queue_delay: Duration::ZERO,
            parallel_loads: 2,
            load_limit: Duration::from_secs(600),
            warm_limit: Duration::from_secs(60),
            lease_ttl: Duration::from_secs(5),
            drain_notice: Duration::from_millis(250),
            drain_grace: Duration::from_secs(30),
            move_grace: Duration::from_secs(20),
            message_limit: 64 << 20,
            engines: HostOptions::default(),
        }
    }
}
