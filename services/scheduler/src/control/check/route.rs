//! What a route may say.

mod affinity;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use weft_policy::hedge::MAX_ATTEMPTS;
use weft_policy::split::MAX_TARGETS;
use weft_proto::from_duration;
use weft_proto::weft::control::v1::hedging::Delay;
use weft_proto::weft::control::v1::metadata_match::Value;
use weft_proto::weft::control::v1::sticky::Source;
use weft_proto::weft::control::v1::{Cache, Hedging, MetadataMatch, Route, RouteTarget, Shadow, Sticky};
use weft_types::{Error, ModelName, Reason, Result};

use super::{invalid, name, version};
use affinity::affinity;

const MAX_WEIGHT: u32 = 1_000_000;
/// Matches of one target: every call of the route is compared with all of them.
pub(super) const MAX_MATCHES: usize = 4;
/// Bytes of a metadata's or parameter's key.
const MAX_KEY_BYTES: usize = 64;
/// Bytes of a value that metadata is compared with.
const MAX_VALUE_BYTES: usize = 256;
/// Keys that gRPC, HTTP/2 and W3C's trace context give their own meaning, beside all that begin with one of [`RESERVED_PREFIXES`].
const RESERVED_KEYS: [&str; 14] = [
    "baggage",
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const RESERVED_PREFIXES: [&str; 2] = ["grpc-", "weft-"];
/// How long an attempt may take before the next one is sent.
const DELAYS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// Below the median, more calls would be hedged than not.
const PERCENTILES: RangeInclusive<u32> = 50..=99;
/// How long an answer may be kept.
const LIVES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
/// Parameters that Triton's protocol gives a meaning of their own.
const RESERVED_PARAMETERS: [&str; 5] = ["priority", "sequence_end", "sequence_id", "sequence_start", "timeout"];

/// A route, given which models are known.
pub(in crate::control) fn route(route: Option<&Route>, known: impl Fn(&ModelName) -> bool) -> Result<ModelName> {
    let route = route.ok_or_else(|| invalid("route", "is missing"))?;
    let route_name = name("route.name", &route.name)?;
    if !(1..=MAX_TARGETS).contains(&route.targets.len()) {
        return Err(invalid("route.targets", format_args!("must be 1 to {MAX_TARGETS}")));
    }
    let mut seen = BTreeSet::new();
    for (index, target) in route.targets.iter().enumerate() {
        let field = |part: &str| format!("route.targets[{index}]{part}");
        let model = leads_to(field, (&target.model, target.version), &known)?;
        weigh(field, target)?;
        if !seen.insert((model, target.version)) {
            return Err(invalid(&field(""), "leads where another target leads"));
        }
    }
    if route.targets.iter().all(|target| target.weight == 0) {
        return Err(invalid("route.targets", "at least one must have a weight"));
    }
    route.sticky.as_ref().map_or(Ok(()), sticky)?;
    route.shadow.as_ref().map_or(Ok(()), |one| shadow(one, &known))?;
    route.hedging.as_ref().map_or(Ok(()), hedging)?;
    route.cache.as_ref().map_or(Ok(()), cache)?;
    route.affinity.as_ref().map_or(Ok(()), affinity)?;
    Ok(route_name)
}

/// A model that is known, and a version that could be; zero stands for the latest.
fn leads_to(
    field: impl Fn(&str) -> String,
    (model, number): (&str, u64),
    known: impl Fn(&ModelName) -> bool,
) -> Result<ModelName> {
    let model = name(&field(".model"), model)?;
    if number != 0 {
        version(&field(".version"), number)?;
    }
    if !known(&model) {
        return Err(Error::new(Reason::NotFound, format!("{}: no model '{model}'", field(".model"))));
    }
    Ok(model)
}

fn weigh(field: impl Fn(&str) -> String, target: &RouteTarget) -> Result<()> {
    if target.weight > MAX_WEIGHT {
        return Err(invalid(&field(".weight"), format_args!("must be at most {MAX_WEIGHT}")));
    }
    if target.matches.len() > MAX_MATCHES {
        return Err(invalid(&field(".matches"), format_args!("must be at most {MAX_MATCHES}")));
    }
    let mut matches = target.matches.iter().enumerate();
    matches.try_for_each(|(index, one)| metadata_match(&field(&format!(".matches[{index}]")), one))
}

pub(super) fn metadata_match(field: &str, wanted: &MetadataMatch) -> Result<()> {
    metadata_key(&format!("{field}.key"), &wanted.key)?;
    match &wanted.value {
        Some(Value::Exact(value)) => metadata_value(&format!("{field}.exact"), value),
        Some(Value::Present(true)) => Ok(()),
        Some(Value::Present(false)) => Err(invalid(&format!("{field}.present"), "can only be true")),
        None => Err(invalid(field, "must say exact or present")),
    }
}

/// A key of ASCII metadata (gRPC over HTTP/2) that callers are free to use.
fn metadata_key(field: &str, key: &str) -> Result<()> {
    let is_allowed = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"._-".contains(&letter);
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) || !key.bytes().all(is_allowed) {
        return Err(invalid(field, format_args!("must be 1 to {MAX_KEY_BYTES} of a-z, 0-9, '.', '_' and '-'")));
    }
    if key.ends_with("-bin") {
        return Err(invalid(field, "binary metadata cannot be compared"));
    }
    if RESERVED_KEYS.contains(&key) || RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return Err(invalid(field, "has a meaning of its own in gRPC or Weft"));
    }
    Ok(())
}

