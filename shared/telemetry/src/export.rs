//! OTLP over gRPC, off the call path: batches leave from threads of their own, over one channel on a runtime of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, PeriodicReader, SdkMeterProvider, Stream, Temporality,
};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tokio::runtime::{Handle, Runtime};
use tonic::transport::{Channel, Endpoint};

use crate::Scope;

mod watched;

use watched::{Health, Watched};

/// How long connecting to the endpoint may take: an address that swallows packets must not hold up the next batch.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one export may take, retries included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where telemetry goes and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The OTLP endpoint, such as `http://metrics:8001`; `None` records nothing.
    pub endpoint: Option<String>,
    /// How often metrics and spans leave.
    pub interval: Duration,
    /// The share of the traces begun here that are recorded, 0 to 1. A caller's own choice is always followed.
    pub sample_ratio: f64,
    /// How many ended spans wait for the next batch; more are dropped.
    pub queue: usize,
}

impl Default for Options {
    fn default() -> Self {
        // One trace in a hundred costs nothing to speak of at thousands of calls a second and still shows the usual path.
        Self { endpoint: None, interval: Duration::from_secs(1), sample_ratio: 0.01, queue: 8192 }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is not an `http://` address.
    #[error("the OTLP endpoint must be an http:// address")]
    Endpoint,
    /// The ratio is not a share.
    #[error("the sample ratio must be between 0 and 1")]
    Ratio,
    /// The exporter's own settings, such as `OTEL_EXPORTER_OTLP_HEADERS`, are malformed.
    #[error("the exporter could not be built")]
    Exporter(#[source] ExporterBuildError),
    /// The exporter's thread could not be started.
    #[error("the exporter's thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// The process's exporter. It outlives the services, and [`Self::shutdown`] sends what is left.
#[derive(Debug)]
pub struct Telemetry {
    exporter: Option<Exporter>,
    options: Options,
}

#[derive(Debug)]
struct Exporter {
    /// `None` only while dropping.
    runtime: Option<Runtime>,
    channel: Channel,
    health: Arc<Health>,
    /// A pair for each service of the process: a handful.
    providers: Mutex<Vec<Providers>>,
}

#[derive(Clone, Debug)]
struct Providers {
    traces: SdkTracerProvider,
    meters: SdkMeterProvider,
}

impl Telemetry {
    /// Starts the exporter's thread when an endpoint is given. The endpoint need not answer, now or ever.
    pub fn new(options: Options) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&options.sample_ratio) {
            return Err(Error::Ratio);
        }
        let exporter = options.endpoint.as_deref().map(Exporter::start).transpose()?;
        Ok(Self { exporter, options })
    }

    /// The telemetry of one service of this process, told apart by `service.name` and `service.instance.id`.
    pub fn scope(&self, service: &str, instance: &str) -> Result<Scope, Error> {
        let Some(exporter) = &self.exporter else {
            return Ok(Scope::disabled());
        };
        let providers = exporter.providers(&self.options, resource(service, instance)).map_err(Error::Exporter)?;
        let scope = Scope::recording(&providers.traces, &providers.meters, self.options.sample_ratio);
        exporter.providers.lock().unwrap_or_else(PoisonError::into_inner).push(providers);
        Ok(scope)
    }

    /// Sends what has been recorded so far, waiting at most `timeout`.
    pub async fn flush(&self, timeout: Duration) {
        self.each(timeout, |providers| {
            // A failure was logged where it happened, and nobody could do anything about it here.
            let _ = providers.traces.force_flush();
            let _ = providers.meters.force_flush();
        })
        .await;
    }

    /// Sends what is left and stops recording, waiting at most `timeout`. Call it after the services have drained; scopes that
    /// are still used then record nothing.
    pub async fn shutdown(&self, timeout: Duration) {
        self.each(timeout, move |providers| {
            let _ = providers.traces.shutdown_with_timeout(timeout);
            let _ = providers.meters.shutdown_with_timeout(timeout);
        })
        .await;
    }

    /// The SDK's calls block, so each runs on a blocking thread of the exporter's runtime, all at once: one that is stuck
    /// outlives the timeout there, not here.
    async fn each(&self, timeout: Duration, act: impl Fn(&Providers) + Clone + Send + 'static) {
        let Some(exporter) = &self.exporter else { return };
        let Some(handle) = exporter.handle() else { return };
        let providers = exporter.providers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let running: Vec<_> = providers
            .into_iter()
            .map(|providers| {
                let act = act.clone();
                handle.spawn_blocking(move || act(&providers))
            })
            .collect();
        let ended = async {
            for task in running {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(timeout, ended).await.is_err() {
            tracing::warn!("telemetry was not sent in time");
        }
    }
}

impl Exporter {
    fn start(endpoint: &str) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|_| Error::Endpoint)?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(Error::Endpoint);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weft-telemetry")
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let channel = {
            // The channel's tasks belong to the runtime that is entered when it is made.
            let _entered = runtime.enter();
            endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(EXPORT_TIMEOUT).connect_lazy()
        };
        Ok(Self { runtime: Some(runtime), channel, health: Arc::default(), providers: Mutex::default() })
    }

    fn handle(&self) -> Option<Handle> {
        self.runtime.as_ref().map(|runtime| runtime.handle().clone())
    }

    fn providers(&self, options: &Options, resource: Resource) -> Result<Providers, ExporterBuildError> {
        let spans =
            SpanExporter::builder().with_tonic().with_channel(self.channel.clone()).with_timeout(EXPORT_TIMEOUT);
        let metrics = MetricExporter::builder()
            .with_tonic()
            .with_channel(self.channel.clone())
            .with_timeout(EXPORT_TIMEOUT)
            // Deltas add up on the other side, whatever restarts in between.
            .with_temporality(Temporality::Delta);
        let spans = Watched::new(spans.build()?, &self.health);
        let metrics = Watched::new(metrics.build()?, &self.health);
        Ok(Providers { traces: traces(options, resource.clone(), spans), meters: meters(options, resource, metrics) })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which is forbidden where async code may drop us; what was to be sent went
        // out with `shutdown`.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn traces(options: &Options, resource: Resource, exporter: Watched<SpanExporter>) -> SdkTracerProvider {
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(options.queue)
        .with_max_export_batch_size(options.queue.min(512))
        .with_scheduled_delay(options.interval)
        .build();
    SdkTracerProvider::builder()
        // The scope has decided before the SDK is asked, so that what is not sampled costs nothing.
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batch).build())
        .build()
}

