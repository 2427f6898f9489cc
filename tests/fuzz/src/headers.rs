//! What peers say in headers and trailers: read strictly, bounded, and never made larger by being passed on.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use tonic::Status;
use tonic::metadata::MetadataMap;
use weft_proto::orca::{self, OrcaLoadReport};
use weft_proto::{PUSHBACK, drop_unreadable_details, error_of, status_of};
use weft_telemetry::TraceContext;
use weft_types::timeout::{self, ENVOY_HEADER, HEADER};
use weft_types::{Deadline, Error, MIN_RESERVE, ModelName, Reason, SystemClock, Version};

/// What each line may be the value of, by its first byte.
const NAMES: [&str; 12] = [
    HEADER,
    ENVOY_HEADER,
    "traceparent",
    "tracestate",
    "baggage",
    orca::TRAILER,
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    PUSHBACK,
    "weft-model",
    "weft-version",
];

/// Lines, each a byte that names the header and its value.
pub fn check(data: &[u8]) {
    let headers = headers(data);
    for value in headers.get_all(HEADER) {
        grpc_timeout(value.as_bytes());
    }
    for value in headers.get_all(ENVOY_HEADER) {
        envoy_timeout(value.as_bytes());
    }
    trace(&headers);
    load(&headers);
    let mut readable = headers.clone();
    drop_unreadable_details(&mut readable);
    if let Some(status) = Status::from_header_map(&readable) {
        failure(&status);
    }
    for value in headers.get_all("weft-model").iter().filter_map(|value| value.to_str().ok()) {
        if let Ok(name) = value.parse::<ModelName>() {
            assert_eq!(name.as_str(), value);
            assert!(value.len() <= 128 && !value.contains("..") && !value.contains('/'));
            assert!(HeaderValue::from_str(value).is_ok());
        }
    }
    for value in headers.get_all("weft-version").iter().filter_map(|value| value.to_str().ok()) {
        if let Ok(version) = value.parse::<Version>() {
            assert!(version.get() > 0 && value.trim_start_matches('0') == version.to_string());
        }
    }
}

fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some((which, value)) = line.split_first() else { continue };
        let name = NAMES[usize::from(*which) % NAMES.len()];
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    headers
}

