//! A TCP proxy that misbehaves when told to.

mod pump;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::port::Port;

/// The most connections at once; one more is closed. Each costs two descriptors, of which a process may have few.
const CONNECTIONS: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 256;
/// What a failed accept waits, so that it does not spin.
const RETRY: Duration = Duration::from_millis(10);

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Connections, old and new, stay open and carry nothing, not even their end. What was sent into it is held, as TCP
    /// would send it again, and goes on when the fault ends.
    BlackHole,
    /// A black hole for the connections that are open now; later ones work. So it is when something on the way forgets them.
    Strand,
    /// Everything arrives so much later, in order.
    Delay(Duration),
    /// Every connection, old and new, is reset.
    Reset,
    /// Requests pass, answers are lost. What lost some is reset when the fault ends, since its bytes no longer fit together.
    HalfOpen,
    /// Nobody listens: old connections are reset, new ones are refused.
    Refuse,
}

impl Fault {
    const fn cuts(self) -> bool {
        matches!(self, Self::Reset | Self::Refuse)
    }
}

/// The fault in force, and how often connections were cut: a cut counts even when it is over before anybody looks.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    fault: Fault,
    cuts: u64,
    /// How often the fault was set: what is as new as that is not stranded.
    changes: u64,
}

impl State {
    /// What is wrong for a connection that was opened at so many changes.
    const fn fault_of(self, opened: u64) -> Fault {
        match self.fault {
            Fault::Strand if opened == self.changes => Fault::None,
            Fault::Strand => Fault::BlackHole,
            other => other,
        }
    }
}

/// A proxy in front of one address. Dropping it ends its connections.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Starts one in front of `target`, which may be a URL.
    pub async fn start(target: &str) -> Result<Self> {
        let authority = target.rsplit("//").next().unwrap_or(target);
        let target = authority.parse().with_context(|| format!("{target} names no IP address and port"))?;
        let port = Port::reserve()?;
        let (state, current) = watch::channel(State::default());
        let address = port.address();
        let listener = listen(address)?;
        let mut tasks = JoinSet::new();
        // The port is the task's, so that it stays ours while a fault closes the listener.
        tasks.spawn(async move {
            let gate = Gate { port, target, state: current };
            gate.run(listener).await;
        });
        Ok(Self { address, state, _tasks: tasks })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Brings a fault about, at once and for open connections, too; [`Fault::None`] ends it.
    pub fn set(&self, fault: Fault) {
        self.state.send_modify(|state| {
            let cuts = state.cuts + u64::from(fault.cuts());
            *state = State { fault, cuts, changes: state.changes + 1 };
        });
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What accepts connections.
struct Gate {
    port: Port,
    target: SocketAddr,
    state: watch::Receiver<State>,
}

impl Gate {
    /// Runs until the proxy is dropped.
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            let refuses = self.state.borrow_and_update().fault == Fault::Refuse;
            if refuses {
                listener = None;
            } else if listener.is_none() {
                // Nothing but this proxy can have the port: it is reserved.
                listener = listen(self.port.address()).ok();
            }
            tokio::select! {
                changed = self.state.changed() => if changed.is_err() { return },
                Some(_) = connections.join_next() => {}
                Some(stream) = accept(listener.as_ref()) => {
                    if connections.len() < CONNECTIONS {
                        connections.spawn(pump::carry(stream, self.target, self.state.clone()));
                    }
                }
            }
        }
    }
}

/// The next connection; none while nobody listens.
async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    loop {
        match listener?.accept().await {
            Ok((stream, _)) => return Some(stream),
            // A connection that is gone again, or no descriptor is left: others may be luckier a little later.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
