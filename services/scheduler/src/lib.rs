//! The scheduler: decides which worker holds which model version, and takes what operators want.
//!
//! Placement: `observe` turns the newest snapshot of the mesh into the policy's terms, `failures` remembers what failed to
//! load where, and `place` writes the difference that the policy finds, under the leader's fence; `figures` tells what calls are like,
//! `scale` how many replicas they need, and `rollout` leads models from version to version by them. No inference call ever waits for it.
//! Jobs: `jobs`, with a table of contents of its own; every scheduler runs those of its shards.
//! Operators' path: `grpc` converts, `control` checks, writes and shows. `events` tells operators what happened; `upkeep` keeps the store small,
//! and `cordon` forgets cordons of workers that are gone for good.
//!
//! Schedulers are many and one leads: all keep the snapshot and answer operators, only the leader writes placements and
//! events and compacts the store.

mod control;
mod cordon;
mod error;
mod events;
mod failures;
mod figures;
#[cfg(test)]
mod fixture;
mod grpc;
mod jobs;
mod observe;
mod options;
mod place;
#[cfg(test)]
mod planted;
mod rollout;
mod scale;
#[cfg(test)]
mod tests;
mod upkeep;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prost::Message as _;
use tokio::sync::watch;
use weft_client::{Keys, Mesh, Snapshot};
use weft_policy::place::{Failure, Unplaced};
use weft_proto::weft::control::v1::events_server::EventsServer;
use weft_proto::weft::control::v1::models_server::ModelsServer;
use weft_proto::weft::control::v1::rollouts_server::RolloutsServer;
use weft_proto::weft::control::v1::routes_server::RoutesServer;
use weft_proto::weft::control::v1::workers_server::WorkersServer;
use weft_proto::weft::jobs::v1::jobs_server::JobsServer;
use weft_proto::weft::scheduler::v1::scheduler_server::SchedulerServer;
use weft_proto::weft::state::v1::Leader;
use weft_runtime::{Api, Health, Tasks};
use weft_store::{Candidacy, Election, Fence, Maintain, Store};
use weft_telemetry::Scope;
use weft_types::SystemClock;

pub use figures::{Figures, VersionFigures};
pub use jobs::{Options as JobOptions, Targets as JobTargets};
pub use options::{ModelControl, Options};
/// Where long values of jobs are kept.
pub use weft_journal::Payloads as JobPayloads;

use control::ToLeader;
use cordon::Expiry;
use events::{Feed, Herald, Occurred, Register, Untold};
use failures::Failures;
use figures::{Gauge, Inquiry};
use grpc::Surface;
use jobs::Jobs;
use place::Placer;
use rollout::Conductor;
use scale::{Autoscaler, Scaling};
use upkeep::Upkeep;

/// The names under which its health is asked for.
const NAMES: [&str; 8] = [
    "",
    "weft.control.v1.Events",
    "weft.control.v1.Models",
    "weft.control.v1.Rollouts",
    "weft.control.v1.Routes",
    "weft.control.v1.Workers",
    "weft.jobs.v1.Jobs",
    "weft.scheduler.v1.Scheduler",
];

/// What a scheduler is connected to.
pub struct Wiring {
    /// The state store, for writes.
    pub store: Arc<dyn Store>,
    /// The state store's members, to compact it and to tell how they are.
    pub maintenance: Arc<dyn Maintain>,
    /// The mesh as the store tells it, for everything else.
    pub mesh: Mesh,
    /// The cluster's keys.
    pub keys: Keys,
    /// Where its loops run.
    pub tasks: Tasks,
    /// Its spans.
    pub scope: Scope,
    /// Where it says that it serves.
    pub health: Health,
}

/// A running scheduler. Clones share its state.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
    jobs: Jobs,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) maintenance: Arc<dyn Maintain>,
    pub(crate) mesh: Mesh,
    pub(crate) keys: Keys,
    pub(crate) scope: Scope,
    /// `Some` while this scheduler leads.
    pub(crate) fence: watch::Receiver<Option<Fence>>,
    /// Held for a look at the snapshot's replicas, never across an await.
    failures: Mutex<Failures>,
    pub(crate) moves_written: AtomicU64,
    /// What the leader has found and could not write yet.
    pub(crate) untold: Untold,
    /// What the leader has done and not told yet.
    pub(crate) occurred: Occurred,
    /// What was told.
    pub(crate) register: Register,
    /// What had no place when the leader last looked; empty for whoever does not lead.
    pub(crate) unplaced: watch::Sender<Arc<[Unplaced]>>,
    /// What those hear who watch events.
    pub(crate) feed: Feed,
    /// The newest figures of the mesh's calls, kept by the leader.
    pub(crate) figures: watch::Receiver<Arc<Figures>>,
    /// What calls have asked for, and what nobody calls.
    pub(crate) scaling: Scaling,
    pub(crate) to_leader: ToLeader,
    pub(crate) tasks: Tasks,
}

