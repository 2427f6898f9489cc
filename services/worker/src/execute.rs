//! One execution: a batch goes through the model for as long as somebody waits for it.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use weft_engine::Outputs;
use weft_types::{Error, Reason, SystemClock};

use crate::error::Failure;
use crate::quarantine::Digest;
use crate::queue::{Answer, Timing, Work};
use crate::replica::{self, Execution, Replica};

/// How an execution ended.
enum Ending {
    /// The model answered every request, each in its own way.
    Answered(Vec<Result<Outputs, Failure>>),
    /// Everything failed alike.
    Failed(Failure),
    /// The model's process was lost.
    Lost(Failure),
    /// Nobody waits any more: the execution was dropped.
    Unwanted,
    /// A more urgent request needs the place.
    Preempted,
    /// The replica is being unloaded by force.
    Aborted,
}

/// Executes and answers each caller. The permit is given back at the end, however it comes.
pub(crate) async fn run(execution: Execution, mut batch: Vec<Work>) {
    let replica = &execution.replica;
    if replica.is_lost() {
        return batch.into_iter().for_each(|work| work.refuse(replica::gone()));
    }
    let rows = batch.iter().map(|work| work.rows).sum();
    let started = SystemClock::now();
    for work in &batch {
        work.caller.start(started, rows);
        let waited = started.saturating_duration_since(work.caller.queued_at);
        replica.metrics.record_queue(waited);
        replica.stats.queued(waited);
    }
    // The batch keeps its inputs, which are views: they are looked at again if the process is lost.
    let inputs = batch.iter().map(|work| work.inputs.clone()).collect();
    let (inputs, stopped) = weft_engine::Batch::watched(inputs);
    let ending = compute(&execution, inputs, &mut batch).await;
    let told = SystemClock::now();
    if matches!(ending, Ending::Unwanted | Ending::Preempted) {
        // What is told to stop takes its place until it has, and is measured until then.
        tokio::select! {
            () = stopped.wait() => {}
            () = replica.aborted() => {}
        }
    }
    let ended = SystemClock::now();
    let took = ended.saturating_duration_since(started);
    replica.load.computed(took, ended);
    let batch = Batch { work: batch, rows, started, took };
    match ending {
        Ending::Lost(failure) => batch.lose(replica, &failure),
        Ending::Unwanted => {
            replica.learned().latency.observe_stopped(rows, took, ended);
            batch.stopped(replica, ended);
        }
        Ending::Preempted => {
            replica.learn_stopped(&execution.mark, rows, took, ended);
            let after = ended.saturating_duration_since(told);
            replica.executions.stopped(after, ended);
            replica.metrics.record_preempted(after);
            batch.put_back(replica);
        }
        Ending::Aborted => batch.fail(&replica::unloading().into()),
        Ending::Failed(failure) => batch.fail(&failure),
        Ending::Answered(answers) => {
            // An engine may run a batch again, one by one, when it fails: that is not how long the batch takes.
            if answers.iter().all(Result::is_ok) {
                replica.learn(&execution.mark, rows, took, ended);
            }
            batch.work.iter().filter_map(|work| work.suspect).for_each(|digest| replica.quarantine.clear(digest));
            replica.metrics.record_batch(batch.work.len());
            replica.stats.execution(rows, batch.work.len(), took, SystemClock::wall());
            batch.answer(replica, answers);
        }
    }
}

async fn compute(execution: &Execution, inputs: weft_engine::Batch, batch: &mut [Work]) -> Ending {
    let (replica, mark) = (&*execution.replica, &execution.mark);
    let expected = inputs.requests.len();
    let execution = AssertUnwindSafe(replica.model.execute(inputs)).catch_unwind();
    // Whichever ends first, the others are dropped at the end of this statement: that is what stops the model.
    tokio::select! {
        biased;
        outcome = execution => ending(outcome, expected, replica),
        () = nobody_waits(batch) => Ending::Unwanted,
        () = replica.aborted() => Ending::Aborted,
        () = mark.stop() => Ending::Preempted,
    }
}

