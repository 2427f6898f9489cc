//! Which calls are equal.

use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;
use weft_proto::message::Message;
use weft_types::{SystemClock, Version};

use super::answers::Key;
use crate::Inner;
use crate::identify::Wanted;
use crate::route::{Routed, route};

/// What a call asks for.
pub(super) struct Asked {
    pub(super) key: Key,
    model: String,
    version: Version,
}

impl Asked {
    /// Whether it is this model and version that it asks.
    pub(super) fn is_of(&self, model: &str, version: Version) -> bool {
        self.model == model && self.version == version
    }
}

/// What a call asks for; `None` for one that may neither take nor leave an answer, and for one whose target is not ready.
///
/// Callers choose the bytes, so that the digest must be one that nobody can find two of. It holds the load of the target, too: a model
/// that was loaded anew may answer otherwise under the same version.
pub(super) fn asked(router: &Inner, wanted: &Wanted<'_>, message: &Message) -> Option<Asked> {
    let is_part = wanted.sequence.is_some() || wanted.ends_sequence;
    if is_part || message.len() > router.answers.longest() || wanted.metadata.is_some_and(is_refused) {
        return None;
    }
    let table = router.table.load();
    let marks = wanted.marks();
    let routed = route(&table, wanted.name, wanted.version, &marks, SystemClock::now());
    let Ok(Routed::Ready(target)) = routed else { return None };
    let mut digest = Sha256::new();
    // No name holds a zero byte.
    digest.update(target.model.as_bytes());
    digest.update([0]);
    digest.update(target.version.get().to_be_bytes());
    digest.update(target.ready.loaded.to_be_bytes());
    message.meaning(&mut |bytes| digest.update(bytes))?;
    Some(Asked { key: digest.finalize().into(), model: target.model.to_owned(), version: target.version })
}

/// Whether the caller wants an answer of its own (RFC 9111, `no-cache` and `no-store`).
fn is_refused(metadata: &MetadataMap) -> bool {
    let values = metadata.get_all("cache-control").iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    directives.any(|one| one.eq_ignore_ascii_case("no-cache") || one.eq_ignore_ascii_case("no-store"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_can_ask_for_an_answer_of_their_own() {
        let refused = |values: &[&str]| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append("cache-control", value.parse().expect("ASCII"));
            }
            is_refused(&metadata)
        };
        assert!(refused(&["no-cache"]) && refused(&["max-age=0", "private, No-Store"]) && refused(&["a,no-cache ,b"]));
        assert!(!refused(&[]) && !refused(&["max-age=0"]) && !refused(&["no-cache-please"]));
    }
}
