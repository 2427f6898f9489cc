//! Requests that wait for one replica: bounded, most urgent first.
//!
//! A request is in the queue for as long as its caller holds the [`Ticket`]: dropping it takes the request out, or tells the
//! execution that has it that one caller less is waiting. So nothing is counted that must be counted back.

mod ticket;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};
use weft_engine::{Inputs, Tensor};
use weft_policy::batch::{Decision, Waiting};
use weft_types::{Deadline, Error, Reason, SystemClock};

pub(crate) use ticket::{Answer, Caller, Ticket, Timing};

/// The order of service: the derived order is the policy. The sequence breaks ties by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// 1 is served first.
    pub(crate) band: u64,
    pub(crate) deadline: Deadline,
    pub(crate) sequence: u64,
}

/// A request as the executor takes it.
pub(crate) struct Work {
    pub(crate) inputs: Inputs,
    pub(crate) rows: usize,
    bytes: usize,
    pub(crate) deadline: Deadline,
    pub(crate) caller: Arc<Caller>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Work {
    /// Answers a caller whose request was not executed. One that has gone meanwhile needs no answer.
    fn refuse(self, error: Error) {
        let now = SystemClock::now();
        let timing = Timing { queue: now.saturating_duration_since(self.caller.queued_at), ..Timing::default() };
        let _ = self.answer.send(Answer { outcome: Err(error.into()), timing });
    }

    /// Whether both can run in one execution: the same inputs, with the same types and the same shapes below the first axis.
    fn fits(&self, other: &Self) -> bool {
        fn alike(one: &Tensor, other: &Tensor) -> bool {
            one.name == other.name && one.datatype == other.datatype && one.shape.get(1..) == other.shape.get(1..)
        }
        self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(|(one, other)| alike(one, other))
    }
}

/// The queue's bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Closed,
}

/// What the executor finds.
pub(crate) enum Next {
    /// Execute these together.
    Run(Vec<Work>),
    /// Ask again at this instant or when the queue has changed.
    Wait(Option<Instant>),
    /// Nothing is left and nothing will come.
    Closed,
}

/// The queue of one replica.
pub(crate) struct Queue {
    limits: Limits,
    // Held for map operations only, never across an await.
    state: Mutex<State>,
    /// Wakes the one executor loop; a wake-up that nobody awaits yet is kept.
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<Rank, Work>,
    bytes: usize,
    rows: usize,
    sequence: u64,
    closed: bool,
}

impl State {
    fn take(&mut self, rank: &Rank) -> Option<Work> {
        let work = self.waiting.remove(rank)?;
        self.bytes -= work.bytes;
        self.rows -= work.rows;
        Some(work)
    }

    /// The first `depth` requests that can run with the most urgent one.
    fn front(&self, depth: usize) -> Vec<(Rank, Waiting)> {
        let Some(first) = self.waiting.values().next() else { return Vec::new() };
        let alike = self.waiting.iter().filter(|(_, work)| work.fits(first)).take(depth);
        alike
            .map(|(rank, work)| {
                let waiting = Waiting { rows: work.rows, deadline: work.deadline, queued_at: work.caller.queued_at };
                (*rank, waiting)
            })
            .collect()
    }
}

impl Queue {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request, or says at once why not.
    pub(crate) fn push(
        self: &Arc<Self>,
        inputs: Inputs,
        rows: usize,
        (band, deadline): (u64, Deadline),
        now: Instant,
    ) -> Result<Ticket, Refusal> {
        let bytes: usize = inputs.iter().map(|tensor| tensor.data.len()).sum();
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        // A request larger than the byte limit still goes into an empty queue: the message limit bounds it already.
        let fits = state.waiting.is_empty() || state.bytes.saturating_add(bytes) <= self.limits.bytes;
        if state.waiting.len() >= self.limits.requests || !fits {
            return Err(Refusal::Full);
        }
        let rank = Rank { band, deadline, sequence: state.sequence };
        let caller = Arc::new(Caller::new(now));
        let (answer, receiver) = oneshot::channel();
        state.sequence += 1;
        state.bytes += bytes;
        state.rows += rows;
        state.waiting.insert(rank, Work { inputs, rows, bytes, deadline, caller: Arc::clone(&caller), answer });
        drop(state);
        self.changed.notify_one();
        Ok(Ticket::new(Arc::clone(self), rank, caller, receiver))
    }

    /// Takes a request out, if it still waits.
    fn remove(&self, rank: &Rank) -> Option<Work> {
        self.lock().take(rank)
    }

    /// Asks `decide` about the front of the queue, at most `depth` requests, and does as it says.
    pub(crate) fn next(&self, depth: usize, mut decide: impl FnMut(&[Waiting]) -> Decision) -> Next {
        let mut expired = Vec::new();
        let next = {
            let mut state = self.lock();
            loop {
                let (ranks, waiting): (Vec<Rank>, Vec<Waiting>) = state.front(depth).into_iter().unzip();
                if waiting.is_empty() && state.closed {
                    break Next::Closed;
                }
                match decide(&waiting) {
                    Decision::Run(count) => {
                        break Next::Run(ranks.iter().take(count).filter_map(|rank| state.take(rank)).collect());
                    }
                    Decision::Expired(index) => expired.extend(ranks.get(index).and_then(|rank| state.take(rank))),
                    Decision::WaitUntil(instant) => break Next::Wait(Some(instant)),
                    Decision::Idle => break Next::Wait(None),
                }
            }
        };
        expired.into_iter().for_each(|work| work.refuse(ticket::expired_waiting()));
        next
    }

    /// Waits until a request has come or the queue was closed, since the last wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes nothing new from now on; what waits is still served.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Closes, and answers everything that waits with a refusal.
    pub(crate) fn abandon(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            (state.bytes, state.rows) = (0, 0);
            std::mem::take(&mut state.waiting)
        };
        waiting
            .into_values()
            .for_each(|work| work.refuse(Error::new(Reason::Draining, "the replica is being unloaded")));
        self.changed.notify_one();
    }

    /// How many requests wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How many rows would be served before a request of this band and deadline.
    pub(crate) fn rows_before(&self, band: u64, deadline: Deadline) -> usize {
        let state = self.lock();
        let next = Rank { band, deadline, sequence: state.sequence };
        match state.waiting.last_key_value() {
            // The usual case: deadlines come in order, and everything that waits goes first.
            Some((last, _)) if *last < next => state.rows,
            _ => state.waiting.range(..next).map(|(_, work)| work.rows).sum(),
        }
    }
}

#[cfg(test)]
mod tests;
