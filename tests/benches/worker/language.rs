//! Part C: a language model through gRPC against llama.cpp's own `llama-batched-bench` on the same file with as many threads, and
//! what streams feel of each other.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::task::JoinSet;
use weft_tests::calls::Caller;
use weft_tests::goal::Goal;
use weft_tests::load::closed::Slice;
use weft_tests::load::rounds::median;
use weft_tests::tools;
use weft_types::SystemClock;

use super::bandwidth;
use super::generate::{self, GEMMA, Generated, prompt, request};
use super::plan::{Plan, Told};
use super::subject::Subject;

const STREAMS: [usize; 4] = [1, 4, 8, 16];
/// Tokens of a prompt and of what is generated after it.
const PROMPT: usize = 128;
const GENERATED: usize = 32;
/// The prompt that arrives while others are being answered.
const LONG: usize = 2_000;
/// The prefix that prompts share.
const SHARED: usize = 500;

/// Tokens a second of one number of streams.
#[derive(Clone, Copy)]
struct Rates {
    prefill: f64,
    decode: f64,
    /// Prompts and answers, from the first to the last.
    total: f64,
}

pub(crate) async fn run(plan: &Plan) -> Result<Told> {
    let file = tools::models().join(GEMMA).join("1/model.gguf");
    ensure!(file.is_file(), "the model {GEMMA} is not there; run `make models`");
    let repository = lay_out(plan, "")?;
    let subject = Subject::start(Some(&repository), plan.threads, &[GEMMA]).await?;
    let mut told = Told::default();
    rates(plan, &subject, &file, &mut told).await?;
    arrival(&subject.worker, plan, &mut told).await?;
    prefix(&subject.worker, plan, &mut told).await?;
    Ok(told)
}

/// A round takes seconds here.
const fn rounds(plan: &Plan) -> usize {
    if plan.full { 5 } else { 2 }
}

/// A repository with the language model alone, and with these lines in its configuration.
pub(crate) fn lay_out(plan: &Plan, settings: &str) -> Result<PathBuf> {
    let repository = plan.folder.join(if settings.is_empty() { "language" } else { "language-set" });
    let of_model = repository.join(GEMMA);
    std::fs::create_dir_all(of_model.join("1"))?;
    std::fs::copy(tools::models().join(GEMMA).join("1/model.gguf"), of_model.join("1/model.gguf"))?;
    std::fs::write(of_model.join("config.pbtxt"), format!("name: \"{GEMMA}\"\nbackend: \"llama\"\n{settings}"))?;
    Ok(repository)
}

async fn rates(plan: &Plan, subject: &Subject, file: &Path, told: &mut Told) -> Result<()> {
    let floor = bandwidth::measure(plan.threads)? / std::fs::metadata(file)?.len() as f64;
    writeln!(told.text, "{PROMPT} tokens of prompt, {GENERATED} generated; prefill and decode in tokens/s")?;
    writeln!(told.text, "streams  prefill  llama.cpp  ratio   decode  llama.cpp  ratio  of the bandwidth floor")?;
    let mut totals = String::new();
    for (at, streams) in STREAMS.into_iter().enumerate() {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..rounds(plan) {
            // Prompts that no round before has seen.
            let seed = i32::try_from((at * 100 + round) * 100)?;
            ours.push(phases(&subject.worker, streams, seed).await?);
            bare.extend(batched_bench(file, streams, plan.threads)?);
        }
        let of = |rates: &[Rates], figure: fn(&Rates) -> f64| median(rates.iter().map(figure).collect());
        let ratio = |figure: fn(&Rates) -> f64| {
            median(ours.iter().zip(&bare).map(|(one, other)| figure(one) / figure(other)).collect())
        };
        let (prefill, decode) = (|rates: &Rates| rates.prefill, |rates: &Rates| rates.decode);
        let total = |rates: &Rates| rates.total;
        writeln!(
            totals,
            "language_total_{streams}_streams: everything at once {:.0} tokens/s, llama.cpp's phases one after the other {:.0}, \
             ratio {:.2}",
            of(&ours, total),
            of(&bare, total),
            ratio(total)
        )?;
        writeln!(
            told.text,
            "{streams:>7} {:>8.0} {:>10.0} {:>6.2} {:>8.1} {:>10.1} {:>6.2} {:>23.2}",
            of(&ours, prefill),
            of(&bare, prefill),
            ratio(prefill),
            of(&ours, decode),
            of(&bare, decode),
            ratio(decode),
            of(&ours, decode) / (floor * streams as f64),
        )?;
        told.goals.push(Goal::at_least(
            format!("language_prefill_{streams}_streams_to_llama_cpp"),
            0.95,
            ratio(prefill),
        ));
        told.goals.push(Goal::at_least(format!("language_decode_{streams}_streams_to_llama_cpp"), 0.95, ratio(decode)));
    }
    told.text.push_str(&totals);
    writeln!(
        told.text,
        "bandwidth floor: {floor:.0} steps/s, were every step nothing but one reading of the file's bytes"
    )?;
    Ok(())
}

