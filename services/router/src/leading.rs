//! What leads a route's calls to a replica.

use weft_policy::Affinity;
use weft_policy::choose::Bound;
use weft_proto::message::Payload;
use weft_proto::weft::control::v1::affinity::Source;
use weft_proto::weft::control::v1::{self as control, PromptPrefix};
use weft_types::Result;

use crate::rules::{Key, Marks};

/// The input that holds the prompt, where the route does not name another: that of Triton's and Weft's language models.
const INPUT: &str = "text_input";
/// Bytes of a prompt, where the route does not say how many: a system's text of a hundred words.
const BYTES: usize = 512;
/// The most, whatever the route says: they are copied with every call.
const MAX_BYTES: usize = 4_096;

/// Where a call has what leads it, and how far.
pub(crate) struct Leading {
    by: By,
    pub(crate) bound: Bound,
}

enum By {
    Key(Key),
    Prompt { input: String, bytes: usize },
}

impl Leading {
    /// What a route's record says. What cannot be meant is left out, as the route's other rules are.
    pub(crate) fn of(affinity: &control::Affinity) -> Option<Self> {
        let by = match affinity.source.as_ref()? {
            Source::Metadata(key) => By::Key(Key::Metadata(key.parse().ok()?)),
            Source::Parameter(key) => By::Key(Key::Parameter(key.clone())),
            Source::PromptPrefix(PromptPrefix { input, bytes }) => By::Prompt {
                input: if input.is_empty() { INPUT } else { input }.to_owned(),
                bytes: usize::try_from(*bytes)
                    .ok()
                    .filter(|bytes| *bytes > 0)
                    .map_or(BYTES, |bytes| bytes.min(MAX_BYTES)),
            },
        };
        Some(Self { by, bound: Bound::new(affinity.balance_factor).unwrap_or_default() })
    }

    /// What calls with the same key to the same model have in common, whatever routes they take; `None` for a call without a key.
    pub(crate) fn affinity(&self, model: &str, marks: &Marks<'_>, request: Payload<'_>) -> Result<Option<Affinity>> {
        match &self.by {
            By::Key(key) => key.affinity(model, marks),
            By::Prompt { input, bytes } => {
                let prompt = request.prompt(input, *bytes)?;
                Ok(prompt.map(|prompt| Affinity::of(model, prompt.as_slice())))
            }
        }
    }
}
