//! Models that carry state from one request of a sequence to the next.
//!
//! The worker keeps the state (`sequence_batching.state`: what one execution gives out, the next one takes in) and fills in what
//! the configuration calls control inputs. A request of a sequence waits for its turn before it is queued: so there is never more
//! than one of a sequence in the queue or in an execution, they go in the order in which they came, and the requests of different
//! sequences still share executions. The state moves on only with an answer: a request that fails, or whose caller leaves, leaves
//! it as it was. It is dropped with the end of the sequence, after a time without requests, and with the replica.

mod check;
mod control;
mod layout;
mod line;
mod turn;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use weft_engine::{Inputs, Signature, Tensor};
use weft_proto::inference::ModelConfig;
use weft_proto::inference::model_config::SchedulingChoice;
use weft_runtime::Tasks;
use weft_types::{Deadline, Error, Reason, Result, SystemClock};

use crate::error::Failure;
use crate::infer::{Sequence, SequenceId};
use crate::replica::Replica;
pub(crate) use check::check;
use layout::Layout;
use line::Line;
pub(crate) use turn::Turn;

/// Where a request names its sequence.
const FIELD: &str = "parameters[sequence_id]";
/// How long a sequence lives without a request where the configuration does not say; Triton's own default.
const IDLE: Duration = Duration::from_secs(1);
/// How seldom and how often at most the sequences are looked over for those that nobody continues.
const SWEEP: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));

/// The bounds of one replica's sequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sequences that live at once.
    pub(crate) sequences: usize,
    /// Bytes of state that all of them hold together.
    pub(crate) state_bytes: usize,
    /// Requests that wait for an earlier one of their sequence, and the bytes of their tensors.
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: usize,
}

impl Limits {
    /// Enough for as many callers as a worker has connections for, each with a state of some KiB.
    pub(crate) const SEQUENCES: usize = 16_384;
    pub(crate) const STATE_BYTES: usize = 256 << 20;
}

/// The sequences of one replica. Every bound is an owned permit: what it stands for gives it back when dropped.
pub(crate) struct Sequences {
    layout: Layout,
    idle: Duration,
    limits: Limits,
    places: Arc<Semaphore>,
    state: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    waiting_bytes: Arc<Semaphore>,
    // Held for map operations only, never across an await.
    lines: Mutex<BTreeMap<SequenceId, Arc<Line>>>,
    /// Wakes the sweep when there is something to look over again.
    begun: Notify,
}

impl Sequences {
    /// Those of a model whose configuration has them. The text of a failure is safe to show.
    pub(crate) fn of(
        config: &ModelConfig,
        signature: &Signature,
        limits: Limits,
    ) -> std::result::Result<Option<Arc<Self>>, String> {
        let Some(SchedulingChoice::SequenceBatching(batching)) = &config.scheduling_choice else { return Ok(None) };
        let layout = Layout::new(batching, signature)?;
        if layout.initial_bytes() > limits.state_bytes {
            return Err(format!("the state of one sequence is larger than {} bytes", limits.state_bytes));
        }
        let micros = batching.max_sequence_idle_microseconds;
        Ok(Some(Arc::new(Self {
            layout,
            idle: if micros == 0 { IDLE } else { Duration::from_micros(micros) },
            limits,
            places: Arc::new(Semaphore::new(limits.sequences)),
            state: Arc::new(Semaphore::new(limits.state_bytes)),
            waiting: Arc::new(Semaphore::new(limits.waiting)),
            waiting_bytes: Arc::new(Semaphore::new(limits.waiting_bytes)),
            lines: Mutex::default(),
            begun: Notify::new(),
        })))
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<SequenceId, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line of the sequence that a request continues.
    fn live(&self, id: &SequenceId, now: Instant) -> Result<Arc<Line>> {
        let lines = self.lines();
        let line = lines.get(id).filter(|line| !line.is_idle(self.idle, now));
        line.map(Arc::clone).ok_or_else(unknown)
    }

    /// A new sequence. What had its name before is over, whatever comes of this one: none of its state may be taken for the
    /// new one's. Requests of the former that have come are still served, before the first of the new.
    fn begin(&self, id: &SequenceId, now: Instant) -> Result<Arc<Line>> {
        let mut lines = self.lines();
        let order = lines.remove(id).map(|former| former.order()).unwrap_or_default();
        let room = match self.room() {
            Ok(room) => room,
            Err(_) => {
                lines.retain(|_, line| !line.is_idle(self.idle, now));
                self.room().map_err(|_| full("the model has as many live sequences as there is room for"))?
            }
        };
        let line = Arc::new(Line::new(order, room, now));
        lines.insert(id.clone(), Arc::clone(&line));
        drop(lines);
        self.begun.notify_one();
        Ok(line)
    }

    /// A place for one more sequence, and room for its first state.
    fn room(&self) -> std::result::Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), TryAcquireError> {
        let place = Arc::clone(&self.places).try_acquire_owned()?;
        let state = Arc::clone(&self.state).try_acquire_many_owned(permits(self.layout.initial_bytes()))?;
        Ok((place, state))
    }

    /// Ends a sequence, unless another has taken its name.
    fn end(&self, id: &SequenceId, line: &Arc<Line>) {
        let mut lines = self.lines();
        if lines.get(id).is_some_and(|live| Arc::ptr_eq(live, line)) {
            lines.remove(id);
        }
    }

    /// Drops what nobody has continued for too long; says whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut lines = self.lines();
        lines.retain(|_, line| !line.is_idle(self.idle, now));
        !lines.is_empty()
    }

    async fn keep_swept(&self) {
        let pause = (self.idle / 2).clamp(SWEEP.0, SWEEP.1);
        loop {
            while self.sweep(SystemClock::now()) {
                tokio::time::sleep(pause).await;
            }
            self.begun.notified().await;
        }
    }
}

/// Looks a replica's sequences over for those that nobody continues, until the replica takes no more.
pub(crate) fn start(replica: &Arc<Replica>, tasks: &Tasks) {
    let Some(sequences) = replica.stateful.clone() else { return };
    let ended = replica.ended();
    tasks.spawn("sequences", async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = sequences.keep_swept() => {}
        }
    });
}

/// Waits until it is the request's turn in its sequence, if the model has any, and completes its inputs.
pub(crate) async fn enter(
    replica: &Replica,
    sequence: Option<Sequence>,
    inputs: Inputs,
    deadline: Deadline,
) -> Result<(Inputs, Option<Turn>)> {
    let Some(sequences) = &replica.stateful else { return Ok((inputs, None)) };
    // Boxed, so that calls of other models do not carry what this takes.
    let turn = Box::pin(sequences.enter(sequence, &inputs, deadline)).await?;
    Ok((turn.complete(inputs)?, Some(turn)))
}

/// Moves the state on, if the model has any.
pub(crate) fn commit(turn: Option<Turn>, outputs: &[Tensor]) -> std::result::Result<(), Failure> {
    turn.map_or(Ok(()), |turn| turn.commit(outputs))
}

fn unknown() -> Error {
    let problem = "no such sequence here: it has ended, was idle for too long, or has not begun (sequence_start)";
    Error::of_field(Reason::SequenceUnknown, FIELD, problem)
}

fn full(problem: &'static str) -> Error {
    Error::new(Reason::QueueFull, problem).retry_after(IDLE)
}

/// More than can be counted is more than there is.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
