//! Jobs of three steps, each a call to a ledger, beside the same jobs in Restate. Name parts (`restate`) to run them alone; `-- --small` is a trial
//! run, `-- --full` a longer one.

mod jobs {
    pub(crate) mod figures;
    pub(crate) mod restate;
}

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jobs::figures::{self, Load, Way};
use jobs::restate;
use weft_tests::process::binary;

const PARTS: [&str; 1] = ["restate"];

/// Jobs under way at any time.
const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

fn main() -> Result<()> {
    let (mut parts, mut lasting) = (Vec::new(), Duration::from_secs(10));
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--small" => lasting = Duration::from_millis(300),
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
        tell(&figures::table(&ways))
    })
}

fn tell(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}
