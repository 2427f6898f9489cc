//! Transitions a second, and how long each takes, by how many jobs move at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use weft_tests::etcd::Etcd;
use weft_tests::goal::Goal;
use weft_types::SystemClock;

use super::desk::{Desk, next, record};

/// How many jobs move at once: each waits for one transition before it makes the next.
const JOBS: [usize; 3] = [1, 32, 512];

pub(crate) async fn run(small: bool, tell: impl Fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let time = Duration::from_secs(if small { 2 } else { 10 });
    let etcd = Etcd::start().await?;
    let desk = Desk::start(&etcd.client_url, "s-0").await?;
    desk.owns_all().await?;
    let mut goals = Vec::new();
    tell("| jobs at once | transitions/s | median ms | p99 ms |\n|---|---|---|---|")?;
    for jobs in JOBS {
        let (rate, mut took) = load(&desk, jobs, time).await?;
        took.sort_unstable();
        let at =
            |percent: usize| took.get(took.len() * percent / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
        tell(&format!("| {jobs} | {rate:.0} | {:.2} | {:.2} |", at(50), at(99)))?;
        if jobs == 512 {
            // Half of what was measured with 32 a batch on one member on two cores that shared them with others.
            goals.push(Goal::at_least("journal transitions/s with 512 jobs at once", 10_000.0, rate));
        }
    }
    desk.tasks.finish(Duration::from_secs(10)).await;
    Ok(goals)
}

/// Jobs that move on for as long as the time lasts: how many transitions a second, and how long each took.
async fn load(desk: &Desk, jobs: usize, time: Duration) -> Result<(f64, Vec<Duration>)> {
    let begun = SystemClock::now();
    let took = try_join_all((0..jobs).map(|_| live(desk, begun + time))).await?;
    let took: Vec<Duration> = took.into_iter().flatten().collect();
    let transitions = u32::try_from(took.len())?;
    Ok((f64::from(transitions) / begun.elapsed().as_secs_f64(), took))
}

async fn live(desk: &Desk, until: Instant) -> Result<Vec<Duration>> {
    let shard = desk.journal.shard_for_new().context("there are shards")?;
    let mut job = Arc::new(record(desk.journal.new_id(&shard)));
    shard.commit(None, Arc::clone(&job)).await?;
    let mut took = Vec::new();
    while SystemClock::now() < until {
        let (after, asked) = (next(&job), SystemClock::now());
        shard.commit(Some(job), Arc::clone(&after)).await?;
        took.push(asked.elapsed());
        job = after;
    }
    Ok(took)
}
