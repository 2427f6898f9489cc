//! What the mesh's calls are like: asked of a metrics service, for the leader's decisions.
//!
//! The figures are a state, and so is their absence: where no metrics service answers, the last ones stand and grow old, and
//! whoever decides on them asks how old they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use weft_client::{Channel, ChannelOptions, outgoing, within};
use weft_proto::weft::metrics::v1::metrics_client::MetricsClient;
use weft_proto::weft::metrics::v1::{ModelSummary, SummaryRequest};
use weft_proto::{duration, from_duration, status_of};
use weft_runtime::Tasks;
use weft_telemetry::{TraceContext, status_name};
use weft_types::{Deadline, Error, ModelName, Reason, Result, SystemClock, Version};

use crate::Inner;

/// How often the leader asks.
const EVERY: Duration = Duration::from_secs(1);
/// How far back it asks: long enough for a rate, short enough to follow demand.
const WINDOW: Duration = Duration::from_secs(10);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Figures that are older than this are not those of now.
const FRESH: Duration = Duration::from_secs(5);
/// The longest answer: ten thousand versions take about two megabytes.
const LONGEST_ANSWER: usize = 32 << 20;

/// What versions did over a window.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// When they were told; `None` before the first answer.
    pub at: Option<Instant>,
    /// How far back they reach.
    pub window: Duration,
    /// Only versions that were called in the window, or have calls under way.
    pub versions: BTreeMap<(ModelName, Version), VersionFigures>,
}

/// What the workers measured of one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionFigures {
    /// Calls that ended, whatever their outcome.
    pub calls: u64,
    /// The same per second.
    pub rate: f64,
    /// Calls that ended in an error, by gRPC status name.
    pub errors: BTreeMap<String, u64>,
    /// 99 of a hundred calls took no longer.
    pub p99: Option<Duration>,
    /// 99 of a hundred calls waited no longer before they were executed.
    pub queue_p99: Option<Duration>,
    /// Time of execution in seconds, counted once for each request of a batch.
    pub compute_seconds: f64,
    /// Mean number of requests in an executed batch; 0 when none was.
    pub mean_batch: f64,
    /// Workers that reported.
    pub sources: u32,
    /// How long before the figures were told a call had last ended; `None` where that is longer than the window.
    pub since_last_call: Option<Duration>,
    /// Calls that routers have under way.
    pub in_flight: u64,
}

impl Figures {
    /// Whether they tell of what is now.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| now.saturating_duration_since(at) < FRESH)
    }

    fn of(told: &[ModelSummary], window: Duration, at: Instant) -> Self {
        let versions = told.iter().filter_map(|told| {
            Some(((told.model.parse().ok()?, Version::new(told.version)?), VersionFigures::of(told)))
        });
        Self { at: Some(at), window, versions: versions.collect() }
    }
}

impl VersionFigures {
    /// Calls that missed their deadlines.
    pub fn misses(&self) -> u64 {
        self.errors.get(status_name(Code::DeadlineExceeded)).copied().unwrap_or(0)
    }

    fn of(told: &ModelSummary) -> Self {
        // Another build, or something else altogether, may have answered.
        let sound = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
        Self {
            calls: told.calls,
            rate: sound(told.rate),
            errors: told.errors.iter().map(|(status, count)| (status.clone(), *count)).collect(),
            p99: told.p99.as_ref().and_then(from_duration),
            queue_p99: told.queue_p99.as_ref().and_then(from_duration),
            compute_seconds: sound(told.compute_seconds),
            mean_batch: sound(told.mean_batch),
            sources: told.sources,
            since_last_call: told.since_last_call.as_ref().and_then(from_duration),
            in_flight: told.in_flight,
        }
    }
}

/// Asks whichever metrics service is registered first, on a connection that is kept.
pub(crate) struct Inquiry {
    inner: Arc<Inner>,
    tasks: Tasks,
    channel: Option<Channel>,
}

impl Inquiry {
    pub(crate) const fn new(inner: Arc<Inner>, tasks: Tasks) -> Self {
        Self { inner, tasks, channel: None }
    }

