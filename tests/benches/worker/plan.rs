//! Which parts run, and how long each takes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use weft_tests::goal::Goal;

/// The parts, in the order in which they run.
pub(crate) const PARTS: [(char, &str); 7] = [
    ('A', "ONNX through gRPC against the bare loop"),
    ('B', "calls against Triton, MLServer and Ray Serve"),
    ('C', "language model against llama.cpp's own tools"),
    ('D', "deadlines under Poisson arrivals"),
    ('E', "cancelled work"),
    ('F', "memory"),
    ('G', "lost engines"),
];

/// One run.
pub(crate) struct Plan {
    pub(crate) parts: Vec<char>,
    pub(crate) full: bool,
    /// Threads of every engine and of every peer's models.
    pub(crate) threads: usize,
    /// What the run writes: logs, models for the peers, plots.
    pub(crate) folder: PathBuf,
}

/// What a part has to tell.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) text: String,
    pub(crate) goals: Vec<Goal>,
}

impl Plan {
    pub(crate) fn read(arguments: impl Iterator<Item = String>, folder: PathBuf) -> Result<Self> {
        let (mut parts, mut full) = (String::new(), false);
        for argument in arguments {
            match argument.as_str() {
                "--full" => full = true,
                // Cargo says it to every benchmark.
                "--bench" => {}
                wanted if wanted.chars().all(|part| PARTS.iter().any(|(known, _)| *known == part)) => {
                    parts.push_str(wanted);
                }
                other => bail!("unknown argument '{other}'; there are --full and parts such as A or BD"),
            }
        }
        let wanted = |part: &char| parts.is_empty() || parts.contains(*part);
        let parts = PARTS.iter().map(|(part, _)| *part).filter(wanted).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { parts, full, threads, folder })
    }

    pub(crate) const fn rounds(&self) -> usize {
        if self.full { 7 } else { 3 }
    }

    /// How long a cell is measured in a round.
    pub(crate) const fn slice(&self) -> Duration {
        Duration::from_millis(if self.full { 1000 } else { 400 })
    }

    /// Before the first round each cell runs for so long uncounted: connections open, plans are made, tables are learned.
    pub(crate) const fn warm_up(&self) -> Duration {
        Duration::from_millis(200)
    }
}
