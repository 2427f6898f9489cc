//! Jobs of three steps, each a call to a ledger, beside the same jobs in Restate (`restate`, `speed`); how soon another scheduler goes on with the jobs
//! of one that was killed (`takeover`), and what becomes of thousands while schedulers come and go (`chaos`). Name parts to run them alone; `-- --small`
//! is a trial run, `-- --full` a longer one.

mod jobs {
    pub(crate) mod chaos;
    pub(crate) mod figures;
    pub(crate) mod restate;
    pub(crate) mod speed;
    pub(crate) mod takeover;
}

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jobs::figures::{self, Load, Way};
use jobs::{chaos, restate, speed, takeover};
use weft_tests::process::binary;

const PARTS: [&str; 4] = ["restate", "speed", "takeover", "chaos"];

/// Jobs under way at any time.
const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

fn main() -> Result<()> {
    let (mut parts, mut lasting, mut small) = (Vec::new(), Duration::from_secs(10), false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--small" => (lasting, small) = (Duration::from_millis(300), true),
            "--full" => lasting = Duration::from_secs(60),
            part if PARTS.contains(&part) => parts.push(argument),
            // Cargo says it to every benchmark.
            "--bench" => {}
            other => bail!("unknown part '{other}'; there are {}, --small and --full", PARTS.join(", ")),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let release = binary()?.parent().context("the build has a folder")?.to_path_buf();
    let folder = release.with_file_name("bench").join("jobs");
    std::fs::create_dir_all(&folder)?;
    let loads = IN_FLIGHT.map(|in_flight| Load { in_flight, lasting });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ways: Vec<Way> = Vec::new();
        if wanted("restate") {
            match restate::run(&loads, &folder).await {
                Ok(found) => ways.extend(found),
                Err(reason) => tell(&format!("restate is missing: {reason:#}\n"))?,
            }
        }
        let mut goals = Vec::new();
        if wanted("speed") {
            let (found, of_speed) = speed::run(&loads).await?;
            ways.extend(found);
            goals.extend(of_speed);
        }
        tell(&figures::table(&ways))?;
        goals.extend(figures::beside(&ways));
        if wanted("takeover") {
            goals.extend(takeover::run(small).await?);
        }
        if wanted("chaos") {
            goals.extend(chaos::run(small).await?);
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
