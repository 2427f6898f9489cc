//! What a scheduler makes of a large mesh: how fast its placements stand in etcd, what memory that takes, and what becomes of them when the
//! leader is killed in the midst of it. The workers are records alone. Name a part (`placement`, `leader`) to run it alone; `-- --small`
//! is a trial run.

mod scheduler {
    pub(crate) mod leader;
    pub(crate) mod placement;
}

use std::io::Write as _;

use anyhow::{Result, bail};
use scheduler::{leader, placement};

fn main() -> Result<()> {
    let (mut parts, mut small) = (Vec::new(), false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--small" => small = true,
            "placement" | "leader" => parts.push(argument),
            // Cargo says it to every benchmark.
            "--bench" => {}
            other => bail!("unknown part '{other}'; there are placement and leader, and --small"),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut goals = Vec::new();
        if wanted("placement") {
            goals.extend(placement::run(small, tell).await?);
        }
        if wanted("leader") {
            goals.extend(leader::run(small, tell).await?);
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
