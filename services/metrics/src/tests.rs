//! The service as its callers see it: OTLP in, figures, traces and the Prometheus page out.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::LogsService;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsService;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceService;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status as SpanStatus};
use proptest::prelude::*;
use tonic::{Code, Request};
use weft_proto::weft::metrics::v1::metrics_server::Metrics;
use weft_proto::weft::metrics::v1::{GetTraceRequest, ModelSummary, SummaryRequest};
use weft_types::ManualClock;

use super::*;

const DELTA: i32 = AggregationTemporality::Delta as i32;

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn resource(instance: &str) -> Option<Resource> {
    let attributes = vec![attribute("service.name", "worker"), attribute("service.instance.id", instance)];
    Some(Resource { attributes, ..Resource::default() })
}

fn from(instance: &str, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let reported = ResourceMetrics { resource: resource(instance), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![reported] }
}

fn metric(name: &str, unit: &str, data: Data) -> Metric {
    Metric { name: name.into(), unit: unit.into(), data: Some(data), ..Metric::default() }
}

fn counter(name: &str, unit: &str, attributes: &[(&str, &str)], value: f64) -> Metric {
    let point = NumberDataPoint {
        attributes: attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    };
    metric(name, unit, Data::Sum(Sum { data_points: vec![point], aggregation_temporality: DELTA, is_monotonic: true }))
}

/// `count` values of `2^exponent`, as the SDK sends them at scale 0.
fn powers(name: &str, unit: &str, attributes: &[(&str, &str)], (exponent, count): (i32, u64)) -> Metric {
    let value = f64::from(exponent).exp2();
    let point = ExponentialHistogramDataPoint {
        attributes: attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
        count,
        sum: Some(value * count as f64),
        positive: Some(Buckets { offset: exponent - 1, bucket_counts: vec![count] }),
        min: Some(value),
        max: Some(value),
        ..ExponentialHistogramDataPoint::default()
    };
    let data = ExponentialHistogram { data_points: vec![point], aggregation_temporality: DELTA };
    metric(name, unit, Data::ExponentialHistogram(data))
}

fn service(options: &Options) -> (Service, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (Service::new(options, clock.clone()), clock)
}

async fn send(service: &Service, request: ExportMetricsServiceRequest) -> (i64, String) {
    let answer = MetricsService::export(service, Request::new(request)).await.expect("OTLP never fails");
    answer
        .into_inner()
        .partial_success
        .map_or((0, String::new()), |part| (part.rejected_data_points, part.error_message))
}

async fn summary(service: &Service, model: &str) -> Vec<ModelSummary> {
    let request = SummaryRequest { window: None, model: model.into() };
    service.summary(Request::new(request)).await.expect("a valid request").into_inner().models
}

const DIGITS: [(&str, &str); 2] = [("model", "digits"), ("version", "3")];

async fn digits_were_called(service: &Service) {
    let call = |status| [DIGITS[0], DIGITS[1], ("status", status)];
    let reported = vec![
        powers("weft.model.call.duration", "s", &call("OK"), (-6, 97)),
        powers("weft.model.call.duration", "s", &call("DEADLINE_EXCEEDED"), (-2, 3)),
        powers("weft.model.queue.duration", "s", &DIGITS, (-8, 100)),
        powers("weft.model.compute.duration", "s", &DIGITS, (-7, 100)),
        powers("weft.model.batch.size", "{request}", &DIGITS, (2, 25)),
    ];
    assert_eq!(send(service, from("w-1", reported)).await, (0, String::new()));
}

