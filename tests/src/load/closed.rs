//! Calls in a closed loop, each answer checked: so many callers, each with one call under way at any time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_types::SystemClock;

use crate::calls::Caller;

/// Far beyond any call's time: nothing is cut, and a call that hangs still ends the benchmark.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// A request and what must come back.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is sent.
    pub request: ModelInferRequest,
    /// The output that is looked at.
    pub output: String,
    /// What it must hold.
    pub expected: Expected,
}

/// What an output must hold.
#[derive(Clone, Debug)]
pub enum Expected {
    /// These bytes.
    Exactly(Bytes),
    /// These FP32 elements, each within a distance: a batch of another size adds up in another order.
    Near(Bytes, f32),
}

/// What one slice of time brought.
#[derive(Clone, Debug)]
pub struct Slice {
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// How long each call took, in order.
    pub times: Vec<Duration>,
    /// Processor time of the server, where the system tells it and the server did the work.
    pub cpu: Option<Duration>,
}

impl Slice {
    /// Calls that began at `started` and have ended by now.
    pub fn new(started: Instant, times: Vec<Duration>) -> Self {
        Self::lasting(SystemClock::now().saturating_duration_since(started), times)
    }

    /// Calls that took so long together.
    pub fn lasting(elapsed: Duration, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { elapsed, times, cpu: None }
    }

    /// Answered calls by time.
    pub fn calls_per_second(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The time in microseconds that so many percent of the calls did not exceed.
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let rank = (self.times.len() * percent).div_ceil(100).saturating_sub(1);
        self.times.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

impl Case {
    /// Fails unless the answer holds what it must.
    pub fn check(&self, answer: &ModelInferResponse) -> Result<()> {
        let at = answer.outputs.iter().position(|output| output.name == self.output);
        let contents = at.and_then(|at| answer.raw_output_contents.get(at));
        let contents = contents.with_context(|| format!("no {} in the answer", self.output))?;
        ensure!(self.expected.holds(contents), "{} of {} is wrong", self.output, self.request.model_name);
        Ok(())
    }
}

impl Expected {
    fn holds(&self, contents: &Bytes) -> bool {
        match self {
            Self::Exactly(expected) => contents == expected,
            Self::Near(expected, distance) => {
                let pairs = contents.chunks_exact(4).zip(expected.chunks_exact(4));
                let element = |bytes: &[u8]| bytes.try_into().map_or(f32::NAN, f32::from_le_bytes);
                contents.len() == expected.len()
                    && pairs.into_iter().all(|(one, other)| (element(one) - element(other)).abs() <= *distance)
            }
        }
    }
}

/// Keeps `in_flight` calls under way for so long.
pub async fn run(caller: &Caller, cases: &Arc<[Case]>, in_flight: usize, lasting: Duration) -> Result<Slice> {
    let started = SystemClock::now();
    let mut lanes = JoinSet::new();
    for index in 0..in_flight {
        // Lanes begin at different cases, so that a batch is not of one item many times over.
        lanes.spawn(lane(caller.clone(), Arc::clone(cases), index, started + lasting));
    }
    let mut times = Vec::new();
    while let Some(ended) = lanes.join_next().await {
        times.extend(ended??);
    }
    Ok(Slice::new(started, times))
}

async fn lane(caller: Caller, cases: Arc<[Case]>, first: usize, end: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for case in cases.iter().cycle().skip(first) {
        let began = SystemClock::now();
        if began >= end {
            break;
        }
        let answer = caller.infer(case.request.clone(), LIMIT).await;
        times.push(SystemClock::now().saturating_duration_since(began));
        let answer = answer.map_err(|status| anyhow!("a call failed: {:?}: {}", status.code(), status.message()))?;
        case.check(answer.get_ref())?;
    }
    Ok(times)
}
