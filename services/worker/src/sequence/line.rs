//! One sequence: its state, and the order of its requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Order, OwnedSemaphorePermit};
use weft_engine::Tensor;

/// A sequence that began, or is about to. Each start makes one of its own, so that nothing of a former one of the name is left.
pub(super) struct Line {
    /// Held by the request whose turn it is; the others wait in the order in which they came. Sequences that had the same name
    /// one after the other share it.
    order: Arc<Order<()>>,
    // Held for a look or an exchange, never across an await.
    held: Mutex<Held>,
    _place: OwnedSemaphorePermit,
}

/// What a sequence holds.
pub(super) struct Held {
    /// The model's state inputs for the next request; `None` before the first one was answered, and after the last.
    pub(super) state: Option<Vec<Tensor>>,
    /// The room that the state takes.
    pub(super) room: OwnedSemaphorePermit,
    /// When a request last had its turn.
    pub(super) used_at: Instant,
}

impl Line {
    pub(super) fn new(
        order: Arc<Order<()>>,
        (place, room): (OwnedSemaphorePermit, OwnedSemaphorePermit),
        now: Instant,
    ) -> Self {
        Self { order, held: Mutex::new(Held { state: None, room, used_at: now }), _place: place }
    }

    pub(super) fn order(&self) -> Arc<Order<()>> {
        Arc::clone(&self.order)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody uses it, nor has for so long. Asked under the lock of the table, which every use is taken from.
    pub(super) fn is_idle(self: &Arc<Self>, limit: Duration, now: Instant) -> bool {
        Arc::strong_count(self) == 1 && now.saturating_duration_since(self.held().used_at) > limit
    }
}
