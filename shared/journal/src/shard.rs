//! A shard, for whoever runs its jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use weft_store::{Fence, LeaseId, Revision};

use crate::change::Transition;
use crate::error::CommitError;
use crate::record::Record;
use crate::writer::Request;

/// A shard that this scheduler owns or owned. Clones share it.
#[derive(Clone)]
pub struct Shard {
    pub(crate) state: Arc<State>,
}

pub(crate) struct State {
    pub(crate) number: u8,
    pub(crate) term: Term,
    /// When its owner's key came into being: the fence.
    pub(crate) epoch: Revision,
    pub(crate) fence: watch::Receiver<Option<Fence>>,
    pub(crate) requests: mpsc::Sender<Request>,
    /// It is over, for whatever reason.
    pub(crate) is_closed: AtomicBool,
    /// It is about to move to another scheduler.
    pub(crate) is_leaving: AtomicBool,
    /// Jobs in it that would not survive a move.
    pub(crate) volatile: AtomicUsize,
}

/// A time during which this scheduler was a member without a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// When its member's key came into being.
    pub(crate) revision: Revision,
    /// What everything of it hangs on.
    pub(crate) lease: LeaseId,
}

impl Shard {
    /// Which of the 256.
    pub fn number(&self) -> u8 {
        self.state.number
    }

    /// Grows with each owner of the shard. Participants refuse a lower one than they have seen.
    pub fn epoch(&self) -> i64 {
        self.state.epoch
    }

    /// Whether nobody else can own it at `now`, if clocks run at about one rate. While it does not hold, nothing may be begun.
    pub fn holds(&self, now: Instant) -> bool {
        self.held_until().is_some_and(|until| now < until)
    }

    /// Until when [`Self::holds`] does, if nothing is heard of the store; `None` when the shard is over.
    pub fn held_until(&self) -> Option<Instant> {
        let fence = self.state.fence.borrow();
        let in_term = fence.as_ref().filter(|fence| fence.create_revision == self.state.term.revision);
        in_term.map(|fence| fence.valid_until).filter(|_| !self.state.is_closed.load(Ordering::Acquire))
    }

    /// Writes a transition of a job: `before` is what the last one wrote, `None` for a new job. It is in the log when this
    /// returns. Transitions of different jobs that come while a write is under way go together in the next one.
    ///
    /// A caller that stops waiting does not undo it.
    pub async fn commit(&self, before: Option<Arc<Record>>, after: Arc<Record>) -> Result<(), CommitError> {
        self.send(Transition { before, after, is_bound: false }).await
    }

    /// As [`Self::commit`], for a job that has no way back at the moment: it gets the room of one that ends.
    pub async fn commit_bound(&self, before: Arc<Record>, after: Arc<Record>) -> Result<(), CommitError> {
        self.send(Transition { before: Some(before), after, is_bound: true }).await
    }

    async fn send(&self, transition: Transition) -> Result<(), CommitError> {
        if transition.after.id.shard() != self.state.number {
            return Err(CommitError::Invalid("the job belongs to another shard".into()));
        }
        let (answer, answered) = oneshot::channel();
        let request = Request::Commit { transition, answer };
        self.state.requests.send(request).await.map_err(|_| CommitError::Fenced)?;
        // The writer drops what it has not written when the shard is lost.
        answered.await.unwrap_or(Err(CommitError::Fenced))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_types::SystemClock;

    use super::*;

    #[test]
    fn a_shard_holds_for_as_long_as_its_term() {
        let now = SystemClock::now();
        let fence = |create_revision| {
            Some(Fence { key: "member/s-0".to_owned(), create_revision, valid_until: now + Duration::from_secs(4) })
        };
        let (told, seen) = watch::channel(fence(7));
        let state = State {
            number: 1,
            term: Term { revision: 7, lease: LeaseId(5) },
            epoch: 9,
            fence: seen,
            requests: mpsc::channel(1).0,
            is_closed: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            volatile: AtomicUsize::new(0),
        };
        let shard = Shard { state: Arc::new(state) };
        let later = |seconds| shard.holds(now + Duration::from_secs(seconds));
        assert_eq!((later(0), later(3), later(4), later(5)), (true, true, false, false));
        for other in [fence(8), None] {
            told.send_replace(other);
            assert!(!later(0), "it is another term");
        }
        told.send_replace(fence(7));
        assert!(later(0));
        shard.state.is_closed.store(true, Ordering::Release);
        assert!(!later(0), "it is over");
    }
}
