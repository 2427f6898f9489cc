//! A mesh that is all there and has nothing placed, and a scheduler that finds it so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_client::{Keys, Mesh};
use weft_runtime::Tasks;
use weft_store::{EtcdStore, Store, etcd};
use weft_tests::calls::until;
use weft_tests::etcd::Etcd;
use weft_tests::goal::Goal;
use weft_tests::placing::{Fleet, Placements, Size, ready};
use weft_tests::process::Weft;
use weft_types::SystemClock;

const CLUSTER: &str = "placement";
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn run(small: bool, tell: impl Fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let size = match small {
        true => Size { workers: 100, models: 100, replicas: 8, offers: 25, capacity: 12 },
        false => Size { workers: 1000, models: 1000, replicas: 10, offers: 50, capacity: 14 },
    };
    let all = size.models * size.replicas as usize;
    let etcd = Etcd::start().await?;
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(etcd::Options::new(vec![etcd.client_url.clone()])).await?);
    let (tasks, keys) = (Tasks::new(), Keys::new(CLUSTER));
    let mesh = Mesh::follow(Arc::clone(&store), &keys, &tasks, None);
    mesh.synced().await;
    let mut placements = Placements::follow(&store, &keys, size).await?;
    let fleet = Fleet::register(Arc::clone(&store), keys, size).await?;
    fleet.apply(0..size.models).await?;
    fleet.answer(&mesh, &tasks);

    let flags = ["--etcd", &etcd.client_url, "--cluster", CLUSTER, "--auto", "false", "--id", "scheduler-1"];
    let scheduler = Weft::start("scheduler", &flags)?;
    let started = SystemClock::now();
    placements.until("everything to be placed", PATIENCE, |placements| placements.count() == all).await?;
    let (first, last) = placements.span.context("something was placed")?;
    until("every replica to be ready", async || ready(&mesh.snapshot()) == all).await?;
    let settled = SystemClock::now().saturating_duration_since(started).as_secs_f64();
    let memory = memory_mib(scheduler.id()).unwrap_or(f64::NAN);
    tasks.finish(Duration::from_secs(1)).await;

    let (to_first, writing) = (first.saturating_duration_since(started), last.saturating_duration_since(first));
    let placed_after = last.saturating_duration_since(started).as_secs_f64();
    tell(&format!(
        "\nplacement: {all} replicas of {} models on {} workers, one etcd\n\
         first placement after {:.2} s (from when the scheduler listened), all of them {:.2} s later, all ready after {settled:.1} s\n\
         scheduler {memory:.0} MiB; {} violations\n",
        size.models,
        size.workers,
        to_first.as_secs_f64(),
        writing.as_secs_f64(),
        placements.violations.len(),
    ))?;
    // What is written within one look of the watch has no span of its own.
    let rate = all as f64 / writing.as_secs_f64().max(0.001);
    Ok(vec![
        Goal::at_least("placements_written_per_s", 2000.0, rate),
        Goal::at_most("placements_all_in_etcd_s", 10.0, placed_after),
        Goal::at_most("placements_scheduler_mib", 300.0, memory),
        Goal::at_most("placements_violations", 0.0, placements.violations.len() as f64),
    ])
}

/// A process's resident memory; `None` where there is no `/proc`.
fn memory_mib(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
