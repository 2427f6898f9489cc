//! A worker as the router reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_client::Channel;
use weft_types::WorkerId;

/// One worker: its channels and what this router has in flight there. It lives as long as the worker does.
pub(crate) struct Endpoint {
    pub(crate) worker: WorkerId,
    /// What stands for the worker's name when sequences choose their replica.
    pub(crate) identity: u64,
    /// Which life of the worker this is: a new one is not shunned for what happened to the last.
    pub(crate) epoch: u64,
    pub(crate) channel: Channel,
    /// Streams have connections of their own: answers that a caller does not read fill a connection's window, and must not hold
    /// up everybody else's calls.
    pub(crate) streams: Channel,
    in_flight: AtomicU64,
}

/// A call in flight. Dropping it releases the load, however the call ended.
#[must_use = "the load is released when the permit is dropped"]
pub(crate) struct Permit(Arc<Endpoint>);

impl Endpoint {
    pub(crate) fn new(worker: WorkerId, epoch: u64, channel: Channel, streams: Channel) -> Arc<Self> {
        let identity = weft_policy::choose::identity(worker.as_str());
        Arc::new(Self { worker, identity, epoch, channel, streams, in_flight: AtomicU64::new(0) })
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Permit {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Permit(Arc::clone(self))
    }
}

impl Permit {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
