//! What a simulated metrics service knows of a model's calls: the last ten whole seconds, as its workers tell.

use std::collections::VecDeque;

use weft_policy::scale::Demand;

use super::scenario::SECOND;
use super::tally::Times;

/// How far back the scheduler asks, in seconds.
pub(crate) const WINDOW: usize = 10;

/// What workers measured in one second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    /// Microseconds of executions.
    pub(crate) busy: u64,
    /// The same, counted once for each call of a batch.
    computed: u64,
    calls: u64,
    missed: u64,
    /// How long calls waited at a worker.
    waits: Times,
}

/// The seconds of late, the one that is not over last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lately {
    over: VecDeque<Second>,
    pub(crate) now: Second,
}

impl Second {
    /// A call was executed in so long, after it had waited for so long.
    pub(crate) fn executed(&mut self, took: u64, waited: u64) {
        self.computed += took;
        self.waits.add(waited);
    }

    /// A call has ended.
    pub(crate) fn ended(&mut self, in_time: bool) {
        self.calls += 1;
        self.missed += u64::from(!in_time);
    }
}

impl Lately {
    /// A second is over.
    pub(crate) fn next(&mut self) {
        self.over.push_back(std::mem::take(&mut self.now));
        self.over.drain(..self.over.len().saturating_sub(WINDOW));
    }

    /// What the autoscaler looks at; `None` before the first second is over.
    pub(crate) fn demand(&self) -> Option<Demand> {
        let sum = |of: fn(&Second) -> u64| self.over.iter().map(of).sum::<u64>() as f64;
        let (calls, seconds) = (sum(|one| one.calls), self.over.len() as f64);
        let per_call = |value: f64| if calls > 0.0 { value / calls } else { 0.0 };
        (seconds > 0.0).then(|| Demand {
            busy: sum(|one| one.busy) / SECOND as f64 / seconds,
            concurrency: 1.0,
            service: per_call(sum(|one| one.computed) / SECOND as f64),
            wait: Times::sum(self.over.iter().map(|one| &one.waits)).quantile(0.99) / 1e3,
            missed: per_call(sum(|one| one.missed)),
        })
    }
}
