//! An Envoy in front of routers, as a deployment has one: it asks each for its health by gRPC, and gives each its turn.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::port::Port;
use crate::server::Server;
use crate::tools;

/// A call with this header goes to the same servers as members of a cluster whose health is asked for by a name that nobody has.
pub const UNHEALTHY: &str = "x-unhealthy";

/// An Envoy. Dropping it ends it.
pub struct Envoy {
    /// Where callers reach it.
    pub address: String,
    server: Server,
    /// Stays ours, so that nobody else is given it before Envoy listens.
    _port: Port,
    _folder: TempDir,
}

impl Envoy {
    /// Starts one with one thread in front of these addresses; calls pass once they have said that they are healthy.
    pub fn start(routers: &[String]) -> Result<Self> {
        let (program, port, folder) = (tools::proxy("envoy")?, Port::reserve()?, tempfile::tempdir()?);
        let endpoints: Vec<String> = routers.iter().map(|router| endpoint(router)).collect::<Result<_>>()?;
        let text = include_str!("envoy/front.yaml")
            .replace("@HOST@", &port.address().ip().to_string())
            .replace("@PORT@", &port.address().port().to_string())
            .replace("@ENDPOINTS@", &endpoints.join(", "));
        let file = folder.path().join("front.yaml");
        std::fs::write(&file, text)?;
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(folder.path());
        command.args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "warn", "-c"]).arg(file);
        let server = Server::start("envoy", &mut command, folder.path())?;
        Ok(Self { address: port.address().to_string(), server, _port: port, _folder: folder })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.server.id()
    }

    /// The last lines that it has printed.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

fn endpoint(address: &str) -> Result<String> {
    let address: SocketAddr = address.parse()?;
    let (host, port) = (address.ip(), address.port());
    Ok(format!("{{ endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }} }}"))
}
