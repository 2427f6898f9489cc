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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_undoing_has_its_own() {
        let room = Room::new(1);
        let place = |direction| room.take(direction).now_or_never().flatten();
        let forward = place(Direction::Action).expect("there is one");
        assert!(room.take(Direction::Action).now_or_never().is_none(), "more than there are");
        let back = place(Direction::Undo).expect("it has its own");
        assert!(room.take(Direction::Probe).now_or_never().is_none(), "more than there are");
        drop(back);
        assert!(place(Direction::Probe).is_some() && place(Direction::Action).is_none());
        drop(forward);
        assert!(place(Direction::Action).is_some());
    }
}
