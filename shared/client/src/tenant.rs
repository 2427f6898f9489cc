//! Who pays for a call: queues share what there is between tenants, on routers and on workers alike.

use http::header::HeaderValue;
use tonic::metadata::MetadataMap;
use weft_policy::choose::identity;

/// Where a call names its tenant within the mesh.
pub const HEADER: &str = "weft-tenant";
/// The name of the Gateway API's inference extension, which callers may use as well.
const FAIRNESS_ID: &str = "x-gateway-inference-fairness-id";

/// The tenant's name as it is sent on; `None` where a call names none. What is no text is no name.
pub fn header(metadata: &MetadataMap) -> Option<&HeaderValue> {
    let headers = metadata.as_ref();
    let named = |key: &str| headers.get(key).filter(|value| value.to_str().is_ok());
    named(HEADER).or_else(|| named(FAIRNESS_ID))
}

/// What stands for the tenant's name: equal for equal names. Calls that name none have one in common.
pub fn of(metadata: &MetadataMap) -> u64 {
    identity(header(metadata).and_then(|value| value.to_str().ok()).unwrap_or_default())
}
