//! ORCA load reports (gRFC A51): what an endpoint says of its own load in the trailer of an answer.

use bytes::Bytes;
use prost::Message as _;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};

pub use crate::generated::xds::data::orca::v3::OrcaLoadReport;
pub use crate::generated::xds::service::orca::v3::{
    OrcaLoadReportRequest, open_rca_service_client, open_rca_service_server,
};

/// Where an answer carries its report.
pub const TRAILER: &str = "endpoint-load-metrics-bin";

/// Names of the metrics that only endpoints of this mesh give and read.
pub mod named {
    /// Requests that are being executed.
    pub const RUNNING: &str = "running";
    /// Requests that wait to be executed.
    pub const QUEUE_DEPTH: &str = "queue_depth";
    /// Requests that it can put to use at once: those that are executed together, and those that must be there as they end.
    pub const CAPACITY: &str = "capacity";
    /// Milliseconds that one more request would wait.
    pub const EST_WAIT_MS: &str = "est_wait_ms";
    /// Share of a language model's key-value memory in use.
    pub const KV_CACHE_USAGE: &str = "kv_cache_usage";
    /// Sequences that a language model could step besides those that it does.
    pub const FREE_SLOTS: &str = "free_slots";
    /// Calls under way.
    pub const IN_FLIGHT: &str = "in_flight";
}

/// The longest report that is read, as it is on the wire: one of ours takes some 200 bytes.
const MAX_BYTES: usize = 4 << 10;
/// No honest number of requests, milliseconds or shares is larger.
const MAX_VALUE: f64 = 1e9;

/// What a balancer reads of a report. What is no number, negative or absurdly large counts as not told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Share in use of what limits the endpoint; `cpu_utilization` where the application gives none.
    pub utilization: Option<f64>,
    /// Requests that it executes or that wait there, from all of its callers.
    pub requests: Option<f64>,
    /// Those for each that it can put to use at once.
    pub fullness: Option<f64>,
    /// Milliseconds that one more request would wait.
    pub wait_ms: Option<f64>,
}

/// The trailer's value.
pub fn value(report: &OrcaLoadReport) -> BinaryMetadataValue {
    BinaryMetadataValue::from_bytes(&report.encode_to_vec())
}

/// Takes the report off an answer, so that it is not passed on as somebody else's; `None` when there is none that can be read.
pub fn take(metadata: &mut MetadataMap) -> Option<Load> {
    let value = metadata.remove_bin(TRAILER)?;
    if value.as_encoded_bytes().len() > MAX_BYTES {
        return None;
    }
    let report = Read::decode(value.to_bytes().ok()?).ok()?;
    let named = |name: &str| report.named_metrics.iter().rfind(|metric| metric.key == name).map(|metric| metric.value);
    Some(Load::read(report.application_utilization, report.cpu_utilization, named))
}

/// What is read of a report with an answer: maps are not made of it, as their entries are few and one by one.
#[derive(Clone, PartialEq, prost::Message)]
struct Read {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(message, repeated, tag = "8")]
    named_metrics: Vec<Named>,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

/// An entry of a map, as it is on the wire.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(double, tag = "2")]
    value: f64,
}

impl Load {
    /// Reads a report.
    pub fn of(report: &OrcaLoadReport) -> Self {
        let named = |name: &str| report.named_metrics.get(name).copied();
        Self::read(report.application_utilization, report.cpu_utilization, named)
    }

