//! All four services in one process, over the embedded store.

use std::time::Duration;

use anyhow::Result;

use crate::process::Process;
use crate::role::{self, Role};
use crate::settings;

/// A whole mesh in this process.
pub struct Dev {
    process: Process,
    router: Role,
    /// The scheduler and the worker.
    inner: Vec<Role>,
    metrics: Role,
}

impl Dev {
    /// Starts the metrics service first, so that the others have somewhere to report to.
    pub async fn start(process: &Process, mut settings: settings::Dev) -> Result<Self> {
        let metrics = role::metrics(process, settings.metrics).await?;
        let process = match &process.common.otlp_endpoint {
            Some(_) => process.clone(),
            None => process.with_telemetry(format!("http://{}", metrics.address))?,
        };
        // There is no other worker that the replicas could be moved to.
        settings.worker.move_grace = Duration::ZERO;
        let scheduler = role::scheduler(&process, settings.scheduler).await?;
        let worker = role::worker(&process, settings.worker).await?;
        let router = role::router(&process, settings.router).await?;
        Ok(Self { process, router, inner: vec![worker, scheduler], metrics })
    }

    /// Where callers reach the mesh.
    pub fn address(&self) -> &str {
        &self.router.address
    }

    /// Where the metrics service answers HTTP, if it does.
    pub fn metrics_http(&self) -> Option<std::net::SocketAddr> {
        self.metrics.http
    }

    /// Ends the mesh: first the router, so that calls in flight still find everything else; last the metrics service, so
    /// that nothing which was recorded is lost.
    pub async fn drain(self) {
        let process = &self.process;
        // As a signal does: who places models is not to see their worker go.
        process.tasks.stop();
        self.router.drain(process).await;
        futures_util::future::join_all(self.inner.into_iter().map(|role| role.drain(process))).await;
        process.flush().await;
        self.metrics.drain(process).await;
    }
}

/// What to try next.
pub(crate) fn hints(address: &str) -> String {
    format!(
        "
serving on {address}; try:
  grpcurl -plaintext {address} list
  grpcurl -plaintext {address} inference.GRPCInferenceService/RepositoryIndex
  grpcurl -plaintext {address} weft.control.v1.Models/ListModels
  grpcurl -plaintext -d '{{\"window\":\"60s\"}}' {address} weft.metrics.v1.Metrics/Summary
  grpcurl -plaintext -max-time 2 -d '{{\"model_name\":\"sleep\",\"inputs\":[{{\"name\":\"MILLISECONDS\",\"datatype\":\"UINT32\",\"shape\":[1],\
\"contents\":{{\"uint_contents\":[100]}}}}]}}' {address} inference.GRPCInferenceService/ModelInfer
Ctrl-C drains and exits."
    )
}
