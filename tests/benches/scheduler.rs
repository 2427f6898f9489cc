//! What a scheduler makes of a large mesh: how fast its placements stand in etcd, what memory that takes, and what becomes of them when the
//! leader is killed in the midst of it, where the workers are records alone; what models that come and go by demand leave behind in real
//! workers; how soon urgent work runs; and what callers see of a rollout. Name parts (`placement`, `leader`, `cycles`, `switch`, `preempt`, `rollouts`) to run them alone; `-- --small` is a trial run.

mod scheduler {
    pub(crate) mod cycles;
    #[path = "../worker/generate.rs"]
    pub(crate) mod generate;
    pub(crate) mod leader;
    pub(crate) mod placement;
    #[path = "../worker/plot.rs"]
    pub(crate) mod plot;
    pub(crate) mod preempt;
    pub(crate) mod rollouts;
    pub(crate) mod switch;
}

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use scheduler::{cycles, leader, placement, preempt, rollouts, switch};
use weft_tests::process::binary;

const PARTS: [&str; 6] = ["placement", "leader", "cycles", "switch", "preempt", "rollouts"];

fn main() -> Result<()> {
    // A worker starts its engines from its own executable. For the mesh inside this process that is this one.
    if std::env::args().nth(1).is_some_and(|argument| argument == "engine") {
        return weft_engine_native::child::run().map_err(anyhow::Error::msg);
    }
    let (mut parts, mut small) = (Vec::new(), false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--small" => small = true,
            part if PARTS.contains(&part) => parts.push(argument),
            // Cargo says it to every benchmark.
            "--bench" => {}
            other => bail!("unknown part '{other}'; there are {}, and --small", PARTS.join(", ")),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let bench =
        binary()?.parent().and_then(|release| release.parent()).context("the build has a folder")?.join("bench");
    std::fs::create_dir_all(&bench)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut goals = Vec::new();
        if wanted("placement") {
            goals.extend(placement::run(small, tell).await?);
        }
        if wanted("leader") {
            goals.extend(leader::run(small, tell).await?);
        }
        if wanted("cycles") {
            let (text, of_cycles) = cycles::run(!small, &bench).await?;
            tell(&text)?;
            goals.extend(of_cycles);
        }
        if wanted("switch") {
            goals.extend(switch::run(tell).await?);
        }
        if wanted("preempt") {
            goals.extend(preempt::run(!small, tell).await?);
        }
        if wanted("rollouts") {
            goals.extend(rollouts::run(!small).await?);
        }
        let lines: String = goals.iter().map(|goal| goal.line() + "\n").collect();
        tell(&format!("\n{lines}"))
    })
}

fn tell(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