    fn read(of_application: f64, of_cpu: f64, named: impl Fn(&str) -> Option<f64>) -> Self {
        let told = |value: &f64| value.is_finite() && (0.0..=MAX_VALUE).contains(value);
        let named = |name: &str| named(name).filter(told);
        // A share that is not told is zero on the wire.
        let share = |value: f64| Some(value).filter(told).filter(|value| *value > 0.0);
        let (running, waiting) = (named(named::RUNNING), named(named::QUEUE_DEPTH));
        let requests = running.or(waiting).map(|_| running.unwrap_or(0.0) + waiting.unwrap_or(0.0));
        let capacity = named(named::CAPACITY).filter(|capacity| *capacity >= 1.0);
        Self {
            utilization: share(of_application).or_else(|| share(of_cpu)),
            requests,
            fullness: requests.zip(capacity).map(|(requests, capacity)| requests / capacity),
            wait_ms: named(named::EST_WAIT_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(running: f64, waiting: f64) -> OrcaLoadReport {
        let named = [
            (named::RUNNING, running),
            (named::QUEUE_DEPTH, waiting),
            (named::EST_WAIT_MS, 2.5),
            (named::CAPACITY, 5.0),
        ];
        OrcaLoadReport {
            application_utilization: 0.5,
            named_metrics: named.map(|(name, value)| (name.to_owned(), value)).into(),
            ..OrcaLoadReport::default()
        }
    }

    fn carried(bytes: &[u8]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(TRAILER, BinaryMetadataValue::from_bytes(bytes));
        metadata
    }

    #[test]
    fn a_report_is_read_and_taken_off() {
        let mut metadata = MetadataMap::new();
        metadata.insert_bin(TRAILER, value(&report(3.0, 4.0)));
        metadata.append_bin(TRAILER, value(&report(9.0, 9.0)));
        let load = Load { utilization: Some(0.5), requests: Some(7.0), fullness: Some(1.4), wait_ms: Some(2.5) };
        assert_eq!((take(&mut metadata), metadata.is_empty()), (Some(load), true));
        assert_eq!(take(&mut metadata), None);
    }

    /// The field numbers are those that gRPC and Envoy read: the same report as another writer would put it down.
    #[test]
    fn the_wire_is_grfc_a51s() {
        let told = OrcaLoadReport {
            cpu_utilization: 1.0,
            mem_utilization: 2.0,
            request_cost: [("c".to_owned(), 4.0)].into(),
            utilization: [("u".to_owned(), 5.0)].into(),
            rps_fractional: 6.0,
            eps: 7.0,
            named_metrics: [("n".to_owned(), 8.0)].into(),
            application_utilization: 9.0,
            ..OrcaLoadReport::default()
        };
        let double = |field: u8, value: f64| [&[field << 3 | 1][..], &value.to_le_bytes()].concat();
        let entry = |field: u8, name: u8, value: f64| {
            [&[field << 3 | 2, 12, 0x0a, 1, name, 0x11][..], &value.to_le_bytes()].concat()
        };
        let expected = [
            double(1, 1.0),
            double(2, 2.0),
            entry(4, b'c', 4.0),
            entry(5, b'u', 5.0),
            double(6, 6.0),
            double(7, 7.0),
            entry(8, b'n', 8.0),
            double(9, 9.0),
        ];
        assert_eq!(told.encode_to_vec(), expected.concat());
    }

    #[test]
    fn what_no_endpoint_can_mean_is_not_told() {
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e10] {
            let hostile = OrcaLoadReport { application_utilization: wrong, ..report(wrong, 4.0) };
            assert_eq!(
                Load::of(&hostile),
                Load { requests: Some(4.0), fullness: Some(0.8), wait_ms: Some(2.5), utilization: None }
            );
            assert_eq!(Load::of(&report(wrong, wrong)).requests, None);
        }
        let by_cpu = OrcaLoadReport { cpu_utilization: 0.25, ..OrcaLoadReport::default() };
        assert_eq!(Load::of(&by_cpu), Load { utilization: Some(0.25), ..Load::default() });
    }

    #[test]
    fn a_report_that_is_too_long_is_not_read() {
        let padded = |count: usize| {
            let name = "x".repeat(count);
            OrcaLoadReport { utilization: [(name, 1.0)].into(), ..report(1.0, 1.0) }.encode_to_vec()
        };
        assert!(take(&mut carried(&padded(1_000))).is_some());
        let mut long = carried(&padded(4_000));
        assert_eq!((take(&mut long), long.is_empty()), (None, true));
    }

    proptest! {
        /// Whatever bytes come, what is read of them is a number that can be counted with, and nothing is left to be passed on.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[ -~]{0,40}") {
            let mut raw = MetadataMap::from_headers(
                [(http_name(), text.parse().expect("printable"))].into_iter().collect(),
            );
            for metadata in [&mut carried(&bytes), &mut raw] {
                let load = take(metadata).unwrap_or_default();
                let all = [load.utilization, load.requests, load.fullness, load.wait_ms];
                prop_assert!(all.into_iter().flatten().all(|value| (0.0..=2.0 * MAX_VALUE).contains(&value)));
                prop_assert!(metadata.is_empty());
            }
        }

        /// Reports with any values at all.
        #[test]
        fn any_values_are_survived(running: f64, waiting: f64, share: f64) {
            let told = OrcaLoadReport { application_utilization: share, ..report(running, waiting) };
            let load = take(&mut carried(&told.encode_to_vec())).expect("it is well formed");
            prop_assert!(load.requests.is_none_or(|requests| (0.0..=2.0 * MAX_VALUE).contains(&requests)));
            prop_assert!(load.utilization.is_none_or(|share| (0.0..=MAX_VALUE).contains(&share)));
        }
    }

    fn http_name() -> tonic::codegen::http::HeaderName {
        tonic::codegen::http::HeaderName::from_static(TRAILER)
    }
}
