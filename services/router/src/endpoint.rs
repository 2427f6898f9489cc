//! A worker as the router reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::{Duration, Instant};

use weft_client::Channel;
use weft_policy::choose::Latency;
use weft_types::{SystemClock, WorkerId};

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

/// What calls to one replica have taken, as this router saw it.
pub(crate) struct Pace {
    /// A [`Latency`], packed.
    latency: AtomicU64,
    /// Where its clock begins.
    since: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { latency: AtomicU64::new(Latency::default().pack()), since: now }
    }

    fn clock(&self, now: Instant) -> u32 {
        // Latencies are told from each other over seconds; the clock may wrap around.
        now.saturating_duration_since(self.since).as_millis() as u32
    }

    /// What a call takes, in seconds.
    pub(crate) fn seconds(&self, now: Instant) -> Option<f32> {
        Latency::unpack(self.latency.load(Ordering::Relaxed)).seconds(self.clock(now))
    }

    fn learn(&self, now: Instant, learned: impl Fn(Latency, u32) -> Latency) {
        let clock = self.clock(now);
        let next = |word| Some(learned(Latency::unpack(word), clock).pack());
        // The closure never declines.
        let _ = self.latency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// How a call ended, for the choice of later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was answered, if only with a refusal of what it asked for.
    Answered,
    /// Its replica could not do what it is there for.
    Failed,
}

/// A call in flight. Dropping it releases the load, however the call ended.
#[must_use = "the load is released when the permit is dropped"]
pub(crate) struct Permit {
    endpoint: Arc<Endpoint>,
    pace: Arc<Pace>,
}

/// A call whose time is taken. One that is dropped before its end took at least until then.
#[must_use = "the time is taken until it is dropped"]
pub(crate) struct Timed<'a> {
    pace: &'a Pace,
    pub(crate) began: Instant,
    is_over: bool,
}

impl Timed<'_> {
    /// Ends it; returns how long it took.
    pub(crate) fn end(mut self, ending: Ending) -> Duration {
        self.is_over = true;
        let now = SystemClock::now();
        let took = now.saturating_duration_since(self.began);
        self.pace.learn(now, |latency, clock| match ending {
            Ending::Answered => latency.observe(took, clock),
            Ending::Failed => latency.fail(took, clock),
        });
        took
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let now = SystemClock::now();
            let took = now.saturating_duration_since(self.began);
            self.pace.learn(now, |latency, clock| latency.give_up(took, clock));
        }
    }
}

impl Endpoint {
    pub(crate) fn new(worker: WorkerId, epoch: u64, channel: Channel, streams: Channel) -> Arc<Self> {
        let identity = weft_policy::choose::identity(worker.as_str());
        Arc::new(Self { worker, identity, epoch, channel, streams, in_flight: AtomicU64::new(0) })
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(self: &Arc<Self>, pace: &Arc<Pace>) -> Permit {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Permit { endpoint: Arc::clone(self), pace: Arc::clone(pace) }
    }
}

impl Permit {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Takes the time of the call from now on.
    pub(crate) fn time(&self) -> Timed<'_> {
        Timed { pace: &self.pace, began: SystemClock::now(), is_over: false }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
