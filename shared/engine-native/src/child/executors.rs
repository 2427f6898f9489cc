//! Executions on threads of their own, several at once.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use weft_engine::Error;

use super::channel::Outgoing;
use crate::protocol::{Execute, Executed, Failed, event};

/// What executes batches.
pub(crate) trait Backend: Send + Sync + 'static {
    /// One execution, as something that can be stopped.
    type Run: Send + Sync;
    /// Makes it ready, before anything computes.
    fn begin(&self) -> Result<Self::Run, Error>;
    /// Stops it as soon as the engine can, also when it has not begun to compute. Called from another thread.
    fn stop(&self, run: &Self::Run);
    /// Computes.
    fn execute(&self, run: &Self::Run, execute: &Execute) -> Result<Executed, Error>;
}

/// The threads of one model.
pub(super) struct Executors<B: Backend>(Arc<Shared<B>>);

struct Shared<B: Backend> {
    backend: B,
    outgoing: Outgoing,
    state: Mutex<State<B::Run>>,
    ready: Condvar,
}

struct State<R> {
    waiting: VecDeque<Execute>,
    running: HashMap<u64, Arc<Running<R>>>,
}

struct Running<R> {
    run: R,
    cancelled: AtomicBool,
}

impl<B: Backend> Executors<B> {
    /// Starts so many threads. They live as long as the process.
    pub(super) fn start(backend: B, threads: usize, outgoing: &Outgoing) -> Result<Self, Error> {
        let state = Mutex::new(State { waiting: VecDeque::new(), running: HashMap::new() });
        let shared = Arc::new(Shared { backend, outgoing: outgoing.clone(), state, ready: Condvar::new() });
        for at in 0..threads {
            let shared = Arc::clone(&shared);
            let started = std::thread::Builder::new().name(format!("execute {at}")).spawn(move || shared.work());
            started.map_err(|error| Error::Load(format!("cannot start a thread ({})", error.kind())))?;
        }
        Ok(Self(shared))
    }

    /// Queues a batch. Its end is an event under its number.
    pub(super) fn execute(&self, execute: Execute) {
        self.0.state().waiting.push_back(execute);
        self.0.ready.notify_one();
    }

    /// Stops what has this number; nothing happens when it has ended already.
    pub(super) fn cancel(&self, id: u64) {
        let mut state = self.0.state();
        if let Some(at) = state.waiting.iter().position(|execute| execute.id == id) {
            state.waiting.remove(at);
            drop(state);
            self.0.outgoing.send(event::Body::Stopped(id));
        } else if let Some(running) = state.running.get(&id).cloned() {
            drop(state);
            running.cancelled.store(true, Ordering::Release);
            self.0.backend.stop(&running.run);
        }
    }
}

impl<B: Backend> Shared<B> {
    /// One thread, for ever.
    fn work(&self) {
        loop {
            let (execute, running) = self.next();
            self.run(&execute, &running);
        }
    }

    /// The next batch. It goes from waiting to running under the lock, so that a cancel finds it in one of them.
    fn next(&self) -> (Execute, Arc<Running<B::Run>>) {
        let mut state = self.state();
        loop {
            let Some(execute) = state.waiting.pop_front() else {
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match self.backend.begin() {
                Ok(run) => {
                    let running = Arc::new(Running { run, cancelled: AtomicBool::new(false) });
                    state.running.insert(execute.id, Arc::clone(&running));
                    return (execute, running);
                }
                Err(error) => self.outgoing.send(event::Body::Failed(Failed::new(execute.id, error))),
            }
        }
    }

    fn run(&self, execute: &Execute, running: &Running<B::Run>) {
        let work = AssertUnwindSafe(|| self.backend.execute(&running.run, execute));
        let outcome = catch_unwind(work).unwrap_or_else(|_| Err(Error::Run("the runtime failed".to_owned())));
        self.state().running.remove(&execute.id);
        self.outgoing.send(match outcome {
            // Whoever cancelled waits for this, and for nothing else.
            _ if running.cancelled.load(Ordering::Acquire) => event::Body::Stopped(execute.id),
            Ok(executed) => event::Body::Executed(Executed { id: execute.id, ..executed }),
            Err(error) => event::Body::Failed(Failed::new(execute.id, error)),
        });
    }

    /// A poisoned lock guards plain values that are whole at every step.
    fn state(&self) -> MutexGuard<'_, State<B::Run>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