/// Only what the protocol's grammar allows is read, and what is written of it grants no more.
fn grpc_timeout(value: &[u8]) {
    let grammar = match value.split_last() {
        Some((unit, digits)) => {
            b"HMSmun".contains(unit) && (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        None => false,
    };
    let parsed = timeout::parse(value);
    assert_eq!(parsed.is_ok(), grammar);
    let Ok(parsed) = parsed else { return };
    let again = timeout::parse(timeout::format(parsed).as_bytes());
    assert!(again.as_ref().is_ok_and(|again| *again <= parsed && parsed - *again <= parsed / 10_000), "{again:?}");
    hop(parsed);
}

fn envoy_timeout(value: &[u8]) {
    let parsed = timeout::parse_millis(value);
    let grammar = (1..=10).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    assert_eq!(parsed.is_ok(), grammar);
    if let Ok(Some(parsed)) = parsed {
        assert!(parsed > Duration::ZERO && parsed.subsec_nanos() % 1_000_000 == 0);
        hop(parsed);
    }
}

/// Each hop has less.
fn hop(timeout: Duration) {
    let now = SystemClock::now();
    let deadline = Deadline::after(now, timeout);
    match deadline.for_next_hop(now, Duration::ZERO) {
        Some(next) => assert!(next.remaining(now) + MIN_RESERVE <= deadline.remaining(now)),
        None => assert!(timeout <= MIN_RESERVE),
    }
}

/// What is accepted is bounded, and read alike by the next hop.
fn trace(headers: &HeaderMap) {
    let Some(context) = TraceContext::from_headers(headers) else { return };
    let one = headers.get("traceparent").map(HeaderValue::as_bytes).unwrap_or_default();
    assert!(
        one.len() >= 55 && one[3..35] == *context.trace_id().as_bytes() && one[36..52] == *context.span_id().as_bytes()
    );
    assert!(context.state().is_none_or(|state| state.len() <= 512));
    assert!(context.baggage().is_none_or(|baggage| baggage.len() <= 8_192));
    let mut sent = HeaderMap::new();
    context.inject(&mut sent);
    assert_eq!(TraceContext::from_headers(&sent).as_ref(), Some(&context));
}

/// What is read of a report can be counted with, is what a decoder of the whole reads where there is one, and is not passed on.
fn load(headers: &HeaderMap) {
    let mut metadata = MetadataMap::from_headers(headers.clone());
    let Some(load) = orca::take(&mut metadata) else { return };
    assert!(!metadata.as_ref().contains_key(orca::TRAILER));
    let all = [load.utilization, load.requests, load.wait_ms];
    assert!(all.into_iter().flatten().all(|value| (0.0..=2e9).contains(&value)), "{load:?}");
    let first =
        MetadataMap::from_headers(headers.clone()).get_bin(orca::TRAILER).and_then(|value| value.to_bytes().ok());
    let report = first.and_then(|bytes| OrcaLoadReport::decode(bytes).ok());
    // What is not read need not be well formed.
    assert!(report.is_none_or(|report| orca::Load::of(&report) == load));
}

/// Whatever a peer answers is a failure that can be told on, and told on it is the same.
fn failure(status: &Status) {
    let error = error_of(status);
    let again = error_of(&status_of(&error));
    assert_eq!((again.reason(), again.field()), (error.reason(), error.field()));
    if let (Some(wait), Some(told)) = (error.pushback(), again.pushback()) {
        assert!(told <= wait);
    }
}

/// Headers as honest peers write them.
pub fn seeds() -> Vec<Vec<u8>> {
    let line = |name: &str, value: &str| {
        let which = NAMES.iter().position(|known| *known == name).and_then(|place| u8::try_from(place).ok());
        [&[which.unwrap_or_default()], value.as_bytes()].concat()
    };
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let report = OrcaLoadReport {
        application_utilization: 0.5,
        named_metrics: [("running".to_owned(), 3.0), ("est_wait_ms".to_owned(), 2.5)].into(),
        ..OrcaLoadReport::default()
    };
    let binary =
        |value: tonic::metadata::BinaryMetadataValue| String::from_utf8_lossy(value.as_encoded_bytes()).into_owned();
    let refusal = status_of(&Error::invalid("inputs[0]", "wrong").retry_after(Duration::from_millis(250)));
    let details = tonic::metadata::BinaryMetadataValue::from_bytes(refusal.details());
    let mut seeds: Vec<Vec<u8>> = ["1S", "99999999H", "200m", "0u", "7n"].map(|value| line(HEADER, value)).into();
    seeds.push(line(ENVOY_HEADER, "15000"));
    seeds.push([line("traceparent", parent), line("tracestate", "a=1,b=2"), line("baggage", "u=1;p")].join(&b'\n'));
    seeds.push(line(orca::TRAILER, &binary(orca::value(&report))));
    seeds.push(
        [
            line("grpc-status", "3"),
            line("grpc-message", "no%20way"),
            line("grpc-status-details-bin", &binary(details)),
            line(PUSHBACK, "250"),
        ]
        .join(&b'\n'),
    );
    let reasons = Reason::ALL.iter().map(|reason| status_of(&Error::new(*reason, "why")));
    seeds.extend(reasons.map(|status| {
        let details = tonic::metadata::BinaryMetadataValue::from_bytes(status.details());
        [line("grpc-status", &i32::from(status.code()).to_string()), line("grpc-status-details-bin", &binary(details))]
            .join(&b'\n')
    }));
    // Details that are no base64: tonic panicked on them.
    seeds.push([line("grpc-status", "3"), line("grpc-status-details-bin", "CAES_")].join(&b'\n'));
    seeds.push([line("weft-model", "digits"), line("weft-version", "3")].join(&b'\n'));
    seeds
}
