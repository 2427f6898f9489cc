//! Triton, MLServer and Ray Serve, each started as its documentation says, on loopback.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use weft_tests::calls::Caller;
use weft_tests::port::Port;
use weft_tests::server::Server;
use weft_tests::tools;

use super::served::{self, BATCHED, MOST_ROWS, Served};

/// Who is compared with Weft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Triton,
    MlServer,
    Ray,
}

/// One of them, serving.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) caller: Caller,
    pub(crate) server: Server,
    // The ports stay ours, so that nobody else is given them before the server listens.
    _ports: Vec<Port>,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Triton => "triton",
            Self::MlServer => "mlserver",
            Self::Ray => "ray",
        }
    }

    /// Where it is installed, or why it is not.
    fn home(self) -> Result<PathBuf> {
        let missing = tools::tool(&format!("peers/{}.missing", self.name()));
        if let Ok(reason) = missing {
            bail!("{}", std::fs::read_to_string(reason)?.trim());
        }
        tools::tool(&format!("peers/{}", self.name())).context("run tests/scripts/peers.sh")
    }
}

impl Peer {
    /// Starts it with these models, and waits until it serves them.
    pub(crate) async fn start(kind: Kind, models: &[Served], threads: usize, folder: &Path) -> Result<Self> {
        let (home, folder) = (kind.home()?, folder.join(kind.name()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("models.json"), served::description(models, threads)?.to_string())?;
        let ports = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let numbers = [0, 1, 2].map(|at| ports[at].address().port());
        let mut command = match kind {
            Kind::Triton => triton(&home, &folder, models, threads, numbers[0])?,
            Kind::MlServer => mlserver(&home, &folder, models, numbers)?,
            Kind::Ray => ray(&home, &folder, numbers)?,
        };
        let server = Server::start(kind.name(), isolate(&mut command, &home, &folder), &folder)?;
        let caller = Caller::new(&format!("127.0.0.1:{}", numbers[0]))?;
        for model in models {
            caller.wait_ready(model.name).await.with_context(|| format!("{} says:\n{}", kind.name(), server.log()))?;
        }
        Ok(Self { kind, caller, server, _ports: ports.into() })
    }
}

/// Nothing of the caller's environment, and nothing written outside the folder.
fn isolate<'a>(command: &'a mut Command, home: &Path, folder: &Path) -> &'a mut Command {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/peers");
    let libraries = std::fs::read_to_string(home.join("libraries")).unwrap_or_default();
    command
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", home.join("bin").display()))
        .env("HOME", folder)
        .env("LD_LIBRARY_PATH", libraries)
        .env("PYTHONPATH", python)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("WEFT_PEER_MODELS", folder.join("models.json"))
        .env("RAY_AUTH_MODE", "disabled")
        .env("RAY_USAGE_STATS_ENABLED", "0")
        .current_dir(folder)
}

fn triton(home: &Path, folder: &Path, models: &[Served], threads: usize, port: u16) -> Result<Command> {
    let repository = folder.join("models");
    served::triton(&repository, models, threads)?;
    let mut command = Command::new(home.join("bin/tritonserver"));
    command
        .arg(format!("--model-repository={}", repository.display()))
        .arg(format!("--backend-directory={}", home.join("backends").display()))
        .args(["--allow-http=false", "--allow-metrics=false", "--grpc-address=127.0.0.1"])
        .arg(format!("--grpc-port={port}"));
    Ok(command)
}

/// How long MLServer's batching waits for company, which it must be told.
const MLSERVER_WAIT_MS: u8 = 1;

/// Each model also with the batching that its documentation describes. In one process: with workers of its own MLServer copies every request to another process, and is slower here.
fn mlserver(home: &Path, folder: &Path, models: &[Served], ports: [u16; 3]) -> Result<Command> {
    let settings = json!({
        "host": "127.0.0.1", "grpc_port": ports[0], "http_port": ports[1], "metrics_port": ports[2],
        "parallel_workers": 0, "debug": false,
    });
    std::fs::write(folder.join("settings.json"), settings.to_string())?;
    let batching = json!({ "max_batch_size": MOST_ROWS, "max_batch_time": f64::from(MLSERVER_WAIT_MS) / 1e3 });
    for (model, suffix) in models.iter().flat_map(|model| [(model, ""), (model, BATCHED)]) {
        let name = format!("{}{suffix}", model.name);
        let of_model = folder.join(&name);
        std::fs::create_dir_all(&of_model)?;
        let mut settings = json!({ "name": name, "implementation": "mlserver_runtime.Runtime" });
        if let (Some(settings), Some(batching), BATCHED) = (settings.as_object_mut(), batching.as_object(), suffix) {
            settings.extend(batching.clone());
        }
        std::fs::write(of_model.join("model-settings.json"), settings.to_string())?;
    }
    let mut command = Command::new(home.join("bin/mlserver"));
    command.arg("start").arg(folder);
    Ok(command)
}

/// Ray's proxy listens on all addresses, and cannot be told otherwise.
fn ray(home: &Path, folder: &Path, ports: [u16; 3]) -> Result<Command> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/peers/ray_server.py");
    let mut command = Command::new(home.join("bin/python"));
    command.arg(script).args(ports[..2].iter().map(u16::to_string)).arg(folder.join("ray"));
    Ok(command)
}
