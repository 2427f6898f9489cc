//! What the services of one process share: tasks, signals, telemetry, the store and the view of the mesh.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::OnceCell;
use weft_client::{Keys, Mesh, SavedFile};
use weft_runtime::Tasks;
use weft_store::{Maintain, Store};
use weft_telemetry::{Scope, Telemetry, init_logs};
use weft_types::WorkerId;

use crate::settings::Common;
use crate::wiring::{self, State};

/// How long the last figures and traces may take to leave.
const FLUSH: Duration = Duration::from_secs(2);

/// The shared parts. Clones are the same process.
#[derive(Clone)]
pub struct Process {
    /// The settings they were made from.
    pub common: Common,
    /// Where everything runs.
    pub tasks: Tasks,
    /// The state store.
    pub store: Arc<dyn Store>,
    /// What keeps the store small, and tells how its members are.
    pub maintenance: Arc<dyn Maintain>,
    /// Where records stand in it.
    pub keys: Keys,
    state: State,
    /// The whole mesh, once somebody has asked for it.
    mesh: Arc<OnceCell<Mesh>>,
    telemetry: Arc<Telemetry>,
    signals: Arc<weft_runtime::Process>,
}

impl Process {
    /// Starts logging, listens for signals, and opens the store.
    pub async fn start(common: Common) -> Result<Self> {
        init_logs(common.log_format, &common.log).context("cannot start logging")?;
        Self::embed(common).await
    }

    /// Whether the store ends with this process.
    pub const fn is_embedded(&self) -> bool {
        self.state.is_embedded()
    }

    /// As [`Self::start`] in a process that has its own logging.
    pub async fn embed(common: Common) -> Result<Self> {
        let tasks = Tasks::new();
        let signals = weft_runtime::Process::listen(&tasks).context("cannot listen for signals")?;
        let telemetry = weft_telemetry::Options {
            endpoint: common.otlp_endpoint.clone(),
            sample_ratio: common.trace_ratio,
            ..weft_telemetry::Options::default()
        };
        let telemetry = Telemetry::new(telemetry).context("otlp-endpoint")?;
        let state = wiring::state(&common, &tasks).await?;
        if state.is_embedded() && common.state_dir.is_some() {
            tracing::warn!("state-dir has no effect: the embedded store ends with this process");
        }
        let (store, maintenance) = (Arc::clone(&state.store), Arc::clone(&state.maintenance));
        let (telemetry, signals) = (Arc::new(telemetry), Arc::new(signals));
        let (keys, mesh) = (Keys::new(&common.cluster), Arc::default());
        Ok(Self { common, tasks, store, maintenance, keys, state, mesh, telemetry, signals })
    }

    /// The same process with its telemetry sent elsewhere: `weft dev` knows its endpoint only once it listens.
    pub fn with_telemetry(&self, endpoint: String) -> Result<Self> {
        let options = weft_telemetry::Options {
            endpoint: Some(endpoint),
            sample_ratio: self.common.trace_ratio,
            ..weft_telemetry::Options::default()
        };
        Ok(Self { telemetry: Arc::new(Telemetry::new(options)?), ..self.clone() })
    }

    /// The whole mesh, which every service of this process shares but the worker. Fails when the store cannot be used, or
    /// does not answer and no snapshot was saved.
    pub async fn mesh(&self) -> Result<Mesh> {
        let follow = async || {
            let saved = self.saved(&self.common.cluster).await?;
            let store = Arc::clone(&self.store);
            anyhow::Ok(Mesh::follow_with(store, &self.keys, &self.tasks, saved, self.common.lease_ttl))
        };
        self.mesh.get_or_try_init(follow).await.cloned()
    }

    /// What one worker follows of the mesh; fails as [`Self::mesh`] does.
    pub async fn worker_mesh(&self, worker: &WorkerId) -> Result<Mesh> {
        let saved = self.saved(&format!("{}.{worker}", self.common.cluster)).await?;
        Ok(Mesh::follow_worker(Arc::clone(&self.store), &self.keys, worker, &self.tasks, saved))
    }

    /// Reads the saved snapshot of this name, if there is a place for it, and checks that the store can be used.
    async fn saved(&self, name: &str) -> Result<Option<SavedFile>> {
        let folder = self.common.state_dir.as_ref().filter(|_| !self.state.is_embedded());
        let saved = match folder {
            Some(folder) => Some(SavedFile::open(folder.join(format!("{name}.snapshot")), &self.common.cluster).await),
            None => None,
        };
        self.state.check(saved.as_ref().is_some_and(SavedFile::is_usable), &self.tasks).await?;
        Ok(saved)
    }

    /// The telemetry of one service in this process.
    pub fn scope(&self, service: &str, instance: &str) -> Result<Scope> {
        Ok(self.telemetry.scope(&format!("weft-{service}"), instance)?)
    }

    /// Waits for the first signal, or for a failure.
    pub async fn ending(&self) {
        self.signals.ending().await;
    }

    /// Sends the last figures and traces.
    pub async fn flush(&self) {
        self.telemetry.shutdown(FLUSH).await;
    }

    /// Ends what is left, once calls have drained.
    pub async fn finish(&self) {
        self.flush().await;
        self.tasks.finish(FLUSH).await;
    }
}
