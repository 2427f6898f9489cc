//! Counts and times of one replica, as `ModelStatistics` tells them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use weft_proto::inference::{InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration};

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Success,
    Failure,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u64,
    ns: u64,
}

impl Total {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl From<Total> for StatisticDuration {
    fn from(total: Total) -> Self {
        Self { count: total.count, ns: total.ns }
    }
}

#[derive(Default)]
struct Counts {
    success: Total,
    fail: Total,
    queue: Total,
    compute: Total,
    /// By rows of the execution; bounded by the model's largest batch.
    batches: BTreeMap<u64, Total>,
    executions: u64,
    rows: u64,
    last: Option<SystemTime>,
}

/// The statistics of one replica since it was loaded.
#[derive(Default)]
pub(crate) struct Stats {
    // Held for a few additions, never across an await.
    counts: Mutex<Counts>,
}

/// Row counts kept apart in the batch statistics; larger ones share the last entry.
const DISTINCT_BATCHES: usize = 1024;

impl Stats {
    /// A call has ended after `whole` in this worker.
    pub(crate) fn call(&self, ending: Ending, whole: Duration) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match ending {
            Ending::Success => counts.success.add(whole),
            Ending::Failure => counts.fail.add(whole),
        }
    }

    /// A request has left the queue for an execution.
    pub(crate) fn queued(&self, waited: Duration) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).queue.add(waited);
    }

    /// An execution has answered `rows` rows.
    pub(crate) fn execution(&self, rows: usize, calls: usize, compute: Duration, at: SystemTime) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = rows as u64;
        counts.executions += 1;
        counts.rows += rows;
        counts.last = Some(at);
        // Triton counts compute per request: each waited for the whole execution.
        (0..calls).for_each(|_| counts.compute.add(compute));
        let key =
            if counts.batches.len() < DISTINCT_BATCHES || counts.batches.contains_key(&rows) { rows } else { u64::MAX };
        counts.batches.entry(key).or_default().add(compute);
    }

    /// The protocol's form.
    pub(crate) fn report(&self, name: &str, version: &str) -> ModelStatistics {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: counts.last.map_or(0, |time| u64::try_from(since(time).as_millis()).unwrap_or(u64::MAX)),
            inference_count: counts.rows,
            execution_count: counts.executions,
            inference_stats: Some(InferStatistics {
                success: Some(counts.success.into()),
                fail: Some(counts.fail.into()),
                queue: Some(counts.queue.into()),
                compute_infer: Some(counts.compute.into()),
                ..InferStatistics::default()
            }),
            batch_stats: counts.batches.iter().map(|(rows, total)| batch(*rows, *total)).collect(),
            ..ModelStatistics::default()
        }
    }
}

fn batch(rows: u64, total: Total) -> InferBatchStatistics {
    InferBatchStatistics { batch_size: rows, compute_infer: Some(total.into()), ..InferBatchStatistics::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::SystemClock;

    #[test]
    fn counts_rows_calls_and_executions_apart() {
        let stats = Stats::default();
        stats.execution(8, 3, Duration::from_nanos(10), SystemClock::wall());
        stats.execution(1, 1, Duration::from_nanos(5), SystemClock::wall());
        stats.call(Ending::Success, Duration::from_nanos(20));
        stats.call(Ending::Failure, Duration::from_nanos(30));
        let report = stats.report("digits", "1");
        assert_eq!((report.inference_count, report.execution_count, report.batch_stats.len()), (9, 2, 2));
        let calls = report.inference_stats.expect("filled");
        assert_eq!(calls.compute_infer, Some(StatisticDuration { count: 4, ns: 35 }));
        assert_eq!((calls.success.expect("filled").ns, calls.fail.expect("filled").ns), (20, 30));
    }
}
