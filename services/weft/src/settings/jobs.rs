//! A scheduler's settings of jobs.

use std::path::PathBuf;
use std::time::Duration;

use weft_config::{Section, Setting};

/// What a scheduler is told of jobs.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Where long values are kept; `None` in one process's memory.
    pub payloads: Option<PathBuf>,
    /// How long a job is known after its end.
    pub retention: Duration,
    /// The services that jobs may call.
    pub targets: Vec<String>,
}

pub(super) fn read(section: &mut Section<'_>, targets: &[&str]) -> Jobs {
    Jobs {
        payloads: section.get(Setting::new(
            "jobs-payloads",
            None,
            "folder that all schedulers share, for values of jobs above 4 KiB; unset keeps them in memory, where they end with the process",
        )),
        retention: section.get(
            Setting::new("jobs-retention", Duration::from_secs(3_600), "how long a job and its key are known after its end")
                .within(Duration::from_secs(1), Duration::from_secs(30 * 24 * 3_600)),
        ),
        targets: section.get(Setting::new(
            "jobs-targets",
            targets.iter().map(|target| (*target).to_owned()).collect(),
            "services that jobs may call: host, host:port, *.domain or *.domain:port; with none jobs call only models",
        )),
    }
}
