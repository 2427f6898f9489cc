//! One connection of a channel: connecting once for all who wait, and not again before the backoff is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::uri::Authority;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::RngExt as _;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use weft_runtime::{Running, Tasks};
use weft_types::{Backoff, Error, Reason, SystemClock};

use crate::body::RequestBody;
use crate::{ChannelOptions, ChannelState};

const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const MAX_FRAME_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;
/// Calls that were cancelled and whose late frames are still expected: h2 forgets the oldest beyond this many.
const MAX_RESET_STREAMS: usize = 4_096;

/// An open connection; it closes when the last call on it has ended and the channel has let go of it.
pub(crate) struct Live {
    pub(crate) sender: SendRequest<RequestBody>,
    _driver: Running,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailure {
    /// What was told is no address, so nobody can be there.
    #[error("not an address")]
    Address,
    /// The machine answers and nobody listens there: the process has ended, or has not begun.
    #[error("connection refused")]
    Refused,
    /// Anything else, which may be the network's doing.
    #[error("{0}")]
    Other(String),
}

impl From<std::io::Error> for ConnectFailure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// A place for one connection.
pub(crate) struct Slot {
    live: ArcSwapOption<Live>,
    /// Held while connecting, so that one connect serves all who wait for it.
    connecting: Mutex<Failure>,
    failing: std::sync::atomic::AtomicBool,
}

/// How the last connects went.
struct Failure {
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Default for Slot {
    fn default() -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Self {
            live: ArcSwapOption::empty(),
            connecting: Mutex::new(Failure { backoff, retry_at: None }),
            failing: std::sync::atomic::AtomicBool::new(false),
        }
    }
}

impl Slot {
    /// A place with a connection in it.
    pub(crate) fn with(live: Live) -> Self {
        Self { live: ArcSwapOption::from_pointee(live), ..Self::default() }
    }

    pub(crate) fn state(&self) -> ChannelState {
        if self.open().is_some() {
            ChannelState::Ready
        } else if self.failing.load(std::sync::atomic::Ordering::Relaxed) {
            ChannelState::TransientFailure
        } else {
            ChannelState::Idle
        }
    }

    /// The connection, if it is open.
    pub(crate) fn open(&self) -> Option<Arc<Live>> {
        self.live.load_full().filter(|live| !live.sender.is_closed())
    }

    /// The open connection, or a new one.
    pub(crate) async fn live(
        &self,
        authority: &Authority,
        options: &ChannelOptions,
        tasks: &Tasks,
    ) -> Result<Arc<Live>, Error> {
        if let Some(live) = self.open() {
            return Ok(live);
        }
        let mut failure = self.connecting.lock().await;
        if let Some(live) = self.open() {
            return Ok(live);
        }
        let now = SystemClock::now();
        if let Some(wait) =
            failure.retry_at.and_then(|at| at.checked_duration_since(now)).filter(|wait| !wait.is_zero())
        {
            return Err(unreachable_peer().retry_after(wait));
        }
        match tokio::time::timeout(options.connect_timeout, connect(authority, options, tasks)).await {
            Ok(Ok(live)) => {
                let live = Arc::new(live);
                self.live.store(Some(Arc::clone(&live)));
                failure.backoff.reset();
                failure.retry_at = None;
                self.failing.store(false, std::sync::atomic::Ordering::Relaxed);
                Ok(live)
            }
            outcome => {
                let error = match outcome {
                    Ok(failed) => failed.err().map(|error| error.to_string()).unwrap_or_default(),
                    Err(_) => "timed out".to_owned(),
                };
                let wait = failure.backoff.next(rand::rng().random());
                failure.retry_at = Some(SystemClock::now() + wait);
                self.failing.store(true, std::sync::atomic::Ordering::Relaxed);
                tracing::debug!(%authority, error, "cannot connect");
                Err(unreachable_peer())
            }
        }
    }

    /// Lets go of a connection that failed a call, unless it was replaced already. It may be closing in order (GOAWAY) while
    /// older calls on it still run: those hold it open themselves.
    pub(crate) fn forget(&self, failed: &Arc<Live>) {
        let current = self.live.load();
        if current.as_ref().is_some_and(|live| Arc::ptr_eq(live, failed)) {
            self.live.compare_and_swap(&current, None);
        }
    }
}

fn unreachable_peer() -> Error {
    Error::new(Reason::NoReadyReplica, "cannot connect")
}

pub(crate) async fn connect(
    authority: &Authority,
    options: &ChannelOptions,
    tasks: &Tasks,
) -> Result<Live, ConnectFailure> {
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectFailure::Other(error.to_string()))?;
    let driver = tasks.attach(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
    Ok(Live { sender, _driver: driver })
}
