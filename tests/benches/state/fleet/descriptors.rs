//! Descriptors for a connection of every worker.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process needs besides: its files, its runtime, and connections that are replaced while the old one lasts.
const OTHERS: u64 = 512;

/// Raises this process's limit as far as it may, for itself and the processes that it starts from now on. Many systems begin
/// with 1024. Refuses if so many workers cannot be connected even then.
pub(super) fn allow(workers: usize) -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of descriptors")?;
    let needed = u64::try_from(workers)?.saturating_add(OTHERS);
    // None is no limit.
    let allowed = maximum.unwrap_or(u64::MAX);
    ensure!(
        needed <= allowed,
        "{workers} workers need {needed} descriptors per process, and {allowed} are allowed: raise the hard limit (ulimit -Hn)"
    );
    Ok(())
}
