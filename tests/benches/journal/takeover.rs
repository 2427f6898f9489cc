//! How soon another scheduler has everything of one that vanished, and of one that was stopped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use tokio::runtime::Runtime;
use weft_tests::etcd::Etcd;
use weft_tests::goal::Goal;
use weft_types::SystemClock;

use super::desk::{Desk, record};

pub(crate) async fn run(small: bool, tell: impl Fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let jobs = if small { 500 } else { 20_000 };
    let etcd = Etcd::start().await?;
    let first = Desk::start(&etcd.client_url, "s-0").await?;
    first.owns_all().await?;
    for _ in 0..jobs / 500 {
        try_join_all((0..500).map(|_| begin(&first))).await?;
    }
    // In a runtime of its own, which can be ended as a process is killed: nothing of it runs to its end.
    let doomed = Runtime::new()?;
    let url = etcd.client_url.clone();
    let second = doomed.spawn(async move { Desk::start(&url, "s-1").await }).await??;
    let tasks = first.tasks.clone();
    let stopped = SystemClock::now();
    let (found, ()) = tokio::join!(second.owns_all(), tasks.finish(Duration::from_secs(10)));
    ensure!(found? == jobs, "jobs were lost");
    let graceful = stopped.elapsed();
    tell(&format!("a scheduler that stopped: its {jobs} jobs were taken over after {:.2} s", graceful.as_secs_f64()))?;
    drop(first);
    let third = Desk::start(&etcd.client_url, "s-2").await?;
    third.shards.clone().wait_for(|shards| shards.len() > 64).await.context("it gets its part")?;
    let vanished = SystemClock::now();
    doomed.shutdown_background();
    ensure!(third.owns_all().await? == jobs, "jobs were lost");
    let sudden = vanished.elapsed();
    drop(second);
    tell(&format!("one that vanished: after {:.2} s, of which its lease is 5", sudden.as_secs_f64()))?;
    third.tasks.finish(Duration::from_secs(10)).await;
    Ok(vec![
        Goal::at_most("journal takeover s after a stop", 2.0, graceful.as_secs_f64()),
        Goal::at_most("journal takeover s after a crash", 7.0, sudden.as_secs_f64()),
    ])
}

async fn begin(desk: &Desk) -> Result<()> {
    let shard = desk.journal.shard_for_new().context("there are shards")?;
    Ok(shard.commit(None, Arc::new(record(desk.journal.new_id(&shard)))).await?)
}