    /// The summaries of all versions, or of one model's with their distributions, over the last `window`: 1 s to 600 s. Questions may be
    /// under way beside each other.
    pub(crate) fn ask(
        &mut self,
        window: Duration,
        model: Option<&ModelName>,
    ) -> impl Future<Output = Result<Vec<ModelSummary>, Status>> + Send + use<> {
        let channel = self.channel();
        let model = model.map_or_else(String::new, ModelName::to_string);
        let request = SummaryRequest { window: Some(duration(window)), model };
        async move {
            let channel = channel.map_err(|error| status_of(&error))?;
            let deadline = Deadline::after(SystemClock::now(), PATIENCE);
            // Not sampled: once a second it would crowd out the traces of calls.
            let trace = TraceContext::new(rand::random(), rand::random(), false)
                .ok_or_else(|| status_of(&Error::new(Reason::Internal, "an all-zero trace id")))?;
            let request = outgoing(request, deadline, &trace).map_err(|error| status_of(&error))?;
            let mut client = MetricsClient::new(channel).max_decoding_message_size(LONGEST_ANSWER);
            within(deadline, client.summary(request)).await.map(|answer| answer.into_inner().models)
        }
    }

    fn channel(&mut self) -> Result<Channel> {
        let snapshot = self.inner.mesh.snapshot();
        let mut metrics = snapshot.services.iter().filter(|((kind, _), _)| kind == "metrics");
        let Some((_, record)) = metrics.next() else {
            self.channel = None;
            return Err(Error::new(Reason::NoReadyReplica, "no metrics service is registered"));
        };
        let address = record.value.address.as_str();
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.address() == address) {
            return Ok(channel.clone());
        }
        let options = ChannelOptions { connections: 1, ..ChannelOptions::default() };
        let channel = Channel::new(address, options, &self.tasks)?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }
}

/// Keeps the newest figures while this scheduler leads.
pub(crate) struct Gauge {
    inquiry: Inquiry,
    figures: watch::Sender<Arc<Figures>>,
    /// Whether the last answer failed to come: told once, not every second.
    missing: bool,
}

impl Gauge {
    /// `figures` is where the newest ones are kept.
    pub(crate) const fn new(inquiry: Inquiry, figures: watch::Sender<Arc<Figures>>) -> Self {
        Self { inquiry, figures, missing: false }
    }

    /// Asks until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let work = async {
            loop {
                if self.inquiry.inner.epoch().is_some() {
                    self.pass().await;
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        // A question that is cut off here is asked again by the next leader.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    async fn pass(&mut self) {
        let outcome = self.inquiry.ask(WINDOW, None).await;
        let missing = outcome.is_err();
        match outcome {
            Ok(told) => {
                self.figures.send_replace(Arc::new(Figures::of(&told, WINDOW, SystemClock::now())));
            }
            Err(status) if !self.missing => {
                tracing::info!(code = ?status.code(), "no metrics service answers: what needs figures waits");
            }
            Err(_) => {}
        }
        self.missing = missing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_checked_and_grows_old() {
        let now = SystemClock::now();
        let good = ModelSummary {
            model: "m".to_owned(),
            version: 2,
            calls: 7,
            errors: [("DEADLINE_EXCEEDED".to_owned(), 3), ("INTERNAL".to_owned(), 1)].into(),
            p99: Some(duration(Duration::from_millis(5))),
            queue_p99: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            compute_seconds: f64::NAN,
            mean_batch: -1.0,
            ..ModelSummary::default()
        };
        let nameless = ModelSummary { model: "../x".to_owned(), ..good.clone() };
        let unversioned = ModelSummary { version: 0, ..good.clone() };
        let figures = Figures::of(&[nameless, unversioned, good], WINDOW, now);
        assert_eq!(figures.versions.len(), 1);
        let (key, told) = figures.versions.first_key_value().expect("one");
        assert_eq!((key.0.as_str(), key.1.get(), told.calls, told.misses()), ("m", 2, 7, 3));
        assert_eq!((told.p99, told.queue_p99), (Some(Duration::from_millis(5)), None));
        assert_eq!((told.compute_seconds, told.mean_batch), (0.0, 0.0));
        assert!(figures.is_fresh(now) && !figures.is_fresh(now + FRESH));
        assert!(!Figures::default().is_fresh(now));
    }
}
