//! How long a realtime call waits for its place while every place of its model is taken by batch work: from its arrival at the worker to the
//! beginning of its execution, which is what it takes more than on an idle worker.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use tokio::task::JoinSet;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest};
use weft_tests::calls::{Caller, sleep, until};
use weft_tests::goal::Goal;
use weft_tests::load::closed::Slice;
use weft_tests::load::rounds::median;
use weft_tests::mesh::Mesh;
use weft_tests::tools;
use weft_types::SystemClock;

use super::generate::{self, GEMMA, prompt};

/// As many as `sleep` executes at once, over connections that have fewer under way than they may.
const EXECUTORS: usize = 1024;
const CONNECTIONS: usize = 4;
/// What batch calls take, and what they have.
const BATCH_MS: u32 = 60_000;
const LIMIT: Duration = Duration::from_secs(300);
/// What realtime calls have.
const SOON: Duration = Duration::from_secs(1);
/// Realtime calls that are timed, and generations.
const TIMES: usize = 200;
const GENERATIONS: i32 = 20;
const WARM: usize = 8;
/// Batch sequences, which have all slots.
const SLOTS: usize = 4;
const QUEUED: &str = "weft_model_queue_duration_seconds_count";
const PREEMPTIONS: &str = "weft_preemptions_total";

pub(crate) async fn run(tell: fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let mut goals = vec![sleeping(tell).await?];
    if tools::models().join(GEMMA).is_dir() {
        goals.push(speaking(tell).await?);
    } else {
        tell("the language model is not there: run `make models`\n")?;
        goals.push(Goal::missing("switch_llama_p50_steps"));
    }
    Ok(goals)
}

fn of_band(mut request: ModelInferRequest, band: i64) -> ModelInferRequest {
    let priority = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(band)) };
    request.parameters.insert("priority".into(), priority);
    request
}

/// What realtime calls take that sleep for no time, in milliseconds.
async fn realtime(worker: &Caller, times: usize) -> Result<Slice> {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let began = SystemClock::now();
        worker.infer(of_band(sleep(0), 1), SOON).await.context("a realtime call")?;
        took.push(SystemClock::now().saturating_duration_since(began));
    }
    Ok(Slice::lasting(Duration::ZERO, took))
}

async fn sleeping(tell: fn(&str) -> Result<()>) -> Result<Goal> {
    let mesh = Mesh::start(&[]).await?;
    mesh.caller()?.wait_ready("sleep").await?;
    let worker = mesh.caller()?.first_worker().await?;
    let idle = realtime(&worker, TIMES).await?.percentile_us(50) / 1e3;
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS {
        callers.push(mesh.caller()?.first_worker().await?);
    }
    let mut batch = JoinSet::new();
    for caller in (0..EXECUTORS).filter_map(|at| callers.get(at % CONNECTIONS)) {
        let caller = caller.clone();
        batch.spawn(async move { caller.infer(of_band(sleep(BATCH_MS), 3), LIMIT).await });
    }
    let begun = (EXECUTORS + TIMES) as f64;
    until("every executor to be busy", async || mesh.sample(QUEUED).await.is_ok_and(|count| count >= begun)).await?;
    // Until something was stopped nobody knows that batch calls take long: then these are waited for up to the last moment.
    for _ in 0..WARM {
        let _ = worker.infer(of_band(sleep(0), 1), SOON).await;
    }
    let busy = realtime(&worker, TIMES).await?;
    let (p50, p99) = (busy.percentile_us(50) / 1e3 - idle, busy.percentile_us(99) / 1e3 - idle);
    until("a preemption", async || mesh.sample(PREEMPTIONS).await.is_ok_and(|count| count >= 1.0)).await?;
    let preempted = mesh.sample(PREEMPTIONS).await?;
    ensure!(batch.try_join_next().is_none(), "a batch call has ended");
    drop(batch);
    mesh.stop().await?;
    tell(&format!(
        "sleep: {TIMES} realtime calls while {EXECUTORS} batch calls run: {p50:.2} ms (p50; p99 {p99:.2}) more than on an idle worker, \
         {preempted} executions stopped\n"
    ))?;
    Ok(Goal::at_most("switch_sleep_p99_ms", 5.0, p99))
}

fn lay_out(repository: &Path) -> Result<()> {
    let of_model = repository.join(GEMMA);
    std::fs::create_dir_all(of_model.join("1"))?;
    std::fs::copy(tools::models().join(GEMMA).join("1/model.gguf"), of_model.join("1/model.gguf"))?;
    let slots = format!("parameters {{ key: \"slots\" value {{ string_value: \"{SLOTS}\" }} }}\n");
    Ok(std::fs::write(of_model.join("config.pbtxt"), format!("name: \"{GEMMA}\"\nbackend: \"llama\"\n{slots}"))?)
}

/// The first token of a realtime generation while batch generations have every slot, in steps of those.
async fn speaking(tell: fn(&str) -> Result<()>) -> Result<Goal> {
    let repository = tempfile::tempdir()?;
    lay_out(repository.path())?;
    let mesh = Mesh::start(&["--worker-models", &repository.path().display().to_string()]).await?;
    mesh.caller()?.wait_ready(GEMMA).await?;
    let worker = mesh.caller()?.first_worker().await?;
    let ask = |seed, tokens, band| of_band(generate::request(&prompt(seed, 8), tokens), band);
    let mut alone = Vec::new();
    for seed in 0..GENERATIONS {
        alone.push(generate::run(worker.clone(), ask(1_000 + seed, 2, 1)).await?.first().as_secs_f64());
    }
    let (idle, tokens) = (median(alone), 400);
    let batch: Vec<_> = (0..SLOTS)
        .map(|at| tokio::time::timeout(LIMIT, generate::run(worker.clone(), ask(2_000 + at as i32, tokens, 3))))
        .collect();
    let urgent = async {
        let mut first = Vec::new();
        for seed in 0..GENERATIONS {
            first.push(generate::run(worker.clone(), ask(3_000 + seed, 2, 1)).await?.first());
        }
        Ok::<_, anyhow::Error>((first, SystemClock::now()))
    };
    let (batch, urgent) = tokio::join!(try_join_all(batch), urgent);
    let (first, until_then) = urgent?;
    let batch = batch?.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(batch.iter().all(|one| one.tokens() == tokens), "a batch generation lost tokens");
    let steps = batch.iter().flat_map(|one| one.between(one.began, until_then));
    let step = median(steps.map(|step| step.as_secs_f64()).collect());
    let p50 = Slice::lasting(Duration::ZERO, first).percentile_us(50) / 1e6;
    until("preemptions", async || mesh.sample(PREEMPTIONS).await.is_ok_and(|count| count >= 1.0)).await?;
    let preempted = mesh.sample(PREEMPTIONS).await?;
    mesh.stop().await?;
    tell(&format!(
        "{GEMMA} llama: the first token while {SLOTS} batch generations have all slots takes {:.1} ms (p50), {:.1} ms where none runs; \
         a step takes {:.1} ms; {preempted} preemptions, no token lost\n",
        p50 * 1e3,
        idle * 1e3,
        step * 1e3,
    ))?;
    Ok(Goal::at_most("switch_llama_p50_steps", 1.0, (p50 - idle) / step))
}
