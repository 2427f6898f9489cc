//! What may lead a route's calls to a replica.

use weft_policy::choose::Bound;
use weft_proto::weft::control::v1::affinity::Source;
use weft_proto::weft::control::v1::{Affinity, PromptPrefix};
use weft_types::Result;

use super::{invalid, metadata_key, parameter_key};

/// Bytes of an input's name.
const MAX_INPUT_BYTES: usize = 256;
/// Bytes of a prompt that are looked at with every call.
const MAX_PREFIX_BYTES: u32 = 4_096;

pub(super) fn affinity(affinity: &Affinity) -> Result<()> {
    match &affinity.source {
        Some(Source::Metadata(key)) => metadata_key("route.affinity.metadata", key)?,
        Some(Source::Parameter(key)) => parameter_key("route.affinity.parameter", key)?,
        Some(Source::PromptPrefix(prefix)) => prompt_prefix(prefix)?,
        None => return Err(invalid("route.affinity", "must say metadata, parameter or prompt_prefix")),
    }
    // Zero is what was not said.
    if affinity.balance_factor != 0.0 && Bound::new(affinity.balance_factor).is_none() {
        let problem = format_args!("must be above 1 and at most {}", Bound::MAX);
        return Err(invalid("route.affinity.balance_factor", problem));
    }
    Ok(())
}

fn prompt_prefix(prefix: &PromptPrefix) -> Result<()> {
    if prefix.input.len() > MAX_INPUT_BYTES || prefix.input.chars().any(char::is_control) {
        let problem = format_args!("must be at most {MAX_INPUT_BYTES} bytes without control characters");
        return Err(invalid("route.affinity.prompt_prefix.input", problem));
    }
    if prefix.bytes > MAX_PREFIX_BYTES {
        let problem = format_args!("must be at most {MAX_PREFIX_BYTES}");
        return Err(invalid("route.affinity.prompt_prefix.bytes", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use weft_types::Error;

    use super::*;

    #[test]
    fn bad_affinities_name_their_field() {
        let prefix = |input: &str, bytes| Some(Source::PromptPrefix(PromptPrefix { input: input.to_owned(), bytes }));
        let metadata = |key: &str| Some(Source::Metadata(key.to_owned()));
        let long = "x".repeat(257);
        let table = [
            (None, 0.0, Some("route.affinity")),
            (metadata("grpc-timeout"), 0.0, Some("route.affinity.metadata")),
            (metadata("Session"), 0.0, Some("route.affinity.metadata")),
            (Some(Source::Parameter("timeout".to_owned())), 0.0, Some("route.affinity.parameter")),
            (Some(Source::Parameter(String::new())), 0.0, Some("route.affinity.parameter")),
            (prefix(&long, 0), 0.0, Some("route.affinity.prompt_prefix.input")),
            (prefix("a\nb", 0), 0.0, Some("route.affinity.prompt_prefix.input")),
            (prefix("", 4_097), 0.0, Some("route.affinity.prompt_prefix.bytes")),
            (metadata("session"), 1.0, Some("route.affinity.balance_factor")),
            (metadata("session"), -1.25, Some("route.affinity.balance_factor")),
            (metadata("session"), 10.5, Some("route.affinity.balance_factor")),
            (metadata("session"), f64::NAN, Some("route.affinity.balance_factor")),
            (metadata("session"), f64::INFINITY, Some("route.affinity.balance_factor")),
            (metadata("session"), 10.0, None),
            (Some(Source::Parameter("user".to_owned())), 1.1, None),
            (prefix("", 0), 0.0, None),
            (prefix("PROMPT", 4_096), 0.0, None),
        ];
        for (source, balance_factor, field) in table {
            let checked = affinity(&Affinity { source: source.clone(), balance_factor });
            assert_eq!(checked.as_ref().err().and_then(Error::field), field, "{source:?} {balance_factor}");
            assert_eq!(checked.is_ok(), field.is_none());
        }
    }
}
