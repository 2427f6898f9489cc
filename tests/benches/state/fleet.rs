//! Thousands of workers that register and are kept alive through one etcd, with the code that real workers run.
//!
//! They live in a process of their own (this executable, called again), each with its own connection, lease and watches, so
//! that the observer's figures are not theirs. The observer is a real router process and, in this process, one more mesh that
//! a router would have, on which the time from a write to the snapshot that shows it is taken.

#[path = "fleet/descriptors.rs"]
mod descriptors;
#[path = "fleet/observe.rs"]
mod observe;
#[path = "fleet/simulate.rs"]
mod simulate;

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_client::{Keys, Mesh};
use weft_runtime::Tasks;
use weft_store::{EtcdStore, Store, etcd};
use weft_tests::calls::until;
use weft_tests::etcd::Etcd;
use weft_tests::goal::Goal;
use weft_tests::process::Weft;
use weft_types::SystemClock;

use observe::Watched;

/// Says that this executable shall be the fleet; the endpoint and the number of workers follow.
pub(crate) const SIMULATE: &str = "--simulate-fleet";

/// The cluster that the fleet belongs to.
const CLUSTER: &str = "fleet";

/// The lease of the default settings.
const LEASE: Duration = Duration::from_secs(5);

/// How large and how long.
struct Plan {
    workers: usize,
    lasting: Duration,
}

/// Runs the fleet and tells its figures.
pub(crate) async fn run(full: bool) -> Result<(String, Vec<Goal>)> {
    let plan = match full {
        true => Plan { workers: 5_000, lasting: Duration::from_secs(300) },
        false => Plan { workers: 1_000, lasting: Duration::from_secs(20) },
    };
    // Before etcd is started, which inherits it.
    descriptors::allow(plan.workers)?;
    let etcd = Etcd::start().await?;
    let options = etcd::Options::new(vec![etcd.client_url.clone()]);
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(options).await?);
    let (tasks, keys) = (Tasks::new(), Keys::new(CLUSTER));
    let mesh = Mesh::follow(Arc::clone(&store), &keys, &tasks, None);
    mesh.synced().await;
    let router = Weft::start("router", &["--etcd", &etcd.client_url, "--cluster", CLUSTER, "--id", "router-1"])?;
    let small = memory_mib(router.id()).unwrap_or_default();

    let started = SystemClock::now();
    let fleet = Fleet::start(&etcd.client_url, plan.workers)?;
    until("every worker to register", async || mesh.snapshot().workers.len() >= plan.workers).await?;
    let registered = SystemClock::now().saturating_duration_since(started);

    let watched = Watched::run(&store, &etcd, &mesh, &keys, plan.lasting).await?;
    ensure!(mesh.snapshot().workers.len() == plan.workers, "workers are missing at the end");
    let (large, simulated) = (memory_mib(router.id()), memory_mib(fleet.0.id()));
    tasks.finish(Duration::from_secs(1)).await;

    let text = format!(
        "\nfleet: {} workers with 3 replicas each, TTL {} s, one etcd, {} s\n\
         all registered after {:.1} s; false evictions {}; commits {:.1}/s besides the {:.0}/s of the probe\n\
         write to snapshot: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms over {} writes; a renewal: p50 {:.1} ms, p99 {:.1} ms\n\
         router process: {small:.0} MiB before, {:.0} MiB with the fleet; etcd {:.0} MiB; the fleet's process {:.0} MiB\n",
        plan.workers,
        LEASE.as_secs(),
        plan.lasting.as_secs(),
        registered.as_secs_f64(),
        watched.evictions,
        watched.other_commits_per_second,
        watched.probe_writes_per_second,
        watched.update_ms(50),
        watched.update_ms(99),
        watched.update_ms(100),
        watched.updates.len(),
        watched.renewal_ms(50),
        watched.renewal_ms(99),
        large.unwrap_or_default(),
        watched.etcd_mib,
        simulated.unwrap_or_default(),
    );
    let goals = vec![
        Goal::at_most("fleet_false_evictions", 0.0, watched.evictions as f64),
        Goal::at_most("fleet_etcd_commits_per_s", 50.0, watched.other_commits_per_second),
        Goal::at_most("fleet_snapshot_update_p99_ms", 100.0, watched.update_ms(99)),
        Goal::at_most("fleet_renewal_p99_ms", 100.0, watched.renewal_ms(99)),
        Goal::at_most("fleet_router_mib", 300.0, large.unwrap_or(f64::NAN)),
    ];
    Ok((text, goals))
}

/// Is the fleet, if the arguments say so.
pub(crate) async fn simulated(arguments: &[String]) -> Result<bool> {
    let [flag, endpoint, count] = arguments else { return Ok(false) };
    if flag != SIMULATE {
        return Ok(false);
    }
    simulate::workers(endpoint, count.parse()?).await?;
    Ok(true)
}

/// The process that simulates the workers. It ends when it is dropped, or when this process does.
struct Fleet(Child);

impl Fleet {
    fn start(endpoint: &str, count: usize) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([SIMULATE, endpoint, &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("the fleet's process cannot be started")?;
        Ok(Self(child))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until whoever holds the other end of this process's input is gone.
fn until_orphaned() {
    let mut nothing = Vec::new();
    // An error means the same as the end.
    let _ = std::io::stdin().read_to_end(&mut nothing);
}

/// A process's resident memory; `None` where there is no `/proc`.
fn memory_mib(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
