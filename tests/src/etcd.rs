//! A real etcd process on loopback, for tests.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long etcd may take to be ready, on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The lines of etcd's log that a failed start shows.
const TAIL: usize = 20;

/// One member with a data directory of its own. Dropping it kills the process and removes the directory.
pub struct Etcd {
    /// Where clients connect.
    pub client_url: String,
    peer_url: String,
    binary: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    /// Starts an empty etcd and waits until it serves. The first test to do so may download it (`scripts/etcd.sh`).
    pub async fn start() -> Result<Self> {
        let binary = binary()?;
        let mut failure = None;
        // A port that was free may be taken by the time etcd binds it.
        for _ in 0..3 {
            let mut etcd = Self::new(binary.clone())?;
            match etcd.spawn() {
                Ok(()) => return Ok(etcd),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("etcd was not tried")))
    }

    /// Kills the process as a power cut would; the data stays.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts the process again on its data, at the same address.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()
    }

    /// Stops the process where it stands: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// Lets a paused process go on.
    pub fn resume(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn new(binary: PathBuf) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("weft-etcd-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        // Both are held while both are chosen, so that they differ.
        let (client, peer) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let url = |listener: &TcpListener| listener.local_addr().map(|address| format!("http://{address}"));
        Ok(Self { client_url: url(&client)?, peer_url: url(&peer)?, binary, dir, child: None })
    }

    fn spawn(&mut self) -> Result<()> {
        let mut child = Command::new(&self.binary)
            .env_clear()
            .args(["--name", "test", "--data-dir"])
            .arg(self.dir.join("data"))
            .args(["--listen-client-urls", &self.client_url, "--advertise-client-urls", &self.client_url])
            .args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url])
            .args(["--initial-cluster", &format!("test={}", self.peer_url)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        let log = child.stderr.take().context("stderr is piped")?;
        self.child = Some(child);

        let (ready, is_ready) = sync_channel(1);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let reader_tail = tail.clone();
        // Reads to the end, so that etcd never waits for us; ends when etcd does.
        std::thread::spawn(move || follow(log, &ready, &reader_tail));
        // This blocks the test's thread for some tenths of a second, which hurts nothing at a test's beginning.
        let problem = match is_ready.recv_timeout(START_LIMIT) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => "etcd is not ready in time",
            Err(RecvTimeoutError::Disconnected) => "etcd ended",
        };
        let tail: Vec<String> = tail.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        bail!("{problem}:\n{}", tail.join("\n"))
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let child = self.child.as_ref().context("etcd is not running")?;
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "kill {signal} failed");
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // A process that is already gone and a directory that is already removed are as well.
        let _ = self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn follow(log: ChildStderr, ready: &SyncSender<()>, tail: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if line.contains("ready to serve client requests") {
            // Told once; nobody listens after that.
            let _ = ready.try_send(());
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push_back(line);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
}

fn binary() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/etcd.sh");
    let output = Command::new(&script).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {}", script.display()))?;
    anyhow::ensure!(output.status.success(), "{} found no etcd", script.display());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
