//! The caller's side of a queued request.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weft_engine::Outputs;
use weft_types::{Deadline, Error, Reason, SystemClock};

use super::{Queue, Rank};
use crate::error::Failure;

/// Where a call's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Waiting for the execution.
    pub(crate) queue: Duration,
    /// In the execution.
    pub(crate) compute: Duration,
    /// Rows of the execution, of all its callers together; 0 when there was none.
    pub(crate) rows: usize,
}

/// What the executor sends back.
pub(crate) struct Answer {
    pub(crate) outcome: Result<Outputs, Failure>,
    pub(crate) timing: Timing,
}

/// What caller and execution tell each other besides the answer.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) queued_at: Instant,
    // Held to read or set it.
    started: Mutex<Option<(Instant, usize)>>,
    has_begun: AtomicBool,
    stops: AtomicU32,
    left: OnceLock<Instant>,
}

impl Caller {
    pub(super) const fn new(queued_at: Instant) -> Self {
        Self {
            queued_at,
            started: Mutex::new(None),
            has_begun: AtomicBool::new(false),
            stops: AtomicU32::new(0),
            left: OnceLock::new(),
        }
    }

    /// The request has gone into an execution of `rows`.
    pub(crate) fn start(&self, now: Instant, rows: usize) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, rows));
        self.has_begun.store(true, Ordering::Relaxed);
    }

    /// The execution was stopped: the request waits again.
    pub(super) fn stop(&self) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.stops.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that has happened.
    pub(crate) fn stops(&self) -> u32 {
        self.stops.load(Ordering::Relaxed)
    }

    /// Whether it was executed, though perhaps not to the end.
    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// When the caller stopped waiting without its answer.
    pub(crate) fn left(&self) -> Option<Instant> {
        self.left.get().copied()
    }

    fn timing(&self, now: Instant) -> Timing {
        match *self.started.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((started, rows)) => Timing {
                queue: started.saturating_duration_since(self.queued_at),
                compute: now.saturating_duration_since(started),
                rows,
            },
            None => Timing { queue: now.saturating_duration_since(self.queued_at), ..Timing::default() },
        }
    }
}

/// Until when a request may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// For its answer.
    pub(super) deadline: Deadline,
    /// For its execution to begin.
    pub(super) start_by: Option<Instant>,
}

/// A place in the queue, then in an execution. Dropping it gives the place up at once.
#[must_use = "dropping the ticket withdraws the request"]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    rank: Rank,
    bounds: Bounds,
    caller: Arc<Caller>,
    receiver: oneshot::Receiver<Answer>,
    settled: bool,
}

impl Ticket {
    pub(super) fn new(
        queue: Arc<Queue>,
        rank: Rank,
        bounds: Bounds,
        (caller, receiver): (Arc<Caller>, oneshot::Receiver<Answer>),
    ) -> Self {
        Self { queue, rank, bounds, caller, receiver, settled: false }
    }

    /// What the executor has been told and tells of this call.
    pub(crate) fn caller(&self) -> Arc<Caller> {
        Arc::clone(&self.caller)
    }

    /// Waits for the answer, at most until the deadline.
    pub(crate) async fn answer(mut self) -> Answer {
        let deadline = self.bounds.deadline.instant();
        // The answer first: one that is there when the deadline strikes is delivered. The receiver is whole after each turn.
        let answer = loop {
            let until = self.bounds.start_by.map_or(deadline, |start_by| start_by.min(deadline));
            tokio::select! {
                biased;
                answer = &mut self.receiver => break answer.ok(),
                () = tokio::time::sleep_until(until.into()) => {}
            }
            if until >= deadline {
                return self.expire();
            }
            // Its configuration's patience is over. What runs by now, or has to begin again, goes on until the deadline.
            if !self.caller.has_begun() && self.queue.remove(&self.rank).is_some() {
                self.settled = true;
                return Answer { outcome: Err(too_long().into()), timing: self.caller.timing(SystemClock::now()) };
            }
            self.bounds.start_by = None;
        };
        match answer {
            Some(answer) => {
                self.settled = true;
                answer
            }
            // The execution ends at the last deadline of its batch, and may notice it a moment before this call does.
            None if self.bounds.deadline.expired(SystemClock::now()) => self.expire(),
            // Its task ended without a word: only the end of the process does that.
            None => {
                self.settled = true;
                let error = Error::new(Reason::Draining, "the worker is ending");
                Answer { outcome: Err(error.into()), timing: self.caller.timing(SystemClock::now()) }
            }
        }
    }

    fn expire(mut self) -> Answer {
        let waiting = self.leave();
        let error = if waiting { expired_waiting() } else { expired_running() };
        Answer { outcome: Err(error.into()), timing: self.caller.timing(SystemClock::now()) }
    }

    /// Gives the place up; says whether the request was still waiting.
    fn leave(&mut self) -> bool {
        self.settled = true;
        let _ = self.caller.left.set(SystemClock::now());
        self.queue.remove(&self.rank).is_some()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.leave();
        }
    }
}

impl Caller {
    /// Where the time of a call went that ends now without an answer.
    pub(crate) fn timing_now(&self) -> Timing {
        self.timing(SystemClock::now())
    }
}

pub(super) fn expired_waiting() -> Error {
    Error::new(Reason::DeadlineInQueue, "the deadline passed while the call waited for the model")
}

pub(super) fn hopeless() -> Error {
    Error::new(Reason::DeadlineInQueue, "the call waited until its deadline could no longer be met")
}

fn too_long() -> Error {
    Error::new(Reason::DeadlineInQueue, "the call waited longer than the model's configuration allows")
}

fn expired_running() -> Error {
    Error::new(Reason::DeadlineRunning, "the deadline passed while the model ran")
}
