//! One service's telemetry: what starts its spans and holds its instruments.

use std::sync::Arc;

use http::HeaderMap;
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SdkTracer, SdkTracerProvider};

use crate::{Metrics, Span, TraceContext};

/// The name under which spans and metrics are recorded; the service is told by the resource.
pub(crate) const LIBRARY: &str = "weft";

/// A service's tracer and instruments. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Scope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    recorder: Option<Recorder>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Recorder {
    tracer: SdkTracer,
    /// The share of the traces begun here that are recorded.
    ratio: f64,
}

impl Scope {
    /// Records nothing, and passes the caller's trace on as it came: for tests and for processes without an endpoint.
    pub fn disabled() -> Self {
        // A provider without readers makes instruments that do nothing.
        Self(Arc::new(Inner { recorder: None, metrics: Metrics::new(&SdkMeterProvider::default()) }))
    }

    pub(crate) fn recording(traces: &SdkTracerProvider, meters: &SdkMeterProvider, ratio: f64) -> Self {
        let recorder = Recorder { tracer: traces.tracer(LIBRARY), ratio };
        Self(Arc::new(Inner { recorder: Some(recorder), metrics: Metrics::new(meters) }))
    }

    /// The span of a call that this service answers. `parent` is the caller's context; without one a new trace begins.
    pub fn start_server(&self, name: &str, parent: Option<&TraceContext>) -> Span {
        self.start(SpanKind::Server, name, parent)
    }

    /// As [`Self::start_server`] with the parent taken from a request's headers, keeping baggage that comes without a trace.
    pub fn start_server_from(&self, name: &str, headers: &HeaderMap) -> Span {
        match TraceContext::from_headers(headers) {
            Some(parent) => self.start(SpanKind::Server, name, Some(&parent)),
            None => self.start(SpanKind::Server, name, None).map_context(|context| context.with_baggage(headers)),
        }
    }

    /// The span of a call that this service makes: its context is the one to inject.
    pub fn start_client(&self, name: &str, parent: Option<&TraceContext>) -> Span {
        self.start(SpanKind::Client, name, parent)
    }

    /// The span of a piece of work inside the service.
    pub fn start_internal(&self, name: &str, parent: Option<&TraceContext>) -> Span {
        self.start(SpanKind::Internal, name, parent)
    }

    /// The service's instruments.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn start(&self, kind: SpanKind, name: &str, parent: Option<&TraceContext>) -> Span {
        let Some(recorder) = &self.0.recorder else {
            // A hop that exports nothing must not appear in the trace, or its children would point at a span nobody has.
            let begun = || TraceContext::of(new_trace_id(), new_span_id(), false);
            return Span::unrecorded(parent.cloned().unwrap_or_else(begun));
        };
        match parent {
            Some(parent) if parent.sampled() => Span::recorded(&recorder.tracer, kind, name, Some(parent)),
            Some(parent) => Span::unrecorded(parent.child(new_span_id(), false)),
            None => {
                let trace_id = new_trace_id();
                match chosen(&trace_id, recorder.ratio) {
                    true => Span::recorded(&recorder.tracer, kind, name, None),
                    false => Span::unrecorded(TraceContext::of(trace_id, new_span_id(), false)),
                }
            }
        }
    }
}

/// Whether a trace that begins here is recorded, drawn from the randomness of its id.
fn chosen(trace_id: &[u8; 16], ratio: f64) -> bool {
    let [.., a, b, c, d] = *trace_id;
    f64::from(u32::from_be_bytes([a, b, c, d])) < ratio * (f64::from(u32::MAX) + 1.0)
}

pub(crate) fn new_trace_id() -> [u8; 16] {
    RandomIdGenerator::default().new_trace_id().to_bytes()
}

