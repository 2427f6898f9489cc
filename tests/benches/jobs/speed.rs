//! Jobs a second, and what a step costs besides what it does.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weft_client::Channel;
use weft_proto::weft::jobs::v1::jobs_client::JobsClient;
use weft_proto::weft::jobs::v1::{Durability, JobDefinition, JobState, Step, SubmitJobRequest, WatchJobRequest};
use weft_runtime::Tasks;
use weft_tests::chaos::Schedulers;
use weft_tests::goal::Goal;
use weft_tests::jobs::{Client, compute, definition, publish, request};
use weft_tests::ledger::{self, Setup};

use super::figures::{Figures, Load, Way, closed};

/// Steps after each other of the jobs that show what a step costs.
const STEPS: usize = 50;

/// Members of etcd, and whether transitions of several jobs go into one transaction.
const WAYS: [(usize, &str, &[&str]); 4] = [(1, "", &[]), (1, ", alone", ALONE), (3, "", &[]), (3, ", alone", ALONE)];
const ALONE: &[&str] = &["--jobs-batch", "1"];

/// Every load over one member of etcd and over three, then the cost of a step.
pub(crate) async fn run(loads: &[Load]) -> Result<(Vec<Way>, Vec<Goal>)> {
    let (tasks, numbers) = (Tasks::new(), Arc::new(AtomicU64::new(0)));
    let ledger = ledger::serve(Setup::default(), &tasks).await?;
    let (mut ways, mut goals) = (Vec::new(), Vec::new());
    for (members, batching, flags) in WAYS {
        let schedulers = Schedulers::told(members, "5s", 1, flags).await?;
        let client = Client::new(schedulers.address(0))?;
        let (done, undone) = (three(&ledger.address, None), three(&ledger.address, Some("c")));
        let mut way = Way { name: format!("weft, {members} etcd{batching}"), jobs: Vec::new(), undone: Vec::new() };
        for load in loads {
            way.jobs.push(measure(&client, &done, JobState::Completed, *load, &numbers).await?);
            way.undone.push(measure(&client, &undone, JobState::Compensated, *load, &numbers).await?);
        }
        ways.push(way);
        if members == 1 && flags.is_empty() {
            goals.extend(steps(&client, loads, &numbers).await?);
        }
    }
    tasks.finish(Duration::from_secs(5)).await;
    Ok((ways, goals))
}

/// Three calls after each other; `fails` is one that cannot be made.
fn three(target: &str, fails: Option<&str>) -> JobDefinition {
    let step = |name: &str, needs: &[&str]| match fails {
        Some(failing) if failing == name => compute(name, needs, &json!("$input.missing")),
        _ => publish(name, needs, target, &json!("entry")),
    };
    definition("three", vec![step("a", &[]), step("b", &["a"]), step("c", &["b"])])
}

async fn measure(
    client: &Client,
    definition: &JobDefinition,
    state: JobState,
    load: Load,
    numbers: &Arc<AtomicU64>,
) -> Result<Figures> {
    // Once it is answered, the scheduler has shards.
    client.submit(&request(definition.clone(), "")).await?;
    closed(load, numbers, || {
        let (jobs, asked) = (client.jobs.clone(), request(definition.clone(), ""));
        move |_| once(jobs.clone(), asked.clone(), state)
    })
    .await
}

/// One job to its end.
async fn once(mut jobs: JobsClient<Channel>, asked: SubmitJobRequest, state: JobState) -> Result<()> {
    let id = jobs.submit_job(asked).await?.into_inner().job.context("a job")?.id;
    let mut answers = jobs.watch_job(WatchJobRequest { id, after_revision: 0 }).await?.into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await? {
        last = answer.job;
    }
    ensure!(last.as_ref().is_some_and(|job| job.state() == state), "{last:?}");
    Ok(())
}

/// What a step costs that does nothing: without a log alone, with one among others.
async fn steps(client: &Client, loads: &[Load], numbers: &Arc<AtomicU64>) -> Result<Vec<Goal>> {
    let chain: Vec<Step> = (0..STEPS)
        .map(|step| {
            let before = step.checked_sub(1).map(|before| format!("s{before}"));
            compute(&format!("s{step}"), &before.as_deref().into_iter().collect::<Vec<_>>(), &json!(step))
        })
        .collect();
    let of =
        |durability: Durability| JobDefinition { durability: durability.into(), ..definition("chain", chain.clone()) };
    let (alone, many) = (loads[0], loads[loads.len() / 2]);
    let light = measure(client, &of(Durability::None), JobState::Completed, alone, numbers).await?;
    let kept = measure(client, &of(Durability::Journaled), JobState::Completed, many, numbers).await?;
    let rate = kept.slice.calls_per_second() * STEPS as f64;
    Ok(vec![
        Goal::at_most("jobs.step.none.us", 100.0, light.slice.percentile_us(50) / STEPS as f64),
        Goal::at_most("jobs.step.journaled.ms", 15.0, kept.slice.percentile_us(50) / 1e3 / STEPS as f64),
        Goal::at_least("jobs.journaled.transitions_per_s", 2_000.0, rate),
    ])
}
