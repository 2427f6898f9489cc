//! A mesh of several routers and workers, each a process that can be killed, stopped and started again at its address.

use anyhow::{Context as _, Result, ensure};
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{Endpoint, GetSnapshotRequest};
use weft_tests::calls::{Caller, until};
use weft_tests::etcd::Etcd;
use weft_tests::port::Port;
use weft_tests::process::Weft;
use weft_tests::replicas::replicate;

/// One process.
pub(crate) struct Service {
    pub(crate) id: String,
    command: &'static str,
    flags: Vec<String>,
    port: Port,
    weft: Option<Weft>,
}

impl Service {
    /// One that is not started yet, with an address of its own.
    pub(crate) fn reserve(command: &'static str, index: usize, flags: &[&str]) -> Result<Self> {
        let id = format!("{command}-{index}");
        let flags = ["--id", &id].iter().chain(flags).map(ToString::to_string).collect();
        Ok(Self { id, command, flags, port: Port::reserve()?, weft: None })
    }

    pub(crate) fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// Adds a flag for its start.
    pub(crate) fn flag(&mut self, name: &str, value: &str) {
        self.flags.extend([name.to_owned(), value.to_owned()]);
    }

    pub(crate) fn process(&self) -> Result<u32> {
        Ok(self.weft.as_ref().context("it is running")?.id())
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        self.weft.as_ref().context("it is running")?.signal(name)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.weft.take().context("it is running")?.kill()
    }

    /// Ends it as an operator would.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        let mut weft = self.weft.take().context("it is running")?;
        weft.signal("TERM")?;
        let status = weft.wait().await?;
        ensure!(status.success(), "{} ended with {status}:\n{}", self.id, weft.log());
        Ok(())
    }
}

/// The processes. Dropping it kills them all.
pub(crate) struct Fleet {
    pub(crate) routers: Vec<Service>,
    pub(crate) workers: Vec<Service>,
    model: &'static str,
    _scheduler: Weft,
    etcd: Etcd,
}

impl Fleet {
    /// Starts these, and waits until every router knows the model on every worker.
    pub(crate) async fn start(model: &'static str, routers: Vec<Service>, workers: Vec<Service>) -> Result<Self> {
        let etcd = Etcd::start().await?;
        let scheduler = Weft::start("scheduler", &["--etcd", &etcd.client_url])?;
        let mut fleet = Self { routers, workers, model, _scheduler: scheduler, etcd };
        let url = fleet.etcd.client_url.clone();
        for service in fleet.workers.iter_mut().chain(&mut fleet.routers) {
            launch(service, &url)?;
        }
        let caller = Caller::new(&fleet.routers[0].address())?;
        caller.wait_ready(model).await?;
        replicate(&caller, model, fleet.workers.len() as u32).await?;
        fleet.settle().await?;
        Ok(fleet)
    }

    /// Starts a worker again.
    pub(crate) fn launch_worker(&mut self, index: usize) -> Result<()> {
        launch(&mut self.workers[index], &self.etcd.client_url)
    }

    /// Starts a router again.
    pub(crate) fn launch_router(&mut self, index: usize) -> Result<()> {
        launch(&mut self.routers[index], &self.etcd.client_url)
    }

    /// Waits until every router would send calls to every worker.
    pub(crate) async fn settle(&self) -> Result<()> {
        for router in &self.routers {
            let caller = Caller::new(&router.address())?;
            until("a router to know every worker", async || {
                let known = endpoints(&caller).await;
                known.iter().filter(|endpoint| self.is_taken(endpoint)).count() == self.workers.len()
            })
            .await?;
        }
        Ok(())
    }

    /// Whether calls for the model are sent there.
    pub(crate) fn is_taken(&self, endpoint: &Endpoint) -> bool {
        let holds = |names: &[String]| names.iter().any(|name| name.split('@').next() == Some(self.model));
        holds(&endpoint.ready) && !holds(&endpoint.ejected) && !endpoint.draining && !endpoint.retained
    }
}

fn launch(service: &mut Service, etcd: &str) -> Result<()> {
    let flags: Vec<&str> = ["--etcd", etcd].into_iter().chain(service.flags.iter().map(String::as_str)).collect();
    service.weft = Some(Weft::start_at(&service.address(), service.command, &flags)?);
    Ok(())
}

/// What a router tells of the workers that it knows; nothing if it does not answer.
pub(crate) async fn endpoints(caller: &Caller) -> Vec<Endpoint> {
    let answer = RouterClient::new(caller.channel.clone()).get_snapshot(GetSnapshotRequest {}).await;
    answer.map_or_else(|_| Vec::new(), |answer| answer.into_inner().endpoints)
}
