//! What calls to a model version take, as far as its routes hedge them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use weft_policy::hedge::Latencies;

/// Latencies that calls share: looked at by calls that are hedged and by nobody else, never across an await.
pub(crate) struct Learned(Mutex<Latencies>);

impl Learned {
    /// Nothing is known yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Latencies::new(now)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Latencies> {
        // Numbers, each of which is right on its own: a panic elsewhere leaves nothing half done that matters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
