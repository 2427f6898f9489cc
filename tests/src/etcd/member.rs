//! One etcd process: started, killed, stopped where it stands, and let go on.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::oneshot;
use weft_types::SystemClock;

use crate::port::Port;

/// How long etcd may take to be ready, on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The lines of etcd's log that a failed start shows.
const TAIL: usize = 20;

/// A member of a cluster. Dropping it kills the process.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) client_url: String,
    pub(super) peer_url: String,
    /// What the command line says beside names and addresses.
    pub(super) flags: Vec<String>,
    binary: PathBuf,
    data: PathBuf,
    running: Option<Running>,
    /// Both ports stay the member's while it is down.
    _ports: [Port; 2],
}

struct Running {
    child: Child,
    /// Told once, by the thread that reads the log; closed when the process ends.
    ready: Option<oneshot::Receiver<()>>,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Member {
    /// A member that is not running yet; `scheme` is its clients'.
    pub(super) fn new(name: String, scheme: &str, binary: PathBuf, data: PathBuf) -> Result<Self> {
        let ports = [Port::reserve()?, Port::reserve()?];
        Ok(Self {
            client_url: format!("{scheme}://{}", ports[0].address()),
            peer_url: format!("http://{}", ports[1].address()),
            name,
            flags: Vec::new(),
            binary,
            data,
            running: None,
            _ports: ports,
        })
    }

    /// How its peers know it.
    pub(super) fn introduction(&self) -> String {
        format!("{}={}", self.name, self.peer_url)
    }

    /// Whether its process exists, paused or not.
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts the process and does not wait: without a majority no member becomes ready.
    pub(super) fn spawn(&mut self) -> Result<()> {
        let mut child = Command::new(&self.binary)
            .env_clear()
            .args(["--name", &self.name, "--data-dir"])
            .arg(&self.data)
            .args(["--listen-client-urls", &self.client_url, "--advertise-client-urls", &self.client_url])
            .args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        let log = child.stderr.take().context("stderr is piped")?;
        let (sender, ready) = oneshot::channel();
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let reader_tail = Arc::clone(&tail);
        // Reads to the end, so that etcd never waits for us; ends when etcd does.
        std::thread::spawn(move || follow(log, sender, &reader_tail));
        self.running = Some(Running { child, ready: Some(ready), tail });
        Ok(())
    }

    /// Waits until it serves clients.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let running = self.running.as_mut().context("etcd is not running")?;
        let Some(ready) = running.ready.take() else { return Ok(()) };
        let problem = match tokio::time::timeout(START_LIMIT, ready).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => "ended",
            Err(_) => "is not ready in time",
        };
        let tail: Vec<String> = running.tail.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        bail!("etcd member {} {problem}:\n{}", self.name, tail.join("\n"))
    }

    /// Kills the process as a power cut would; the data stays.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.child.kill()?;
            running.child.wait()?;
        }
        Ok(())
    }

    /// Stops the process where it stands, and returns when its last thread has stopped.
    pub(super) fn pause(&self) -> Result<()> {
        let id = self.signal("STOP")?;
        let started = SystemClock::now();
        while !is_stopped(id)? {
            ensure!(started.elapsed() < START_LIMIT, "etcd does not stop");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Lets a paused process go on.
    pub(super) fn resume(&self) -> Result<()> {
        self.signal("CONT").map(drop)
    }

    fn signal(&self, name: &str) -> Result<u32> {
        let id = self.running.as_ref().context("etcd is not running")?.child.id();
        let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status()?;
        ensure!(status.success(), "kill -{name} failed");
        Ok(id)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A process that is already gone is as well.
        let _ = self.kill();
    }
}

/// Whether every thread has stopped: each does so by itself, a moment after the signal.
fn is_stopped(id: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread that has ended meanwhile does nothing either.
        let Ok(stat) = std::fs::read_to_string(thread?.path().join("stat")) else { continue };
        let state = stat.rsplit(") ").next().unwrap_or_default();
        if !state.starts_with('T') {
            return Ok(false);
        }
    }
    Ok(true)
}

fn follow(log: ChildStderr, ready: oneshot::Sender<()>, tail: &Mutex<VecDeque<String>>) {
    let mut ready = Some(ready);
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if line.contains("ready to serve client requests") {
            // Told once; whoever no longer waits does not mind.
            let _ = ready.take().map(|ready| ready.send(()));
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push_back(line);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
}