/// The phases of `llama-batched-bench`, one after the other: all prompts with nothing decoding beside them, then all answers with
/// no prompt beside them, since their prompts are kept. Then what it does not have: other prompts with their answers, all at once.
async fn phases(caller: &Caller, streams: usize, seed: i32) -> Result<Rates> {
    let prompts = |seed: i32, tokens| (0..streams).map(move |at| (prompt(seed + at as i32, PROMPT), tokens));
    let started = SystemClock::now();
    let first = generate_all(caller, prompts(seed, 1)).await?;
    let prefilled = first.iter().filter_map(|one| one.pieces.first()).map(|(at, _)| *at).max().context("pieces")?;
    let decode = decode(&generate_all(caller, prompts(seed, GENERATED + 1)).await?)?;
    let (again, fresh) = (SystemClock::now(), i32::try_from(streams)?);
    let all = generate_all(caller, prompts(seed + fresh, GENERATED)).await?;
    let ended = all.iter().filter_map(|one| one.pieces.last()).map(|(at, _)| *at).max().context("pieces")?;
    ensure!(all.iter().all(|one| one.tokens() == GENERATED), "a stream has not the tokens that were asked for");
    let computed = |of: &[Generated]| of.iter().map(|one| PROMPT - one.cached).sum::<usize>();
    ensure!(computed(&first) == streams * PROMPT, "a prompt was known before");
    Ok(Rates {
        prefill: computed(&first) as f64 / prefilled.saturating_duration_since(started).as_secs_f64(),
        decode,
        total: (computed(&all) + streams * GENERATED) as f64 / ended.saturating_duration_since(again).as_secs_f64(),
    })
}

/// Tokens a second while all decode: from when all have their first until the first has its last.
fn decode(all: &[Generated]) -> Result<f64> {
    ensure!(
        all.iter().all(|one| one.cached + 1 == PROMPT),
        "a prompt was not kept, so it was computed beside others' answers"
    );
    let begun = all.iter().filter_map(|one| one.pieces.first()).map(|(at, _)| *at).max().context("pieces")?;
    let ended = all.iter().filter_map(|one| one.pieces.last()).map(|(at, _)| *at).min().context("pieces")?;
    ensure!(begun < ended, "a stream ended before all had begun");
    let within = all.iter().flat_map(|one| &one.pieces).filter(|(at, _)| *at > begun && *at <= ended);
    let tokens: usize = within.map(|(_, tokens)| tokens).sum();
    Ok(tokens as f64 / ended.saturating_duration_since(begun).as_secs_f64())
}

