//! The part of the port for language models: sequences that are stepped together, each with its own reader.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use weft_types::Deadline;

use crate::Error;

/// What a sequence begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, tokenised as the model's file says, special tokens in it not interpreted.
    Text(String),
    /// A conversation, laid out by the chat template of the model's file.
    Chat(Vec<Turn>),
    /// Token ids as the model numbers them.
    Tokens(Vec<u32>),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user` or `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A shape that the output must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// llama.cpp's own notation.
    Gbnf(String),
    /// A JSON schema, as JSON.
    JsonSchema(String),
}

/// How the next token is drawn. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only the k likeliest; 0 for all.
    pub top_k: u32,
    /// Only the likeliest that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Only those at least this likely in proportion to the likeliest; 0 for all.
    pub min_p: f32,
    /// Divides the logits of tokens of the last 64; 1 for none.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token that has come; 0 for none.
    pub presence_penalty: f32,
    /// The same, times how often it has come; 0 for none.
    pub frequency_penalty: f32,
    /// Makes sampling repeatable; drawn when absent.
    pub seed: Option<u32>,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// What the output must look like.
    pub grammar: Option<Grammar>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
            grammar: None,
        }
    }
}

/// A sequence to be generated.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceRequest {
    /// What it begins with.
    pub prompt: Prompt,
    /// The most tokens to generate; `None` for what the context has room for.
    pub max_tokens: Option<u32>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Texts that end it; they are not part of the answer.
    pub stop: Vec<String>,
    /// Whether to go on past the model's own end of text.
    pub ignore_eos: bool,
    /// Whether the pieces carry log probabilities.
    pub logprobs: bool,
    /// 1 is the most urgent band. A sequence of a lower number takes the place of one of a higher.
    pub band: u64,
    /// When nobody waits any more.
    pub deadline: Deadline,
}

/// Why a sequence has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model's end of text, or a stop text.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
}

impl Finish {
    /// The name that the field uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What a sequence has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that were computed for an earlier sequence and shared.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// How often it gave its place to a more urgent one.
    pub preemptions: u32,
    /// From when the engine had it to the beginning of its first step.
    pub queued: Duration,
}

/// What has been generated since the last piece.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Whole characters; bytes of an unfinished one wait for the next piece.
    pub text: String,
    /// The tokens behind the text, also those that have no text.
    pub tokens: Vec<u32>,
    /// For each token, its log probability before sampling parameters; empty unless asked for.
    pub logprobs: Vec<f32>,
    /// Set on the last piece.
    pub end: Option<(Finish, Usage)>,
}

/// What a language model has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The most tokens of one sequence, prompt and output together.
    pub context_tokens: u32,
    /// Tokens that all sequences together can hold.
    pub kv_tokens: u32,
    /// Sequences that step together.
    pub slots: u32,
    /// Sequences that may wait for a slot; one more is refused.
    pub queue: u32,
}

/// How full a language model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Sequences that step.
    pub running: u32,
    /// Sequences that wait for a slot, those that lost theirs included.
    pub waiting: u32,
    /// Tokens held, shared prefixes counted once.
    pub kv_tokens: u32,
}

/// A loaded language model.
#[async_trait]
pub trait Language: Send + Sync {
    /// What it has room for.
    fn capacity(&self) -> Capacity;
    /// How full it is, as of its last step.
    fn occupancy(&self) -> Occupancy;
    /// Queues a sequence. What can be told at once is refused here: a prompt longer than the context, a full queue, a grammar
    /// that cannot be read.
    async fn generate(&self, request: SequenceRequest) -> Result<Generation, Error>;
}

/// The pieces of one sequence, as they come. Dropping it frees its slot before the next step; not reading it pauses the
/// sequence, while others go on.
pub struct Generation(Pin<Box<dyn Stream<Item = Result<Piece, Error>> + Send>>);

impl Generation {
    /// A sequence's pieces. The last has an `end`; an error is the last, too.
    pub fn new(pieces: impl Stream<Item = Result<Piece, Error>> + Send + 'static) -> Self {
        Self(Box::pin(pieces))
    }
}

impl Stream for Generation {
    type Item = Result<Piece, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}
