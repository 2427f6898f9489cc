//! What is under way, counted by owned permits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts shared by an engine and its models.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    executions: AtomicUsize,
    steps: AtomicU64,
}

impl Running {
    /// Counts one more execution until the permit is dropped.
    pub(crate) fn enter(&self) -> Permit {
        self.0.executions.fetch_add(1, Ordering::Relaxed);
        Permit(self.clone())
    }

    /// The executions that have begun and not stopped.
    pub(crate) fn count(&self) -> usize {
        self.0.executions.load(Ordering::Relaxed)
    }

    /// The steps that all executions have taken.
    pub(crate) fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }
}

/// One execution under way.
#[derive(Debug)]
pub(crate) struct Permit(Running);

impl Permit {
    /// Counts a step.
    pub(crate) fn step(&self) {
        self.0.0.steps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    // Runs on success, failure, panic and cancellation alike, so that the count cannot leak.
    fn drop(&mut self) {
        self.0.0.executions.fetch_sub(1, Ordering::Relaxed);
    }
}
