//! What a scheduler makes of a large mesh: how fast its placements stand in etcd, what memory that takes, and what becomes of them when the
//! leader is killed in the midst of it, where the workers are records alone; and what models that come and go by demand leave behind in real
//! workers. Name parts (`placement`, `leader`, `cycles`) to run them alone; `-- --small` is a trial run.

mod scheduler {
    pub(crate) mod cycles;
    pub(crate) mod leader;
    pub(crate) mod placement;
    #[path = "../worker/plot.rs"]
    pub(crate) mod plot;
}

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use scheduler::{cycles, leader, placement};
use weft_tests::process::binary;

const PARTS: [&str; 3] = ["placement", "leader", "cycles"];

fn main() -> Result<()> {
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
        let lines: String = goals.iter().map(|goal| goal.line() + "\n").collect();
        tell(&format!("\n{lines}"))
    })
}

fn tell(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
