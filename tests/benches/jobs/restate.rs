//! Restate's server with a service of its Python SDK that does the same jobs, against the same ledger.
//!
//! The server is one node with its defaults: 24 partitions, each transition in a log that is flushed to disk (`fsync`) before it counts. The second
//! setting flushes nothing, which is no protection against a power cut, and shows what the disk costs. The service runs in as many processes as there
//! are processors: one alone is busy before the server is. Callers speak HTTP/1.1 on connections that stay open, as Restate's ingress documents.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use weft_tests::calls::until;
use weft_tests::ledger::Client;
use weft_tests::port::Port;
use weft_tests::server::Server;
use weft_tests::tools;

use super::figures::{Figures, Load, Way, closed};

/// What differs between the two: settings of the server's environment.
const SETTINGS: [(&str, &[(&str, &str)]); 2] = [
    ("restate", &[]),
    (
        "restate, no fsync",
        &[
            ("RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC", "true"),
            ("RESTATE_METADATA_SERVER__ROCKSDB_DISABLE_WAL_FSYNC", "true"),
        ],
    ),
];

/// Every load in every setting.
pub(crate) async fn run(loads: &[Load], folder: &Path) -> Result<Vec<Way>> {
    let home = home()?;
    let mut ways = Vec::new();
    for (name, settings) in SETTINGS {
        // A fresh folder each time: the journal of the run before would be read again.
        let folder = tempfile::tempdir_in(folder)?;
        let peer = Peer::start(&home, settings, folder.path()).await?;
        let jobs = peer.measure("run", loads).await.with_context(|| peer.log())?;
        let undone = peer.measure("undo", loads).await.with_context(|| peer.log())?;
        ways.push(Way { name: name.to_owned(), jobs, undone });
    }
    Ok(ways)
}

/// Where it is installed, or why it is not.
fn home() -> Result<PathBuf> {
    if let Ok(reason) = tools::tool("peers/restate.missing") {
        bail!("{}", std::fs::read_to_string(reason)?.trim());
    }
    tools::tool("peers/restate").context("run tests/scripts/peers.sh restate")
}

/// Server, service and ledger, ended in this order.
struct Peer {
    server: Server,
    service: Server,
    _ledger: Server,
    ingress: String,
    client: Client,
    numbers: Arc<AtomicU64>,
    // The ports stay ours, so that nobody else is given them before they are listened on.
    _ports: Vec<Port>,
}