async fn generate_all(caller: &Caller, wanted: impl Iterator<Item = (Vec<i32>, usize)>) -> Result<Vec<Generated>> {
    let mut running = JoinSet::new();
    for (prompt, tokens) in wanted {
        running.spawn(generate::run(caller.clone(), request(&prompt, tokens)));
    }
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.push(ended??);
    }
    Ok(all)
}

fn batched_bench(file: &Path, streams: usize, threads: usize) -> Result<Option<Rates>> {
    let Ok(tool) = tools::tool("peers/llama/llama-batched-bench") else { return Ok(None) };
    let context = (PROMPT + GENERATED) * streams + 64;
    let numbers =
        [("-c", context), ("-b", 2048), ("-ub", 512), ("-npp", PROMPT), ("-ntg", GENERATED), ("-npl", streams)];
    let mut command = Command::new(tool);
    command.arg("-m").arg(file).args(["--output-format", "jsonl", "-kvu", "-t", &threads.to_string()]);
    command.args(numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]));
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with('{'));
    let line = line.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let figures: Value = serde_json::from_str(line)?;
    let figure = |name: &str| figures[name].as_f64().with_context(|| format!("{name} in {line}"));
    Ok(Some(Rates { prefill: figure("speed_pp")?, decode: figure("speed_tg")?, total: figure("speed")? }))
}

/// What four streams feel of a long prompt that arrives.
async fn arrival(caller: &Caller, plan: &Plan, told: &mut Told) -> Result<()> {
    let (mut calm, mut disturbed, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds(plan) {
        let seed = 50_000 + i32::try_from(round)? * 10;
        let others = generate_all(caller, (0..4).map(|at| (prompt(seed + at, 32), 160)));
        let long = async {
            // The others are under way by then, and still are when it has been read.
            tokio::time::sleep(Duration::from_millis(1000)).await;
            generate::run(caller.clone(), request(&prompt(seed + 9, LONG), 1)).await
        };
        let (others, long) = tokio::join!(others, long);
        let (others, long) = (others?, long?);
        let read = long.began + long.first();
        firsts.push(long.first().as_secs_f64());
        let begun = others.iter().map(|one| one.began + one.first()).max().context("streams")?;
        for one in &others {
            calm.extend(one.between(begun, long.began));
            disturbed.extend(one.between(long.began, read));
        }
    }
    let p99 = |times: Vec<Duration>| Slice::lasting(Duration::ZERO, times).percentile_us(99) / 1e3;
    let (calm, disturbed) = (p99(calm), p99(disturbed));
    writeln!(
        told.text,
        "4 streams, time between tokens (p99): {calm:.1} ms undisturbed, {disturbed:.1} ms while a prompt of {LONG} tokens is read, \
         whose first token comes after {:.2} s",
        median(firsts)
    )?;
    told.goals.push(Goal::at_most("language_between_tokens_p99_disturbed_to_calm", 2.0, disturbed / calm));
    Ok(())
}

/// How much sooner the first token comes where most of the prompt is known.
async fn prefix(caller: &Caller, plan: &Plan, told: &mut Told) -> Result<()> {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for round in 0..rounds(plan) {
        let shared = prompt(90_000 + i32::try_from(round)?, SHARED);
        for (tail, times) in [(1, &mut cold), (2, &mut warm)] {
            let full: Vec<i32> = shared.iter().copied().chain(prompt(tail, 16)).collect();
            times.push(generate::run(caller.clone(), request(&full, 4)).await?.first().as_secs_f64());
        }
    }
    let ratio = median(warm.iter().zip(&cold).map(|(warm, cold)| warm / cold).collect());
    writeln!(
        told.text,
        "first token of a prompt of {} tokens: {:.0} ms cold, {:.0} ms where {SHARED} of them are shared with one before",
        SHARED + 16,
        median(cold) * 1e3,
        median(warm) * 1e3
    )?;
    told.goals.push(Goal::at_most("language_first_token_shared_prefix_to_cold", 0.2, ratio));
    Ok(())
}