fn meters(options: &Options, resource: Resource, exporter: Watched<MetricExporter>) -> SdkMeterProvider {
    let reader = PeriodicReader::builder(exporter).with_interval(options.interval).build();
    SdkMeterProvider::builder().with_resource(resource).with_reader(reader).with_view(exponential).build()
}

/// Every histogram is a base-2 exponential one: it needs no boundaries, and those of many sources merge without loss.
fn exponential(instrument: &Instrument) -> Option<Stream> {
    let aggregation = Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true };
    let is_histogram = instrument.kind() == InstrumentKind::Histogram;
    is_histogram.then(|| Stream::builder().with_aggregation(aggregation).build().ok()).flatten()
}

fn resource(service: &str, instance: &str) -> Resource {
    Resource::builder_empty()
        .with_service_name(service.to_owned())
        .with_attributes([
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("service.version", weft_types::BUILD),
            KeyValue::new("service.namespace", "weft"),
        ])
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_refused() {
        let with = |endpoint: &str| Options { endpoint: Some(endpoint.into()), ..Options::default() };
        assert!(matches!(Telemetry::new(with("https://metrics:8001")), Err(Error::Endpoint)));
        assert!(matches!(Telemetry::new(with("not an address")), Err(Error::Endpoint)));
        assert!(matches!(Telemetry::new(Options { sample_ratio: 1.5, ..Options::default() }), Err(Error::Ratio)));
        assert!(matches!(Telemetry::new(Options { sample_ratio: f64::NAN, ..Options::default() }), Err(Error::Ratio)));
    }

    /// Port 9 of the loopback address takes no connections, and 192.0.2.1 (TEST-NET-1) swallows them.
    #[tokio::test]
    async fn an_endpoint_that_is_not_there_costs_spans_and_not_calls() {
        for endpoint in ["http://127.0.0.1:9", "http://192.0.2.1:9"] {
            let options =
                Options { endpoint: Some(endpoint.into()), sample_ratio: 1.0, queue: 4, ..Options::default() };
            let telemetry = Telemetry::new(options).expect("a lazy channel");
            let scope = telemetry.scope("worker", "w-1").expect("an exporter");
            for _ in 0..10_000 {
                let span = scope.start_server("call", None);
                assert!(span.is_recording());
                scope.metrics().record_server_call("a.B/C", tonic::Code::Ok, Duration::from_millis(1));
            }
            telemetry.shutdown(Duration::from_millis(50)).await;
            let after = scope.start_server("call", None);
            assert_ne!(after.context().trace_id(), "0".repeat(32));
        }
    }
}
