//! A router.

use anyhow::Result;
use weft_router::{Options, Router};
use weft_runtime::Api;

use super::{Bound, Role};
use crate::process::Process;
use crate::settings::Router as Settings;

/// Starts a router.
pub async fn router(process: &Process, settings: Settings) -> Result<Role> {
    let bound = Bound::bind(process, "router", &settings.listen).await?;
    let mesh = process.mesh().await?;
    mesh.observe(&bound.scope);
    let leave = bound.register(process, "router")?;
    let Settings { queue_limit, target_wait, zone, cache_bytes, .. } = settings;
    let options = Options { queue_limit, target_wait, zone, cache_bytes: cache_bytes.get(), ..Options::default() };
    let router = Router::start(options, mesh, &process.tasks, bound.scope.clone(), bound.health.clone());
    let api = router.serve(Api::new(&bound.health));
    let role = bound.serve(process, "router", api, axum::Router::new())?;
    // Nobody shall be sent here any more before connections are told to go.
    Ok(Role { before: Some(leave), ..role })
}
