//! Calls in a closed loop, each answer checked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;
use weft_engine::digits::{self, Heldout};
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_tests::calls::{Caller, raw};
use weft_types::SystemClock;

use super::cell::Work;

/// Far beyond any call's time: nothing is cut, and a call that hangs still ends the benchmark.
const LIMIT: Duration = Duration::from_secs(20);

/// A request and what must come back.
pub(crate) struct Case {
    pub(crate) request: ModelInferRequest,
    output: &'static str,
    expected: Bytes,
}

/// What one slice of time brought.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) elapsed: Duration,
    /// How long each call took, in order.
    pub(crate) times: Vec<Duration>,
    /// Processor time of the mesh, where the system tells it and the mesh did the work.
    pub(crate) cpu: Option<Duration>,
}

impl Slice {
    pub(crate) fn new(started: Instant, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { elapsed: SystemClock::now().saturating_duration_since(started), times, cpu: None }
    }

    pub(crate) fn calls_per_second(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The time in microseconds that so many percent of the calls did not exceed.
    pub(crate) fn percentile_us(&self, percent: usize) -> f64 {
        let rank = (self.times.len() * percent).div_ceil(100).saturating_sub(1);
        self.times.get(rank).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// The requests for a kind of work; callers send them in turn.
pub(crate) fn cases(work: Work) -> Arc<[Case]> {
    match work {
        Work::Identity(bytes) => Arc::new([identity(bytes)]),
        Work::Digits(rows) => batches(rows).iter().map(|images| classify(images)).collect(),
    }
}

/// The held-out images in groups of `rows`, each group full and each image in as many groups as any other.
pub(crate) fn batches(rows: usize) -> Vec<Vec<Heldout>> {
    let images: Vec<Heldout> = digits::heldout().collect();
    let group = |at: usize| (0..rows).map(|row| images[(at * rows + row) % images.len()]).collect();
    (0..images.len()).map(group).collect()
}

/// The pixels of images as the model takes them.
pub(crate) fn pixels(images: &[Heldout]) -> Bytes {
    images.iter().flat_map(Heldout::input).flat_map(f32::to_le_bytes).collect()
}

/// The labels that the Python reference gives, as INT64.
pub(crate) fn labels(images: &[Heldout]) -> Bytes {
    images.iter().flat_map(|image| i64::from(image.reference).to_le_bytes()).collect()
}

fn identity(bytes: usize) -> Case {
    let data: Bytes = (0..bytes / 4).flat_map(|element| (element as f32).to_le_bytes()).collect();
    let request = raw("identity", ("INPUT", "FP32"), &[axis(bytes / 4)], data.clone());
    Case { request, output: "OUTPUT", expected: data }
}

fn classify(images: &[Heldout]) -> Case {
    let request = raw("digits", ("PIXELS", "FP32"), &[axis(images.len()), 64], pixels(images));
    Case { request, output: "LABEL", expected: labels(images) }
}

fn axis(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

impl Case {
    fn check(&self, answer: &ModelInferResponse) -> Result<()> {
        let at = answer.outputs.iter().position(|output| output.name == self.output);
        let contents = at.and_then(|at| answer.raw_output_contents.get(at));
        let contents = contents.with_context(|| format!("no {} in the answer", self.output))?;
        ensure!(*contents == self.expected, "{} of {} is wrong", self.output, self.request.model_name);
        Ok(())
    }
}

/// Keeps `in_flight` calls under way for so long.
pub(crate) async fn run(caller: &Caller, cases: &Arc<[Case]>, in_flight: usize, lasting: Duration) -> Result<Slice> {
    let started = SystemClock::now();
    let mut lanes = JoinSet::new();
    for index in 0..in_flight {
        // Lanes begin at different cases, so that a batch is not of one image many times over.
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
