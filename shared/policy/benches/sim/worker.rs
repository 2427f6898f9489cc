//! A simulated worker: one device that executes one batch at a time, for the two models that it may hold.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weft_policy::Latency;
use weft_policy::batch::{self, Beside, Settings, Waiting};
use weft_policy::preempt::{self, Running, Takes, Urgent};
use weft_types::Deadline;

use super::scenario::Model;

/// So many of those that wait are looked at before something is stopped, as the worker does.
const LINE: usize = 64;

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Counts up: of equals the first.
    pub(crate) id: u64,
    pub(crate) model: u32,
    pub(crate) router: u16,
    pub(crate) is_long: bool,
    pub(crate) retried: bool,
    /// How often its execution was stopped.
    pub(crate) stops: u32,
    pub(crate) arrived: u64,
    /// When its router let it go to a replica.
    pub(crate) sent: u64,
    pub(crate) deadline: u64,
}

/// What a worker does next.
pub(crate) enum Next {
    /// Execute what was put into its batch.
    Run,
    /// Look again then.
    Wake(u64),
    Nothing,
}

/// An execution under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Execution {
    pub(crate) model: u32,
    pub(crate) rows: usize,
    pub(crate) began: u64,
    pub(crate) ends: u64,
    /// When it was told to stop.
    pub(crate) told: Option<u64>,
    /// Whether it does before it would have ended.
    pub(crate) stops: bool,
    deadline: u64,
    stopped: u32,
    takes: Option<Takes>,
}

#[derive(Default)]
pub(crate) struct Worker {
    pub(crate) is_down: bool,
    pub(crate) queue: VecDeque<Call>,
    /// The calls of the execution.
    pub(crate) batch: Vec<Call>,
    pub(crate) running: Option<Execution>,
    /// Tells events of this state from those of an earlier one.
    pub(crate) epoch: u32,
    pub(crate) wake: u64,
    learned: Vec<(u32, Latency)>,
    stop: Duration,
}

/// What all workers know.
pub(crate) struct Rules<'a> {
    pub(crate) models: &'a [Model],
    pub(crate) orders: bool,
    pub(crate) start: Instant,
    pub(crate) now: u64,
}

impl Rules<'_> {
    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_micros(at)
    }

    fn deadline(&self, at: u64) -> Deadline {
        Deadline::after(self.instant(at), Duration::ZERO)
    }

    fn model(&self, model: u32) -> &Model {
        &self.models[model as usize % self.models.len()]
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_micros() as u64
    }

    /// Whether the rows tell how long an execution takes.
    fn is_predictable(&self, model: u32) -> bool {
        self.model(model).longs == 0.0
    }
}

impl Worker {
    fn latency(&self, model: u32) -> Option<&Latency> {
        self.learned.iter().find(|(known, _)| *known == model).map(|(_, latency)| latency)
    }

    /// As the worker does after an execution that ended by itself.
    pub(crate) fn learn(&mut self, rules: &Rules<'_>, execution: &Execution) {
        let took = Duration::from_micros(rules.now - execution.began);
        let now = rules.instant(rules.now);
        match self.learned.iter_mut().find(|(known, _)| *known == execution.model) {
            Some((_, latency)) => latency.observe(execution.rows, took, now),
            None => {
                let mut latency = Latency::default();
                latency.observe(execution.rows, took, now);
                self.learned.push((execution.model, latency));
            }
        }
    }

    /// An execution has stopped.
    pub(crate) fn stopped(&mut self, after: u64) {
        let after = Duration::from_micros(after);
        self.stop = after.max((self.stop * 7 + after) / 8);
    }

    fn takes(&self, rules: &Rules<'_>, model: u32, rows: usize) -> Option<Takes> {
        let (latency, now) = (self.latency(model)?, rules.instant(rules.now));
        Some(Takes { expected: latency.expect(rows, now)?, most: latency.at_most(rows, now)? })
    }

    /// How long one more call of a model would wait.
    pub(crate) fn wait(&self, rules: &Rules<'_>, model: u32) -> Duration {
        let now = rules.instant(rules.now);
        let busy =
            self.running.and_then(|running| Some((running, self.latency(running.model)?.expect(running.rows, now)?)));
        let elapsed = |running: &Execution| Duration::from_micros(rules.now - running.began);
        let busy = busy.map_or(Duration::ZERO, |(running, takes)| takes.saturating_sub(elapsed(&running)));
        let band = rules.model(model).band;
        let before = self.queue.iter().filter(|call| rules.model(call.model).band <= band);
        let each = |call: &Call| {
            let whole = self.latency(call.model).and_then(|latency| latency.expect(1, now)).unwrap_or_default();
            whole / rules.model(call.model).max_rows as u32
        };
        before.map(each).sum::<Duration>() + busy
    }

    /// Whether a call that has just come can be in time, as the worker's admission sees it.
    pub(crate) fn admits(&self, rules: &Rules<'_>, call: &Call, preempts: bool) -> bool {
        if (self.running.is_none() && self.queue.is_empty()) || !rules.is_predictable(call.model) {
            return true;
        }
        let own = self.takes(rules, call.model, 1).map_or(Duration::ZERO, |takes| takes.expected);
        let remaining = Duration::from_micros(call.deadline.saturating_sub(rules.now));
        self.wait(rules, call.model) + own <= remaining
            || preempts
                && self.queue.is_empty()
                && !matches!(self.decide(rules, std::iter::once(*call)), preempt::Decision::Leave)
    }

