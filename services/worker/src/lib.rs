//! The worker: holds replicas of models and answers inference calls on them.
//!
//! A call's path: [`grpc`] takes it off the wire, [`answer`] leads it through, [`infer`] makes tensors of it, [`face`] checks
//! them, [`admit`] refuses what cannot be answered in time, [`queue`] holds it in order of urgency, [`batch`] decides what runs together,
//! [`execute`] runs it for as long as somebody waits and [`preempt`] does not need its place, and [`infer`] makes the response.
//!
//! Beside that, [`converge`] makes the replicas follow the placements: it loads from the [`repository`] with the engines
//! of [`wiring`], and tells the mesh what is ready.
//!
//! What a worker never does: wait for the store or the scheduler while it answers, compute for a caller who has gone,
//! or decide what it holds.

mod admit;
mod answer;
mod batch;
mod converge;
mod error;
mod execute;
mod face;
#[cfg(test)]
mod fake;
mod generate;
mod grpc;
mod infer;
mod load;
mod machine;
mod options;
mod preempt;
mod quarantine;
mod queue;
mod replica;
mod replicas;
mod repository;
mod sequence;
mod stats;
mod wiring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use weft_client::{Keys, Mesh};
use weft_engine::Engine;
use weft_engine_native::HostOptions;
use weft_proto::orca::open_rca_service_server::OpenRcaServiceServer;
use weft_proto::weft::worker::v1::worker_server::WorkerServer;
use weft_runtime::{Health, LoadReports, Tasks};
use weft_store::{Presence, Store};
use weft_telemetry::Scope;
use weft_types::{Error, ModelName, Reason, Result, Version};

pub use grpc::{Admin, InferenceServer};
pub use options::Options;
pub use repository::Problem;

use crate::converge::Converger;
use crate::machine::Machine;
use crate::quarantine::Quarantines;
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::repository::{Facts, Repository};

/// What a worker needs from its process.
#[derive(Clone)]
pub struct Parts {
    /// Where it registers.
    pub store: Arc<dyn Store>,
    /// What it learns its placements from: it looks at nothing but those and who leads.
    pub mesh: Mesh,
    /// Where records stand.
    pub keys: Keys,
    /// What it records traces and metrics with.
    pub scope: Scope,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// Where it shows the health of each model.
    pub health: Health,
}

/// A worker. Clones share it.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
    left: watch::Receiver<bool>,
}

/// What the modules share.
pub(crate) struct Shared {
    options: Options,
    memory_bytes: u64,
    threads: u32,
    machine: Machine,
    /// As it was read last.
    repository: watch::Sender<Arc<Repository>>,
    engines: BTreeMap<&'static str, Arc<dyn Engine>>,
    replicas: Replicas,
    quarantines: Quarantines,
    /// One permit for each load that may run at once.
    loads: Semaphore,
    mesh: Mesh,
    keys: Keys,
    scope: Scope,
    tasks: Tasks,
    health: Health,
    draining: watch::Sender<bool>,
    drained: watch::Sender<bool>,
    /// Cancelled when the worker deregisters.
    leaving: CancellationToken,
}

impl Worker {
    /// Scans the repository, registers, and begins to follow its placements. When the process begins to end, the worker
    /// begins its drain.
    pub async fn start(options: Options, parts: Parts) -> Self {
        // A driver that fails takes its devices with it, nothing else.
        let machine = tokio::task::spawn_blocking(Machine::detect).await.unwrap_or_default();
        let threads = options.threads.unwrap_or(machine.cpu.threads);
        let threads = usize::try_from(threads).unwrap_or(1);
        let host = HostOptions { threads, nodes: machine.cpu.nodes.clone(), ..options.engines.clone() };
        let engines = wiring::engines(host, &parts.tasks);
        Self::with_engines(options, parts, engines, machine)
    }

