//! A router.

use anyhow::Result;
use weft_router::{Options, Router};
use weft_runtime::Api;

use super::{Bound, Role};
use crate::process::Process;
use crate::settings;

/// Starts a router.
pub async fn router(process: &Process, settings: settings::Router) -> Result<Role> {
    let bound = Bound::bind(process, "router", &settings.listen).await?;
    let mesh = process.mesh().await?;
    mesh.observe(&bound.scope);
    let leave = bound.register(process, "router")?;
    let (zone, cache_bytes) = (settings.zone, settings.cache_bytes.get());
    let options = Options { zone, cache_bytes, ..Options::default() };
    let router = Router::start(options, mesh, &process.tasks, bound.scope.clone(), bound.health.clone());
    let api = router.serve(Api::new(&bound.health));
    let role = bound.serve(process, "router", api, axum::Router::new())?;
    // Nobody shall be sent here any more before connections are told to go.
    Ok(Role { before: Some(leave), ..role })
}