    /// Puts a call where it belongs.
    pub(crate) fn push(&mut self, rules: &Rules<'_>, call: Call) {
        let rank = |call: &Call| (rules.model(call.model).band, call.deadline, call.id);
        let at =
            if rules.orders { self.queue.partition_point(|other| rank(other) < rank(&call)) } else { self.queue.len() };
        self.queue.insert(at, call);
    }

    /// Fills the batch with what runs next; what has come too late is put into `late`.
    pub(crate) fn next(&mut self, rules: &Rules<'_>, late: &mut Vec<Call>) -> Next {
        loop {
            let Some(first) = self.queue.front().copied() else { return Next::Nothing };
            let model = rules.model(first.model);
            let alike = |call: &Call| call.model == first.model;
            if !rules.orders {
                if first.deadline <= rules.now {
                    late.extend(self.queue.pop_front());
                    continue;
                }
                self.take(model.max_rows, alike);
                return Next::Run;
            }
            let depth = model.max_rows * 8 + 1;
            let waiting = self.queue.iter().filter(|call| alike(call)).take(depth).map(|call| Waiting {
                rows: 1,
                band: model.band.into(),
                deadline: rules.deadline(call.deadline),
                queued_at: rules.instant(call.sent),
            });
            let settings = Settings { max_batch_rows: model.max_rows, ..Settings::default() };
            let unknown = Latency::default();
            let known = if rules.is_predictable(first.model) { self.latency(first.model) } else { None };
            let beside = Beside { executors: 1, others: 0 };
            match batch::decide(&settings, waiting, known.unwrap_or(&unknown), beside, rules.instant(rules.now)) {
                batch::Decision::Run(count) => {
                    self.take(count, alike);
                    return Next::Run;
                }
                batch::Decision::GiveUp(indices) => {
                    let places = self.queue.iter().enumerate().filter(|(_, call)| alike(call)).map(|(at, _)| at);
                    let places: Vec<usize> = places.take(depth).collect();
                    let gone = indices.iter().rev().filter_map(|index| self.queue.remove(*places.get(*index)?));
                    late.extend(gone.collect::<Vec<_>>());
                }
                batch::Decision::WaitUntil(at) => return Next::Wake(rules.micros(at).max(rules.now + 1)),
                batch::Decision::Idle => return Next::Nothing,
            }
        }
    }

    fn take(&mut self, count: usize, alike: impl Fn(&Call) -> bool) {
        self.batch.clear();
        let mut at = 0;
        while self.batch.len() < count.max(1) && at < self.queue.len() {
            if alike(&self.queue[at]) { self.batch.extend(self.queue.remove(at)) } else { at += 1 }
        }
    }

    /// Begins what is in the batch, which takes so long.
    pub(crate) fn begin(&mut self, rules: &Rules<'_>, takes: u64) {
        let model = self.batch.first().map_or(0, |call| call.model);
        let rows = self.batch.len();
        let deadline = self.batch.iter().map(|call| call.deadline).min().unwrap_or(0);
        let stopped = self.batch.iter().map(|call| call.stops).max().unwrap_or(0);
        let known = self.takes(rules, model, rows);
        let (began, ends) = (rules.now, rules.now + takes);
        self.running =
            Some(Execution { model, rows, began, ends, told: None, stops: false, deadline, stopped, takes: known });
        self.epoch += 1;
        self.wake = u64::MAX;
    }

    fn decide(&self, rules: &Rules<'_>, line: impl Iterator<Item = Call> + Clone) -> preempt::Decision {
        let Some(running) = self.running.filter(|running| running.told.is_none()) else {
            return preempt::Decision::Leave;
        };
        let urgent = |(ahead, call, takes): (Duration, Call, Option<Takes>)| Urgent {
            band: rules.model(call.model).band.into(),
            queued_at: rules.instant(call.sent),
            deadline: rules.deadline(call.deadline),
            ahead,
            takes,
        };
        let with_ahead = line.take(LINE).scan(Duration::ZERO, |sum, call| {
            let (ahead, takes) = (*sum, self.takes(rules, call.model, 1));
            let rows = rules.model(call.model).max_rows as u32;
            *sum += takes.map_or(Duration::ZERO, |takes| takes.expected) / rows;
            Some((ahead, call, takes))
        });
        let running = Running {
            id: 0,
            band: rules.model(running.model).band.into(),
            began: rules.instant(running.began),
            deadline: rules.deadline(running.deadline),
            stops: running.stopped,
            takes: running.takes,
        };
        preempt::decide(with_ahead.map(urgent), std::iter::once(running), self.stop, rules.instant(rules.now))
    }

    /// Whether what runs makes way for the first that waits, or when to ask again.
    pub(crate) fn makes_way(&self, rules: &Rules<'_>) -> (bool, Option<u64>) {
        let band = |model: u32| rules.model(model).band;
        match (self.queue.front(), self.running) {
            (Some(first), Some(running)) if band(first.model) < band(running.model) => {}
            _ => return (false, None),
        }
        match self.decide(rules, self.queue.iter().copied()) {
            preempt::Decision::Stop(_) => (true, None),
            preempt::Decision::WaitUntil(at) => (false, Some(rules.micros(at).max(rules.now + 1))),
            preempt::Decision::Leave => (false, None),
        }
    }
}
