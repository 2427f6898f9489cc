//! One sequence: what was asked, how far it is, and what its reader has.

use std::time::Instant;

use llama_cpp_2::SeqState;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use weft_policy::step;
use weft_types::Deadline;

use super::sample::{Halt, Sampler};
use super::settings::Settings;
use super::text::{Ready, Text};
use super::{prompt, prompt::Refusal};
use crate::protocol::language::{End, Generate, Piece, Sampling};

/// Bytes of one text that shall end a sequence, and how many of them there may be: each new token is searched for all of them.
const MOST_STOP_BYTES: usize = 1024;
const MOST_STOPS: usize = 16;

/// A sequence that has not ended.
pub(super) struct Sequence {
    /// The worker's number for it.
    pub(super) id: u64,
    /// The number among sequences and kept prefixes; counts up with each arrival.
    pub(super) key: u64,
    pub(super) band: u64,
    pub(super) deadline: Deadline,
    arrived: Instant,
    /// When its first step began.
    pub(super) began: Option<Instant>,
    /// How many steps that it was part of were given up since the last one that was not.
    pub(super) stops: u32,
    /// The prompt and what was generated.
    pub(super) tokens: Vec<LlamaToken>,
    /// How many of them are in the cache, or were, when `saved` is there.
    pub(super) computed: usize,
    /// Its number in the cache, while it holds something there.
    pub(super) cache: Option<i32>,
    /// Its part of the cache, taken out to make room.
    pub(super) saved: Option<SeqState>,
    /// Whether it has a slot.
    pub(super) running: bool,
    prompt: usize,
    /// The most tokens, prompt included.
    limit: usize,
    /// How many tokens its reader may still be sent.
    credit: i64,
    sampler: Sampler,
    text: Text,
    logprobs: bool,
    pub(super) cached: u32,
    pub(super) preemptions: u32,
}

/// How a sequence goes on after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    More,
    Stop,
    Length,
    /// Its grammar takes too long.
    Costly,
}

/// What new sequences are made with.
pub(super) struct Maker<'a> {
    pub(super) model: &'a LlamaModel,
    pub(super) settings: Settings,
    /// The tokens that end a text.
    pub(super) ends: Vec<LlamaToken>,
}

impl Maker<'_> {
    /// Checks a request and tokenises it. `key` also serves as seed when the caller gave none.
    pub(super) fn make(
        &self,
        request: Generate,
        key: u64,
        (arrived, deadline): (Instant, Deadline),
    ) -> Result<Sequence, Refusal> {
        if request.stop.len() > MOST_STOPS || request.stop.iter().any(|stop| stop.len() > MOST_STOP_BYTES) {
            let problem = format!("at most {MOST_STOPS} texts of at most {MOST_STOP_BYTES} bytes can be watched for");
            return Err(Refusal::new("stop", problem));
        }
        let sampling = request.sampling.unwrap_or_else(greedy);
        let has_grammar = !sampling.gbnf.is_empty() || !sampling.json_schema.is_empty();
        if has_grammar && !self.settings.grammars {
            let field = if sampling.gbnf.is_empty() { "json_schema" } else { "grammar" };
            return Err(Refusal::new(field, "is not followed: grammars are switched off for this model"));
        }
        let tokens = prompt::tokens(self.model, request.prompt, self.settings.context)?;
        let banned = if request.ignore_eos { self.ends.as_slice() } else { &[] };
        // The golden ratio spreads neighbouring keys over all seeds.
        let seed = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        let sampler = Sampler::new(self.model, sampling, &tokens, banned, seed)?;
        // The last token is not computed, so it needs no room.
        let room = self.settings.context as usize + 1;
        let most = if request.max_tokens == 0 { room } else { tokens.len() + request.max_tokens as usize };
        Ok(Sequence {
            id: request.id,
            key,
            band: request.band,
            deadline,
            arrived,
            began: None,
            stops: 0,
            prompt: tokens.len(),
            limit: most.min(room),
            tokens,
            computed: 0,
            cache: None,
            saved: None,
            running: false,
            credit: i64::from(request.credit),
            sampler,
            text: Text::new(request.stop),
            logprobs: request.logprobs,
            cached: 0,
            preemptions: 0,
        })
    }
}

/// What a request without settings means; the message's own default would divide by zero.
fn greedy() -> Sampling {
    Sampling { top_p: 1.0, repetition_penalty: 1.0, ..Sampling::default() }
}

impl Sequence {
    /// Tokens that are still to be computed before the next can be drawn.
    pub(super) fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens that it may hold beyond those.
    pub(super) fn growth(&self) -> usize {
        (self.limit - 1).saturating_sub(self.tokens.len())
    }

    /// Whether its reader is behind.
    pub(super) fn paused(&self) -> bool {
        self.credit <= 0
    }

    /// Its reader has taken tokens.
    pub(super) fn taken(&mut self, tokens: u32) {
        self.credit = self.credit.saturating_add(i64::from(tokens));
    }

    pub(super) fn place(&self) -> step::Place {
        match (self.running, self.cache) {
            (true, _) => step::Place::Running,
            (false, Some(_)) => step::Place::Parked,
            (false, None) => step::Place::Outside,
        }
    }

    /// Draws the next token from the logits of the last.
    pub(super) fn draw(&mut self, model: &LlamaModel, logits: &[f32]) -> Next {
        let token = match self.sampler.draw(logits) {
            Ok(token) => token,
            Err(Halt::Nothing) => return Next::Stop,
            Err(Halt::Costly) => return Next::Costly,
        };
        if model.vocab().is_eog(token) {
            return Next::Stop;
        }
        let bytes = model.vocab().token_to_piece(token, false, None);
        let logprob = self.logprobs.then(|| super::sample::logprob(logits, token));
        self.tokens.push(token);
        let id = u32::try_from(token.0).unwrap_or(0);
        if self.text.push(id, &bytes, logprob) {
            return Next::Stop;
        }
        if self.tokens.len() >= self.limit { Next::Length } else { Next::More }
    }

    /// What its reader can have now; nothing when nothing new is certain. Takes its credit.
    pub(super) fn piece(&mut self, next: Next) -> Option<Piece> {
        let ready = if next == Next::More { self.text.take() } else { self.text.finish() };
        if next == Next::More && ready.is_empty() {
            return None;
        }
        let Ready { text, tokens, logprobs } = ready;
        let end = match next {
            Next::More | Next::Costly => None,
            Next::Stop => Some(self.end("stop")),
            Next::Length => Some(self.end("length")),
        };
        let piece = Piece { id: self.id, text, tokens, logprobs, end };
        self.credit -= i64::from(piece.credit());
        Some(piece)
    }

    fn end(&self, finish: &str) -> End {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let queued = self.began.unwrap_or(self.arrived).saturating_duration_since(self.arrived);
        End {
            finish: finish.to_owned(),
            prompt_tokens: count(self.prompt),
            cached_tokens: self.cached,
            output_tokens: count(self.tokens.len() - self.prompt),
            preemptions: self.preemptions,
            queued_us: u64::try_from(queued.as_micros()).unwrap_or(u64::MAX),
        }
    }
}
