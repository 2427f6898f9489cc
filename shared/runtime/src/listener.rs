//! The accept loop: bounded connections, and patience when the process is out of file descriptors.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::connection::{self, Protocol};
use crate::process::Drain;
use crate::{ServerOptions, Tasks};

/// How long to wait before the next accept when the system cannot give a descriptor: an accept loop that spins would take
/// the processor from the very calls that would free one.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(50);

pub(crate) struct Acceptor {
    listener: TcpListener,
    protocol: Protocol,
    options: Arc<ServerOptions>,
    drain: Drain,
    tasks: Tasks,
    permits: Arc<Semaphore>,
}

impl Acceptor {
    pub(crate) fn new(
        listener: TcpListener,
        protocol: Protocol,
        options: ServerOptions,
        drain: Drain,
        tasks: Tasks,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(options.max_connections));
        Self { listener, protocol, options: Arc::new(options), drain, tasks, permits }
    }

    /// Accepts until the server closes. Whoever has connected by then is still served: the kernel has told them so.
    pub(crate) async fn run(self) {
        // Dropped after the listener, whose owner is `self`.
        let _closed = self.drain.closed();
        let this = self;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = this.listener.accept() => accepted,
                () = this.drain.closing() => return,
            };
            match accepted {
                Ok((stream, _)) => this.admit(stream),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections for now");
                    tokio::time::sleep(EXHAUSTED_WAIT).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(limit = self.options.max_connections, "connection limit reached: closing a new connection");
            return;
        };
        // Boxed where it begins: each of those around it would have room for it twice, and most connections are idle.
        let connection =
            Box::pin(connection::serve(stream, self.protocol.clone(), Arc::clone(&self.options), self.drain.clone()));
        let open = self.drain.connection();
        self.tasks.spawn("connection", async move {
            // A defect that one peer can reach must not end the process for the others.
            if AssertUnwindSafe(connection).catch_unwind().await.is_err() {
                tracing::error!("a connection panicked and is closed");
            }
            drop((permit, open));
        });
    }
}

/// Errors that concern the peer that was being accepted and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
