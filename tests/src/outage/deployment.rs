//! A mesh of separate processes over three etcd members, which can be killed, stopped and cut off one by one.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use tempfile::TempDir;
use weft_proto::inference::ModelReadyRequest;
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{GetSnapshotRequest, GetSnapshotResponse};
use weft_types::ModelName;

use crate::calls::{Caller, identity, until};
use crate::etcd::Cluster;
use crate::port::Port;
use crate::process::Weft;
use crate::proxy::{Fault, Proxy};
use crate::replicas::replicate;

/// The cluster's name in the store.
pub(super) const CLUSTER: &str = "outage";
/// The model that calls are for, on every worker.
pub(super) const MODEL: &str = "identity";
/// How many there are.
pub(super) const WORKERS: usize = 3;
const ROUTERS: usize = 2;
const SCHEDULERS: usize = 2;
/// How long one question to a process may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The processes. Dropping it kills them all.
pub struct Deployment {
    /// The first one reaches etcd through proxies.
    pub(super) routers: Vec<Service>,
    /// The first one reaches etcd through proxies.
    pub(super) workers: Vec<Service>,
    pub(super) etcd: Cluster,
    router_paths: Vec<Proxy>,
    worker_paths: Vec<Proxy>,
    _others: Vec<Service>,
    _dir: TempDir,
}

impl Deployment {
    /// Starts everything with this lease, and waits until every worker serves the model.
    pub async fn start(lease: Duration) -> Result<Self> {
        let (etcd, dir) = (Cluster::start(3).await?, tempfile::tempdir()?);
        let direct = etcd.endpoints();
        let (router_paths, worker_paths) = (paths(&direct).await?, paths(&direct).await?);
        let start = |command: &'static str, index: usize, endpoints: &[String]| {
            Service::start(command, index, flags(dir.path(), endpoints, lease))
        };
        let metrics = start("metrics", 0, &direct).await?;
        let schedulers = try_join_all((0..SCHEDULERS).map(|index| start("scheduler", index, &direct))).await?;
        let of = |index: usize, paths: &[Proxy]| match index {
            0 => paths.iter().map(Proxy::url).collect(),
            _ => direct.clone(),
        };
        let mut workers = Vec::new();
        for index in 0..WORKERS {
            workers.push(start("worker", index, &of(index, &worker_paths)).await?);
        }
        let mut routers = Vec::new();
        for index in 0..ROUTERS {
            routers.push(start("router", index, &of(index, &router_paths)).await?);
        }
        let mut others = schedulers;
        others.push(metrics);
        let mesh = Self { routers, workers, etcd, router_paths, worker_paths, _others: others, _dir: dir };
        let caller = &mesh.routers[0].caller;
        caller.wait_ready(MODEL).await?;
        replicate(caller, MODEL, WORKERS as u32).await?;
        mesh.settle().await?;
        Ok(mesh)
    }

    /// Waits until etcd has a leader and every router knows every worker as registered and serving.
    pub(super) async fn settle(&self) -> Result<()> {
        self.etcd.leader().await?;
        until("every router to know every worker", async || {
            for router in &self.routers {
                let is_whole = router.snapshot().await.is_some_and(|snapshot| serving(&snapshot) == WORKERS);
                if !is_whole {
                    return false;
                }
            }
            true
        })
        .await
        .with_context(|| self.logs())
    }

    /// Where callers connect.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.routers.iter().map(Service::address).collect()
    }

    /// What lies between the first router and etcd.
    pub(super) fn disturb_router(&self, fault: Fault) {
        self.router_paths.iter().for_each(|path| path.set(fault));
    }

    /// What lies between the first worker and etcd.
    pub(super) fn disturb_worker(&self, fault: Fault) {
        self.worker_paths.iter().for_each(|path| path.set(fault));
    }

    /// What the routers and workers have logged, for an error.
    pub fn logs(&self) -> String {
        let services = self.routers.iter().chain(&self.workers).chain(&self._others);
        services.map(|service| format!("{}:\n{}", service.id, service.log())).collect::<Vec<_>>().join("\n")
    }
}

