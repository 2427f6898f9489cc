//! What all calls together take that wait for their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use weft_policy::admit;

/// How many calls may wait, with how many bytes of messages.
pub(crate) struct Room {
    most: (usize, usize),
    /// How long they may wait, when none waits for less, before some are shed.
    pub(crate) target_wait: Duration,
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

/// The room that one call takes. Dropping it gives it back.
pub(crate) struct Taken {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(calls: usize, bytes: usize, target_wait: Duration) -> Self {
        Self { most: (calls, bytes), target_wait, calls: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    /// Takes room for a call; also tells what would have to go for it to fit. A call whose message alone is too large fits into an empty
    /// room: its length has a bound already.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> (Taken, admit::Room) {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let over = if held == 0 { 0 } else { (held + bytes).saturating_sub(self.most.1) };
        let missing = admit::Room { calls: calls.saturating_sub(self.most.0), bytes: over };
        (Taken { room: Arc::clone(self), bytes }, missing)
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> (usize, usize) {
        (self.calls.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.calls.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
