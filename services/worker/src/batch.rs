//! The executor loop of a replica: an executor becomes free, the policy says what runs on it.

use std::sync::Arc;

use weft_policy::Latency;
use weft_policy::batch::{self, Beside, Waiting};
use weft_runtime::Tasks;
use weft_types::SystemClock;

use crate::execute;
use crate::preempt;
use crate::queue::{Next, Work};
use crate::replica::Replica;

/// The most requests that one decision looks at.
const MAX_DEPTH: usize = 1024;
/// How many full batches it looks ahead: what comes after them has another decision before it.
const AHEAD: usize = 8;

/// Starts the loop of a replica, which ends when the queue is closed and empty.
pub(crate) fn start(replica: &Arc<Replica>, tasks: &Tasks) {
    let (replica, within) = (Arc::clone(replica), tasks.clone());
    tasks.spawn("batch", async move {
        let _executing = replica.executing();
        run(Arc::clone(&replica), within).await;
    });
}

/// Executions run in tasks of their own, each with a permit.
async fn run(replica: Arc<Replica>, tasks: Tasks) {
    while let Some(mut permit) = preempt::permit(&replica).await {
        let Some(work) = collect(&replica).await else {
            // What is being stopped comes back, so the end is known when nothing runs any more.
            let Some(_all) = replica.alone(permit).await else { return };
            if replica.queue.len() == 0 {
                return;
            }
            continue;
        };
        if work.iter().any(|work| work.suspect.is_some()) {
            // What runs beside it would be lost with it, and be blamed.
            let Some(all) = replica.alone(permit).await else { return };
            permit = all;
        }
        let execution = replica.execution(&work, permit, SystemClock::now());
        tasks.spawn("execute", execute::run(execution, work));
    }
}

/// Waits for the next batch; `None` when there will be none.
async fn collect(replica: &Replica) -> Option<Vec<Work>> {
    let settings = &replica.plan.batching;
    // One more than fits, so that the policy sees that the batch is full.
    let depth = settings.max_batch_rows.max(1).saturating_mul(AHEAD).min(MAX_DEPTH) + 1;
    let unknown = Latency::default();
    loop {
        let decide = |waiting: &[Waiting], others: usize| {
            let beside = Beside { executors: replica.executors, others };
            let learned = replica.learned();
            let latency = if replica.plan.predictable { &learned.latency } else { &unknown };
            batch::decide(settings, waiting.iter().copied(), latency, beside, SystemClock::now())
        };
        let wake = match replica.queue.next(depth, decide) {
            Next::Run(work) if !work.is_empty() => return Some(work),
            Next::Run(_) => None,
            Next::Wait(wake) => wake,
            Next::Closed => return None,
        };
        tokio::select! {
            () = replica.queue.changed() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(SystemClock::now).into()), if wake.is_some() => {}
        }
    }
}
