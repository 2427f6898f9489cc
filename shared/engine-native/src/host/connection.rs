//! The worker's end of the socket to an engine process: commands go out, events come in, each event finds who waits for it.
//!
//! [`Connection::begin`] gives a number to what is begun and a [`Ticket`] to wait with. Dropping the ticket before its last event sends
//! `Cancel`; what it held stays held until the engine process says that it has forgotten the number, since it may still write there.
//! When the process is lost, every ticket ends with [`Error::Lost`] at once.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_engine::{Error, Hold};
use weft_types::SystemClock;

use crate::arena::Buffer;
use crate::protocol::{Command, Event, command, event, frame, language};

/// A stop may take so many times as long as the longest execution so far, since engines look only between the parts of a graph, or
/// as the longest step of a language model of late, which looks only between two.
const GRACE_FACTOR: u32 = 4;

/// However long executions take, this is how long a stop may take at most.
const MAX_GRACE: Duration = Duration::from_secs(60);

/// What may wait to be taken by an engine process that does not read. Beyond it new work is refused.
const MAX_BACKLOG_BYTES: usize = 64 << 20;

/// The connection to one engine process.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    outgoing: Mutex<BytesMut>,
    /// There is something outgoing that the socket did not take at once.
    backlog: Notify,
    pending: Mutex<Pending>,
    occupancy: watch::Sender<language::Occupancy>,
    lost: watch::Sender<Option<String>>,
    /// Why the process must be ended, as soon as there is a reason.
    condemned: watch::Sender<Option<String>>,
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    entries: HashMap<u64, Entry>,
    lost: Option<String>,
    /// The longest execution so far, stopped ones included.
    longest: Duration,
}

#[derive(Debug)]
struct Entry {
    events: mpsc::Sender<Delivery>,
    begun: Instant,
    /// When its ticket was dropped.
    cancelled: Option<Instant>,
    held: Vec<Buffer>,
    /// Who watches this learns that it is over as this entry goes.
    _hold: Option<Hold>,
}

/// An event, and with the last one what was held until then.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// What has happened.
    pub(crate) body: event::Body,
    /// What was given to [`Connection::begin`].
    pub(crate) held: Vec<Buffer>,
}

