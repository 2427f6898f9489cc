//! Real `weft` processes, as an operator would start them.

use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::calls::until;

/// How long a process may take to say where it listens.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A `weft` process. Dropping it kills it.
pub struct Weft {
    /// Where its gRPC server listens.
    pub address: String,
    child: Child,
    log: Arc<Mutex<String>>,
}

/// The binary beside the test's own: `make test` builds it first.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).map(|folder| folder.join("weft")).find(|path| path.is_file());
    found.context("the weft binary is not built; run `make test`, or `cargo build --release --workspace` first")
}

/// Where a process listens that shall find a port itself.
pub const FREE: &str = "127.0.0.1:0";

/// Flags for the address of the gRPC server, with no HTTP beside it.
fn listen<'a>(command: &str, address: &'a str) -> Vec<&'a str> {
    match command {
        "dev" => vec!["--router-listen", address],
        _ => vec!["--listen", address, "--http", ""],
    }
}

impl Weft {
    /// Starts `weft <command>` with these flags on a free port, and waits until it listens.
    pub fn start(command: &str, flags: &[&str]) -> Result<Self> {
        Self::start_at(FREE, command, flags)
    }

    /// Starts `weft <command>` with these flags at this address, and waits until it listens.
    pub fn start_at(address: &str, command: &str, flags: &[&str]) -> Result<Self> {
        Self::launch(Command::new(binary()?).env_clear(), address, command, flags)
    }

    /// As [`Self::start`], with these variables in its environment.
    pub fn start_in(environment: &[(&str, &str)], command: &str, flags: &[&str]) -> Result<Self> {
        Self::launch(Command::new(binary()?).env_clear().envs(environment.iter().copied()), FREE, command, flags)
    }

    /// As [`Self::start`], with one thread for everything that is asynchronous, and keeping memory that was freed, as a router is deployed
    /// that carries large tensors (docs/benchmarks.md).
    pub fn start_single(command: &str, flags: &[&str]) -> Result<Self> {
        let mut program = Command::new(binary()?);
        program.env_clear().env("MIMALLOC_PURGE_DELAY", "-1");
        Self::launch(&mut program, FREE, command, &[flags, &["--serving-threads", "1"]].concat())
    }

    fn launch(program: &mut Command, address: &str, command: &str, flags: &[&str]) -> Result<Self> {
        let mut child = program
            .arg(command)
            .args(flags)
            .args(listen(command, address))
            .args(["--lame-duck", "200ms"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = Arc::new(Mutex::new(String::new()));
        let lines = child.stderr.take().context("stderr is piped")?;
        let listening = follow(lines, &log, command == "dev");
        let mut weft = Self { address: String::new(), child, log };
        match listening.recv_timeout(START_LIMIT) {
            Ok(address) => weft.address = address,
            Err(_) => bail!("weft {command} did not listen:\n{}", weft.log()),
        }
        Ok(weft)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where one of its services says that it serves gRPC or HTTP.
    pub fn address_of(&self, protocol: &str, service: &str) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(&format!("serving {protocol} service={service} ")))?;
        line.split("address=").nth(1).map(|address| address.trim().to_owned())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) -> Result<()> {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status()?;
        if sent.success() { Ok(()) } else { bail!("cannot send {name} to weft") }
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let mut ended = None;
        until("the end of a process", async || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        })
        .await
        .with_context(|| self.log())?;
        ended.context("it has ended")
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the log, and tells where gRPC is served as soon as the log says so.
fn follow(lines: impl Read + Send + 'static, log: &Arc<Mutex<String>>, is_dev: bool) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1);
    let log = Arc::clone(log);
    // Reads to the end, so that the process never waits for its reader.
    std::thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            // `weft dev` serves four times; callers talk to its router.
            let wanted = line.contains("serving gRPC") && (!is_dev || line.contains("service=router"));
            if let Some(address) = line.split("address=").nth(1).filter(|_| wanted) {
                // Only the first one counts; later ones find the channel full or closed.
                let _ = sender.try_send(address.split_whitespace().next().unwrap_or_default().to_owned());
            }
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    });
    receiver
}