    fn with_engines(
        options: Options,
        parts: Parts,
        engines: BTreeMap<&'static str, Arc<dyn Engine>>,
        machine: Machine,
    ) -> Self {
        let Parts { store, mesh, keys, scope, tasks, health } = parts;
        let has: BTreeSet<&'static str> = engines.keys().copied().collect();
        let known = options.models_dir.as_deref().and_then(|dir| Facts::of(dir).ok());
        let repository = watch::Sender::new(Arc::new(Repository::scan(options.models_dir.as_deref(), &has)));
        let (presence, driver) = Presence::new(Arc::clone(&store), options.lease_ttl);
        let shared = Arc::new(Shared {
            // A fifth is left for requests, answers and the process itself.
            memory_bytes: options.memory_bytes.unwrap_or(machine.memory_bytes / 5 * 4),
            threads: options.threads.unwrap_or(machine.cpu.threads),
            machine,
            loads: Semaphore::new(options.parallel_loads.max(1)),
            options,
            repository,
            engines,
            replicas: Replicas::default(),
            quarantines: Quarantines::default(),
            mesh,
            keys,
            scope,
            tasks,
            health,
            draining: watch::Sender::new(false),
            drained: watch::Sender::new(false),
            leaving: CancellationToken::new(),
        });
        let (gone, left) = watch::channel(false);
        let leaving = shared.leaving.clone();
        shared.tasks.spawn("presence", async move {
            driver.run(leaving).await;
            gone.send_replace(true);
        });
        if let Some(dir) = shared.options.models_dir.clone() {
            let following = repository::follow((dir, has), known, Arc::clone(&shared));
            shared.tasks.spawn("repository", following);
        }
        shared.tasks.spawn("converge", Converger::new(Arc::clone(&shared), store, presence).run());
        let draining = Arc::clone(&shared);
        shared.tasks.spawn("drain", async move {
            draining.tasks.stopping().cancelled().await;
            draining.draining.send_replace(true);
        });
        Self { shared, left }
    }

    /// `inference.GRPCInferenceService`.
    pub fn inference(&self) -> InferenceServer {
        InferenceServer::new(Arc::clone(&self.shared))
    }

    /// `weft.worker.v1.Worker`.
    pub fn admin(&self) -> WorkerServer<Admin> {
        WorkerServer::new(Admin::new(Arc::clone(&self.shared)))
    }

    /// `xds.service.orca.v3.OpenRcaService`: the load of the worker as a whole.
    pub fn load_reports(&self) -> OpenRcaServiceServer<LoadReports> {
        let shared = Arc::clone(&self.shared);
        LoadReports::server(move || load::of_worker(&shared))
    }

    /// What the first scan of the repository found wrong, or the last one since.
    pub fn problems(&self) -> Vec<Problem> {
        self.shared.repository().problems().to_vec()
    }

    /// Begins the drain, if it has not begun, and waits until what could be moved to other workers has been moved there,
    /// for at most that long. The worker serves all the while, and afterwards what it still holds.
    pub async fn drained(&self) {
        self.shared.draining.send_replace(true);
        let mut drained = self.shared.drained.subscribe();
        let done = tokio::time::timeout(self.shared.options.move_grace, drained.wait_for(|drained| *drained));
        if done.await.is_err() {
            tracing::warn!("the drain's grace is over before every replica was moved");
        }
    }

    /// Deregisters and ends what is left. Call it once the server has stopped.
    pub async fn leave(&self) {
        self.shared.leaving.cancel();
        for held in self.shared.replicas.all().values().flat_map(BTreeMap::values) {
            if let Some(replica) = held.replica() {
                replica.abandon();
            }
        }
        // An absent store must not hold up the end: the records then vanish with their lease.
        let gone = self.left.clone();
        let _ = tokio::time::timeout(self.shared.options.lease_ttl, { gone }.wait_for(|gone| *gone)).await;
    }
}

impl Shared {
    /// What could be loaded, as of now.
    fn repository(&self) -> Arc<Repository> {
        Arc::clone(&self.repository.borrow())
    }

    fn offer(&self, name: &ModelName) -> Option<Arc<repository::Offer>> {
        self.repository.borrow().get(name)
    }

    /// What a version is expected to take once loaded, in bytes.
    fn size_of(&self, (name, version): &(ModelName, Version)) -> u64 {
        self.offer(name).and_then(|offer| Some(offer.versions.get(version)?.size_bytes)).unwrap_or(0)
    }

    /// The replica that answers for a model. `prefix` tells how the request calls its fields: `model_name` or `name`.
    fn find(&self, prefix: &str, name: &str, version: &str) -> Result<Arc<Replica>> {
        let wanted = match version {
            "" => None,
            text => Some(text.parse().map_err(|error| Error::invalid(format!("{prefix}version"), error))?),
        };
        if let Some(replica) = self.replicas.find(name, wanted)? {
            return Ok(replica);
        }
        let model: ModelName = name.parse().map_err(|error| Error::invalid(format!("{prefix}name"), error))?;
        let offered =
            self.offer(&model).is_some_and(|offer| wanted.is_none_or(|version| offer.versions.contains_key(&version)));
        let version = wanted.map(|version| format!(" version {version}")).unwrap_or_default();
        Err(match offered {
            // A router whose snapshot is older than ours finds it on another worker.
            true => Error::new(Reason::NoReadyReplica, format!("model {model}{version} is not loaded on this worker")),
            false => Error::new(Reason::NotFound, format!("model {model}{version} is unknown")),
        })
    }
}