/// Metadata arrives without spaces around it, so a value that has some would never be met.
fn metadata_value(field: &str, value: &str) -> Result<()> {
    let is_printable = value.bytes().all(|letter| (b' '..=b'~').contains(&letter));
    if !(1..=MAX_VALUE_BYTES).contains(&value.len()) || !is_printable || value.trim() != value {
        let problem = format_args!("must be 1 to {MAX_VALUE_BYTES} printable ASCII characters, without spaces around");
        return Err(invalid(field, problem));
    }
    Ok(())
}

fn sticky(sticky: &Sticky) -> Result<()> {
    match &sticky.source {
        Some(Source::Metadata(key)) => metadata_key("route.sticky.metadata", key),
        Some(Source::Parameter(key)) => parameter_key("route.sticky.parameter", key),
        None => Err(invalid("route.sticky", "must say metadata or parameter")),
    }
}

/// A parameter that callers are free to use.
fn parameter_key(field: &str, key: &str) -> Result<()> {
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) || key.chars().any(char::is_control) {
        return Err(invalid(field, format_args!("must be 1 to {MAX_KEY_BYTES} bytes without control characters")));
    }
    if RESERVED_PARAMETERS.contains(&key) {
        return Err(invalid(field, "has a meaning of its own in the protocol"));
    }
    Ok(())
}

fn shadow(shadow: &Shadow, known: impl Fn(&ModelName) -> bool) -> Result<()> {
    leads_to(|part| format!("route.shadow{part}"), (&shadow.model, shadow.version), known)?;
    if !(1..=100).contains(&shadow.percent) {
        return Err(invalid("route.shadow.percent", "must be 1 to 100"));
    }
    Ok(())
}

fn hedging(hedging: &Hedging) -> Result<()> {
    if !(2..=MAX_ATTEMPTS).contains(&hedging.max_attempts) {
        return Err(invalid("route.hedging.max_attempts", format_args!("must be 2 to {MAX_ATTEMPTS}")));
    }
    match &hedging.delay {
        Some(Delay::Fixed(delay)) => lasts("route.hedging.fixed", delay, &DELAYS).map(|_| ()),
        Some(Delay::Percentile(percentile)) if !PERCENTILES.contains(percentile) => {
            Err(invalid("route.hedging.percentile", "must be 50 to 99"))
        }
        Some(Delay::Percentile(_)) | None => Ok(()),
    }
}

fn cache(cache: &Cache) -> Result<()> {
    let ttl = cache.ttl.as_ref().ok_or_else(|| invalid("route.cache.ttl", "is missing"))?;
    let ttl = lasts("route.cache.ttl", ttl, &LIVES)?;
    let negative = cache.negative_ttl.as_ref();
    negative.map_or(Ok(()), |negative| lasts("route.cache.negative_ttl", negative, &(Duration::ZERO..=ttl)).map(|_| ()))
}

