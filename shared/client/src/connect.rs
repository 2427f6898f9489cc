//! One connection of a channel: connecting once for all who wait, and not again before the backoff is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong};
use http::uri::Authority;
use rand::RngExt as _;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use weft_runtime::{Running, Tasks};
use weft_types::{Backoff, Error, Reason, SystemClock};

use crate::{ChannelOptions, ChannelState};

const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const MAX_FRAME_BYTES: u32 = 1 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;
/// Decoded size of an answer's headers.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Calls that may begin before the server has said how many it takes at once.
const FIRST_STREAMS: usize = 100;
/// Calls that were cancelled and whose late frames are still expected: h2 forgets the oldest beyond this many.
const MAX_RESET_STREAMS: usize = 4_096;

/// An open connection; it closes when the last call on it has ended and the channel has let go of it.
pub(crate) struct Live {
    pub(crate) sender: SendRequest<Bytes>,
    ended: Arc<AtomicBool>,
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
    failing: AtomicBool,
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
            failing: AtomicBool::new(false),
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
        } else if self.failing.load(Ordering::Relaxed) {
            ChannelState::TransientFailure
        } else {
            ChannelState::Idle
        }
    }

    /// The connection, if it is open.
    pub(crate) fn open(&self) -> Option<Arc<Live>> {
        self.live.load_full().filter(|live| !live.ended.load(Ordering::Relaxed))
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
                self.failing.store(false, Ordering::Relaxed);
                Ok(live)
            }
            outcome => {
                let error = match outcome {
                    Ok(failed) => failed.err().map(|error| error.to_string()).unwrap_or_default(),
                    Err(_) => "timed out".to_owned(),
                };
                let wait = failure.backoff.next(rand::rng().random());
                failure.retry_at = Some(SystemClock::now() + wait);
                self.failing.store(true, Ordering::Relaxed);
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
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .enable_push(false)
        // h2 would give the connection up with the 1,024th late answer to a call that it has forgotten, counted over the connection's
        // life: a worker that stood still for a second has many. Each costs it a frame, as it costs us one.
        .max_local_error_reset_streams(None)
        .handshake(stream)
        .await
        .map_err(|error| ConnectFailure::Other(error.to_string()))?;
    let ended = Arc::new(AtomicBool::new(false));
    let driver = tasks.attach(drive(connection, Arc::clone(&ended), options.clone()));
    Ok(Live { sender, ended, _driver: driver })
}

/// Moves a connection's frames until it ends, or does not answer: dropping it then ends the calls on it.
async fn drive(mut connection: Connection<TcpStream, Bytes>, ended: Arc<AtomicBool>, options: ChannelOptions) {
    let pings = connection.ping_pong();
    tokio::select! {
        outcome = connection => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = unanswered(pings, &options) => tracing::debug!("a connection does not answer"),
    }
    ended.store(true, Ordering::Relaxed);
}

/// Returns once a ping is not answered in time.
async fn unanswered(pings: Option<PingPong>, options: &ChannelOptions) {
    // There is one for whoever asks first.
    let Some(mut pings) = pings else { return };
    loop {
        tokio::time::sleep(options.keepalive_interval).await;
        match tokio::time::timeout(options.keepalive_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection tells its own end.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
