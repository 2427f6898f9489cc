//! The server that every service listens with.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use weft_telemetry::Scope;

use crate::connection::Protocol;
use crate::guard::{Guard, Limits};
use crate::listener::Acceptor;
use crate::process::Drain;
use crate::{Api, Tasks};

/// The bounds of a server. The defaults suit a server inside the mesh.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Open connections; one more is closed at once.
    pub max_connections: usize,
    /// How long a new connection may take to speak HTTP/2.
    pub handshake_timeout: Duration,
    /// Concurrent calls on one connection; one more is refused with `REFUSED_STREAM`.
    pub max_streams: u32,
    /// Decoded size of a call's headers.
    pub max_header_bytes: u32,
    /// Size of one message; a longer one is refused by its length prefix.
    pub max_message_bytes: u32,
    /// How long a connection may be silent before it is pinged.
    pub keepalive_interval: Duration,
    /// How long the answer to that ping may take.
    pub keepalive_timeout: Duration,
    /// After about so long (a tenth more or less, so that not all come back at once) a connection gets GOAWAY: its calls go on, new ones
    /// open another, perhaps to another server behind the same name (gRFC A9). `None` leaves connections alone.
    pub max_connection_age: Option<Duration>,
    /// The deadline of a unary call that brings none.
    pub default_timeout: Duration,
    /// The longest deadline of any call.
    pub max_timeout: Duration,
    /// HTTP/2 flow-control window of one call.
    pub stream_window: u32,
    /// HTTP/2 flow-control window of one connection. When large messages of several calls fill it, they come in fragments.
    pub connection_window: u32,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            max_connections: 10_000,
            handshake_timeout: Duration::from_secs(5),
            max_streams: 1_000,
            max_header_bytes: 16 << 10,
            max_message_bytes: 64 << 20,
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            max_connection_age: None,
            default_timeout: Duration::from_secs(30),
            max_timeout: Duration::from_secs(600),
            stream_window: 1 << 20,
            connection_window: 64 << 20,
        }
    }
}

/// A bound listener that does not serve yet: bind early, so that addresses are known and a taken port is a start-up error.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
}

impl Server {
    /// Binds.
    pub async fn bind(options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, options })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves gRPC until it is drained through the returned handle.
    pub fn serve(self, api: Api, scope: Scope, tasks: &Tasks) -> Result<Drain, tonic_reflection::server::Error> {
        let (answers, methods) = api.build()?;
        let limits = Limits {
            message_bytes: self.options.max_message_bytes,
            default_timeout: self.options.default_timeout,
            max_timeout: self.options.max_timeout,
        };
        let drain = Drain::new();
        let guard = Arc::new(Guard { answers, methods, scope, limits, drain: drain.clone() });
        Ok(self.accept(Protocol::Grpc(guard), drain, tasks))
    }

    /// Serves plain HTTP/1.1 (probes and metrics) until it is drained.
    pub fn serve_http(self, router: axum::Router, tasks: &Tasks) -> Drain {
        self.accept(Protocol::Http(router), Drain::new(), tasks)
    }

    fn accept(self, protocol: Protocol, drain: Drain, tasks: &Tasks) -> Drain {
        let acceptor = Acceptor::new(self.listener, protocol, self.options, drain.clone(), tasks.clone());
        tasks.spawn("accept", acceptor.run());
        drain
    }
}
