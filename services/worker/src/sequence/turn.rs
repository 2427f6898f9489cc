//! A request's turn in its sequence.

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit};
use weft_engine::{Inputs, Tensor};
use weft_types::{Deadline, Error, Reason, Result, SystemClock};

use super::line::Line;
use super::{FIELD, Sequences, full, permits, unknown};
use crate::error::Failure;
use crate::infer::Sequence;

/// A request's place in its sequence, from its arrival on. Dropped before its answer is there, it leaves the state as it was; what
/// was to begin with it does not exist.
struct Place {
    sequences: Arc<Sequences>,
    sequence: Sequence,
    line: Arc<Line>,
    is_answered: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line.held().used_at = SystemClock::now();
        if self.sequence.is_start && !self.is_answered {
            self.sequences.end(&self.sequence.id, &self.line);
        }
    }
}

/// The turn: as long as it is held, no other request of the sequence has it.
#[must_use = "dropping it gives the turn to the sequence's next request"]
pub(crate) struct Turn {
    // Dropped in this order: the next request must find what this one leaves.
    place: Place,
    _turn: OwnedMutexGuard<()>,
}

impl Sequences {
    /// Waits for the requests of the sequence that came before.
    pub(super) async fn enter(
        self: &Arc<Self>,
        sequence: Option<Sequence>,
        inputs: &[Tensor],
        deadline: Deadline,
    ) -> Result<Turn> {
        let sequence = sequence.ok_or_else(|| Error::invalid(FIELD, "the model needs one: it answers in sequences"))?;
        self.layout.check(&sequence.id, inputs)?;
        let now = SystemClock::now();
        let line = if sequence.is_start { self.begin(&sequence.id, now) } else { self.live(&sequence.id, now) }?;
        let place = Place { sequences: Arc::clone(self), sequence, line, is_answered: false };
        let mut waiting = Box::pin(place.line.order().lock_owned());
        // Asked before anything else is awaited: that is what makes the order of arrival the order of service.
        let turn = match waiting.as_mut().now_or_never() {
            Some(turn) => turn,
            None => {
                let _room = self.wait(inputs)?;
                // The turn first: a request that gets it when its deadline strikes is told so by the queue.
                tokio::select! {
                    biased;
                    turn = waiting => turn,
                    () = tokio::time::sleep_until(deadline.instant().into()) => {
                        let problem = "the deadline passed while the call waited for an earlier one of its sequence";
                        return Err(Error::new(Reason::DeadlineInQueue, problem));
                    }
                }
            }
        };
        Ok(Turn { place, _turn: turn })
    }

    /// Room for a request that waits.
    fn wait(&self, inputs: &[Tensor]) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let bytes = inputs.iter().map(|tensor| tensor.data.len()).sum::<usize>();
        // A request larger than the limit still waits when no other does: the message limit bounds it already.
        let bytes = permits(bytes.min(self.limits.waiting_bytes));
        let room = || {
            let one = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
            Some((one, Arc::clone(&self.waiting_bytes).try_acquire_many_owned(bytes).ok()?))
        };
        room().ok_or_else(|| full("too many requests wait for earlier ones of their sequences"))
    }
}

impl Turn {
    /// The caller's inputs with the sequence's state and what the worker fills in, in the model's own order.
    pub(super) fn complete(&self, inputs: Inputs) -> Result<Inputs> {
        let Place { sequences, sequence, line, .. } = &self.place;
        let state = match sequence.is_start {
            true => sequences.layout.initial(),
            false => line.held().state.clone().ok_or_else(unknown)?,
        };
        sequences.layout.complete(sequence, inputs, state)
    }

    /// Takes the state over.
    pub(super) fn commit(mut self, outputs: &[Tensor]) -> std::result::Result<(), Failure> {
        let Place { sequences, sequence, line, is_answered } = &mut self.place;
        let state = sequences.layout.next(outputs)?;
        if sequence.is_end {
            line.held().state = None;
            sequences.end(&sequence.id, line);
        } else {
            let mut held = line.held();
            let bytes = state.iter().map(|tensor| tensor.data.len()).sum::<usize>();
            let (has, needs) = (held.room.num_permits(), bytes);
            if needs > has {
                let more = Arc::clone(&sequences.state).try_acquire_many_owned(permits(needs - has));
                held.room.merge(more.map_err(|_| full("there is no room for the state of the sequence"))?);
            }
            drop(held.room.split(has.saturating_sub(needs)));
            held.state = Some(state);
        }
        *is_answered = true;
        Ok(())
    }
}
