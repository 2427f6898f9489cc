//! One connection of a channel: connecting once for all who wait, and not again before the backoff is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    pub(crate) signs: Arc<Signs>,
    _driver: Running,
}

/// What a connection's calls and the task that drives it tell each other.
#[derive(Default)]
pub(crate) struct Signs {
    ended: AtomicBool,
    /// Calls that wait for their answer to begin.
    waiting: AtomicUsize,
    /// Answers that have begun.
    heard: AtomicU64,
}

/// A call that waits for its answer to begin, until it is dropped.
pub(crate) struct Waiting<'a>(&'a Signs);

impl Signs {
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }
}

impl Waiting<'_> {
    /// The answer begins.
    pub(crate) fn hear(self) {
        self.0.heard.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a channel's connections lead, and how they are made.
pub(crate) struct Peer {
    pub(crate) authority: Authority,
    pub(crate) options: ChannelOptions,
    pub(crate) tasks: Tasks,
    /// Connections on which nothing is heard that should be.
    silent: Arc<AtomicUsize>,
}

impl Peer {
    pub(crate) fn new(authority: Authority, options: ChannelOptions, tasks: Tasks) -> Self {
        Self { authority, options, tasks, silent: Arc::default() }
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed) > 0
    }
}

/// A connection on which nothing is heard, until it is dropped.
struct Silent(Arc<AtomicUsize>);

impl Silent {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
        self.live.load_full().filter(|live| !live.signs.ended.load(Ordering::Relaxed))
    }

    /// The open connection, or a new one.
    pub(crate) async fn live(&self, peer: &Peer) -> Result<Arc<Live>, Error> {
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
        match tokio::time::timeout(peer.options.connect_timeout, connect(peer)).await {
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
                tracing::debug!(authority = %peer.authority, error, "cannot connect");
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

pub(crate) async fn connect(peer: &Peer) -> Result<Live, ConnectFailure> {
    let stream = TcpStream::connect(peer.authority.as_str()).await?;
    stream.set_nodelay(true)?;
    let (sender, mut connection) = h2::client::Builder::new()
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
    // There is one for whoever asks first.
    let Some(mut pings) = connection.ping_pong() else { return Err(ConnectFailure::Other("no pings".to_owned())) };
    // A process that stands still still has its connections accepted, by its machine: only an answer tells that it lives.
    tokio::select! {
        ended = &mut connection => {
            let why = ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
            return Err(ConnectFailure::Other(why));
        }
        pong = pings.ping(Ping::opaque()) => {
            pong.map_err(|error| ConnectFailure::Other(error.to_string()))?;
        }
    }
    let signs = Arc::new(Signs::default());
    let watch = Watch { signs: Arc::clone(&signs), silent: Arc::clone(&peer.silent), options: peer.options.clone() };
    let driver = peer.tasks.attach(drive(connection, pings, watch));
    Ok(Live { sender, signs, _driver: driver })
}

/// Moves a connection's frames until it ends, or does not answer: dropping it then ends the calls on it.
async fn drive(connection: Connection<TcpStream, Bytes>, pings: PingPong, watch: Watch) {
    tokio::select! {
        outcome = connection => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "connection ended");
            }
        }
        () = watch.unanswered(pings) => tracing::debug!("a connection does not answer"),
    }
    watch.signs.ended.store(true, Ordering::Relaxed);
}

/// Sees whether the other side of a connection lives.
struct Watch {
    signs: Arc<Signs>,
    silent: Arc<AtomicUsize>,
    options: ChannelOptions,
}

impl Watch {
    /// Returns once a ping is not answered in time. One is sent when calls wait and nothing is heard, and now and then in any case; a
    /// side that does not even answer that soon counts as silent until it does.
    async fn unanswered(&self, mut pings: PingPong) {
        loop {
            self.quiet().await;
            let pong = pings.ping(Ping::opaque());
            tokio::pin!(pong);
            let patience = self.options.silence_limit.min(self.options.keepalive_timeout);
            let outcome = match tokio::time::timeout(patience, pong.as_mut()).await {
                Ok(outcome) => Ok(outcome),
                Err(_) => {
                    let _silent = Silent::new(&self.silent);
                    tokio::time::timeout(self.options.keepalive_timeout - patience, pong).await
                }
            };
            match outcome {
                Ok(Ok(_)) => {}
                // The connection tells its own end.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return,
            }
        }
    }

    /// Returns when it is time for a ping.
    async fn quiet(&self) {
        let look = self.options.silence_limit.min(self.options.keepalive_interval);
        let mut passed = Duration::ZERO;
        while passed < self.options.keepalive_interval {
            let heard = self.signs.heard.load(Ordering::Relaxed);
            tokio::time::sleep(look).await;
            passed += look;
            if self.signs.waiting.load(Ordering::Relaxed) > 0 && self.signs.heard.load(Ordering::Relaxed) == heard {
                return;
            }
        }
    }
}
