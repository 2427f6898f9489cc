//! Who did it: a caller that asks a router is told, in the answer's metadata, which worker answered or failed.

use http::header::{HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use weft_types::WorkerId;

/// The header by which a caller asks, whatever its value, and by which it is told the worker's id.
const HEADER: HeaderName = HeaderName::from_static("weft-worker");
const ASKS: HeaderValue = HeaderValue::from_static("?");

/// What a call brings that asks.
pub const fn question() -> (HeaderName, HeaderValue) {
    (HEADER, ASKS)
}

/// Whether a call asks.
pub fn is_asked(call: &MetadataMap) -> bool {
    call.as_ref().contains_key(HEADER)
}

/// Tells it.
pub fn tell(answer: &mut MetadataMap, worker: &WorkerId) {
    // Ids are ASCII by their check, so this is always a header's value.
    if let Ok(id) = HeaderValue::from_str(worker.as_str()) {
        answer.as_mut().insert(HEADER, id);
    }
}

/// What an answer tells. Kept answers and refusals of the router itself are no worker's.
pub fn told(answer: &MetadataMap) -> Option<WorkerId> {
    answer.as_ref().get(HEADER)?.to_str().ok()?.parse().ok()
}
