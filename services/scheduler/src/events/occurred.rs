//! What the leader has done and not told yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use weft_policy::place::Move;
use weft_store::Revision;

use super::findings::Finding;
use super::moves::{MODELS, of_moves};

/// More than an hour tells of one kind. What comes on top of it, while the store does not take events, is dropped.
const MOST: usize = 2048;

/// A queue, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Occurred {
    /// Held for a look or a change, never across an await.
    queue: Mutex<VecDeque<Finding>>,
    news: Notify,
}

impl Occurred {
    /// These moves were written without their events, the last of them at `revision`.
    pub(crate) fn moved(&self, moves: &[Move], revision: Revision) {
        self.extend(of_moves(moves, MODELS, revision));
        self.wake();
    }

    /// There is something to tell: the herald need not wait for the mesh to change.
    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }

    /// Waits until there is something to tell. What came before anybody waited counts.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn extend(&self, findings: impl IntoIterator<Item = Finding>) {
        let mut queue = self.queue();
        let room = MOST.saturating_sub(queue.len());
        queue.extend(findings.into_iter().take(room));
    }

    /// The one that is to be told next.
    pub(super) fn first(&self) -> Option<Finding> {
        self.queue().front().cloned()
    }

    /// The first one has been told. Only who leads takes from the queue, so it is still the same.
    pub(super) fn told(&self) {
        self.queue().pop_front();
    }

    /// Another one leads.
    pub(super) fn clear(&self) {
        self.queue().clear();
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Finding>> {
        // Each entry is whole at any point.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