type Outcome = Result<Vec<Result<Outputs, weft_engine::Error>>, weft_engine::Error>;

fn ending(outcome: std::thread::Result<Outcome>, expected: usize, replica: &Replica) -> Ending {
    match outcome {
        Ok(Ok(answers)) if answers.len() == expected => {
            Ending::Answered(answers.into_iter().map(|answer| answer.map_err(Failure::from)).collect())
        }
        Ok(Ok(answers)) => {
            tracing::error!(model = %replica.identity.name, answers = answers.len(), expected, "the engine lost answers");
            Ending::Failed(Error::new(Reason::Internal, "the model's runtime lost answers").into())
        }
        Ok(Err(error @ weft_engine::Error::Lost(_))) => Ending::Lost(error.into()),
        Ok(Err(error)) => Ending::Failed(error.into()),
        Err(panic) => {
            let text =
                panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(model = %replica.identity.name, panic = text.unwrap_or("unknown"), "the engine panicked");
            Ending::Failed(Failure::panicked())
        }
    }
}

/// Ends when every caller has gone or its deadline has passed.
async fn nobody_waits(batch: &mut [Work]) {
    join_all(batch.iter_mut().map(async |work| {
        tokio::select! {
            () = work.answer.closed() => {}
            () = tokio::time::sleep_until(work.deadline.instant().into()) => {}
        }
    }))
    .await;
}

/// An execution that is over, with those who may wait for it.
struct Batch {
    work: Vec<Work>,
    rows: usize,
    started: Instant,
    took: Duration,
}

impl Batch {
    fn timing(&self, work: &Work) -> Timing {
        let queue = self.started.saturating_duration_since(work.caller.queued_at);
        Timing { queue, compute: self.took, rows: self.rows }
    }

    fn stopped(self, replica: &Replica, ended: Instant) {
        if replica.model.lost().now_or_never().is_some() {
            // It did not stop: its process was ended, or ended by itself.
            replica.blame(self.work.iter().map(|work| Digest::of(&work.inputs)));
        }
        // A caller that has not left yet is about to: its deadline has passed.
        let last = self.work.iter().map(|work| work.caller.left().unwrap_or_else(|| work.deadline.instant())).max();
        let after = last.map_or(Duration::ZERO, |left| ended.saturating_duration_since(left));
        replica.metrics.record_stopped(after);
        replica.metrics.record_wasted(self.took);
        tracing::debug!(model = %replica.identity.name, after_us = after.as_micros(), "stopped: nobody waits");
    }

    /// They wait again, where they did before, and lose nothing but time.
    fn put_back(self, replica: &Replica) {
        let error = if replica.is_lost() { replica::gone() } else { replica::unloading() };
        replica.queue.put_back(self.work).into_iter().for_each(|work| work.refuse(error.clone()));
    }

    /// Whoever has sent these inputs, each is a suspect now: callers that have gone meanwhile included.
    fn lose(self, replica: &Replica, failure: &Failure) {
        replica.blame(self.work.iter().map(|work| Digest::of(&work.inputs)));
        self.fail(failure);
    }

    fn fail(mut self, failure: &Failure) {
        for work in std::mem::take(&mut self.work) {
            let answer = Answer { outcome: Err(failure.clone()), timing: self.timing(&work) };
            // A caller that has gone needs no answer.
            let _ = work.answer.send(answer);
        }
    }

    fn answer(mut self, replica: &Replica, answers: Vec<Result<Outputs, Failure>>) {
        let mut untaken = 0;
        for (work, outcome) in std::mem::take(&mut self.work).into_iter().zip(answers) {
            let (rows, timing) = (work.rows, self.timing(&work));
            replica.metrics.record_compute(self.took);
            if work.answer.send(Answer { outcome, timing }).is_err() {
                untaken += rows;
            }
        }
        if untaken > 0 {
            replica.metrics.record_wasted(self.took.mul_f64(untaken as f64 / self.rows.max(1) as f64));
        }
    }
}
