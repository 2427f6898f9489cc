//! What the scheduler does to callers. Parts are chosen by their names, all of them without any: `-- rollouts`. `-- --full` takes the sizes
//! that the goals are for.

mod scheduler {
    pub(crate) mod rollouts;
}

use std::io::Write as _;

use anyhow::{Result, bail};
use scheduler::rollouts;

fn main() -> Result<()> {
    let mut full = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--full" => full = true,
            // Cargo says it to every benchmark; the part is the only one.
            "--bench" | "rollouts" => {}
            other => bail!("unknown argument '{other}'; there are rollouts and --full"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let goals = runtime.block_on(rollouts::run(full))?;
    let lines: String = goals.iter().map(|goal| goal.line() + "\n").collect();
    let mut output = std::io::stdout().lock();
    output.write_all(lines.as_bytes())?;
    Ok(output.flush()?)
}