impl Peer {
    async fn start(home: &Path, settings: &[(&str, &str)], folder: &Path) -> Result<Self> {
        let ports: Vec<Port> = (0..5).map(|_| Port::reserve()).collect::<Result<_>>()?;
        let at: Vec<String> = ports.iter().map(|port| port.address().to_string()).collect();
        let [ingress, admin, fabric, endpoint, ledger] = at.as_slice() else { bail!("five ports") };
        let serving =
            Server::start("ledger", Command::new(env!("CARGO_BIN_EXE_ledger")).args([ledger, "memory"]), folder)?;
        let processes = std::thread::available_parallelism()?.get().to_string();
        let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/peers");
        let port = ports[3].address().port().to_string();
        let mut service = Command::new(home.join("bin/granian"));
        service
            .args(["--interface", "asginl", "--http", "2", "--no-ws", "--host", "127.0.0.1", "--port", &port])
            .args(["--workers", &processes, "restate_jobs:app"])
            .env("PYTHONPATH", python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("WEFT_PEER_LEDGER", ledger);
        let service = Server::start("service", isolate(&mut service, home, folder), folder)?;
        let mut server = Command::new(home.join("bin/restate-server"));
        server
            .env("RESTATE_BASE_DIR", folder.join("data"))
            .env("RESTATE_DISABLE_TELEMETRY", "true")
            .env("RESTATE_INGRESS__BIND_ADDRESS", ingress)
            .env("RESTATE_ADMIN__BIND_ADDRESS", admin)
            .env("RESTATE_BIND_ADDRESS", fabric)
            .env("RESTATE_LOG_DISABLE_ANSI_CODES", "true");
        isolate(&mut server, home, folder).envs(settings.iter().copied());
        let server = Server::start("restate", &mut server, folder)?;
        let numbers = Arc::new(AtomicU64::new(1));
        let client = Client::new(ledger)?;
        let peer = Self { server, service, _ledger: serving, ingress: ingress.clone(), client, numbers, _ports: ports };
        peer.register(admin, endpoint).await.with_context(|| peer.log())?;
        Ok(peer)
    }

    /// Tells the server where the service is, as soon as both answer, and has it do a job.
    async fn register(&self, admin: &str, endpoint: &str) -> Result<()> {
        let deployment = json!({ "uri": format!("http://{endpoint}") });
        until("Restate to know the service", async || {
            let known = async { Http::connect(admin).await?.post("/deployments", &deployment).await };
            known.await.is_ok()
        })
        .await?;
        until("Restate to do a job", async || {
            let job = async { Http::connect(&self.ingress).await?.post("/Jobs/run", &json!({ "id": "first" })).await };
            job.await.is_ok()
        })
        .await
    }

    async fn measure(&self, handler: &str, loads: &[Load]) -> Result<Vec<Figures>> {
        let mut all = Vec::new();
        for load in loads {
            let before = self.client.totals().await?;
            let figures = self.load(handler, *load).await?;
            let (after, jobs) = (self.client.totals().await?, figures.slice.times.len() as u64);
            let (actions, undos) = (after.actions - before.actions, after.undos - before.undos);
            let expected = if handler == "run" { (3 * jobs, 0) } else { (2 * jobs, 2 * jobs) };
            ensure!((actions, undos) == expected, "{jobs} jobs had {actions} actions and {undos} undos");
            all.push(figures);
        }
        Ok(all)
    }

    async fn load(&self, handler: &str, load: Load) -> Result<Figures> {
        let lane = || {
            // One connection for each lane, opened with its first job.
            let (connection, ingress) = (Arc::new(Mutex::new(None)), self.ingress.clone());
            let path = format!("/Jobs/{handler}");
            move |number: u64| {
                let (connection, ingress, path) = (Arc::clone(&connection), ingress.clone(), path.clone());
                async move {
                    let mut connection = connection.lock().await;
                    let mut http = match connection.take() {
                        Some(http) => http,
                        None => Http::connect(&ingress).await?,
                    };
                    let answer = http.post(&path, &json!({ "id": number.to_string() })).await?;
                    ensure!(answer.get("lengths").is_some() || answer["undone"] == 2, "a wrong answer: {answer}");
                    *connection = Some(http);
                    Ok(())
                }
            }
        };
        // Numbers go on, so that no key comes twice.
        let figures = closed(load, &self.numbers, lane).await?;
        ensure!(self.numbers.load(Ordering::Relaxed) > 1 && !figures.slice.times.is_empty(), "no job ended");
        Ok(figures)
    }

    fn log(&self) -> String {
        format!("the server says:\n{}\nthe service says:\n{}", self.server.log(), self.service.log())
    }
}

/// Nothing of the caller's environment, and nothing written outside the folder.
fn isolate<'a>(command: &'a mut Command, home: &Path, folder: &Path) -> &'a mut Command {
    let kept: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command.env_clear();
    for (name, value) in kept {
        command.env(name, value.unwrap_or_default());
    }
    let path = format!("{}:/usr/bin:/bin", home.join("bin").display());
    command.env("PATH", path).env("HOME", folder).current_dir(folder)
}

/// A connection that speaks HTTP/1.1, one request at a time.
struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Posts JSON, and reads JSON of a known length.
    async fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        self.stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = None;
        loop {
            line.clear();
            self.stream.read_line(&mut line).await?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = Some(value.trim().parse()?);
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = vec![0; length.context("an answer without a length")?];
        self.stream.read_exact(&mut answer).await?;
        ensure!(status.starts_with('2'), "status {status}: {}", String::from_utf8_lossy(&answer));
        Ok(serde_json::from_slice(&answer)?)
    }
}
