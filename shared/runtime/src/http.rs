//! Liveness and readiness over HTTP, for probes that do not speak gRPC.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use crate::Health;

/// `/livez` and `/readyz`, also under the Open Inference Protocol's `/v2/health/live` and `/v2/health/ready`.
pub fn probes(health: &Health) -> Router {
    let health = health.clone();
    let ready = move || {
        let serving = health.serving();
        async move { if serving { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") } }
    };
    let live = || async { "live\n" };
    Router::new()
        .route("/livez", get(live))
        .route("/v2/health/live", get(live))
        .route("/readyz", get(ready.clone()))
        .route("/v2/health/ready", get(ready))
}
