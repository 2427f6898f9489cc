//! Part E: how soon work stops that nobody waits for any more, by engine, and how much is computed in vain.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, ensure};
use futures_util::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use weft_proto::inference::{ModelInferRequest, ModelStatisticsRequest};
use weft_tests::calls::{Caller, sleep, until};
use weft_tests::goal::Goal;
use weft_tests::load::closed::{Case, Slice};
use weft_tests::load::rounds::median;
use weft_tests::tools;
use weft_types::SystemClock;

use super::bare::Bare;
use super::generate::{self, GEMMA, prompt, request};
use super::language;
use super::onnx::LENGTH;
use super::page;
use super::plan::{Plan, Told};
use super::served::{self, MINILM, MOST_ROWS};
use super::subject::Subject;

const STOPPED: &str = "weft_cancel_to_stop_seconds";
const WASTED: &str = "weft_wasted_compute_seconds_total";
/// Tokens of a text whose batch runs for a good while.
const LONG: usize = 128;
/// Callers at once while half of the calls are cancelled.
const LANES: usize = 8;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn run(plan: &Plan) -> Result<Told> {
    let repository = plan.folder.join("cancel");
    served::weft(&repository, &[MINILM])?;
    let mut bare = Bare::start(MINILM, plan.threads, &plan.folder)?;
    let (long, short) = (bare.cases(MOST_ROWS, LONG)?, bare.cases(1, LENGTH)?);
    let subject = Subject::start(Some(&repository), plan.threads, &[MINILM.name, "sleep"]).await?;
    let (mut told, times) = (Told::default(), if plan.full { 200 } else { 40 });
    writeln!(
        told.text,
        "from the moment nobody waits to the moment the work has stopped; p99 within its bucket, {times} calls"
    )?;
    let both = [("sleep", sleep(600_000), sleep(0)), (MINILM.name, long[0].request.clone(), short[0].request.clone())];
    for (model, message, brief) in both {
        let engine = subject.engine(model).await?;
        let p99 = stop(&subject, model, (&message, &brief), times).await? * 1e3;
        writeln!(told.text, "{model:<8} {engine:<12} {p99:>8.2} ms")?;
        told.goals.push(Goal::at_most(format!("cancel_to_stop_{model}_p99_ms"), 20.0, p99));
    }
    wasted(&subject, &short, plan, &mut told).await?;
    drop(subject);
    if tools::models().join(GEMMA).is_dir() {
        // What was measured of the other engines is worth telling in any case.
        if let Err(error) = slot(plan, times, &mut told).await {
            writeln!(told.text, "{GEMMA} failed: {error:#}")?;
            told.goals.push(Goal::missing("cancel_llama_slot_free_p99_steps"));
        }
    } else {
        told.goals.push(Goal::missing("cancel_llama_slot_free_p99_steps"));
    }
    Ok(told)
}

/// Cancels calls one after the other while each is being computed; seconds until it had stopped, 99 of 100. A brief call after each
/// tells that the model is free again, so that the next one is not cancelled while it still waits.
async fn stop(
    subject: &Subject,
    model: &str,
    (message, brief): (&ModelInferRequest, &ModelInferRequest),
    times: u32,
) -> Result<f64> {
    let mut random = StdRng::seed_from_u64(1);
    let count = |page: &str| page::sum(page, &format!("{STOPPED}_count"), model);
    let before = subject.scrape().await?;
    for _ in 0..times {
        let patience = Duration::from_millis(random.random_range(10..60));
        let ended = tokio::time::timeout(patience, subject.worker.infer(message.clone(), LIMIT)).await;
        ensure!(ended.is_err(), "a call to {model} ended before it was cancelled");
        subject.worker.infer(brief.clone(), LIMIT).await.context("the call after one that was cancelled")?;
    }
    let mut after = String::new();
    let reported = until("every stop to be reported", async || {
        after = subject.scrape().await.unwrap_or_default();
        count(&after) - count(&before) >= f64::from(times)
    })
    .await;
    reported.with_context(|| format!("{} of {times} were", count(&after) - count(&before)))?;
    page::percentile(&before, &after, STOPPED, model, 0.99).context("a histogram")
}

