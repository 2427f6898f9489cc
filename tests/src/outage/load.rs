//! Load at a fixed rate, whatever becomes of the calls.
//!
//! A call's time counts from when it should have been sent, so that calls that had to wait for their turn are not left out.
//! The load has a thread and a runtime of its own: what the scenario does beside it cannot hold it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_proto::error_of;
use weft_types::{Reason, SystemClock};

use crate::calls::{Caller, identity, until};

/// The most calls under way; one more counts as failed.
const OUTSTANDING: usize = 4096;
/// FP32 elements of a call.
const ELEMENTS: usize = 16;

/// One call, as its caller saw it.
#[derive(Debug)]
pub struct Call {
    /// When it should have been sent.
    pub due: Instant,
    /// From then to its answer.
    pub took: Duration,
    /// Why it failed.
    pub failure: Option<String>,
    /// Whether it was lost with its router and sent once more, to the other one.
    pub repeated: bool,
}

/// Load that runs until it is stopped.
pub struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicU64>,
    per_second: u32,
    thread: JoinHandle<Result<Vec<Call>>>,
}

impl Load {
    /// Starts so many calls per second, each with this deadline, in turn to each of the routers.
    pub fn start(routers: Vec<String>, per_second: u32, limit: Duration) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (stop.clone(), Arc::clone(&answered));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(generate(&routers, (Duration::from_secs(1) / per_second, limit), &stopped, &counter))
        });
        Self { stop, answered, per_second, thread }
    }

    /// Waits until as many more calls have been answered as belong into `time`.
    pub async fn pass(&self, time: Duration) -> Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + (time.as_secs_f64() * f64::from(self.per_second)) as u64;
        // A long time is as long for the load; what it may be late by is what `until` allows.
        tokio::time::sleep(time).await;
        until("the calls to be answered", async || self.answered.load(Ordering::Relaxed) >= goal).await
    }

    /// Ends it when every call under way has ended.
    pub async fn stop(self) -> Result<Vec<Call>> {
        self.stop.cancel();
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        ended.map_err(|_| anyhow!("the load panicked"))?
    }
}

async fn generate(
    routers: &[String],
    (every, limit): (Duration, Duration),
    stop: &CancellationToken,
    answered: &Arc<AtomicU64>,
) -> Result<Vec<Call>> {
    let routers: Vec<Caller> = routers.iter().map(|address| Caller::new(address)).collect::<Result<_>>()?;
    let (mut under_way, mut ended) = (JoinSet::new(), Vec::new());
    let started = SystemClock::now();
    for index in 0.. {
        let due = started + every * index;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        while let Some(call) = under_way.try_join_next() {
            ended.push(call?);
        }
        if under_way.len() >= OUTSTANDING {
            ended.push(Call::failed(due, "too many calls are under way".to_owned()));
            continue;
        }
        let first = index as usize % routers.len();
        let (own, other) = (routers[first].clone(), routers[(first + 1) % routers.len()].clone());
        let answered = Arc::clone(answered);
        under_way.spawn(async move {
            let call = send((due, limit), own, other).await;
            answered.fetch_add(u64::from(call.failure.is_none()), Ordering::Relaxed);
            call
        });
    }
    while let Some(call) = under_way.join_next().await {
        ended.push(call.context("a call panicked")?);
    }
    Ok(ended)
}

impl Call {
    fn failed(due: Instant, failure: String) -> Self {
        let took = SystemClock::now().saturating_duration_since(due);
        Self { due, took, failure: Some(failure), repeated: false }
    }
}

/// One call, as a gRPC client sends it that knows both routers and has a retry policy: what never left goes to the other one
/// (gRFC A6 calls it a transparent retry), and what was lost with its router's connection is sent there once more, which
/// counts. Whatever a router itself answers is the outcome.
async fn send((due, limit): (Instant, Duration), own: Caller, other: Caller) -> Call {
    let mut repeated = false;
    let mut failure = None;
    for router in [own, other] {
        let Err(status) = router.infer(identity(ELEMENTS), limit).await else {
            let took = SystemClock::now().saturating_duration_since(due);
            return Call { due, took, failure: None, repeated };
        };
        failure = Some(format!("{:?}: {}", status.code(), status.message()));
        // What comes from the wire has headers; the client's own channel says it without.
        let is_own = status.metadata().get("content-type").is_none();
        match error_of(&status).reason() {
            Reason::NoReadyReplica if is_own => {}
            Reason::WorkerLost if is_own => repeated = true,
            _ => break,
        }
    }
    Call { repeated, ..Call::failed(due, failure.unwrap_or_default()) }
}
