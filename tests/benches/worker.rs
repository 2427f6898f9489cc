//! What a worker brings, against the runtimes below it and the servers beside it, all measured in the same run.
//!
//! The load comes from this process; Weft, its peers and the bare loops are others, on loopback. Slices alternate between those
//! that are compared, figures are medians over the rounds, and every answer is checked. `-- B D` runs those parts only,
//! `-- --full` takes longer. What a part tells is also kept in `bench/worker-<part>.txt` below the build's folder.

mod worker {
    pub(crate) mod bandwidth;
    pub(crate) mod bare;
    pub(crate) mod cancel;
    pub(crate) mod deadlines;
    pub(crate) mod faults;
    pub(crate) mod generate;
    pub(crate) mod language;
    pub(crate) mod memory;
    pub(crate) mod onnx;
    pub(crate) mod page;
    pub(crate) mod peers;
    pub(crate) mod plan;
    pub(crate) mod plot;
    pub(crate) mod served;
    pub(crate) mod servers;
    pub(crate) mod subject;
}

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Error, Result};
use weft_tests::allocations::Counting;
use weft_tests::goal::Goal;
use weft_tests::process::binary;
use worker::plan::{PARTS, Plan, Told};
use worker::{cancel, deadlines, faults, language, memory, onnx, servers};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<()> {
    // A worker starts its engines from its own executable. For the mesh inside this process that is this one.
    if std::env::args().nth(1).is_some_and(|argument| argument == "engine") {
        return weft_engine_native::child::run().map_err(Error::msg);
    }
    let bench =
        binary()?.parent().and_then(|release| release.parent()).context("the build has a folder")?.join("bench");
    std::fs::create_dir_all(&bench)?;
    let scratch = tempfile::tempdir()?;
    let plan = Plan::read(std::env::args().skip(1), scratch.path().to_path_buf())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut goals = Vec::new();
    for (part, title) in PARTS.iter().filter(|(part, _)| plan.parts.contains(part)) {
        let told = runtime.block_on(run(*part, &plan, &bench));
        // What one part lacks is no reason to leave out the others.
        let told = told.unwrap_or_else(|error| failed(*part, &error));
        let lines: String = told.goals.iter().map(|goal| goal.line() + "\n").collect();
        let text = format!("\n{part}. {title}\n{}", told.text);
        tell(&text)?;
        std::fs::write(bench.join(format!("worker-{part}.txt")), format!("{text}\n{lines}"))?;
        goals.push(lines);
    }
    tell(&format!("\n{}", goals.concat()))
}

async fn run(part: char, plan: &Plan, bench: &Path) -> Result<Told> {
    match part {
        'A' => onnx::run(plan).await,
        'B' => servers::run(plan).await,
        'C' => language::run(plan).await,
        'D' => deadlines::run(plan).await,
        'E' => cancel::run(plan).await,
        'F' => memory::run(plan, bench).await,
        'G' => faults::run(plan).await,
        _ => Ok(Told::default()),
    }
}

fn failed(part: char, error: &Error) -> Told {
    Told { text: format!("failed: {error:#}\n"), goals: vec![Goal::missing(format!("part_{part}"))] }
}

fn tell(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
