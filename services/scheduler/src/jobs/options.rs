//! What can be set about jobs.

use std::time::Duration;

use weft_journal::Payloads;

use super::definition::Targets;

/// A scheduler's settings of jobs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Open jobs; one more is refused. A job takes some kilobytes, and 100 more for each inline value.
    pub max_open: usize,
    /// Bytes of the different definitions of all of them. What a scheduler keeps of one takes some ten times that.
    pub max_definition_bytes: usize,
    /// Attempts under way at once: actions, undos and probes each. One service or model has a quarter of them at most.
    pub max_attempts: usize,
    /// The most jobs whose transitions go into one transaction.
    pub batch: usize,
    /// Where long values are kept.
    pub payloads: Payloads,
    /// How long a job and its key are known after its end.
    pub retention: Duration,
    /// etcd's `--quota-backend-bytes`: from 75 % of it no job begins, from 90 % jobs only end; 0 is none.
    pub quota: u64,
    /// The services that jobs may call.
    pub targets: Targets,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_open: 50_000,
            max_definition_bytes: 256 << 20,
            max_attempts: 4_096,
            batch: 100,
            payloads: Payloads::nowhere(),
            retention: Duration::from_secs(3_600),
            quota: 2 << 30,
            targets: Targets::default(),
        }
    }
}
