//! A worker.

use anyhow::Result;
use weft_engine_native::HostOptions;
use weft_runtime::Api;
use weft_worker::{Options, Parts, Worker};

use super::{Bound, Role};
use crate::process::Process;
use crate::settings;

/// Starts a worker.
pub async fn worker(process: &Process, settings: settings::Worker) -> Result<Role> {
    let bound = Bound::bind(process, "worker", &settings.listen).await?;
    let mesh = process.worker_mesh(&bound.id).await?;
    mesh.observe(&bound.scope);
    let options = Options {
        zone: settings.zone,
        labels: settings.labels,
        slots: settings.slots,
        models_dir: settings.models,
        memory_bytes: settings.memory.map(weft_config::ByteSize::get),
        threads: settings.threads,
        queue_limit: settings.queue_limit,
        lease_ttl: process.common.lease_ttl,
        drain_grace: process.common.drain_grace,
        move_grace: settings.move_grace,
        message_limit: usize::try_from(settings.listen.server.max_message_bytes)?,
        engines: HostOptions {
            // The same build runs on both ends of the socket.
            program: std::env::current_exe().ok(),
            onnxruntime: settings.onnxruntime,
            memory_bytes: settings.engine_memory.get(),
            arena_bytes: settings.engine_arena.get(),
            ..HostOptions::default()
        },
        ..Options::new(bound.id.clone(), bound.address.clone())
    };
    let parts = Parts {
        store: std::sync::Arc::clone(&process.store),
        mesh,
        keys: process.keys.clone(),
        scope: bound.scope.clone(),
        tasks: process.tasks.clone(),
        health: bound.health.clone(),
    };
    let worker = Worker::start(options, parts).await;
    for problem in worker.problems() {
        tracing::warn!(model = %problem.model, problem = %problem.problem, "a model in the repository is skipped");
    }
    let api = Api::new(&bound.health).with(worker.inference()).with(worker.admin()).with(worker.load_reports());
    // It can be given models and calls from now on; each model has a name of its own besides.
    bound.health.set("", true);
    let role = bound.serve(process, "worker", api, axum::Router::new())?;
    let leaver = worker.clone();
    Ok(Role {
        before: Some(Box::pin(async move { worker.drained().await })),
        after: Some(Box::pin(async move { leaver.leave().await })),
        ..role
    })
}
