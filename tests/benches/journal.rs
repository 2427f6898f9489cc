//! The log of jobs over a real etcd of one member: how many transitions a second it takes, and how soon another scheduler has the jobs of one that
//! vanished. Name parts (`throughput`, `takeover`) to run them alone; `-- --small` is a trial run.

mod journal {
    pub(crate) mod desk;
    pub(crate) mod takeover;
    pub(crate) mod throughput;
}

use std::io::Write as _;

use anyhow::{Result, bail};
use journal::{takeover, throughput};

const PARTS: [&str; 2] = ["throughput", "takeover"];

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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut goals = Vec::new();
        if wanted("throughput") {
            goals.extend(throughput::run(small, tell).await?);
        }
        if wanted("takeover") {
            goals.extend(takeover::run(small, tell).await?);
        }
        let lines: String = goals.iter().map(|goal| goal.line() + "\n").collect();
        tell(&format!("\n{lines}"))
    })
}

fn tell(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}")?;
    Ok(output.flush()?)
}
