//! One metric of the wire as a family and its values, checked.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint,
    number_data_point,
};
use tonic::Code;
use weft_telemetry::{names, status_name};
use weft_types::{ModelName, Version};

use super::text_of;
use crate::histogram::{Histogram, Parts};
use crate::text::MAX_TEXT;
use crate::totals::{Amount, Family, Kind};
use crate::window::{Key, Measure, Model};

/// A foreign histogram with more ranges than this is refused.
const MAX_RANGES: usize = 1024;

/// One value with its attributes.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) attributes: Vec<(String, String)>,
    /// The window's series, when a worker measured a model.
    pub(super) key: Option<Key>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Number { value: f64, delta: bool },
    Distribution { histogram: Histogram, delta: bool },
}

impl Point {
    /// What goes to the totals.
    pub(super) const fn amount(&self) -> Amount<'_> {
        match &self.value {
            Value::Number { value, delta: true } => Amount::Add(*value),
            Value::Number { value, delta: false } => Amount::Set(*value),
            Value::Distribution { histogram, delta: true } => Amount::Merge(histogram),
            Value::Distribution { histogram, delta: false } => Amount::Replace(histogram),
        }
    }

    /// What happened since the last report; a distribution since the start says nothing about a window.
    pub(super) const fn delta(&self) -> Option<&Histogram> {
        match &self.value {
            Value::Distribution { histogram, delta: true } => Some(histogram),
            _ => None,
        }
    }
}

/// The family of a metric and those of its values that are well formed; `None` when its name or type is not supported.
pub(super) fn points(metric: Metric) -> Option<(Family, Vec<Point>)> {
    let delta = |temporality: i32| temporality == AggregationTemporality::Delta as i32;
    let family = |kind| Family::of(&metric.name, &metric.unit, &metric.description, kind);
    let distribution = Family::distribution(&metric.unit);
    match metric.data? {
        Data::Gauge(data) => Some((family(Kind::Gauge)?, numbers(&data.data_points, false))),
        Data::Sum(data) => {
            let kind = if data.is_monotonic { Kind::Counter } else { Kind::Gauge };
            Some((family(kind)?, numbers(&data.data_points, delta(data.aggregation_temporality))))
        }
        Data::Histogram(data) => {
            let delta = delta(data.aggregation_temporality);
            let parse = |point: &HistogramDataPoint| {
                let histogram = explicit(point)?;
                Some(distributed(&metric.name, &point.attributes, histogram, delta))
            };
            Some((family(distribution)?, data.data_points.iter().filter_map(parse).collect()))
        }
        Data::ExponentialHistogram(data) => {
            let delta = delta(data.aggregation_temporality);
            let parse = |point: &ExponentialHistogramDataPoint| {
                let histogram = exponential(point)?;
                Some(distributed(&metric.name, &point.attributes, histogram, delta))
            };
            Some((family(distribution)?, data.data_points.iter().filter_map(parse).collect()))
        }
        Data::Summary(_) => None,
    }
}

fn numbers(points: &[NumberDataPoint], delta: bool) -> Vec<Point> {
    let parse = |point: &NumberDataPoint| {
        let value = match point.value.as_ref().filter(|_| recorded(point.flags))? {
            number_data_point::Value::AsDouble(value) => *value,
            number_data_point::Value::AsInt(value) => *value as f64,
        };
        Some(Point { attributes: texts(&point.attributes), key: None, value: Value::Number { value, delta } })
    };
    points.iter().filter_map(parse).collect()
}

fn distributed(metric: &str, attributes: &[KeyValue], histogram: Histogram, delta: bool) -> Point {
    let attributes = texts(attributes);
    Point { key: key(metric, &attributes), attributes, value: Value::Distribution { histogram, delta } }
}

fn exponential(point: &ExponentialHistogramDataPoint) -> Option<Histogram> {
    let negative = point.negative.as_ref().is_some_and(|buckets| buckets.bucket_counts.iter().any(|count| *count > 0));
    if negative || !recorded(point.flags) {
        return None;
    }
    let (offset, counts) = match &point.positive {
        Some(buckets) => (buckets.offset, buckets.bucket_counts.as_slice()),
        None => (0, [].as_slice()),
    };
    let range = point.min.zip(point.max);
    Histogram::try_new(&Parts {
        scale: point.scale,
        offset,
        counts,
        zeros: point.zero_count,
        sum: point.sum.unwrap_or(0.0),
        range,
    })
}

/// A histogram with explicit bounds, as other senders use: each range counts at its middle.
fn explicit(point: &HistogramDataPoint) -> Option<Histogram> {
    let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
    let ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    let sound = counts.len() == bounds.len() + 1
        && counts.len() <= MAX_RANGES
        && ascending
        && bounds.iter().all(|bound| bound.is_finite() && *bound >= 0.0)
        && recorded(point.flags);
    if !sound {
        return None;
    }
    let mut histogram = Histogram::default();
    for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let low = at.checked_sub(1).map_or(0.0, |below| bounds[below]);
        let middle = match bounds.get(at) {
            Some(high) if low > 0.0 => (low * high).sqrt(),
            Some(high) => high / 2.0,
            None => point.max.filter(|max| max.is_finite() && *max > low).unwrap_or(low * 2.0),
        };
        histogram.record(middle, *count);
    }
    // The sum is told, so it need not be guessed.
    let sum = point.sum.filter(|sum| sum.is_finite() && *sum >= 0.0);
    Some(sum.map_or(histogram.clone(), |sum| histogram.with_sum(sum)))
}

fn recorded(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 == 0
}

fn texts(attributes: &[KeyValue]) -> Vec<(String, String)> {
    attributes.iter().filter_map(|pair| text_of(pair, MAX_TEXT)).collect()
}

/// The window's series of a model's metric, when its labels name a model and a version.
fn key(metric: &str, attributes: &[(String, String)]) -> Option<Key> {
    let find = |key: &str| attributes.iter().find(|(held, _)| held == key).map(|(_, value)| value.as_str());
    let measure = match metric {
        names::MODEL_CALL => Measure::Call,
        names::MODEL_QUEUE => Measure::Queue,
        names::MODEL_COMPUTE => Measure::Compute,
        names::MODEL_BATCH => Measure::Batch,
        _ => return None,
    };
    let name: ModelName = find(names::MODEL)?.parse().ok()?;
    let version: Version = find(names::VERSION)?.parse().ok()?;
    let status = (measure == Measure::Call).then(|| status(find(names::STATUS).unwrap_or_default()));
    Some(Key { measure, model: Model { name: name.as_str().into(), version: version.get() }, status })
}

/// One of gRPC's status names, so that a caller cannot invent series.
fn status(text: &str) -> &'static str {
    (0..=16).map(|number| status_name(Code::from_i32(number))).find(|name| *name == text).unwrap_or("UNKNOWN")
}
