//! What the services of one process share: tasks, signals, telemetry, the store and the view of the mesh.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_client::{Keys, Mesh};
use weft_runtime::Tasks;
use weft_store::Store;
use weft_telemetry::{Scope, Telemetry, init_logs};

use crate::settings::Common;
use crate::wiring;

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
    /// Where records stand in it.
    pub keys: Keys,
    /// The mesh as this process knows it.
    pub mesh: Mesh,
    telemetry: Arc<Telemetry>,
    signals: Arc<weft_runtime::Process>,
}

impl Process {
    /// Starts logging, listens for signals, and connects to the store.
    pub async fn start(common: Common) -> Result<Self> {
        init_logs(common.log_format, &common.log).context("cannot start logging")?;
        Self::embed(common).await
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
        let store = wiring::store(&common.etcd, &tasks).await?;
        let keys = Keys::new(&common.cluster);
        let mesh = Mesh::follow(Arc::clone(&store), &keys, &tasks);
        Ok(Self { common, tasks, store, keys, mesh, telemetry: Arc::new(telemetry), signals: Arc::new(signals) })
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
