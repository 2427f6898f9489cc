//! Starts each service on its server. A role is bound first, so that its address is known, then built, then served.

mod metrics;
mod router;
mod scheduler;
mod worker;

use anyhow::{Context as _, Result, bail};
use futures_util::future::BoxFuture;
use prost::Message as _;
use weft_proto::weft::state::v1::Service;
use weft_runtime::{Api, Drain, Health, Server, ServerOptions, probes};
use weft_store::Presence;
use weft_telemetry::Scope;
use weft_types::{BUILD, WorkerId};

use crate::process::Process;
use crate::settings::Listen;

pub use metrics::metrics;
pub use router::router;
pub use scheduler::scheduler;
pub use worker::worker;

/// A service that runs.
pub struct Role {
    /// Its kind and identity, for the log.
    pub name: String,
    /// Where its gRPC server can be dialled.
    pub address: String,
    /// Where it answers HTTP, if it does.
    pub http: Option<std::net::SocketAddr>,
    /// Its health.
    pub health: Health,
    /// Runs between the first signal and the end of serving: what the service does before it goes.
    before: Option<BoxFuture<'static, ()>>,
    drains: Vec<Drain>,
    /// Runs once no call is left.
    after: Option<BoxFuture<'static, ()>>,
}

/// A bound server with the identity it serves under.
struct Bound {
    id: WorkerId,
    address: String,
    health: Health,
    scope: Scope,
    server: Server,
    http: Option<Server>,
}

impl Bound {
    async fn bind(process: &Process, kind: &'static str, listen: &Listen) -> Result<Self> {
        let at = listen.server.listen;
        let server = Server::bind(listen.server.clone())
            .await
            .with_context(|| format!("{kind} cannot listen on {at}; choose another address with --listen"))?;
        let http = match listen.http {
            None => None,
            Some(at) => {
                let options = ServerOptions { listen: at, ..listen.server.clone() };
                let told = || {
                    format!("{kind} cannot listen on {at}; choose another address with --http, or none with --http=")
                };
                Some(Server::bind(options).await.with_context(told)?)
            }
        };
        let bound = server.address();
        let id = match &listen.id {
            Some(id) => id.clone(),
            None => format!("{kind}-{}-{}", host(), bound.port()).parse()?,
        };
        let address = match &listen.advertise {
            Some(address) => address.clone(),
            None if bound.ip().is_unspecified() => {
                bail!("{kind} listens on every address: say with --advertise which one the others shall dial")
            }
            None => bound.to_string(),
        };
        let scope = process.scope(kind, id.as_str())?;
        Ok(Self { id, address, health: Health::default(), scope, server, http })
    }

    /// Serves the services, and over HTTP the probes and `router`.
    fn serve(self, process: &Process, kind: &str, api: Api, router: axum::Router) -> Result<Role> {
        let name = format!("{kind} {}", self.id);
        let (address, listening) = (self.address, self.server.address());
        let at_http = self.http.as_ref().map(Server::address);
        let mut drains = vec![self.server.serve(api, self.scope, &process.tasks)?];
        if let Some(http) = self.http {
            tracing::info!(service = %name, address = %http.address(), "serving HTTP");
            drains.push(http.serve_http(probes(&self.health).merge(router), &process.tasks));
        }
        tracing::info!(service = %name, address = %listening, "serving gRPC");
        Ok(Role { name, address, http: at_http, health: self.health, before: None, drains, after: None })
    }

    /// Registers under `services/`, so that others find this instance. The returned future deregisters it.
    fn register(&self, process: &Process, kind: &str) -> Result<BoxFuture<'static, ()>> {
        let (presence, driver) = Presence::new(std::sync::Arc::clone(&process.store), process.common.lease_ttl);
        let record = Service {
            kind: kind.to_owned(),
            id: self.id.to_string(),
            address: self.address.clone(),
            build: BUILD.to_owned(),
        };
        presence.set(process.keys.service(kind, self.id.as_str()), record.encode_to_vec())?;
        let leaving = tokio_util::sync::CancellationToken::new();
        let (gone, left) = tokio::sync::oneshot::channel::<()>();
        let (stop, lease_ttl) = (leaving.clone(), process.common.lease_ttl);
        process.tasks.spawn("registration", async move {
            driver.run(stop).await;
            drop((presence, gone));
        });
        Ok(Box::pin(async move {
            leaving.cancel();
            // The other end is dropped when the driver has ended. An absent store must not hold up the end of the process: the
            // record then goes with its lease.
            let _ = tokio::time::timeout(lease_ttl, left).await;
        }))
    }
}

/// The machine's name, as far as it can be part of an identity.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-').collect();
    if name.is_empty() { "host".to_owned() } else { name.chars().take(64).collect() }
}

impl Role {
    /// The bounded end of a service: health turns, balancers get to see it, connections are told, calls end, records go.
    pub async fn drain(self, process: &Process) {
        tracing::info!(service = %self.name, "draining");
        self.health.drain();
        if let Some(before) = self.before {
            before.await;
        }
        tokio::time::sleep(process.common.lame_duck).await;
        let grace = process.common.drain_grace;
        futures_util::future::join_all(self.drains.iter().map(|drain| drain.run(grace))).await;
        if let Some(after) = self.after {
            after.await;
        }
        tracing::info!(service = %self.name, "drained");
    }
}

/// Runs one service until the process ends.
pub async fn alone(process: &Process, role: Role) -> Result<()> {
    process.ending().await;
    role.drain(process).await;
    Ok(())
}