pub(crate) fn new_span_id() -> [u8; 8] {
    RandomIdGenerator::default().new_span_id().to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{SpanId, Status};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{Sampler, SpanData, SpanExporter};
    use std::sync::Mutex;

    #[derive(Clone, Debug, Default)]
    struct Sink(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Sink {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().expect("no test panics while it holds this").extend(batch);
            Ok(())
        }
    }

    impl Sink {
        fn ended(&self) -> Vec<SpanData> {
            self.0.lock().expect("no test panics while it holds this").clone()
        }
    }

    fn scope(ratio: f64) -> (Scope, Sink) {
        let sink = Sink::default();
        let traces =
            SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).with_simple_exporter(sink.clone()).build();
        (Scope::recording(&traces, &SdkMeterProvider::default(), ratio), sink)
    }

    fn caller(sampled: bool) -> TraceContext {
        let mut headers = HeaderMap::new();
        let flag = if sampled { "01" } else { "00" };
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flag}");
        headers.insert("traceparent", parent.parse().expect("a header value"));
        headers.insert("tracestate", "vendor=1".parse().expect("a header value"));
        headers.insert("baggage", "user=7".parse().expect("a header value"));
        TraceContext::from_headers(&headers).expect("valid")
    }

    #[test]
    fn children_follow_their_parent() {
        let (scope, sink) = scope(0.0);
        let caller = caller(true);
        {
            let mut server = scope.start_server("server", Some(&caller));
            server.set("weft.rows", 3);
            let mut client = scope.start_client("client", Some(server.context()));
            client.fail("refused");
            assert_eq!(client.context().baggage(), Some("user=7"));
            assert_eq!(client.context().state(), Some("vendor=1"));
        }
        let ended = sink.ended();
        let [client, server] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!(server.span_context.trace_id().to_string(), caller.trace_id());
        assert_eq!(server.parent_span_id.to_string(), caller.span_id());
        assert_eq!(client.parent_span_id, server.span_context.span_id());
        assert_eq!(client.status, Status::error("refused"));
        assert_eq!(server.status, Status::Unset);
        assert_eq!(server.attributes.len(), 1);
        assert_eq!(server.span_kind, SpanKind::Server);
    }

    #[test]
    fn what_is_not_sampled_is_passed_on_and_not_exported() {
        let (scope, sink) = scope(1.0);
        let caller = caller(false);
        let span = scope.start_server("server", Some(&caller));
        assert!(!span.is_recording());
        assert_eq!(span.context().trace_id(), caller.trace_id());
        assert_ne!(span.context().span_id(), caller.span_id());
        assert!(!span.context().sampled());
        assert_eq!((span.context().state(), span.context().baggage()), (Some("vendor=1"), Some("user=7")));
        drop(span);
        assert!(sink.ended().is_empty());
    }

    #[test]
    fn a_disabled_scope_is_not_seen_in_the_trace() {
        let caller = caller(true);
        assert_eq!(Scope::disabled().start_server("server", Some(&caller)).context(), &caller);
        let root = Scope::disabled().start_server("server", None);
        assert!(!root.context().sampled() && root.context().trace_id() != "0".repeat(32));
    }

    #[test]
    fn roots_are_sampled_by_the_ratio() {
        for (ratio, low, high) in [(0.0, 0, 0), (0.25, 180, 320), (1.0, 1000, 1000)] {
            let (scope, sink) = scope(ratio);
            for _ in 0..1000 {
                let root = scope.start_internal("root", None);
                assert_eq!(root.context().sampled(), root.is_recording());
            }
            let recorded = sink.ended();
            assert!((low..=high).contains(&recorded.len()), "{} of 1000 at {ratio}", recorded.len());
            assert!(recorded.iter().all(|span| span.parent_span_id == SpanId::INVALID));
        }
    }

    #[test]
    fn baggage_comes_in_without_a_trace() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", "nonsense".parse().expect("a header value"));
        headers.insert("baggage", "user=7".parse().expect("a header value"));
        for (scope, recording) in [(scope(1.0).0, true), (scope(0.0).0, false), (Scope::disabled(), false)] {
            let span = scope.start_server_from("server", &headers);
            assert_eq!(span.context().baggage(), Some("user=7"));
            assert_eq!(span.is_recording(), recording);
        }
    }
}