impl Connection {
    /// A connection over a socket whose other end is the process's standard input. [`Self::run`] must be driven.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            outgoing: Mutex::default(),
            backlog: Notify::new(),
            pending: Mutex::default(),
            occupancy: watch::Sender::default(),
            lost: watch::Sender::new(None),
            condemned: watch::Sender::new(None),
            closing: CancellationToken::new(),
        }
    }

    /// Gives a number to what is about to begin. At most `capacity` events may come for it that nobody has taken yet; `held` is
    /// kept until the last one. Number 0 is the load's: the first to begin.
    pub(crate) fn begin(self: &Arc<Self>, capacity: usize, held: Vec<Buffer>) -> Result<Ticket, Error> {
        let (events, receiver) = mpsc::channel(capacity.max(1));
        let mut pending = self.pending();
        if let Some(reason) = &pending.lost {
            return Err(Error::Lost(reason.clone()));
        }
        let id = pending.next;
        pending.next += 1;
        pending.entries.insert(id, Entry { events, begun: SystemClock::now(), cancelled: None, held, _hold: None });
        Ok(Ticket { id, events: receiver, connection: Arc::clone(self), is_over: false })
    }

    /// Sends a command. It does not wait: what the socket does not take now goes later. Fails when far too much waits already.
    pub(crate) fn send(&self, body: command::Body) -> Result<(), Error> {
        let is_new_work = matches!(body, command::Body::Execute(_) | command::Body::Generate(_));
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        if is_new_work && outgoing.len() > MAX_BACKLOG_BYTES {
            return Err(Error::Full("the engine does not take more work".to_owned()));
        }
        frame::write(&Command { body: Some(body) }, &mut outgoing);
        // In the common case the socket takes it, and no other task has to be woken.
        if self.flush(&mut outgoing).is_err() || !outgoing.is_empty() {
            self.backlog.notify_one();
        }
        Ok(())
    }

    /// How full a language model is, as it last said.
    pub(crate) fn occupancy(&self) -> language::Occupancy {
        *self.occupancy.borrow()
    }

    /// Ends with the reason when the process is gone.
    pub(crate) async fn lost(&self) -> String {
        reason(&self.lost).await
    }

    /// Has the process ended for this reason. The first one counts.
    pub(crate) fn condemn(&self, reason: String) {
        self.condemned.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert(reason);
            is_first
        });
    }

    /// Ends when there is a reason to end the process.
    pub(super) async fn condemned(&self) -> String {
        reason(&self.condemned).await
    }

    /// Asks the process to end, because nobody needs it any more.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    pub(super) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    /// Says that nothing more comes: the process ends by itself then.
    pub(super) fn shut_down(&self) {
        // It may have gone already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
    }

    /// The grace, if something has not stopped for longer since it was cancelled. A model whose executions are known to take long is
    /// given more than `least`, and a language model several steps, for it stops between two.
    pub(super) fn ignores_cancel(&self, least: Duration, now: Instant) -> Option<Duration> {
        let longest_step = Duration::from_micros(self.occupancy().longest_step_us);
        let pending = self.pending();
        let longest = pending.longest.max(longest_step);
        let grace = least.max(longest.saturating_mul(GRACE_FACTOR).min(MAX_GRACE));
        let overdue = |entry: &Entry| entry.cancelled.is_some_and(|since| now.saturating_duration_since(since) > grace);
        pending.entries.values().any(overdue).then_some(grace)
    }

    /// The process is gone: fails everything that waits for it, and gives back what it held.
    pub(super) fn lose(&self, reason: String) {
        let entries = {
            let mut pending = self.pending();
            pending.lost = Some(reason.clone());
            std::mem::take(&mut pending.entries)
        };
        // First why, then that: who learns that something has stopped can ask whether the process was lost.
        self.lost.send_replace(Some(reason));
        drop(entries);
    }

    /// Moves bytes until the connection ends, and tells how it did.
    pub(super) async fn run(&self) -> String {
        tokio::select! {
            reason = self.read() => reason,
            error = self.write() => format!("it cannot be written to ({})", error.kind()),
        }
    }

    async fn write(&self) -> io::Error {
        loop {
            self.backlog.notified().await;
            loop {
                if let Err(error) = self.socket.writable().await {
                    return error;
                }
                let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = self.flush(&mut outgoing) {
                    return error;
                }
                if outgoing.is_empty() {
                    break;
                }
            }
        }
    }

    fn flush(&self, outgoing: &mut BytesMut) -> io::Result<()> {
        while !outgoing.is_empty() {
            match self.socket.try_write(outgoing) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => outgoing.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read(&self) -> String {
        let mut buffer = BytesMut::with_capacity(16 << 10);
        loop {
            if let Err(error) = self.socket.readable().await {
                return format!("it cannot be read from ({})", error.kind());
            }
            buffer.reserve(4 << 10);
            match self.socket.try_read_buf(&mut buffer) {
                Ok(0) => return "it closed its connection".to_owned(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return format!("it cannot be read from ({})", error.kind()),
            }
            loop {
                match frame::read::<Event>(&mut buffer, frame::MAX_EVENT_BYTES) {
                    Ok(Some(event)) => self.deliver(event),
                    Ok(None) => break,
                    Err(problem) => return format!("it sent {problem}"),
                }
            }
        }
    }

    fn deliver(&self, event: Event) {
        let Some(body) = event.body else { return };
        let Some(id) = body.id() else {
            if let event::Body::Occupancy(occupancy) = body {
                self.occupancy.send_replace(occupancy);
            }
            return;
        };
        let mut pending = self.pending();
        let (events, held) = if body.is_last() {
            let Some(entry) = pending.entries.remove(&id) else { return };
            if !entry.held.is_empty() {
                // Executions hold buffers; loads and sequences do not.
                let took = SystemClock::now().saturating_duration_since(entry.begun);
                pending.longest = pending.longest.max(took);
            }
            (entry.events, entry.held)
        } else {
            let Some(entry) = pending.entries.get(&id) else { return };
            (entry.events.clone(), Vec::new())
        };
        drop(pending);
        // A closed channel is that of a dropped ticket, which needs no answer; what it held is dropped here.
        if let Err(mpsc::error::TrySendError::Full(_)) = events.try_send(Delivery { body, held }) {
            self.condemn("it sent more than it was told that there is room for".to_owned());
        }
    }

    fn abandon(&self, id: u64) {
        let mut pending = self.pending();
        if let Some(entry) = pending.entries.get_mut(&id) {
            entry.cancelled = Some(SystemClock::now());
            drop(pending);
            // Cancels are never refused.
            let _ = self.send(command::Body::Cancel(id));
        }
    }

    /// A poisoned lock guards plain values that are whole at every step.
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn reason(sender: &watch::Sender<Option<String>>) -> String {
    let mut reasons = sender.subscribe();
    let first = reasons.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    match first {
        Some(reason) => reason,
        // The sender is borrowed for as long as this waits.
        None => std::future::pending().await,
    }
}

/// Waits for the events of one number. Dropping it before the last one cancels what it stands for.
#[derive(Debug)]
pub(crate) struct Ticket {
    id: u64,
    events: mpsc::Receiver<Delivery>,
    connection: Arc<Connection>,
    is_over: bool,
}

impl Ticket {
    /// The number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Has something kept until the engine process has forgotten the number, or is gone.
    pub(crate) fn keep(&self, hold: Hold) {
        if let Some(entry) = self.connection.pending().entries.get_mut(&self.id) {
            entry._hold = Some(hold);
        }
    }

    /// Sends what begins it. What is refused has not begun: the engine process has never heard of its number, and would not answer
    /// to it being cancelled.
    pub(crate) fn start(&mut self, body: command::Body) -> Result<(), Error> {
        let sent = self.connection.send(body);
        if sent.is_err() {
            self.is_over = true;
            self.connection.pending().entries.remove(&self.id);
        }
        sent
    }

    /// Where commands about it go.
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The next event. A failure that the engine process tells of, and its loss, are errors, and the last thing that comes.
    pub(crate) async fn next(&mut self) -> Result<Delivery, Error> {
        match self.events.recv().await {
            Some(Delivery { body: event::Body::Failed(failed), .. }) => {
                self.is_over = true;
                Err(failed.into_error())
            }
            Some(delivery) => {
                self.is_over = delivery.body.is_last();
                Ok(delivery)
            }
            None => {
                self.is_over = true;
                Err(Error::Lost(self.connection.pending().lost.clone().unwrap_or_default()))
            }
        }
    }
}

impl Drop for Ticket {
    // Runs when the caller's future is dropped: its work ends with it.
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.abandon(self.id);
        }
    }
}

#[cfg(test)]
mod tests;
