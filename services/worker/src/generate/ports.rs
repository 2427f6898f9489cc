//! The tensors that a language model takes and gives: the names and types of Triton's vLLM backend, and a few of our own.

use std::borrow::Cow;
use std::sync::LazyLock;

use weft_engine::{DataType, Model, Port, Signature};

/// An output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// What has been generated since the last response.
    Text,
    /// `stop` or `length` on the last response, `None` before.
    FinishReason,
    /// The sum of the log probabilities of all tokens so far.
    CumulativeLogprob,
    /// The log probability of each of the response's tokens.
    Logprobs,
    /// Tokens of the prompt; on the last response.
    InputTokens,
    /// Those of them that were computed for an earlier request; on the last response.
    CachedTokens,
    /// Tokens of this response.
    NewTokens,
    /// The tokens of this response.
    TokenIds,
}

impl Output {
    pub(super) const ALL: [Self; 8] = [
        Self::Text,
        Self::FinishReason,
        Self::CumulativeLogprob,
        Self::Logprobs,
        Self::InputTokens,
        Self::CachedTokens,
        Self::NewTokens,
        Self::TokenIds,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text_output",
            Self::FinishReason => "finish_reason",
            Self::CumulativeLogprob => "cumulative_logprob",
            Self::Logprobs => "logprobs",
            Self::InputTokens => "num_input_tokens",
            Self::CachedTokens => "num_cached_tokens",
            Self::NewTokens => "num_output_tokens",
            Self::TokenIds => "token_ids",
        }
    }

    /// The input that asks for it; the text comes unasked.
    pub(super) const fn flag(self) -> Option<&'static str> {
        match self {
            Self::Text => None,
            Self::FinishReason => Some("return_finish_reason"),
            Self::CumulativeLogprob => Some("return_cumulative_logprob"),
            Self::Logprobs => Some("return_logprobs"),
            Self::InputTokens => Some("return_num_input_tokens"),
            Self::CachedTokens => Some("return_num_cached_tokens"),
            Self::NewTokens => Some("return_num_output_tokens"),
            Self::TokenIds => Some("return_token_ids"),
        }
    }

    /// Whether the engine has to tell log probabilities for it.
    pub(super) const fn needs_logprobs(self) -> bool {
        matches!(self, Self::CumulativeLogprob | Self::Logprobs)
    }

    fn port(self) -> Port {
        let (datatype, axis) = match self {
            Self::Text | Self::FinishReason => (DataType::Bytes, 1),
            Self::CumulativeLogprob => (DataType::Fp32, 1),
            Self::Logprobs => (DataType::Fp32, -1),
            Self::InputTokens | Self::CachedTokens | Self::NewTokens => (DataType::Uint32, 1),
            Self::TokenIds => (DataType::Int32, -1),
        };
        Port::new(self.name(), datatype, &[axis])
    }
}

/// What every language model takes and gives, whatever its engine.
pub(super) static SIGNATURE: LazyLock<Signature> = LazyLock::new(|| {
    let optional = |name, datatype, axis| Port { optional: true, ..Port::new(name, datatype, &[axis]) };
    let texts = ["text_input", "messages", "sampling_parameters"].map(|name| optional(name, DataType::Bytes, 1));
    let tokens = optional("input_ids", DataType::Int32, -1);
    let flags =
        ["stream", "exclude_input_in_output"].into_iter().chain(Output::ALL.into_iter().filter_map(Output::flag));
    let flags = flags.map(|name| optional(name, DataType::Bool, 1));
    Signature {
        platform: String::new(),
        inputs: texts.into_iter().chain([tokens]).chain(flags).collect(),
        outputs: Output::ALL.map(Output::port).into(),
        max_batch_size: 0,
        concurrency: 1,
    }
});

/// What a model takes and gives as callers see it: a language model's engine knows sequences, not tensors.
pub(crate) fn signature(model: &dyn Model) -> Cow<'_, Signature> {
    let own = model.signature();
    match model.language() {
        Some(_) => Cow::Owned(Signature { platform: own.platform.clone(), ..SIGNATURE.clone() }),
        None => Cow::Borrowed(own),
    }
}
