//! The proxies, each with one thread and configured as its documentation advises for gRPC.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_tests::calls::Caller;
use weft_tests::port::Port;
use weft_tests::server::Server;
use weft_tests::tools;

use super::backend::Mesh;
use super::cell::Via;

/// How long a proxy may take until a call passes through it.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A way to the worker, and the process whose processor time counts.
pub(crate) struct Way {
    pub(crate) proxy: Via,
    pub(crate) caller: Caller,
    pub(crate) process: u32,
    /// The proxy's process, and the port that stays ours so that nobody else is given it before the proxy listens.
    server: Option<(Server, Port)>,
}

impl Way {
    pub(crate) const fn is_foreign(&self) -> bool {
        self.server.is_some()
    }
}

/// Starts every proxy before the mesh's worker; also tells which cannot be had, and why.
pub(crate) async fn start(mesh: &Mesh, folder: &Path) -> Result<(Vec<Way>, Vec<String>)> {
    let (mut ways, mut missing) = (Vec::new(), Vec::new());
    for proxy in Via::ALL {
        let own = match proxy {
            Via::Bare => Some(&mesh.worker),
            Via::Weft => Some(&mesh.router),
            _ => None,
        };
        match own {
            Some(weft) => {
                let caller = Caller::new(&weft.address)?;
                ways.push(Way { proxy, caller, process: weft.id(), server: None });
            }
            None => match foreign(proxy, mesh.worker.address.parse()?, folder).await {
                Ok(way) => ways.push(way),
                Err(reason) => missing.push(format!("{} is missing: {reason:#}", proxy.name())),
            },
        }
    }
    Ok((ways, missing))
}

async fn foreign(proxy: Via, backend: SocketAddr, folder: &Path) -> Result<Way> {
    let (program, port, folder) = (tools::proxy(proxy.name())?, Port::reserve()?, folder.join(proxy.name()));
    std::fs::create_dir_all(&folder)?;
    let (template, file) = match proxy {
        Via::Envoy => (include_str!("envoy.yaml"), "envoy.yaml"),
        Via::Nginx => (include_str!("nginx.conf"), "nginx.conf"),
        _ => (include_str!("haproxy.cfg"), "haproxy.cfg"),
    };
    let at = port.address();
    let text = [
        ("@HOST@", at.ip().to_string()),
        ("@PORT@", at.port().to_string()),
        ("@BACKEND_HOST@", backend.ip().to_string()),
        ("@BACKEND_PORT@", backend.port().to_string()),
        ("@FOLDER@", folder.display().to_string()),
    ]
    .iter()
    .fold(template.to_owned(), |text, (mark, value)| text.replace(mark, value));
    let file = folder.join(file);
    std::fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(&folder);
    match proxy {
        Via::Envoy => command.args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "error", "-c"]).arg(file),
        Via::Nginx => command.arg("-p").arg(&folder).arg("-c").arg(file),
        _ => command.args(["-db", "-f"]).arg(file),
    };
    let server = Server::start(proxy.name(), &mut command, &folder)?;
    let caller = Caller::new(&at.to_string())?;
    let ready = tokio::time::timeout(START_LIMIT, caller.wait_ready("identity")).await;
    ready
        .ok()
        .and_then(Result::ok)
        .with_context(|| format!("no call passes through it; it says:\n{}", server.log()))?;
    Ok(Way { proxy, caller, process: server.id(), server: Some((server, port)) })
}
