//! One connection: a pump for each direction, both under the fault in force.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use weft_types::SystemClock;

use super::{Fault, State};

/// The longest piece that is carried at once.
const CHUNK: usize = 16 * 1024;
/// The pieces of one direction that wait out a delay or a black hole; beyond it the sender waits.
const CHUNKS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

/// Why a pump stopped.
enum End {
    /// The sender has said all and the receiver was told so.
    Finished,
    /// One side is gone.
    Broken,
}

/// A piece on its way, with the time at which it arrives; an empty one is the sender's end.
struct Piece {
    bytes: Vec<u8>,
    due: Instant,
}

/// The faults of one connection.
#[derive(Clone)]
struct Faults {
    state: watch::Receiver<State>,
    opened: u64,
}

impl Faults {
    fn now(&mut self) -> Fault {
        self.state.borrow_and_update().fault_of(self.opened)
    }

    /// Waits until such a fault is in force.
    async fn until(&mut self, wanted: impl Fn(Fault) -> bool) {
        let opened = self.opened;
        if self.state.wait_for(|now| wanted(now.fault_of(opened))).await.is_err() {
            // The proxy is gone, and this task is about to be.
            std::future::pending::<()>().await;
        }
    }
}

/// Carries a connection to `target` until it ends or is cut.
pub(super) async fn carry(mut caller: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    // A cut before this counts for those who were connected then.
    let State { cuts, changes: opened, .. } = *state.borrow_and_update();
    let mut cut = state.clone();
    let cut = async move {
        // An error means that the proxy is gone.
        let _ = cut.wait_for(|now| now.cuts != cuts || now.fault.cuts()).await;
    };
    tokio::pin!(cut);
    let connected = tokio::select! {
        biased;
        () = &mut cut => None,
        connected = connect(target, state.clone(), opened) => connected,
    };
    let Some(mut target) = connected else { return reset([&caller]) };
    let is_whole = {
        let faults = Faults { state, opened };
        let both = both_ways(&mut caller, &mut target, &faults);
        tokio::select! {
            biased;
            () = &mut cut => false,
            is_whole = both => is_whole,
        }
    };
    if !is_whole {
        reset([&caller, &target]);
    }
}

/// Connects when the fault lets a connection through.
async fn connect(target: SocketAddr, mut state: watch::Receiver<State>, opened: u64) -> Option<TcpStream> {
    state.wait_for(|now| now.fault_of(opened) != Fault::BlackHole).await.ok()?;
    let stream = TcpStream::connect(target).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// Both directions, to the end of both; false when a side broke or bytes were lost.
async fn both_ways(caller: &mut TcpStream, target: &mut TcpStream, faults: &Faults) -> bool {
    // Without it small pieces would wait for each other. A caller that is gone is noticed below.
    let _ = caller.set_nodelay(true);
    let (caller_reads, caller_writes) = caller.split();
    let (target_reads, target_writes) = target.split();
    let requests = one_way(caller_reads, target_writes, faults.clone(), Direction::Requests);
    let answers = one_way(target_reads, caller_writes, faults.clone(), Direction::Answers);
    tokio::pin!(requests, answers);
    let (first, other_is_answers) = tokio::select! {
        end = &mut requests => (end, true),
        end = &mut answers => (end, false),
    };
    if matches!(first, End::Broken) {
        return false;
    }
    let second = if other_is_answers { answers.await } else { requests.await };
    matches!(second, End::Finished)
}

/// Reads and writes apart from each other, so that a delay costs time and no throughput.
async fn one_way(from: ReadHalf<'_>, to: WriteHalf<'_>, faults: Faults, direction: Direction) -> End {
    let (sender, pieces) = mpsc::channel(CHUNKS);
    let reads = read(from, sender, faults.clone());
    let writes = write(pieces, to, faults, direction);
    tokio::pin!(reads, writes);
    tokio::select! {
        // All that was read is in the channel, and its end makes the writer end.
        () = &mut reads => writes.await,
        end = &mut writes => end,
    }
}

/// Ends at the sender's end or when it breaks; only the former is told on.
async fn read(mut from: ReadHalf<'_>, sender: mpsc::Sender<Piece>, mut faults: Faults) {
    loop {
        let mut bytes = vec![0; CHUNK];
        let Ok(length) = from.read(&mut bytes).await else { return };
        bytes.truncate(length);
        let delay = match faults.now() {
            Fault::Delay(delay) => delay,
            _ => Duration::ZERO,
        };
        let piece = Piece { bytes, due: SystemClock::now() + delay };
        if sender.send(piece).await.is_err() || length == 0 {
            return;
        }
    }
}

/// What became of a piece.
enum Fate {
    Passed,
    Lost,
    Ended(End),
}

async fn write(
    mut pieces: mpsc::Receiver<Piece>,
    mut to: WriteHalf<'_>,
    mut faults: Faults,
    direction: Direction,
) -> End {
    let mut has_lost = false;
    loop {
        let piece = tokio::select! {
            biased;
            // What has lost bytes breaks as soon as later ones would pass.
            () = faults.until(|fault| fault != Fault::HalfOpen), if has_lost => return End::Broken,
            piece = pieces.recv() => piece,
        };
        let Some(piece) = piece else {
            // That a side broke does not get through either.
            faults.until(|fault| passes(fault, direction)).await;
            return End::Broken;
        };
        tokio::time::sleep_until(piece.due.into()).await;
        match deliver(&piece.bytes, &mut to, &mut faults, direction).await {
            Fate::Passed => {}
            Fate::Lost => has_lost = true,
            Fate::Ended(end) => return end,
        }
    }
}

/// Writes one piece under the fault in force, which may change meanwhile.
async fn deliver(mut rest: &[u8], to: &mut WriteHalf<'_>, faults: &mut Faults, direction: Direction) -> Fate {
    let is_end = rest.is_empty();
    loop {
        let fault = faults.now();
        if fault == Fault::HalfOpen && direction == Direction::Answers {
            return Fate::Lost;
        }
        if fault == Fault::BlackHole {
            faults.until(|fault| fault != Fault::BlackHole).await;
            continue;
        }
        if is_end {
            return Fate::Ended(if to.shutdown().await.is_ok() { End::Finished } else { End::Broken });
        }
        tokio::select! {
            // Cancelling a single write loses nothing: either it has happened, or it has not begun.
            written = to.write(rest) => match written {
                Ok(length) if length > 0 => rest = rest.get(length..).unwrap_or_default(),
                _ => return Fate::Ended(End::Broken),
            },
            () = faults.until(|now| now != fault) => {}
        }
        if rest.is_empty() {
            return Fate::Passed;
        }
    }
}

fn passes(fault: Fault, direction: Direction) -> bool {
    match fault {
        Fault::BlackHole => false,
        Fault::HalfOpen => direction == Direction::Requests,
        Fault::None | Fault::Strand | Fault::Delay(_) | Fault::Reset | Fault::Refuse => true,
    }
}

/// Closes connections as a peer that is gone does.
fn reset<const N: usize>(streams: [&TcpStream; N]) {
    for stream in streams {
        // It closes when it is dropped, with a reset; where that cannot be set it closes the ordinary way.
        let _ = stream.set_zero_linger();
    }
}
