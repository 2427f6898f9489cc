//! The methods that contracts declare: a bounded set of names for metrics and spans, and who streams.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// How a method exchanges messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// `package.Service/Method`, as telemetry names it.
    pub(crate) name: &'static str,
    /// Whether either side streams.
    pub(crate) streams: bool,
    /// Whether it may stay open for good: health watches, load reports and reflection.
    pub(crate) open_ended: bool,
}

/// Packages whose streams go on for as long as their caller likes.
const OPEN_ENDED: [&str; 2] = ["grpc.", "xds.service.orca."];

/// What stands for every method that no contract declares.
const OTHER: Method = Method { name: "_OTHER", streams: false, open_ended: false };

/// Every declared method by its path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Methods(HashMap<String, Method>);

impl Methods {
    /// Reads descriptor sets. Names are leaked: the set is made once per process and has a fixed size.
    pub(crate) fn of<'a>(descriptors: impl IntoIterator<Item = &'a &'a [u8]>) -> Self {
        let mut methods = HashMap::new();
        for set in descriptors.into_iter().filter_map(|bytes| FileDescriptorSet::decode(*bytes).ok()) {
            for file in &set.file {
                for service in &file.service {
                    for method in &service.method {
                        let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                        let path = format!("/{name}");
                        let streams = method.client_streaming() || method.server_streaming();
                        let open_ended = OPEN_ENDED.iter().any(|prefix| file.package().starts_with(prefix));
                        methods.insert(path, Method { name: name.leak(), streams, open_ended });
                    }
                }
            }
        }
        Self(methods)
    }

    pub(crate) fn get(&self, path: &str) -> Method {
        self.0.get(path).copied().unwrap_or(OTHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_streams_and_strangers() {
        let methods = Methods::of(&[weft_proto::DESCRIPTORS]);
        let infer = methods.get("/inference.GRPCInferenceService/ModelInfer");
        assert_eq!(infer.name, "inference.GRPCInferenceService/ModelInfer");
        assert!(!infer.streams);
        assert!(methods.get("/inference.GRPCInferenceService/ModelStreamInfer").streams);
        assert!(methods.get("/grpc.health.v1.Health/Watch").open_ended);
        assert!(methods.get("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics").open_ended);
        assert_eq!(methods.get("/made.Up/Name"), OTHER);
    }
}
