//! How much jobs may have under way at once on one scheduler.

use tokio::sync::{Semaphore, SemaphorePermit};
use weft_saga::Direction;

/// Places for attempts. Undoing has places of its own: what is to be taken back never waits for what may go on.
pub(super) struct Room {
    forward: Semaphore,
    back: Semaphore,
}

impl Room {
    pub(super) fn new(attempts: usize) -> Self {
        Self { forward: Semaphore::new(attempts), back: Semaphore::new(attempts) }
    }

    /// A place, in the order in which they were asked for; given back when it is dropped. `None` only where there are none at all.
    pub(super) async fn take(&self, direction: Direction) -> Option<SemaphorePermit<'_>> {
        let places = match direction {
            Direction::Action => &self.forward,
            Direction::Undo | Direction::Probe => &self.back,
        };
        // It is never closed.
        places.acquire().await.ok()
    }
}
