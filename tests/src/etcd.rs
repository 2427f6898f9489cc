//! Real etcd processes on loopback, for tests: one member ([`Etcd`]) or several ([`Cluster`]).

mod certificates;
mod cluster;
mod member;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

pub use self::certificates::Certificates;
pub use self::cluster::{Cluster, Setup, Tls};

/// One member with a data directory of its own. Dropping it kills the process and removes the directory.
pub struct Etcd {
    /// Where clients connect.
    pub client_url: String,
    cluster: Cluster,
}

impl Etcd {
    /// Starts an empty etcd and waits until it serves. The first test to do so may download it (`scripts/etcd.sh`).
    pub async fn start() -> Result<Self> {
        let cluster = Cluster::start(1).await?;
        Ok(Self { client_url: cluster.client_url(0)?.to_owned(), cluster })
    }

    /// Kills the process as a power cut would; the data stays.
    pub fn kill(&mut self) -> Result<()> {
        self.cluster.kill(0)
    }

    /// Starts the process again on its data, at the same address.
    pub async fn restart(&mut self) -> Result<()> {
        self.cluster.restart(0).await
    }

    /// Stops the process where it stands: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.cluster.pause(0)
    }

    /// Lets a paused process go on.
    pub fn resume(&self) -> Result<()> {
        self.cluster.resume(0)
    }
}

/// The binary, which the first caller on a fresh machine fetches.
fn binary() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/etcd.sh");
    let output = Command::new(&script).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {}", script.display()))?;
    anyhow::ensure!(output.status.success(), "{} found no etcd", script.display());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