/// Callers of which every second loses patience at a random moment of its call.
async fn wasted(subject: &Subject, cases: &Arc<[Case]>, plan: &Plan, told: &mut Told) -> Result<()> {
    let lasting = Duration::from_secs(if plan.full { 30 } else { 5 });
    let alone = weft_tests::load::closed::run(&subject.worker, cases, LANES, Duration::from_secs(1)).await?;
    let usual = Duration::from_secs_f64(alone.percentile_us(50) / 1e6);
    let (before, computed) = (subject.scrape().await?, compute(&subject.worker).await?);
    let mut lanes = JoinSet::new();
    for index in 0..LANES {
        let (caller, cases) = (subject.worker.clone(), Arc::clone(cases));
        lanes.spawn(async move {
            let (mut random, end) = (StdRng::seed_from_u64(index as u64), SystemClock::now() + lasting);
            let mut cancelled = 0_u64;
            while SystemClock::now() < end {
                let patience = if random.random_bool(0.5) { usual.mul_f64(random.random::<f64>()) } else { LIMIT };
                let case = &cases[random.random_range(0..cases.len())];
                match tokio::time::timeout(patience, caller.infer(case.request.clone(), LIMIT)).await {
                    Ok(answer) => case.check(answer?.get_ref())?,
                    Err(_) => cancelled += 1,
                }
            }
            Ok::<u64, Error>(cancelled)
        });
    }
    let mut cancelled = 0;
    while let Some(lane) = lanes.join_next().await {
        cancelled += lane??;
    }
    let computed = compute(&subject.worker).await? - computed;
    let after = exported(subject).await?;
    let vain = page::sum(&after, WASTED, MINILM.name) - page::sum(&before, WASTED, MINILM.name);
    writeln!(
        told.text,
        "half of the calls cancelled at random ({cancelled} of them): {vain:.2} s of {:.2} s of computing were in vain, {:.1} %",
        computed + vain,
        vain / (computed + vain) * 100.0
    )?;
    Ok(())
}

/// A page that was exported after everything of now.
async fn exported(subject: &Subject) -> Result<String> {
    let (mut last, mut changes) = (subject.scrape().await?, 0);
    until("two exports", async || {
        let page = subject.scrape().await.unwrap_or_default();
        changes += u32::from(page != last);
        last = page;
        changes >= 2
    })
    .await?;
    Ok(last)
}

/// Seconds that the model has been executed for somebody.
async fn compute(caller: &Caller) -> Result<f64> {
    let request = ModelStatisticsRequest { name: MINILM.name.to_owned(), version: String::new() };
    let statistics = caller.inference().model_statistics(request).await?.into_inner().model_stats;
    let batches = statistics.iter().flat_map(|model| &model.batch_stats);
    Ok(batches.filter_map(|batch| batch.compute_infer.as_ref()).map(|time| time.ns as f64 / 1e9).sum())
}

/// A model with one slot: the sooner a cancelled generation has left it, the sooner the next one begins.
async fn slot(plan: &Plan, times: u32, told: &mut Told) -> Result<()> {
    let repository = language::lay_out(plan, "parameters { key: \"slots\" value { string_value: \"1\" } }\n")?;
    let subject = Subject::start(Some(&repository), plan.threads, &[GEMMA]).await?;
    let caller = &subject.worker;
    let (mut idle, mut steps, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..i32::try_from(times)? {
        let alone = generate::run(caller.clone(), request(&prompt(1_000 + seed, 8), 8)).await?;
        idle.push(alone.first().as_secs_f64());
        let (from, to) = (alone.began, SystemClock::now());
        steps.extend(alone.between(from, to).iter().map(Duration::as_secs_f64));
        // Dropping the stream is what a client does that goes away.
        let mut left = Box::pin(generate::open(caller, request(&prompt(2_000 + seed, 8), 512)).await?);
        for _ in 0..3 {
            left.next().await.context("a piece")??;
        }
        drop(left);
        after.push(generate::run(caller.clone(), request(&prompt(3_000 + seed, 8), 2)).await?.first());
    }
    let (idle, step) = (median(idle), median(steps));
    let after = Slice::lasting(Duration::ZERO, after);
    let (p50, p99) = (after.percentile_us(50) / 1e6, after.percentile_us(99) / 1e6);
    writeln!(
        told.text,
        "{GEMMA} llama: the first token after a cancelled generation's slot takes {:.1} ms (p50; p99 {:.1}), {:.1} ms where \
         none was; a step takes {:.1} ms",
        p50 * 1e3,
        p99 * 1e3,
        idle * 1e3,
        step * 1e3,
    )?;
    told.goals.push(Goal::at_most("cancel_llama_slot_free_p99_steps", 1.0, (p99 - idle) / step));
    Ok(())
}
