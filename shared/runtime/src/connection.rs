//! One connection from its first byte to its GOAWAY.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::RngExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::ServerOptions;
use crate::guard::Guard;
use crate::limit::Limited;
use crate::process::Drain;

/// What is spoken on a listener.
#[derive(Clone)]
pub(crate) enum Protocol {
    Grpc(Arc<Guard>),
    Http(axum::Router),
}

/// Bounds that are the same for every server: hyper's defaults where they are named for the reader, ours where they differ.
const MAX_FRAME_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;
/// A client that cancels many calls at once must not cost its neighbours the connection, and a rapid-reset attack must not
/// be free: h2's own defaults (20 and 1,024) serve the second only.
const MAX_PENDING_RESETS: usize = 4_096;

/// Serves a connection until the peer leaves, the handshake takes too long, or the drain's grace is over.
pub(crate) async fn serve(stream: TcpStream, protocol: Protocol, options: Arc<ServerOptions>, drain: Drain) {
    // Without it, Nagle's algorithm holds back the small frames that answers end with.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set nodelay");
    }
    let spoke = Arc::new(AtomicBool::new(false));
    let io = Watched { inner: stream, read: 0, enough: 0, spoke: Arc::clone(&spoke) };
    match protocol {
        Protocol::Grpc(guard) => {
            // The preface and the header of the SETTINGS frame that must follow.
            let io = Watched { enough: 24 + 9, ..io };
            // Boxed where it begins: hyper and the runtime move a call's future several times, and it is kilobytes long.
            let service = hyper::service::service_fn(move |request| Box::pin(Arc::clone(&guard).call(request)));
            let connection = std::pin::pin!(http2(&options).serve_connection(TokioIo::new(io), service));
            run(connection, hyper::server::conn::http2::Connection::graceful_shutdown, spoke, &options, drain).await;
        }
        Protocol::Http(router) => {
            let io = Watched { enough: 1, ..io };
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(options.handshake_timeout);
            let connection =
                std::pin::pin!(builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(router)));
            run(connection, hyper::server::conn::http1::Connection::graceful_shutdown, spoke, &options, drain).await;
        }
    }
}

fn http2(options: &ServerOptions) -> hyper::server::conn::http2::Builder<Limited> {
    let mut builder = hyper::server::conn::http2::Builder::new(Limited);
    builder
        .timer(TokioTimer::new())
        // gRPC has no use for it.
        .auto_date_header(false)
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(options.max_header_bytes)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_PENDING_RESETS);
    builder
}

async fn run<C, E>(
    mut connection: Pin<&mut C>,
    goaway: fn(Pin<&mut C>),
    spoke: Arc<AtomicBool>,
    options: &ServerOptions,
    drain: Drain,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let handshake = tokio::time::sleep(options.handshake_timeout);
    tokio::pin!(handshake);
    let begun = drain.begun();
    let age = options.max_connection_age.map(|age| age.mul_f64(rand::rng().random_range(0.9..1.1)));
    let aged = tokio::time::sleep(age.unwrap_or_default());
    tokio::pin!(aged);
    let mut shaking = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return log_end(ended),
            () = begun.cancelled() => break,
            () = aged.as_mut(), if age.is_some() => break,
            () = handshake.as_mut(), if shaking => {
                shaking = false;
                if !spoke.load(Ordering::Acquire) {
                    tracing::debug!("closing a connection that did not speak in time");
                    return;
                }
            }
        }
    }
    // GOAWAY: calls in flight go on, new ones are for another connection. What outlives a drain's grace is dropped with it, and
    // so is a peer that never said a word.
    goaway(connection.as_mut());
    tokio::select! {
        ended = connection => log_end(ended),
        () = drain.over() => {}
    }
}

fn log_end<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Counts what the peer has sent, until it is enough to say that it speaks the protocol.
struct Watched {
    inner: TcpStream,
    read: usize,
    enough: usize,
    spoke: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if self.read < self.enough {
            self.read += buffer.filled().len() - before;
            if self.read >= self.enough {
                self.spoke.store(true, Ordering::Release);
            }
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }
}
