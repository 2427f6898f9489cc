//! OTLP in: each value goes to the totals, a model's distributions to the window as well, spans to their traces.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span as WireSpan, status::StatusCode};

use crate::source::Source;
use crate::state::State;
use crate::text::{MAX_TEXT, clipped};
use crate::totals::{Family, Refused};
use crate::traces::Span;

mod point;

use point::{Point, points};

/// The attributes of a span beyond these are dropped.
const MAX_ATTRIBUTES: usize = 32;
/// The longest value of a span's attribute, in bytes.
const MAX_ATTRIBUTE: usize = 256;

/// What was not taken in, for the partial success that OTLP answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) count: u64,
    /// Why the last of them was refused.
    pub(crate) why: &'static str,
}

impl Refusals {
    fn add(&mut self, count: usize, why: &'static str) {
        if count > 0 {
            self.count += count as u64;
            self.why = why;
        }
    }
}

/// Takes in metrics that arrived at `now`.
pub(crate) fn metrics(state: &mut State, now: Instant, request: ExportMetricsServiceRequest) -> Refusals {
    let mut refusals = Refusals::default();
    for reported in request.resource_metrics {
        match state.sources.heard(now, source_of(reported.resource.as_ref())) {
            Some(source) => from_source(state, now, &source, reported, &mut refusals),
            None => {
                let metrics = reported.scope_metrics.iter().flat_map(|scope| &scope.metrics);
                refusals.add(metrics.map(count_of).sum(), "too many instances report");
            }
        }
    }
    state.refused_points = state.refused_points.saturating_add(refusals.count);
    refusals
}

fn from_source(
    state: &mut State,
    now: Instant,
    source: &Arc<Source>,
    reported: ResourceMetrics,
    refusals: &mut Refusals,
) {
    for metric in reported.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
        let count = count_of(&metric);
        let Some((family, points)) = points(metric) else {
            refusals.add(count, "the metric's name or type is not supported");
            continue;
        };
        refusals.add(count - points.len(), "a value is malformed");
        for point in points {
            if let Err(why) = take(state, now, source, &family, &point) {
                refusals.add(1, why);
            }
        }
    }
}

/// Each of the two keeps what it has room for, whether or not the other has.
fn take(
    state: &mut State,
    now: Instant,
    source: &Arc<Source>,
    family: &Family,
    point: &Point,
) -> Result<(), &'static str> {
    let windowed = match (&point.key, point.delta()) {
        (Some(key), Some(histogram)) => {
            state.triton.record(key, histogram);
            state.window.record(now, &source.instance, key.clone(), histogram)
        }
        _ => Ok(()),
    };
    let labels = crate::totals::labels(point.attributes.iter().cloned(), source);
    state.totals.record(family, labels, source, point.amount()).map_err(|refused| match refused {
        Refused::Full => "too many series",
        Refused::Conflict => "the value does not fit the metric's type",
    })?;
    windowed.map_err(|_| "the window holds too many series")
}

/// Takes in spans.
pub(crate) fn traces(state: &mut State, now: Instant, request: ExportTraceServiceRequest) -> Refusals {
    let mut refusals = Refusals::default();
    for reported in request.resource_spans {
        let spans = reported.scope_spans.into_iter().flat_map(|scope| scope.spans);
        let Some(source) = state.sources.heard(now, source_of(reported.resource.as_ref())) else {
            refusals.add(spans.count(), "too many instances report");
            continue;
        };
        for span in spans {
            match span_of(span, &source).map(|(trace, span)| state.traces.add(trace, span)) {
                Some(true) => {}
                Some(false) => refusals.add(1, "the trace has too many spans"),
                None => refusals.add(1, "an id is malformed"),
            }
        }
    }
    state.refused_spans = state.refused_spans.saturating_add(refusals.count);
    refusals
}

fn span_of(span: WireSpan, source: &Arc<Source>) -> Option<([u8; 16], Span)> {
    let trace = <[u8; 16]>::try_from(span.trace_id).ok().filter(|id| *id != [0; 16])?;
    let id = <[u8; 8]>::try_from(span.span_id).ok().filter(|id| *id != [0; 8])?;
    let parent = match span.parent_span_id.as_slice() {
        [] | [0, 0, 0, 0, 0, 0, 0, 0] => None,
        parent => Some(parent.try_into().ok()?),
    };
    let error = match span.status {
        Some(status) if status.code == StatusCode::Error as i32 => match status.message.as_str() {
            "" => "failed".to_owned(),
            message => clipped(message, MAX_ATTRIBUTE),
        },
        _ => String::new(),
    };
    let attributes =
        span.attributes.iter().filter_map(|pair| text_of(pair, MAX_ATTRIBUTE)).take(MAX_ATTRIBUTES).collect();
    let span = Span {
        id,
        parent,
        name: clipped(&span.name, MAX_TEXT),
        source: Arc::clone(source),
        start_unix_nanos: span.start_time_unix_nano,
        duration_nanos: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
        attributes,
        error,
    };
    Some((trace, span))
}

/// Who reports; a process that does not say is `unknown`.
fn source_of(resource: Option<&Resource>) -> Source {
    let find = |key: &str| {
        let pair = resource?.attributes.iter().find(|pair| pair.key == key)?;
        text_of(pair, MAX_TEXT).map(|(_, value)| value).filter(|value| !value.is_empty())
    };
    let find = |key| find(key).unwrap_or_else(|| "unknown".into()).into();
    Source { service: find("service.name"), instance: find("service.instance.id") }
}

/// An attribute as text; lists, maps and bytes have no use here.
fn text_of(pair: &KeyValue, max: usize) -> Option<(String, String)> {
    let AnyValue { value: Some(value) } = pair.value.as_ref()? else {
        return None;
    };
    let text = match value {
        any_value::Value::StringValue(text) => clipped(text, max),
        any_value::Value::BoolValue(value) => value.to_string(),
        any_value::Value::IntValue(value) => value.to_string(),
        any_value::Value::DoubleValue(value) => value.to_string(),
        _ => return None,
    };
    Some((clipped(&pair.key, MAX_TEXT), text))
}

fn count_of(metric: &Metric) -> usize {
    match &metric.data {
        Some(Data::Gauge(data)) => data.data_points.len(),
        Some(Data::Sum(data)) => data.data_points.len(),
        Some(Data::Histogram(data)) => data.data_points.len(),
        Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
        Some(Data::Summary(data)) => data.data_points.len(),
        None => 0,
    }
}
