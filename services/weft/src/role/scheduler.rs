//! A scheduler.

use anyhow::{Context as _, Result};
use weft_runtime::Api;
use weft_scheduler::{JobOptions, JobPayloads, ModelControl, Options, Scheduler, Wiring};

use super::{Bound, Role};
use crate::process::Process;
use crate::settings;

/// Starts a scheduler.
pub async fn scheduler(process: &Process, settings: settings::Scheduler) -> Result<Role> {
    let bound = Bound::bind(process, "scheduler", &settings.listen).await?;
    let mesh = process.mesh().await?;
    mesh.observe(&bound.scope);
    let leave = bound.register(process, "scheduler")?;
    let options = Options {
        id: bound.id.to_string(),
        address: bound.address.clone(),
        model_control: if settings.auto { ModelControl::Auto } else { ModelControl::Explicit },
        election_ttl: process.common.lease_ttl,
        history: settings.history,
        jobs: JobOptions {
            batch: settings.jobs.batch,
            payloads: payloads(process, settings.jobs.payloads.as_deref())?,
            retention: settings.jobs.retention,
            quota: settings.jobs.quota.get(),
            targets: settings.jobs.targets.join(",").parse().map_err(anyhow::Error::msg)?,
            ..JobOptions::default()
        },
        ..Options::default()
    };
    let wiring = Wiring {
        store: std::sync::Arc::clone(&process.store),
        maintenance: std::sync::Arc::clone(&process.maintenance),
        mesh,
        keys: process.keys.clone(),
        tasks: process.tasks.clone(),
        scope: bound.scope.clone(),
        health: bound.health.clone(),
    };
    let scheduler = Scheduler::start(options, wiring);
    let api = scheduler.serve(Api::new(&bound.health));
    let role = bound.serve(process, "scheduler", api, axum::Router::new())?;
    // Nobody shall be sent here any more before connections are told to go.
    Ok(Role { before: Some(leave), ..role })
}

/// Values that outlive this process where the log does.
fn payloads(process: &Process, place: Option<&str>) -> Result<JobPayloads> {
    match place {
        Some(place) => JobPayloads::named(place, &process.common.cluster).context("--jobs-payloads"),
        None if process.is_embedded() => Ok(JobPayloads::memory()),
        None => Ok(JobPayloads::nowhere()),
    }
}
