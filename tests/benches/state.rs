//! What it costs when etcd, or the way to it, fails; and what thousands of workers cost etcd and the routers.
//!
//! A mesh of separate processes over three etcd members serves calls at a fixed rate while one scenario after the other
//! happens to it. The load comes from this process; a call's time counts from when it should have been sent. `-- --full` takes
//! the outages to a minute and the fleet to thousands of workers; without it a run takes some minutes.

mod state {
    pub(crate) mod fleet;
    pub(crate) mod outages;
}

use std::io::Write as _;

use anyhow::{Result, bail};
use state::{fleet, outages};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // The fleet lives in a process of its own, which is this executable, too.
        if fleet::simulated(&arguments).await? {
            return Ok(());
        }
        let full = is_full(&arguments)?;
        let mut goals = outages::run(full, tell).await?;
        let (text, of_fleet) = fleet::run(full).await?;
        tell(&text)?;
        goals.extend(of_fleet);
        let lines: String = goals.iter().map(|goal| goal.line() + "\n").collect();
        tell(&format!("\n{lines}"))
    })
}

fn tell(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

fn is_full(arguments: &[String]) -> Result<bool> {
    let mut full = false;
    for argument in arguments {
        match argument.as_str() {
            "--full" => full = true,
            // Cargo says it to every benchmark.
            "--bench" => {}
            other => bail!("unknown argument '{other}'; there is only --full"),
        }
    }
    Ok(full)
}
