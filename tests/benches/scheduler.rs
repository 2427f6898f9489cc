//! What a mesh does about who goes first. Name a part (`switch`) to run it alone.

mod scheduler {
    #[path = "../worker/generate.rs"]
    pub(crate) mod generate;
    pub(crate) mod switch;
}

use std::io::Write as _;

use anyhow::{Result, bail};
use scheduler::switch;

fn main() -> Result<()> {
    // A worker starts its engines from its own executable. For the mesh inside this process that is this one.
    if std::env::args().nth(1).is_some_and(|argument| argument == "engine") {
        return weft_engine_native::child::run().map_err(anyhow::Error::msg);
    }
    let mut parts = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "switch" => parts.push(argument),
            // Cargo says it to every benchmark.
            "--bench" => {}
            other => bail!("unknown part '{other}'; there is switch"),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut goals = Vec::new();
        if wanted("switch") {
            goals.extend(switch::run(tell).await?);
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
