//! Sequences of language models, as [`weft_engine::Language`] has them.

/// Begin a sequence.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Generate {
    /// The worker's number for it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What it begins with.
    #[prost(oneof = "prompt::Body", tags = "2, 3, 4")]
    pub prompt: Option<prompt::Body>,
    /// The most tokens to generate; 0 for what the context has room for.
    #[prost(uint32, tag = "5")]
    pub max_tokens: u32,
    /// How tokens are drawn.
    #[prost(message, optional, tag = "6")]
    pub sampling: Option<Sampling>,
    /// Texts that end it.
    #[prost(string, repeated, tag = "7")]
    pub stop: Vec<String>,
    /// Whether to go on past the model's own end of text.
    #[prost(bool, tag = "8")]
    pub ignore_eos: bool,
    /// Whether the pieces carry log probabilities.
    #[prost(bool, tag = "9")]
    pub logprobs: bool,
    /// 1 is the most urgent band.
    #[prost(uint64, tag = "10")]
    pub band: u64,
    /// Microseconds until nobody waits any more.
    #[prost(uint64, tag = "11")]
    pub deadline_us: u64,
    /// Tokens that it may be ahead of its reader.
    #[prost(uint32, tag = "12")]
    pub credit: u32,
}

/// What a sequence begins with.
pub mod prompt {
    /// One of three forms.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// Text.
        #[prost(string, tag = "2")]
        Text(String),
        /// A conversation.
        #[prost(message, tag = "3")]
        Chat(super::Chat),
        /// Token ids.
        #[prost(message, tag = "4")]
        Tokens(super::Tokens),
    }
}

/// A conversation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Chat {
    /// Its messages.
    #[prost(message, repeated, tag = "1")]
    pub turns: Vec<Turn>,
}

/// One message of a conversation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Turn {
    /// Who said it.
    #[prost(string, tag = "1")]
    pub role: String,
    /// What was said.
    #[prost(string, tag = "2")]
    pub content: String,
}

/// Token ids.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tokens {
    /// The ids.
    #[prost(uint32, repeated, tag = "1")]
    pub ids: Vec<u32>,
}

/// A `weft_engine::Sampling`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sampling {
    /// 0 is greedy.
    #[prost(float, tag = "1")]
    pub temperature: f32,
    /// 0 for all.
    #[prost(uint32, tag = "2")]
    pub top_k: u32,
    /// 1 for all.
    #[prost(float, tag = "3")]
    pub top_p: f32,
    /// 0 for all.
    #[prost(float, tag = "4")]
    pub min_p: f32,
    /// 1 for none.
    #[prost(float, tag = "5")]
    pub repetition_penalty: f32,
    /// 0 for none.
    #[prost(float, tag = "6")]
    pub presence_penalty: f32,
    /// 0 for none.
    #[prost(float, tag = "7")]
    pub frequency_penalty: f32,
    /// Makes sampling repeatable.
    #[prost(uint32, optional, tag = "8")]
    pub seed: Option<u32>,
    /// Added to the logits of these tokens.
    #[prost(message, repeated, tag = "9")]
    pub logit_bias: Vec<Bias>,
    /// llama.cpp's notation; empty for none.
    #[prost(string, tag = "10")]
    pub gbnf: String,
    /// A JSON schema; empty for none.
    #[prost(string, tag = "11")]
    pub json_schema: String,
}

/// What is added to one token's logit.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Bias {
    /// The token.
    #[prost(uint32, tag = "1")]
    pub token: u32,
    /// What is added.
    #[prost(float, tag = "2")]
    pub bias: f32,
}

/// The reader of a sequence has taken more.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Taken {
    /// The sequence.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// So many tokens more.
    #[prost(uint32, tag = "2")]
    pub tokens: u32,
}

/// A `weft_engine::Piece`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Piece {
    /// The sequence.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Whole characters.
    #[prost(string, tag = "2")]
    pub text: String,
    /// The tokens behind it.
    #[prost(uint32, repeated, tag = "3")]
    pub tokens: Vec<u32>,
    /// One for each token, or none.
    #[prost(float, repeated, tag = "4")]
    pub logprobs: Vec<f32>,
    /// Set on the last one.
    #[prost(message, optional, tag = "5")]
    pub end: Option<End>,
}

impl Piece {
    /// What it takes of its sequence's credit: its tokens, and one when it has a part of a token only.
    pub(crate) fn credit(&self) -> u32 {
        u32::try_from(self.tokens.len()).unwrap_or(u32::MAX).max(1)
    }
}

/// How a sequence has ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct End {
    /// `stop` or `length`.
    #[prost(string, tag = "1")]
    pub finish: String,
    /// Tokens of the prompt.
    #[prost(uint32, tag = "2")]
    pub prompt_tokens: u32,
    /// Those of them that were shared.
    #[prost(uint32, tag = "3")]
    pub cached_tokens: u32,
    /// Tokens generated.
    #[prost(uint32, tag = "4")]
    pub output_tokens: u32,
    /// How often it gave up its place.
    #[prost(uint32, tag = "5")]
    pub preemptions: u32,
    /// Microseconds from when it was sent to the beginning of its first step.
    #[prost(uint64, tag = "6")]
    pub queued_us: u64,
}

/// A `weft_engine::Capacity`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Capacity {
    /// The most tokens of one sequence.
    #[prost(uint32, tag = "1")]
    pub context_tokens: u32,
    /// Tokens of all together.
    #[prost(uint32, tag = "2")]
    pub kv_tokens: u32,
    /// Sequences that step together.
    #[prost(uint32, tag = "3")]
    pub slots: u32,
    /// Sequences that may wait.
    #[prost(uint32, tag = "4")]
    pub queue: u32,
}

/// A `weft_engine::Occupancy`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Occupancy {
    /// Sequences that step.
    #[prost(uint32, tag = "1")]
    pub running: u32,
    /// Sequences that wait.
    #[prost(uint32, tag = "2")]
    pub waiting: u32,
    /// Tokens held.
    #[prost(uint32, tag = "3")]
    pub kv_tokens: u32,
    /// Microseconds that the longest step of late took; a cancel waits for the end of a step.
    #[prost(uint64, tag = "4")]
    pub longest_step_us: u64,
}
