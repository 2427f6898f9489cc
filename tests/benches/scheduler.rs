//! What the scheduler brings: each part by its name, `-- cycles` for some, `-- --full` for longer.

mod scheduler {
    pub(crate) mod cycles;
    #[path = "../worker/plot.rs"]
    pub(crate) mod plot;
}

use std::io::Write as _;

use anyhow::{Context as _, Result};
use scheduler::cycles;
use weft_tests::process::binary;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let full = arguments.iter().any(|argument| argument == "--full");
    let parts: Vec<&str> = arguments.iter().map(String::as_str).filter(|argument| *argument != "--full").collect();
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let bench =
        binary()?.parent().and_then(|release| release.parent()).context("the build has a folder")?.join("bench");
    std::fs::create_dir_all(&bench)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut goals = Vec::new();
    if wanted("cycles") {
        let (text, of_cycles) = runtime.block_on(cycles::run(full, &bench))?;
        tell(&text)?;
        goals.extend(of_cycles);
    }
    let lines: String = goals.iter().map(|goal| goal.line() + "\n").collect();
    tell(&format!("\n{lines}"))
}

fn tell(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
