//! How long a realtime call waits for its place while every place of its model is taken by batch work: from its arrival at the worker to the
//! beginning of its execution. Of `sleep`, which does nothing, that is what a call takes more than on an idle worker; of a language model, whose
//! steps take longer while others step along, it is what the worker's statistics tell of its queue.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use tokio::task::JoinSet;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelStatisticsRequest};
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
const GENERATIONS: i32 = 60;
/// The longest pause before one: they shall find the step under way at any part of it.
const PAUSE: Duration = Duration::from_millis(100);
/// Tokens of a batch generation, which outlasts them.
const TOKENS: usize = 800;
const WARM: usize = 8;
/// Batch sequences, which have all slots.
const SLOTS: usize = 4;
const QUEUED: &str = "weft_model_queue_duration_seconds_count";
const PREEMPTIONS: &str = "weft_preemptions_total";

pub(crate) async fn run(tell: fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let mut goals = vec![sleeping(tell).await?];
    if tools::models().join(GEMMA).is_dir() {
        goals.extend(speaking(tell).await?);
    } else {
        tell("the language model is not there: run `make models`\n")?;
        goals.extend(["switch_llama_p50_ms", "switch_llama_p99_ms"].map(Goal::missing));
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

/// Writes a repository that holds it.
pub(super) fn lay_out(repository: &Path) -> Result<()> {
    let of_model = repository.join(GEMMA);
    std::fs::create_dir_all(of_model.join("1"))?;
    std::fs::copy(tools::models().join(GEMMA).join("1/model.gguf"), of_model.join("1/model.gguf"))?;
    let slots = format!("parameters {{ key: \"slots\" value {{ string_value: \"{SLOTS}\" }} }}\n");
    Ok(std::fs::write(of_model.join("config.pbtxt"), format!("name: \"{GEMMA}\"\nbackend: \"llama\"\n{slots}"))?)
}

/// How long generations have waited for their first step, all together.
async fn queued(worker: &Caller) -> Result<Duration> {
    let request = ModelStatisticsRequest { name: GEMMA.to_owned(), version: String::new() };
    let told = worker.inference().model_statistics(request).await?.into_inner().model_stats;
    let queue = told.first().and_then(|stats| stats.inference_stats.as_ref()?.queue);
    Ok(Duration::from_nanos(queue.context("no queue is told of")?.ns))
}

/// Realtime generations, one after the other: how long each waited for its first step, and for its first token.
async fn urgent(worker: &Caller, first: i32) -> Result<(Slice, Slice)> {
    let (mut waits, mut firsts) = (Vec::new(), Vec::new());
    let mut before = queued(worker).await?;
    for number in 0..GENERATIONS {
        // The golden ratio spreads them evenly over all phases of a step.
        tokio::time::sleep(PAUSE.mul_f64((f64::from(number) * 0.618_034).fract())).await;
        let one = generate::run(worker.clone(), of_band(generate::request(&prompt(first + number, 8), 2), 1)).await?;
        let after = queued(worker).await?;
        waits.push(after.saturating_sub(before));
        firsts.push(one.first());
        before = after;
    }
    Ok((Slice::lasting(Duration::ZERO, waits), Slice::lasting(Duration::ZERO, firsts)))
}

/// Realtime generations while batch generations have every slot.
async fn speaking(tell: fn(&str) -> Result<()>) -> Result<[Goal; 2]> {
    let repository = tempfile::tempdir()?;
    lay_out(repository.path())?;
    let mesh = Mesh::start(&["--worker-models", &repository.path().display().to_string()]).await?;
    mesh.caller()?.wait_ready(GEMMA).await?;
    let worker = mesh.caller()?.first_worker().await?;
    let (_, alone) = urgent(&worker, 1_000).await?;
    let batch: Vec<_> = (0..SLOTS)
        .map(|at| {
            let request = of_band(generate::request(&prompt(2_000 + at as i32, 8), TOKENS), 3);
            tokio::time::timeout(LIMIT, generate::run(worker.clone(), request))
        })
        .collect();
    let urgent = async { Ok::<_, anyhow::Error>((urgent(&worker, 3_000).await?, SystemClock::now())) };
    let (batch, urgent) = tokio::join!(try_join_all(batch), urgent);
    let ((waits, firsts), until_then) = urgent?;
    let batch = batch?.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(batch.iter().all(|one| one.tokens() == TOKENS), "a batch generation lost tokens");
    ensure!(
        batch.iter().all(|one| one.pieces.last().is_some_and(|(at, _)| *at > until_then)),
        "a batch generation ended too early"
    );
    let steps = batch.iter().flat_map(|one| one.between(one.began, until_then));
    let step = median(steps.map(|step| step.as_secs_f64()).collect());
    until("preemptions", async || mesh.sample(PREEMPTIONS).await.is_ok_and(|count| count >= 1.0)).await?;
    let preempted = mesh.sample(PREEMPTIONS).await?;
    mesh.stop().await?;
    let (p50, p99) = (waits.percentile_us(50) / 1e3, waits.percentile_us(99) / 1e3);
    tell(&format!(
        "{GEMMA} llama: {GENERATIONS} realtime generations while {SLOTS} batch generations have all slots, whose steps take {:.1} ms: the first \
         step begins after {p50:.2} ms (p50; p99 {p99:.2}), the first token is there after {:.1} ms (p50), {:.1} where none runs; {preempted} \
         preemptions, no token lost\n",
        step * 1e3,
        firsts.percentile_us(50) / 1e3,
        alone.percentile_us(50) / 1e3,
    ))?;
    Ok([Goal::at_most("switch_llama_p50_ms", 5.0, p50), Goal::at_most("switch_llama_p99_ms", 5.0, p99)])
}
