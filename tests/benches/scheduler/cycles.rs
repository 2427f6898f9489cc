//! Many more models than memory, called in turn, so that nearly every call has one loaded and another unloaded: whether a call fails that
//! could fit, and whether the workers' memory stays where it is.
//!
//! Each model's first call waits until another model has not been called for three seconds, as old as figures of calls may be, and its replica has gone: what a call
//! takes here is that wait, not the load. So the cycles of a second are the models that fit by those seconds.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use weft_proto::weft::control::v1::ListWorkersRequest;
use weft_proto::weft::control::v1::workers_client::WorkersClient;
use weft_tests::calls::{Caller, until};
use weft_tests::catalogue::Catalogue;
use weft_tests::etcd::Etcd;
use weft_tests::goal::Goal;
use weft_tests::load::rounds::median;
use weft_tests::process::Weft;
use weft_tests::tree;
use weft_types::SystemClock;

use super::plot;

const MODELS: usize = 50;
const WORKERS: usize = 3;
/// Models that fit into one worker. A third of all is there at once, so each is gone again when its turn comes.
const FITTING: u64 = 6;
/// Calls under way: fewer than models fit, so that every one of them could.
const CALLERS: usize = 12;
/// What a call gets.
const LIMIT: Duration = Duration::from_secs(60);
/// By how much the last quarter of the samples may lie above the second; the first is warming up.
const GROWTH: f64 = 1.05;
const MIB: f64 = (1 << 20) as f64;

/// The processes. Dropping it kills them all.
struct Fleet {
    workers: Vec<Weft>,
    caller: Caller,
    _others: Vec<Weft>,
    _etcd: Etcd,
}

impl Fleet {
    async fn start(catalogue: &Catalogue) -> Result<Self> {
        let etcd = Etcd::start().await?;
        let metrics = Weft::start("metrics", &["--etcd", &etcd.client_url, "--id", "metrics-1"])?;
        let told = format!("http://{}", metrics.address);
        let common = ["--etcd", &etcd.client_url, "--otlp-endpoint", &told];
        let start = |command, flags: &[&str]| Weft::start(command, &[&common[..], flags].concat());
        let scheduler = start("scheduler", &["--id", "scheduler-1", "--auto", "false"])?;
        let (models, memory) = (catalogue.folder(), (FITTING * catalogue.size).to_string());
        let ids: Vec<String> = (1..=WORKERS).map(|number| format!("worker-{number}")).collect();
        let workers = ids.iter().map(|id| start("worker", &["--id", id, "--models", &models, "--memory", &memory]));
        let workers = workers.collect::<Result<Vec<Weft>>>()?;
        let router = start("router", &["--id", "router-1"])?;
        let caller = Caller::new(&router.address)?;
        until("every worker", async || {
            let listed = WorkersClient::new(caller.channel.clone()).list_workers(ListWorkersRequest {}).await;
            listed.is_ok_and(|answer| answer.into_inner().workers.len() == WORKERS)
        })
        .await?;
        Ok(Self { workers, caller, _others: vec![metrics, scheduler, router], _etcd: etcd })
    }

    /// Resident memory of the workers themselves; each model's engine ends with the model.
    fn resident(&self) -> f64 {
        self.workers.iter().filter_map(|worker| tree::resident(worker.id())).sum::<u64>() as f64 / MIB
    }
}

/// What came of the calls.
#[derive(Default)]
struct Outcome {
    samples: Vec<f64>,
    seconds: Vec<f64>,
    failures: Vec<String>,
}

/// Runs it: a hundred cycles, or a thousand.
pub(crate) async fn run(full: bool, bench: &Path) -> Result<(String, Vec<Goal>)> {
    let cycles = if full { 1000 } else { 100 };
    let catalogue = Arc::new(Catalogue::make(MODELS)?);
    let fleet = Fleet::start(&catalogue).await?;
    catalogue.apply(&fleet.caller, Duration::from_secs(300)).await?;
    let began = SystemClock::now();
    let mut outcome = follow(&fleet, &catalogue, cycles).await?;
    let took = SystemClock::now().saturating_duration_since(began).as_secs_f64();
    let of_quarter = |number: usize| {
        let samples = outcome.samples.len();
        median(outcome.samples[samples * number / 4..samples * (number + 1) / 4].to_vec())
    };
    let growth = of_quarter(3) / of_quarter(1);
    let title = "Resident memory of three workers over load and unload of fifty models";
    std::fs::write(bench.join("scheduler-cycles.svg"), plot::svg(title, "MiB", "cycles", &outcome.samples)?)?;
    outcome.seconds.sort_unstable_by(f64::total_cmp);
    let mut text = String::new();
    writeln!(
        text,
        "cycles: {cycles} first calls over {MODELS} models, {WORKERS} workers that hold {FITTING} each, {CALLERS} callers, in {took:.0} s\n\
         workers' memory {:.1} MiB in the second quarter, {:.1} in the last; a first call took {:.2} s (median), {:.2} s at most",
        of_quarter(1),
        of_quarter(3),
        median(outcome.seconds.clone()),
        outcome.seconds.last().copied().unwrap_or(f64::NAN),
    )?;
    for failure in outcome.failures.iter().take(5) {
        writeln!(text, "failed: {failure}")?;
    }
    let goals = vec![
        Goal::at_most("cycles_memory_growth_ratio", GROWTH, growth),
        Goal::at_most("cycles_failed_calls", 0.0, outcome.failures.len() as f64),
    ];
    Ok((text, goals))
}

/// Calls one model after the other, a few at once, and looks at the workers' memory after each.
async fn follow(fleet: &Fleet, catalogue: &Arc<Catalogue>, cycles: usize) -> Result<Outcome> {
    let (next, mut calls) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    let (told, mut ended) = tokio::sync::mpsc::channel(CALLERS);
    for _ in 0..CALLERS {
        let (catalogue, caller) = (Arc::clone(catalogue), fleet.caller.clone());
        let (next, told) = (Arc::clone(&next), told.clone());
        calls.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= cycles {
                    return;
                }
                let began = SystemClock::now();
                let outcome = catalogue.call(&caller, at, LIMIT).await;
                let took = SystemClock::now().saturating_duration_since(began).as_secs_f64();
                // Fails only when the run was given up.
                let _ = told.send((took, outcome.map_err(|error| format!("{error:#}")))).await;
            }
        });
    }
    drop(told);
    let mut outcome = Outcome::default();
    while let Some((took, answer)) = ended.recv().await {
        outcome.seconds.push(took);
        outcome.samples.push(fleet.resident());
        outcome.failures.extend(answer.err());
    }
    while let Some(ended) = calls.join_next().await {
        ended?;
    }
    Ok(outcome)
}