/// The registered workers that serve the model in a router's snapshot.
fn serving(snapshot: &GetSnapshotResponse) -> usize {
    let ready = |model: &String| model.split('@').next() == Some(MODEL);
    let endpoints = snapshot.endpoints.iter().filter(|endpoint| !endpoint.draining && !endpoint.retained);
    endpoints.filter(|endpoint| endpoint.ready.iter().any(ready)).count()
}

/// A proxy in front of each member.
async fn paths(endpoints: &[String]) -> Result<Vec<Proxy>> {
    try_join_all(endpoints.iter().map(|endpoint| Proxy::start(endpoint))).await
}

fn flags(dir: &Path, endpoints: &[String], lease: Duration) -> Vec<String> {
    let lease = format!("{}ms", lease.as_millis());
    let dir = dir.to_string_lossy();
    ["--cluster", CLUSTER, "--etcd", &endpoints.join(","), "--lease-ttl", &lease, "--state-dir", &dir]
        .map(str::to_owned)
        .to_vec()
}

/// A process with an address that it keeps when it is started again.
pub(super) struct Service {
    pub(super) id: String,
    /// A client of it.
    pub(super) caller: Caller,
    command: &'static str,
    flags: Vec<String>,
    port: Port,
    weft: Option<Weft>,
}

impl Service {
    async fn start(command: &'static str, index: usize, mut flags: Vec<String>) -> Result<Self> {
        let (id, port) = (format!("{command}-{index}"), Port::reserve()?);
        // Each keeps its own state, as on a machine of its own.
        if let Some(dir) = flags.last_mut() {
            dir.push_str(&format!("/{id}"));
            std::fs::create_dir_all(dir)?;
        }
        flags.extend(["--id".to_owned(), id.clone()]);
        let caller = Caller::new(&port.address().to_string())?;
        let mut service = Self { id, caller, command, flags, port, weft: None };
        service.launch().await?;
        Ok(service)
    }

    /// Starts it, and waits until it listens.
    pub(super) async fn launch(&mut self) -> Result<()> {
        let (command, flags, address) = (self.command, self.flags.clone(), self.address());
        let launched = tokio::task::spawn_blocking(move || {
            Weft::start_at(&address, command, &flags.iter().map(String::as_str).collect::<Vec<_>>())
        });
        self.weft = Some(launched.await??);
        Ok(())
    }

    /// Kills it at once, as a crash would, and starts it again.
    pub(super) async fn crash(&mut self) -> Result<()> {
        drop(self.weft.take());
        self.launch().await
    }

    /// Sends it a signal by its name.
    pub(super) fn signal(&self, name: &str) -> Result<()> {
        self.weft.as_ref().context("it is running")?.signal(name)
    }

    pub(super) fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// What it has logged since it was last started.
    pub(super) fn log(&self) -> String {
        self.weft.as_ref().map(Weft::log).unwrap_or_default()
    }

    /// A router's snapshot, if it answers.
    pub(super) async fn snapshot(&self) -> Option<GetSnapshotResponse> {
        let mut client = RouterClient::new(self.caller.channel.clone());
        let answer = tokio::time::timeout(ANSWER_LIMIT, client.get_snapshot(GetSnapshotRequest {})).await;
        Some(answer.ok()?.ok()?.into_inner())
    }

    /// Waits until it answers a call for the model.
    pub(super) async fn serves(&self) -> Result<()> {
        let answered = async || self.caller.infer(identity(1), ANSWER_LIMIT).await.is_ok();
        until("a process to serve", answered).await.with_context(|| format!("{}:\n{}", self.id, self.log()))
    }

    /// Whether a router has a ready replica behind this name.
    pub(super) async fn knows(&self, name: &ModelName) -> bool {
        let request = ModelReadyRequest { name: name.to_string(), version: String::new() };
        self.caller.inference().model_ready(request).await.is_ok_and(|answer| answer.into_inner().ready)
    }
}
