//! A port on loopback that stays ours while nobody listens on it.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::TcpSocket;

/// A free port, kept for a process that is to listen on it, dies and listens on it again.
///
/// The socket is bound and never listens. Linux gives its port to nobody who asks for a free one, lets a listener that sets
/// `SO_REUSEADDR` (Go, Rust and Tokio all do) bind it, and refuses connections while there is no such listener.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Port {
    /// Takes one.
    pub fn reserve() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    /// Where it is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
