//! Workers that stop answering under load: few calls meet them, and they are back when they answer again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{Endpoint, GetSnapshotRequest};
use weft_tests::calls::{Caller, identity, until};
use weft_tests::load::Load;
use weft_tests::process::Weft;

use super::cluster::{Cluster, LIMIT, replicate};

/// What callers give a call.
const DEADLINE: Duration = Duration::from_millis(500);
/// Enough that more than the five which eject a worker wait for it at once when it stops.
const CALLERS: usize = 24;
/// Calls without an answer that eject a worker.
const IN_A_ROW: usize = 5;

/// A mesh whose leases outlast the test: what happens to a worker is the router's own finding.
struct Mesh {
    cluster: Cluster,
    _scheduler: Weft,
    workers: Vec<Weft>,
    router: Weft,
    caller: Caller,
}

impl Mesh {
    /// Three workers that all hold `identity`.
    async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let start = |command: &str, id: &str| {
            let id = format!("{command}-{id}");
            Weft::start(command, &["--etcd", &cluster.etcd.client_url, "--lease-ttl", "120s", "--id", &id])
        };
        let scheduler = start("scheduler", "1")?;
        let workers = ["1", "2", "3"].into_iter().map(|id| start("worker", id)).collect::<Result<Vec<_>>>()?;
        let router = start("router", "1")?;
        let caller = Caller::new(&router.address)?;
        caller.wait_ready("identity").await?;
        replicate(&caller, "identity", 3).await?;
        let mesh = Self { cluster, _scheduler: scheduler, workers, router, caller };
        until("the router to know all three", async || mesh.serving().await.is_ok_and(|serving| serving.len() == 3))
            .await?;
        Ok(mesh)
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let mut router = RouterClient::new(self.caller.channel.clone());
        Ok(router.get_snapshot(GetSnapshotRequest {}).await?.into_inner().endpoints)
    }

    /// The workers that calls to `identity` are sent to.
    async fn serving(&self) -> Result<BTreeSet<String>> {
        let holds = |names: &[String]| names.iter().any(|name| name.starts_with("identity@"));
        let serving = |one: &Endpoint| holds(&one.ready) && !holds(&one.ejected);
        Ok(self.endpoints().await?.into_iter().filter(serving).map(|one| one.worker).collect())
    }

    async fn until_serving(&self, workers: &[&str]) -> Result<()> {
        let wanted: BTreeSet<String> = workers.iter().map(|worker| (*worker).to_owned()).collect();
        until("calls to go to these workers", async || self.serving().await.is_ok_and(|serving| serving == wanted))
            .await
            .with_context(|| {
                let logs: Vec<String> = self.workers.iter().chain([&self.router]).map(Weft::log).collect();
                format!("{wanted:?}:\n{}", logs.join("\n"))
            })
    }

    fn load(&self, limit: Duration) -> Load {
        Load::start(std::slice::from_ref(&self.caller), &identity(16), CALLERS, limit)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stands_still_costs_few_calls_and_returns_when_it_goes_on() -> Result<()> {
    let mesh = Mesh::start().await?;
    let load = mesh.load(DEADLINE);
    load.pass(500).await?;
    mesh.workers[1].signal("STOP")?;
    mesh.until_serving(&["worker-1", "worker-3"]).await?;
    // Nothing is lost to it any more while it is ejected.
    load.pass(5_000).await?;
    let outcome = load.stop().await?;
    // Those that were waiting when the last of the row failed fail as well, and of each caller one that was sent before the router had
    // taken note.
    let failed = outcome.failures.len();
    ensure!(failed >= IN_A_ROW, "{failed} calls cannot have ejected it");
    ensure!(failed <= IN_A_ROW + 2 * CALLERS, "{failed} of {} calls: {:?}", outcome.answered, outcome.failures);
    mesh.workers[1].signal("CONT")?;
    mesh.until_serving(&["worker-1", "worker-2", "worker-3"]).await?;
    let load = mesh.load(LIMIT);
    load.pass(500).await?;
    assert_eq!(load.stop().await?.failures, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_no_call_and_its_successor_serves() -> Result<()> {
    let mut mesh = Mesh::start().await?;
    let load = mesh.load(LIMIT);
    load.pass(2_000).await?;
    mesh.workers[1].kill()?;
    mesh.until_serving(&["worker-1", "worker-3"]).await?;
    load.pass(2_000).await?;
    let (address, etcd) = (mesh.workers[1].address.clone(), mesh.cluster.etcd.client_url.clone());
    let flags = ["--etcd", &etcd, "--lease-ttl", "120s", "--id", "worker-2"];
    mesh.workers[1] = Weft::start_at(&address, "worker", &flags)?;
    mesh.until_serving(&["worker-1", "worker-2", "worker-3"]).await?;
    load.pass(2_000).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    Ok(())
}
