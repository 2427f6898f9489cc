//! The turn of a call that has something to do.

use std::sync::Arc;

use bytes::Bytes;
use weft_store::{Commit, Txn};
use weft_types::{Error, Reason, Result};

use super::MAX_ANSWER_BYTES;
use super::rows::{Rows, Seen};
use super::turns::Turn;
use crate::row::{Row, State};

/// A call that has something to do, until it tells how that ended. No other call with its key is at work meanwhile.
///
/// Dropped without a word, as when the call is cancelled or its handler panics, it leaves the outcome unknown after [`super::Barrier::enter`], and
/// leaves nothing after [`super::Barrier::enter_with`].
#[derive(Debug)]
#[must_use = "dropping it leaves the outcome unknown"]
pub struct Pass {
    rows: Arc<Rows>,
    turn: Turn,
    /// What stands, or would stand, while the call is at work.
    begun: Row,
    /// What did stand when this was last written or read.
    seen: Seen,
}

impl Pass {
    pub(super) const fn new(rows: Arc<Rows>, turn: Turn, begun: Row, seen: Seen) -> Self {
        Self { rows, turn, begun, seen }
    }

    /// It is done: the effect is there, or for an undo gone. `answer`, at most 4 KiB, is what duplicates will get.
    ///
    /// # Errors
    ///
    /// When the row cannot be written, or the answer is too long. The outcome is unknown then: the next delivery is [`super::Entry::Unknown`].
    pub async fn done(self, answer: Bytes) -> Result<()> {
        match self.done_with(answer, Txn::default()).await? {
            Commit::Done(_) => Ok(()),
            // Another process wrote to a row that this one had begun.
            Commit::Lost(_) => Err(Error::new(Reason::Internal, "the row of this effect was changed meanwhile")),
        }
    }

    /// Commits the effect, a transaction of the barrier's own store, together with the row that says so. At most 127 operations and
    /// comparisons of the caller's. [`Commit::Lost`] when a comparison does not hold, the caller's or the row's own: nothing has happened,
    /// and the call can be entered again.
    ///
    /// # Errors
    ///
    /// When the store does not answer (the effect may or may not be there, together with its row), or the answer is too long.
    pub async fn done_with(self, answer: Bytes, effect: Txn) -> Result<Commit> {
        if answer.len() > MAX_ANSWER_BYTES {
            // Not the caller's fault, and not a clean failure either: the effect may be there.
            let problem = format!("{} bytes, over the limit of {MAX_ANSWER_BYTES}", answer.len());
            return Err(Error::of_field(Reason::Internal, "answer", problem));
        }
        let state = match self.begun.state {
            State::Undoing => State::Undone(answer),
            _ => State::Ran(answer),
        };
        let row = Row { state, ..self.begun };
        self.rows.commit(self.turn.key(), &self.seen, row, effect).await
    }

    /// It failed, and left no effect. An action may come again with its next attempt; this one is refused from now on. An undo comes again
    /// until it is done, so for one this only ends the turn.
    ///
    /// # Errors
    ///
    /// When the row cannot be written: the outcome is unknown then.
    pub async fn failed(self) -> Result<()> {
        if self.begun.state == State::Undoing {
            return Ok(());
        }
        let row = Row { state: State::Open, ..self.begun };
        match self.rows.commit(self.turn.key(), &self.seen, row, Txn::default()).await? {
            Commit::Done(_) => Ok(()),
            Commit::Lost(_) => Err(Error::new(Reason::Internal, "the row of this effect was changed meanwhile")),
        }
    }
}
