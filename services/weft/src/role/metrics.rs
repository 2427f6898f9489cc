//! A metrics service.

use std::sync::Arc;

use anyhow::Result;
use weft_metrics::{Options, Service};
use weft_runtime::Api;
use weft_types::SystemClock;

use super::{Bound, Role};
use crate::process::Process;
use crate::settings;

/// Starts a metrics service.
pub async fn metrics(process: &Process, settings: settings::Metrics) -> Result<Role> {
    let bound = Bound::bind(process, "metrics", &settings.listen).await?;
    process.mesh().await?.observe(&bound.scope);
    let leave = bound.register(process, "metrics")?;
    let service = Service::new(&Options::default(), Arc::new(SystemClock));
    let api = Api::new(&bound.health)
        .with(service.metrics())
        .with(service.otlp_metrics())
        .with(service.otlp_traces())
        .with(service.otlp_logs());
    bound.health.set("", true);
    let role = bound.serve(process, "metrics", api, service.http())?;
    // Nobody shall be sent here any more before connections are told to go.
    Ok(Role { before: Some(leave), ..role })
}