/// A time within bounds.
fn lasts(field: &str, told: &prost_types::Duration, bounds: &RangeInclusive<Duration>) -> Result<Duration> {
    let lasts = from_duration(told).filter(|lasts| bounds.contains(lasts));
    lasts.ok_or_else(|| invalid(field, format_args!("must be {:?} to {:?}", bounds.start(), bounds.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(model: &str, version: u64, weight: u32) -> RouteTarget {
        RouteTarget { model: model.to_owned(), version, weight, ..RouteTarget::default() }
    }

    fn known(model: &ModelName) -> bool {
        model.as_str() != "unknown"
    }

    fn exact(key: &str, value: &str) -> MetadataMatch {
        MetadataMatch { key: key.to_owned(), value: Some(Value::Exact(value.to_owned())) }
    }

    fn good() -> Route {
        Route { name: "r".to_owned(), targets: vec![target("m", 0, 1)], ..Route::default() }
    }

    fn check(bad: &Route, field: Option<&str>) {
        let checked = route(Some(bad), known);
        assert_eq!(checked.as_ref().err().and_then(Error::field), field, "{bad:?}: {checked:?}");
        assert_eq!(checked.is_ok(), field.is_none());
    }

    #[test]
    fn bad_routes_name_their_field() {
        let table: [(&str, Vec<RouteTarget>, Option<&str>); 10] = [
            ("a b", vec![target("m", 0, 1)], Some("route.name")),
            ("r", vec![], Some("route.targets")),
            ("r", (0..17).map(|version| target("m", version, 1)).collect(), Some("route.targets")),
            ("r", vec![target("m", 0, 1), target("", 0, 1)], Some("route.targets[1].model")),
            ("r", vec![target("m", u64::MAX, 1)], Some("route.targets[0].version")),
            ("r", vec![target("m", 0, 1_000_001)], Some("route.targets[0].weight")),
            ("r", vec![target("m", 1, 1), target("m", 1, 2)], Some("route.targets[1]")),
            ("r", vec![target("m", 1, 0), target("m", 2, 0)], Some("route.targets")),
            ("r", (0..16).map(|version| target("m", version, 1)).collect(), None),
            ("r", vec![target("m", 1, 0), target("n", 1, 1)], None),
        ];
        for (name, targets, field) in table {
            check(&Route { name: name.to_owned(), targets, ..Route::default() }, field);
        }
        let lost = Route { targets: vec![target("m", 0, 1), target("unknown", 0, 1)], ..good() };
        let error = route(Some(&lost), known).expect_err("unknown");
        assert_eq!(error.reason(), Reason::NotFound);
        assert!(error.message().starts_with("route.targets[1].model: "), "{error}");
        assert_eq!(route(None, known).expect_err("missing").field(), Some("route"));
    }

    #[test]
    fn bad_matches_name_their_field() {
        let present = |flag| MetadataMatch { key: "x-canary".to_owned(), value: Some(Value::Present(flag)) };
        let (key, value) = (Some("route.targets[0].matches[1].key"), Some("route.targets[0].matches[1].exact"));
        let keys =
            ["", "X-Canary", "x canary", ":path", "x-canary-bin", "grpc-timeout", "weft-model", "te", "user-agent"];
        let mut table: Vec<(MetadataMatch, Option<&str>)> = keys.iter().map(|bad| (exact(bad, "1"), key)).collect();
        table.push((exact(&"x".repeat(65), "1"), key));
        let values = ["", " 1", "1 ", "a\tb", "gr\u{fc}n"];
        table.extend(values.iter().map(|bad| (exact("x-canary", bad), value)));
        table.push((exact("x-canary", &"x".repeat(257)), value));
        table.push((present(false), Some("route.targets[0].matches[1].present")));
        table.push((MetadataMatch { value: None, ..present(true) }, Some("route.targets[0].matches[1]")));
        table.push((present(true), None));
        table.push((exact(&"x".repeat(64), "one, two"), None));
        for (one, field) in table {
            let targets = vec![RouteTarget { matches: vec![exact("user.id", "7"), one], ..target("m", 0, 1) }];
            check(&Route { targets, ..good() }, field);
        }
        let flood = RouteTarget { matches: vec![exact("x", "1"); 5], ..target("m", 0, 1) };
        check(&Route { targets: vec![flood], ..good() }, Some("route.targets[0].matches"));
    }

    #[test]
    fn bad_keys_and_shadows_name_their_field() {
        let metadata = |key: &str| Some(Source::Metadata(key.to_owned()));
        let parameter = |key: &str| Some(Source::Parameter(key.to_owned()));
        let long = "x".repeat(65);
        let table = [
            (None, Some("route.sticky")),
            (metadata("grpc-timeout"), Some("route.sticky.metadata")),
            (metadata(""), Some("route.sticky.metadata")),
            (parameter(""), Some("route.sticky.parameter")),
            (parameter("a\nb"), Some("route.sticky.parameter")),
            (parameter(&long), Some("route.sticky.parameter")),
            (parameter("sequence_id"), Some("route.sticky.parameter")),
            (metadata("user-id"), None),
            (parameter("User id"), None),
        ];
        for (source, field) in table {
            check(&Route { sticky: Some(Sticky { source }), ..good() }, field);
        }
        let table = [
            ("", 0, 1, Some("route.shadow.model")),
            ("m", u64::MAX, 1, Some("route.shadow.version")),
            ("m", 0, 0, Some("route.shadow.percent")),
            ("m", 0, 101, Some("route.shadow.percent")),
            ("m", 2, 100, None),
        ];
        for (model, version, percent, field) in table {
            check(&Route { shadow: Some(Shadow { model: model.to_owned(), version, percent }), ..good() }, field);
        }
        let lost = Shadow { model: "unknown".to_owned(), version: 0, percent: 1 };
        let error = route(Some(&Route { shadow: Some(lost), ..good() }), known).expect_err("unknown");
        assert!(error.reason() == Reason::NotFound && error.message().starts_with("route.shadow.model: "), "{error}");
    }
    #[test]
    fn bad_hedging_and_caches_name_their_field() {
        let span = |seconds, nanos| prost_types::Duration { seconds, nanos };
        let fixed = |seconds, nanos| Some(Delay::Fixed(span(seconds, nanos)));
        let (attempts, delay) = (Some("route.hedging.max_attempts"), Some("route.hedging.fixed"));
        let table = [
            (0, None, attempts),
            (1, None, attempts),
            (6, None, attempts),
            (u32::MAX, None, attempts),
            (2, fixed(0, 0), delay),
            (2, fixed(0, 999_999), delay),
            (2, fixed(-1, 0), delay),
            (2, fixed(0, -5), delay),
            (2, fixed(0, 1_000_000_000), delay),
            (2, fixed(60, 1), delay),
            (2, fixed(i64::MAX, 0), delay),
            (2, Some(Delay::Percentile(49)), Some("route.hedging.percentile")),
            (2, Some(Delay::Percentile(100)), Some("route.hedging.percentile")),
            (2, None, None),
            (5, fixed(0, 1_000_000), None),
            (5, Some(Delay::Percentile(99)), None),
        ];
        for (max_attempts, delay, field) in table {
            check(&Route { hedging: Some(Hedging { max_attempts, delay }), ..good() }, field);
        }
        let (ttl, negative) = (Some("route.cache.ttl"), Some("route.cache.negative_ttl"));
        let table = [
            (None, None, ttl),
            (Some(span(0, 0)), None, ttl),
            (Some(span(-1, 0)), None, ttl),
            (Some(span(86_400, 1)), None, ttl),
            (Some(span(10, 0)), Some(span(10, 1)), negative),
            (Some(span(10, 0)), Some(span(-1, 0)), negative),
            (Some(span(10, 0)), Some(span(0, 0)), None),
            (Some(span(10, 0)), Some(span(10, 0)), None),
            (Some(span(0, 1_000_000)), None, None),
            (Some(span(86_400, 0)), None, None),
        ];
        for (ttl, negative_ttl, field) in table {
            check(&Route { cache: Some(Cache { ttl, negative_ttl }), ..good() }, field);
        }
    }
}
