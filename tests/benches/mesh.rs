//! What the mesh costs and what its batching brings, measured in one run.
//!
//! The load comes from this process and the mesh is another one. Every cell is measured in short slices, the cells in turn and
//! every second round backwards, so that whatever else the machine does falls on all of them alike; figures are medians
//! over the rounds, and every answer is checked. `-- --quick` shows within seconds that the benchmark works.

mod mesh {
    pub(crate) mod bare;
    pub(crate) mod cell;
    pub(crate) mod deadline;
    pub(crate) mod load;
    pub(crate) mod plan;
    pub(crate) mod report;
    pub(crate) mod results;
    pub(crate) mod subject;
}

use std::io::Write as _;

use anyhow::{Result, bail};
use mesh::plan::Plan;
use mesh::report;
use mesh::subject::Subject;

fn main() -> Result<()> {
    let plan = plan(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let text = runtime.block_on(async {
        let subject = Subject::start().await?;
        let results = plan.run(&subject).await?;
        let deadlines = subject.deadlines(plan.rounds).await?;
        report::text(&plan, &results, &deadlines)
    })?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn plan(arguments: impl Iterator<Item = String>) -> Result<Plan> {
    let mut plan = Plan::full();
    for argument in arguments {
        match argument.as_str() {
            "--quick" => plan = Plan::quick(),
            // Cargo says it to every benchmark.
            "--bench" => {}
            other => bail!("unknown argument '{other}'; there is only --quick"),
        }
    }
    Ok(plan)
}