#[tokio::test]
async fn a_summary_is_over_all_instances() {
    let (service, clock) = service(&Options::default());
    clock.advance(Duration::from_secs(100));
    digits_were_called(&service).await;
    let more = powers("weft.model.call.duration", "s", &[DIGITS[0], DIGITS[1], ("status", "OK")], (-6, 100));
    send(&service, from("w-2", vec![more])).await;
    let models = summary(&service, "digits").await;
    let [digits] = models.as_slice() else { panic!("{models:?}") };
    assert_eq!((digits.model.as_str(), digits.version, digits.calls, digits.sources), ("digits", 3, 200, 2));
    assert_eq!(digits.errors.clone().into_iter().collect::<Vec<_>>(), [("DEADLINE_EXCEEDED".to_owned(), 3)]);
    let seconds = |value: &Option<_>| value.as_ref().and_then(weft_proto::from_duration).expect("calls").as_secs_f64();
    // At scale 0 the values are known to lie in a range that ends at the true one.
    assert!((1.0 / 128.0..=1.0 / 64.0).contains(&seconds(&digits.p50)));
    assert!((1.0 / 8.0..=1.0 / 4.0).contains(&seconds(&digits.p99)));
    assert_eq!((seconds(&digits.queue_p99), seconds(&digits.compute_p99)), (1.0 / 256.0, 1.0 / 128.0));
    assert_eq!((digits.mean_batch, digits.rate), (4.0, 200.0 / 60.0));
    let durations = digits.durations.as_ref().expect("they are told of one model");
    assert_eq!((durations.scale, durations.counts.iter().sum::<u64>() + durations.zeros), (0, 200));
    assert!(digits.compute_seconds > 0.0, "{digits:?}");
    assert!(summary(&service, "").await.iter().all(|model| model.durations.is_none()));
    assert!(summary(&service, "other").await.is_empty());
    clock.advance(Duration::from_secs(60));
    assert!(summary(&service, "").await.is_empty(), "a minute has passed");
}

