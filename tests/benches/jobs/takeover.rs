//! How soon the jobs of a scheduler that was killed go on.

use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::stream;
use weft_proto::weft::jobs::v1::{GetJobRequest, SignalJobRequest};
use weft_tests::calls::until;
use weft_tests::chaos::Schedulers;
use weft_tests::goal::Goal;
use weft_tests::jobs::{Client, definition, request, wait};
use weft_types::SystemClock;

/// Calls at once.
const AT_ONCE: usize = 64;

/// Kills schedulers in turn, then one with many jobs.
pub(crate) async fn run(small: bool) -> Result<Vec<Goal>> {
    let (kills, open) = if small { (2, 500) } else { (20, 20_000) };
    let mut times = Vec::new();
    let mut schedulers = Schedulers::over(1, "5s", 2).await?;
    for kill in 0..kills {
        times.push(takeover(&mut schedulers, kill).await?);
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64();
    let recovery = recovery(open).await?;
    crate::tell(&format!(
        "takeover: {kills} kills, p50 {:.2} s, p99 {:.2} s; {open} open jobs in {recovery:?}\n",
        at(50),
        at(99)
    ))?;
    Ok(vec![
        Goal::at_most("jobs.takeover.p50.s", 6.0, at(50)),
        Goal::at_most("jobs.takeover.p99.s", 6.0, at(99)),
        Goal::at_most("jobs.recovery.s", 10.0, recovery.as_secs_f64()),
    ])
}

/// From a kill until every waiting job of that scheduler takes a signal.
async fn takeover(schedulers: &mut Schedulers, kill: usize) -> Result<Duration> {
    let (victim, survivor) = (Client::new(schedulers.address(kill))?, Client::new(schedulers.address(kill + 1))?);
    let mut jobs = Vec::new();
    for number in 0..16 {
        let asked = request(definition("takeover", vec![wait("wait", &[], "go")]), &format!("{kill}-{number}"));
        jobs.push(victim.submit(&asked).await?.id);
    }
    let killed = SystemClock::now();
    schedulers.end(kill)?;
    for id in &jobs {
        let signal = SignalJobRequest { id: id.clone(), name: "go".into(), value: None };
        until("a signal to be taken", async || survivor.jobs.clone().signal_job(signal.clone()).await.is_ok()).await?;
    }
    let took = SystemClock::now().saturating_duration_since(killed);
    schedulers.begin(kill)?;
    Ok(took)
}

/// From the kill of the one of two schedulers that has all jobs until the other one answers for them.
async fn recovery(open: usize) -> Result<Duration> {
    let mut schedulers = Schedulers::over(1, "5s", 2).await?;
    let (victim, survivor) = (&Client::new(schedulers.address(0))?, &Client::new(schedulers.address(1))?);
    // A scheduler begins jobs in shards of its own.
    let jobs: Vec<String> = stream::iter(0..open)
        .map(async |number| {
            let asked = request(definition("recovery", vec![wait("wait", &[], "go")]), &format!("open-{number}"));
            anyhow::Ok(victim.submit(&asked).await?.id)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let killed = SystemClock::now();
    schedulers.end(0)?;
    let mut answers = stream::iter(&jobs)
        .map(|id| async move {
            let get = GetJobRequest { id: id.clone(), ..GetJobRequest::default() };
            until("a job to be told", async || survivor.jobs.clone().get_job(get.clone()).await.is_ok()).await
        })
        .buffer_unordered(AT_ONCE);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(SystemClock::now().saturating_duration_since(killed))
}