impl Scheduler {
    /// Builds a scheduler that campaigns for the leadership and places while it leads, until the tasks stop; then it
    /// resigns, so that another one takes over at once.
    pub fn start(options: Options, wiring: Wiring) -> Self {
        let Wiring { store, maintenance, mesh, keys, tasks, scope, health } = wiring;
        let leader = Leader { id: options.id.clone(), address: options.address.clone() };
        let candidacy =
            Candidacy { key: keys.leader(), value: leader.encode_to_vec().into(), ttl: options.election_ttl };
        let (election, fence) = Election::new(Arc::clone(&store), Arc::new(SystemClock), candidacy);
        let (newest, figures) = watch::channel(Arc::default());
        let inner = Arc::new(Inner {
            options,
            store,
            maintenance,
            mesh,
            keys,
            scope,
            fence,
            failures: Mutex::default(),
            moves_written: AtomicU64::new(0),
            untold: Untold::default(),
            occurred: Occurred::default(),
            register: Register::default(),
            unplaced: watch::Sender::default(),
            feed: Feed::new(tasks.stopping()),
            figures,
            scaling: Scaling::default(),
            to_leader: ToLeader::default(),
            tasks: tasks.clone(),
        });
        tasks.spawn("election", election.run(tasks.stopping()));
        tasks.spawn("placement", Placer::new(Arc::clone(&inner)).run(tasks.stopping()));
        tasks.spawn("events", Herald::new(Arc::clone(&inner)).run(tasks.stopping()));
        tasks.spawn("event feed", events::follow(Arc::clone(&inner), tasks.stopping()));
        tasks.spawn("cordons", Expiry::new(Arc::clone(&inner)).run(tasks.stopping()));
        let gauge = Gauge::new(Inquiry::new(Arc::clone(&inner), tasks.clone()), newest);
        tasks.spawn("figures", gauge.run(tasks.stopping()));
        tasks.spawn("autoscaling", Autoscaler::new(Arc::clone(&inner)).run(tasks.stopping()));
        let conductor = Conductor::new(Arc::clone(&inner), Inquiry::new(Arc::clone(&inner), tasks.clone()));
        tasks.spawn("rollouts", conductor.run(tasks.stopping()));
        tasks.spawn("upkeep", Upkeep::new(Arc::clone(&inner)).run(tasks.stopping()));
        tasks.spawn("scheduler health", tell_health(inner.mesh.clone(), health, tasks.stopping()));
        let jobs = Jobs::start(&inner);
        Self { inner, jobs }
    }

    /// Adds the scheduler's services to a server.
    pub fn serve(&self, api: Api) -> Api {
        let surface = || Surface(Arc::clone(&self.inner));
        api.with(EventsServer::new(surface()))
            .with(ModelsServer::new(surface()))
            .with(RolloutsServer::new(surface()))
            .with(RoutesServer::new(surface()))
            .with(WorkersServer::new(surface()))
            .with(SchedulerServer::new(surface()))
            .with(JobsServer::new(self.jobs.clone()))
    }

    /// The epoch under which this scheduler leads; `None` while it does not.
    pub fn epoch(&self) -> Option<i64> {
        self.inner.epoch()
    }

    /// What the mesh's calls are like, as far as this scheduler knows: it asks while it leads.
    pub fn figures(&self) -> watch::Receiver<Arc<Figures>> {
        self.inner.figures.clone()
    }
}

impl Inner {
    pub(crate) fn epoch(&self) -> Option<i64> {
        let fence = self.fence.borrow();
        fence.as_ref().filter(|fence| fence.holds(SystemClock::now())).map(|fence| fence.create_revision)
    }

    /// Takes note of what failed in `snapshot`, and tells what is remembered.
    pub(crate) fn note_failures(&self, snapshot: &Snapshot, now: Instant) -> Vec<Failure> {
        let mut failures = self.failures();
        failures.observe(snapshot, self.options.failure_memory, now);
        failures.list(&self.options, now)
    }

    pub(crate) fn failures(&self) -> MutexGuard<'_, Failures> {
        // Each entry is whole at any point: a panic elsewhere cannot have left one half changed.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the scheduler serves once it has seen the mesh. It need not lead for that.
async fn tell_health(mesh: Mesh, health: Health, stopping: tokio_util::sync::CancellationToken) {
    tokio::select! {
        () = mesh.synced() => NAMES.iter().for_each(|name| health.set(name, true)),
        () = stopping.cancelled() => {}
    }
}