#[tokio::test]
async fn requests_are_checked() {
    let (service, _) = service(&Options::default());
    let window = |seconds, nanos| {
        let mut request = SummaryRequest::default();
        request.window.get_or_insert_default().seconds = seconds;
        request.window.get_or_insert_default().nanos = nanos;
        request
    };
    let of = |model: &str| SummaryRequest { model: model.into(), ..SummaryRequest::default() };
    for (request, field) in
        [(window(601, 0), "window"), (window(-1, 0), "window"), (window(0, 1), "window"), (of("../etc"), "model")]
    {
        let status = service.summary(Request::new(request)).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(weft_proto::error_of(&status).field(), Some(field));
    }
    for bad in ["", "xyz", &"g".repeat(32), &"0".repeat(31), &format!("+{}", "1".repeat(31))] {
        let request = GetTraceRequest { trace_id: bad.into() };
        let status = service.get_trace(Request::new(request)).await.expect_err("refused");
        assert_eq!((status.code(), weft_proto::error_of(&status).field()), (Code::InvalidArgument, Some("trace_id")));
    }
    let request = GetTraceRequest { trace_id: "1".repeat(32) };
    assert_eq!(service.get_trace(Request::new(request)).await.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test]
async fn what_cannot_be_taken_in_is_told_and_counted() {
    let (service, _) = service(&Options { max_series: 2, max_sources: 2, ..Options::default() });
    assert_eq!(send(&service, from("w-1", vec![counter("a", "", &[], 1.0), counter("b", "", &[], -1.0)])).await.0, 1);
    assert_eq!(send(&service, from("w-1", vec![metric("c", "", Data::Summary(Default::default()))])).await.0, 0);
    let mut negative = powers("d", "s", &[], (0, 1));
    if let Some(Data::ExponentialHistogram(data)) = &mut negative.data {
        data.data_points[0].negative = Some(Buckets { offset: 0, bucket_counts: vec![1] });
    }
    assert_eq!(send(&service, from("w-1", vec![negative])).await, (1, "a value is malformed".into()));
    assert_eq!(send(&service, from("w-2", vec![counter("a", "", &[], 1.0)])).await.0, 0);
    assert_eq!(send(&service, from("w-2", vec![counter("e", "", &[], 1.0)])).await, (1, "too many series".into()));
    assert_eq!(
        send(&service, from("w-3", vec![counter("a", "", &[], 1.0)])).await,
        (1, "too many instances report".into())
    );
    assert!(service.prometheus().contains("\nweft_metrics_points_refused_total 4\n"));
    let logs = ScopeLogs { log_records: vec![LogRecord::default(); 2], ..ScopeLogs::default() };
    let resource_logs = vec![ResourceLogs { scope_logs: vec![logs], ..ResourceLogs::default() }];
    let answer = LogsService::export(&service, Request::new(ExportLogsServiceRequest { resource_logs })).await;
    assert_eq!(
        answer.expect("OTLP never fails").into_inner().partial_success.map(|part| part.rejected_log_records),
        Some(2)
    );
}

#[tokio::test]
async fn a_silent_instance_is_forgotten_and_tritons_sums_are_not() {
    let (service, clock) = service(&Options::default());
    digits_were_called(&service).await;
    clock.advance(Duration::from_secs(600));
    send(&service, from("w-2", vec![counter("weft.router.retries", "", &DIGITS, 1.0)])).await;
    assert!(service.prometheus().contains("instance=\"w-1\""));
    clock.advance(Duration::from_secs(301));
    let page = service.prometheus();
    assert!(!page.contains("w-1") && page.contains("instance=\"w-2\""));
    assert!(page.contains("\nnv_inference_request_success{model=\"digits\",version=\"3\"} 97\n"));
}

#[tokio::test]
async fn the_page_has_prometheus_and_triton_names() {
    let (service, _) = service(&Options::default());
    digits_were_called(&service).await;
    let attributes = [("path", "C:\\x\n\"y\"")];
    for value in [1.5, 2.0] {
        send(&service, from("w-1", vec![counter("weft.wasted_compute", "s", &attributes, value)])).await;
    }
    send(&service, from("w-1", vec![powers("weft.cancel_to_stop", "s", &[], (-6, 4))])).await;
    let page = service.prometheus();
    for line in [
        "# TYPE weft_wasted_compute_seconds_total counter",
        r#"weft_wasted_compute_seconds_total{instance="w-1",path="C:\\x\n\"y\"",service="worker"} 3.5"#,
        "# TYPE weft_cancel_to_stop_seconds histogram",
        r#"weft_cancel_to_stop_seconds_bucket{instance="w-1",service="worker",le="0.01"} 0"#,
        r#"weft_cancel_to_stop_seconds_bucket{instance="w-1",service="worker",le="0.025"} 4"#,
        r#"weft_cancel_to_stop_seconds_bucket{instance="w-1",service="worker",le="+Inf"} 4"#,
        r#"weft_cancel_to_stop_seconds_sum{instance="w-1",service="worker"} 0.0625"#,
        r#"weft_cancel_to_stop_seconds_count{instance="w-1",service="worker"} 4"#,
        r#"weft_model_batch_size_bucket{instance="w-1",model="digits",service="worker",version="3",le="4"} 25"#,
        r#"nv_inference_request_success{model="digits",version="3"} 97"#,
        r#"nv_inference_request_failure{model="digits",version="3"} 3"#,
        r#"nv_inference_count{model="digits",version="3"} 100"#,
        r#"nv_inference_exec_count{model="digits",version="3"} 25"#,
        r#"nv_inference_request_duration_us{model="digits",version="3"} 1515625"#,
        r#"nv_inference_queue_duration_us{model="digits",version="3"} 390625"#,
        r#"nv_inference_compute_infer_duration_us{model="digits",version="3"} 781250"#,
        "weft_metrics_sources 1",
    ] {
        assert!(page.lines().any(|held| held == line), "{line} is not in\n{page}");
    }
    let samples = parsed(&page);
    assert_eq!(samples.len(), page.lines().filter(|line| !line.starts_with('#')).count(), "a series is there twice");
}

#[tokio::test]
async fn other_senders_histograms_are_taken_in() {
    let (service, _) = service(&Options::default());
    let explicit = |temporality, counts: Vec<u64>| {
        let point = HistogramDataPoint {
            explicit_bounds: vec![0.005, 0.01, 10.0],
            bucket_counts: counts,
            sum: Some(1.25),
            ..HistogramDataPoint::default()
        };
        let data = Histogram { data_points: vec![point], aggregation_temporality: temporality };
        vec![metric("foreign", "s", Data::Histogram(data))]
    };
    // Counted from the start, it replaces what was there; the malformed one is refused.
    for _ in 0..2 {
        send(&service, from("x", explicit(AggregationTemporality::Cumulative as i32, vec![1, 2, 0, 3]))).await;
    }
    assert_eq!(send(&service, from("x", explicit(DELTA, vec![1, 2]))).await.0, 1);
    let page = service.prometheus();
    for (le, count) in [("0.0025", 1), ("0.005", 1), ("0.01", 3), ("10", 3), ("+Inf", 6)] {
        let line = format!("foreign_seconds_bucket{{instance=\"x\",service=\"worker\",le=\"{le}\"}} {count}\n");
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
    assert!(page.contains("foreign_seconds_sum{instance=\"x\",service=\"worker\"} 1.25\n"));
}

#[tokio::test]
async fn a_trace_is_shown_hop_by_hop() {
    let (service, _) = service(&Options::default());
    let span = |id: u8, parent: u8, name: &str| Span {
        trace_id: vec![0xab; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent > 0 { vec![parent; 8] } else { Vec::new() },
        name: name.into(),
        start_time_unix_nano: 1_000_000_000 + u64::from(id),
        end_time_unix_nano: 1_500_000_000,
        ..Span::default()
    };
    let failed = Span {
        status: Some(SpanStatus { message: "deadline passed".into(), code: 2 }),
        attributes: vec![attribute("weft.batch_rows", "8")],
        ..span(3, 2, "execute")
    };
    let bad = [Span { trace_id: vec![0; 16], ..span(1, 0, "x") }, Span { span_id: vec![1; 7], ..span(1, 0, "x") }];
    for (instance, spans) in
        [("w-1", vec![failed, span(2, 1, "infer")]), ("r-1", vec![span(1, 9, "route")]), ("x", bad.into())]
    {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource_spans =
            vec![ResourceSpans { resource: resource(instance), scope_spans, ..ResourceSpans::default() }];
        let answer = TraceService::export(&service, Request::new(ExportTraceServiceRequest { resource_spans })).await;
        let refused =
            answer.expect("OTLP never fails").into_inner().partial_success.map_or(0, |part| part.rejected_spans);
        assert_eq!(refused, if instance == "x" { 2 } else { 0 });
    }
    let request = GetTraceRequest { trace_id: "AB".repeat(16) };
    let spans = service.get_trace(Request::new(request)).await.expect("kept").into_inner().spans;
    let shown: Vec<_> =
        spans.iter().map(|span| (span.name.as_str(), span.instance.as_str(), span.error.as_str())).collect();
    assert_eq!(shown, [("route", "r-1", ""), ("infer", "w-1", ""), ("execute", "w-1", "deadline passed")]);
    assert_eq!((spans[2].span_id.as_str(), spans[2].parent_span_id.as_str()), ("0303030303030303", "0202020202020202"));
    assert_eq!(spans[2].attributes["weft.batch_rows"], "8");
    assert_eq!(spans[0].duration.map(|duration| duration.nanos), Some(499_999_999));
}

/// A reader of the text format, written from its description and not from the writer: sample by name and labels.
fn parsed(page: &str) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let mut samples = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let end = line.find(['{', ' ']).expect("a name ends");
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while let Some((key, after)) = rest.split_once("=\"") {
                let mut value = String::new();
                let mut letters = after.char_indices();
                let end = loop {
                    match letters.next().expect("a value ends") {
                        (at, '"') => break at,
                        (_, '\\') => value.push(match letters.next().expect("an escape ends").1 {
                            'n' => '\n',
                            letter => letter,
                        }),
                        (_, letter) => value.push(letter),
                    }
                };
                assert!(key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'), "{key:?}");
                assert!(labels.insert(key.to_owned(), value).is_none(), "{key} is there twice");
                rest = &after[end + 1..];
                rest = rest.strip_prefix(',').unwrap_or(rest);
            }
            rest = rest.strip_prefix('}').expect("labels end");
        }
        let value = match rest.trim() {
            "+Inf" => f64::INFINITY,
            value => value.parse().expect("a number"),
        };
        samples.insert((name.to_owned(), labels), value);
    }
    samples
}

proptest! {
    /// Whatever a sender puts into names and values, the page can be read and gives the value back.
    #[test]
    fn any_text_can_be_read_back(key in ".{0,20}", value in ".{0,60}|[\"\\\\\n,={} ]{0,20}", amount in 0u32..1000) {
        let (service, _) = service(&Options::default());
        let request = from("w\"1", vec![counter("weft.x", "", &[(&key, &value)], f64::from(amount))]);
        prop_assert_eq!(service.with(|state, now| ingest::metrics(state, now, request)).count, 0);
        let page = service.prometheus();
        let samples = parsed(&page);
        let ((_, labels), held) = samples.iter().find(|((name, _), _)| name == "weft_x_total").expect("the counter");
        prop_assert_eq!(*held, f64::from(amount));
        prop_assert_eq!(labels["instance"].as_str(), "w\"1");
        prop_assert!(labels.iter().any(|(key, held)| key != "instance" && key != "service" && value.starts_with(held.as_str())));
    }
}
