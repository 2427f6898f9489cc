//! A worker as the router reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use weft_client::Channel;
use weft_policy::choose::{Latency, Quickest, Reported};
use weft_policy::eject::Evidence;
use weft_proto::orca::Load;
use weft_types::{Deadline, SystemClock, WorkerId};

use crate::outlier::{Outliers, Record};

/// How long a worker must have been silent for that to count: with less, a caller's deadline may pass before an answer that is on its
/// way.
const MIN_SILENCE: Duration = Duration::from_millis(100);

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
    /// Whether it answers at all.
    pub(crate) record: Record,
}

/// What is known of one replica: what calls to it have taken and how they ended, as this router saw it, and what it tells of itself. It ends with the
/// worker's life, so that nothing of it is held against the next.
pub(crate) struct Pace {
    /// A [`Latency`], packed.
    latency: AtomicU64,
    /// A [`Quickest`], packed.
    quickest: AtomicU64,
    /// This router's calls to it.
    in_flight: AtomicU64,
    /// The calls of others and the wait, each a [`Reported`], packed. Both are right on their own: they need not be of one report.
    others: AtomicU64,
    wait: AtomicU64,
    /// Where its clock begins.
    since: Instant,
    /// When it came, or came back, in milliseconds of its clock.
    came: AtomicU64,
    pub(crate) record: Record,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        let (latency, told) = (Latency::default().pack(), Reported::default().pack());
        Self {
            latency: AtomicU64::new(latency),
            quickest: AtomicU64::new(Quickest::default().pack()),
            in_flight: AtomicU64::new(0),
            others: AtomicU64::new(told),
            wait: AtomicU64::new(told),
            since: now,
            came: AtomicU64::new(0),
            record: Record::default(),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }

    fn clock(&self, now: Instant) -> u32 {
        // Latencies are told from each other over seconds; the clock may wrap around.
        self.millis(now) as u32
    }

    /// How long it has been there.
    pub(crate) fn there_for(&self, now: Instant) -> Duration {
        Duration::from_millis(self.millis(now).saturating_sub(self.came.load(Ordering::Relaxed)))
    }

    /// Makes it as if it had just come.
    pub(crate) fn start_slowly(&self, now: Instant) {
        self.came.store(self.millis(now), Ordering::Relaxed);
    }

    /// What a call takes, in seconds.
    pub(crate) fn seconds(&self, now: Instant) -> Option<f32> {
        Latency::unpack(self.latency.load(Ordering::Relaxed)).seconds(self.clock(now))
    }

    /// What the quickest calls take, in seconds.
    pub(crate) fn quickest(&self, now: Instant) -> Option<f32> {
        Quickest::unpack(self.quickest.load(Ordering::Relaxed)).seconds(self.clock(now))
    }

    /// How many calls of others may be there.
    pub(crate) fn others(&self, now: Instant) -> f32 {
        Reported::unpack(self.others.load(Ordering::Relaxed)).faded(self.clock(now))
    }

    /// How long one more call waits there, in seconds.
    pub(crate) fn wait(&self, now: Instant) -> f32 {
        Reported::unpack(self.wait.load(Ordering::Relaxed)).seconds_left(self.clock(now))
    }

    fn succeed(&self, now: Instant, took: Duration) {
        let clock = self.clock(now);
        let next = |word| Some(Quickest::unpack(word).observe(took, clock).pack());
        // The closure never declines.
        let _ = self.quickest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
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
    /// It was answered.
    Answered,
    /// What it asked for was refused, which may take less than an answer.
    Refused,
    /// Its replica could not do what it is there for.
    Failed,
}

/// A call in flight. Dropping it releases the load, however the call ended.
#[must_use = "the load is released when the permit is dropped"]
pub(crate) struct Permit {
    endpoint: Arc<Endpoint>,
    pace: Arc<Pace>,
    /// Of a call with several attempts: whether it is over.
    race: Option<Arc<AtomicBool>>,
}

/// A call whose time is taken. One that is dropped before its end took at least until then.
#[must_use = "the time is taken until it is dropped"]
pub(crate) struct Timed<'a> {
    permit: &'a Permit,
    outliers: &'a Outliers,
    pub(crate) began: Instant,
    deadline: Deadline,
    /// How often the worker had answered when it began.
    answers: u64,
    is_over: bool,
}

