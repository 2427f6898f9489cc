//! What a replica, and the worker as a whole, tells of its load (ORCA, gRFC A51).
//!
//! A report is made from counters when it is asked for: nothing is sampled beside the calls, and the one lock that it takes, the
//! queue's, is held for two reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::Code;
use weft_policy::rate::Rate;
use weft_proto::orca::{OrcaLoadReport, named};
use weft_types::SystemClock;

use crate::Shared;
use crate::replica::Replica;

/// What is counted of one replica for its reports.
pub(crate) struct Load {
    /// Calls under way, wherever they are.
    calls: AtomicU64,
    served: Rate,
    errors: Rate,
    /// Seconds of execution per second.
    busy: Rate,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { calls: AtomicU64::new(0), served: Rate::new(now), errors: Rate::new(now), busy: Rate::new(now) }
    }

    /// A call begins; [`Self::leave`] ends it.
    pub(crate) fn enter(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A call has ended.
    pub(crate) fn leave(&self, code: Code, now: Instant) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
        self.served.add(1.0, now);
        if is_error(code) {
            self.errors.add(1.0, now);
        }
    }

    /// An execution has ended after so long.
    pub(crate) fn computed(&self, took: Duration, now: Instant) {
        self.busy.add(took.as_secs_f32(), now);
    }
}

/// What speaks against a replica: that it failed or had no room. What a caller did wrong, or gave too little time for, does not.
const fn is_error(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::Internal | Code::Unavailable | Code::ResourceExhausted | Code::DataLoss)
}

/// The load of one replica. Calls that have just been answered are no part of it.
///
/// `application_utilization` of a tensor model is the share of its executors that are busy, averaged over some seconds or at this moment,
/// whichever is more, and what waits in full batches per executor on top; of a language model, its sequences per slot.
pub(crate) fn of_replica(replica: &Replica, now: Instant) -> OrcaLoadReport {
    let calls = replica.load.calls.load(Ordering::Relaxed);
    let mut report = OrcaLoadReport {
        rps_fractional: replica.load.served.per_second(now).into(),
        eps: replica.load.errors.per_second(now).into(),
        ..OrcaLoadReport::default()
    };
    let waiting = match replica.model.language() {
        None => of_queue(replica, calls, now, &mut report),
        Some(language) => {
            let (capacity, occupancy) = (language.capacity(), language.occupancy());
            // As of its last step, which may be long ago: no more wait than there are.
            let waiting = u64::from(occupancy.waiting).min(calls);
            let slots = u64::from(capacity.slots);
            report.application_utilization = ratio(calls, slots);
            name(&mut report, named::KV_CACHE_USAGE, ratio(occupancy.kv_tokens.into(), capacity.kv_tokens.into()));
            name(&mut report, named::CAPACITY, capacity_of(slots, 1) as f64);
            name(&mut report, named::FREE_SLOTS, slots.saturating_sub(calls - waiting) as f64);
            waiting
        }
    };
    name(&mut report, named::QUEUE_DEPTH, waiting as f64);
    name(&mut report, named::RUNNING, calls.saturating_sub(waiting) as f64);
    report
}

/// What a tensor model's queue tells; returns how many requests wait.
fn of_queue(replica: &Replica, calls: u64, now: Instant, report: &mut OrcaLoadReport) -> u64 {
    let (waiting, rows) = replica.queue.backlog();
    let waiting = waiting as u64;
    let executors = replica.executors.max(1) as u64;
    // An execution ends a little after its calls do: it is theirs no more.
    let running = (replica.running() as u64).min(calls.saturating_sub(waiting));
    let average = f64::from(replica.load.busy.per_second(now)) / executors as f64;
    let rows_each = (rows / waiting.max(1) as usize).max(1);
    let together = (replica.plan.batching.max_batch_rows / rows_each).max(1) as u64;
    name(report, named::CAPACITY, capacity_of(executors, together) as f64);
    let batches = ratio(rows as u64, replica.plan.batching.max_batch_rows.max(1) as u64);
    report.application_utilization = average.max(ratio(running, executors)).min(1.0) + batches / executors as f64;
    if let (Some(whole), Some(own)) = (replica.estimate(1, None, now), replica.expected()) {
        name(report, named::EST_WAIT_MS, whole.saturating_sub(own).as_secs_f64() * 1e3);
    }
    waiting
}

/// Requests that so many executors can put to use, each with so many at once: those, and what must be there for none to be idle when
/// the next of them end: one execution, and a sixteenth where there are many, as several end while an answer and the next request are on their way.
const fn capacity_of(executors: u64, together: u64) -> u64 {
    let next = if together > executors / 16 { together } else { executors / 16 };
    executors * together + next
}

fn name(report: &mut OrcaLoadReport, name: &str, value: f64) {
    report.named_metrics.insert(name.to_owned(), value);
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// The load of the worker: calls of all replicas together, and the utilization and the wait of the one that has the most.
pub(crate) fn of_worker(shared: &Shared) -> OrcaLoadReport {
    let now = SystemClock::now();
    let mut whole = OrcaLoadReport::default();
    let table = shared.replicas.all();
    for replica in table.values().flat_map(|versions| versions.values()).filter_map(|held| held.replica()) {
        let own = of_replica(replica, now);
        whole.rps_fractional += own.rps_fractional;
        whole.eps += own.eps;
        whole.application_utilization = whole.application_utilization.max(own.application_utilization);
        for (name, value) in own.named_metrics {
            let adds_up =
                [named::RUNNING, named::QUEUE_DEPTH, named::FREE_SLOTS, named::CAPACITY].contains(&name.as_str());
            let known = whole.named_metrics.entry(name).or_default();
            *known = if adds_up { *known + value } else { known.max(value) };
        }
    }
    whole
}

#[cfg(test)]
mod tests;
