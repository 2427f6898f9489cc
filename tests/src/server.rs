//! A foreign server's process, ended with all that it started.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a server may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// A process that leads a group of its own. Dropping it ends the group.
pub struct Server {
    child: Option<Child>,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it prints goes to `<name>.log` in this folder.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self { child: Some(child), log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills it and all that it started, as a crash would.
    pub fn kill(mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(id) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process_group(id, Signal::KILL);
        }
        let _ = child.wait();
    }

    /// The last lines that it has printed.
    pub fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let Some(id) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
        // It may have ended by itself; what it started may still be there.
        let _ = kill_process(id, Signal::TERM);
        let (sender, ended) = sync_channel(1);
        let waiting = std::thread::spawn(move || {
            let _ = child.wait();
            let _ = sender.send(());
        });
        let _ = ended.recv_timeout(GRACE);
        let _ = kill_process_group(id, Signal::KILL);
        let _ = waiting.join();
    }
}