impl Timed<'_> {
    /// Ends it; returns how long it took.
    pub(crate) fn end(mut self, ending: Ending, evidence: Evidence) -> Duration {
        self.is_over = true;
        let now = SystemClock::now();
        let took = now.saturating_duration_since(self.began);
        self.permit.pace.learn(now, |latency, clock| match ending {
            Ending::Answered | Ending::Refused => latency.observe(took, clock),
            Ending::Failed => latency.fail(took, clock),
        });
        if ending == Ending::Answered {
            self.permit.pace.succeed(now, took);
        }
        self.permit.tell(self.outliers, evidence);
        took
    }

    /// What it says that there was no answer in this time. A worker that lives answers somebody in it, if only that their deadlines pass:
    /// one that gives no answer to anybody is lost. What its caller gave up before the deadline says nothing; but callers end their calls
    /// at the deadline as well, and theirs is a little earlier.
    fn silence(&self, took: Duration, now: Instant) -> Option<Evidence> {
        if took < MIN_SILENCE || self.deadline.remaining(now) > took / 10 {
            return None;
        }
        let was_silent = self.permit.endpoint.record.answers() == self.answers;
        Some(if was_silent { Evidence::Lost } else { Evidence::Unanswered })
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let now = SystemClock::now();
            let took = now.saturating_duration_since(self.began);
            self.permit.pace.learn(now, |latency, clock| latency.give_up(took, clock));
            // Who was beaten had no chance to answer.
            if let Some(evidence) = self.silence(took, now).filter(|_| !self.permit.is_beaten()) {
                self.permit.tell(self.outliers, evidence);
            }
        }
    }
}

impl Endpoint {
    pub(crate) fn new(worker: WorkerId, epoch: u64, channel: Channel, streams: Channel) -> Arc<Self> {
        let identity = weft_policy::choose::identity(worker.as_str());
        let (in_flight, record) = (AtomicU64::new(0), Record::default());
        Arc::new(Self { worker, identity, epoch, channel, streams, in_flight, record })
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(self: &Arc<Self>, pace: &Arc<Pace>) -> Permit {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        pace.in_flight.fetch_add(1, Ordering::Relaxed);
        Permit { endpoint: Arc::clone(self), pace: Arc::clone(pace), race: None }
    }
}

impl Permit {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Makes this one of a call's attempts, of which all but one are given up as soon as `over` is set.
    pub(crate) fn race(&mut self, over: &Arc<AtomicBool>) {
        self.race = Some(Arc::clone(over));
    }

    /// Whether another attempt has ended the call.
    fn is_beaten(&self) -> bool {
        self.race.as_ref().is_some_and(|over| over.load(Ordering::Relaxed))
    }

    /// The replica has told its load with the answer to this call, which it no longer counts.
    pub(crate) fn hear(&self, load: &Load, now: Instant) {
        let (pace, clock) = (&self.pace, self.pace.clock(now));
        if let Some(requests) = load.requests {
            let own = pace.in_flight.load(Ordering::Relaxed).saturating_sub(1);
            pace.others.store(Reported::others(requests, own, clock).pack(), Ordering::Relaxed);
        }
        if let Some(wait) = load.wait_ms {
            pace.wait.store(Reported::wait(wait, clock).pack(), Ordering::Relaxed);
        }
    }

    /// Takes the time of the call from now on.
    pub(crate) fn time<'a>(&'a self, outliers: &'a Outliers, deadline: Deadline) -> Timed<'a> {
        let answers = self.endpoint.record.answers();
        Timed { permit: self, outliers, began: SystemClock::now(), deadline, answers, is_over: false }
    }

    /// Notes what the end of a call says about its replica and worker.
    pub(crate) fn tell(&self, outliers: &Outliers, evidence: Evidence) {
        outliers.tell(&self.pace.record, &self.endpoint.record, evidence);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pace.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
