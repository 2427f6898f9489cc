//! A language model in an engine process: its sequences as streams, each with credit for what its reader may be behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use weft_engine::{Capacity, Error, Finish, Generation, Grammar, Language, Occupancy, Piece, Prompt, Usage};
use weft_engine::{Sampling, SequenceRequest};
use weft_types::SystemClock;

use super::connection::{Connection, Delivery, Ticket};
use crate::protocol::language::{Bias, Chat, End, Generate, Taken, Tokens, Turn, prompt};
use crate::protocol::{command, event, language};

/// Tokens that a sequence may be ahead of its reader. Then it pauses; more would only be computed in vain when the reader goes.
const CREDIT: u32 = 32;
/// Credit is given back in such parts, so that not every token costs a message.
const RETURNED: u32 = 8;
/// Events beside pieces: that it is queued, and its end.
const OTHERS: usize = 4;

/// The language side of a model.
pub(super) struct Remote {
    connection: Arc<Connection>,
    capacity: Capacity,
}

impl Remote {
    pub(super) fn new(connection: Arc<Connection>, capacity: language::Capacity) -> Self {
        let language::Capacity { context_tokens, kv_tokens, slots, queue } = capacity;
        Self { connection, capacity: Capacity { context_tokens, kv_tokens, slots, queue } }
    }
}

#[async_trait]
impl Language for Remote {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn occupancy(&self) -> Occupancy {
        let language::Occupancy { running, waiting, kv_tokens, .. } = self.connection.occupancy();
        Occupancy { running, waiting, kv_tokens }
    }

    async fn generate(&self, request: SequenceRequest) -> Result<Generation, Error> {
        // Each piece takes credit, so no more than that many can be under way.
        let mut ticket = self.connection.begin(CREDIT as usize + OTHERS, Vec::new())?;
        let generate = message(ticket.id(), request);
        ticket.start(command::Body::Generate(generate))?;
        match ticket.next().await?.body {
            event::Body::Queued(_) => {}
            _ => return Err(Error::Run("the engine began with an answer".to_owned())),
        }
        let reader = Reader { ticket, owed: 0 };
        Ok(Generation::new(stream::unfold(Some(reader), |reader| async move { reader?.next().await })))
    }
}

/// One sequence's reader. Dropping it cancels the sequence, unless it has ended.
struct Reader {
    ticket: Ticket,
    /// Credit that is to be given back.
    owed: u32,
}

impl Reader {
    /// The next piece, and the reader while there may be more. Being asked means that the piece before has been read.
    async fn next(mut self) -> Option<(Result<Piece, Error>, Option<Self>)> {
        if self.owed >= RETURNED {
            let taken = Taken { id: self.ticket.id(), tokens: self.owed };
            self.owed = 0;
            // Only new work is refused.
            let _ = self.ticket.connection().send(command::Body::Taken(taken));
        }
        match self.ticket.next().await {
            Ok(Delivery { body: event::Body::Piece(piece), .. }) => {
                self.owed = self.owed.saturating_add(piece.credit());
                let more = piece.end.is_none();
                Some((Ok(piece.into()), more.then_some(self)))
            }
            Ok(_) => Some((Err(Error::Run("the engine lost an answer".to_owned())), None)),
            Err(error) => Some((Err(error), None)),
        }
    }
}

fn message(id: u64, request: SequenceRequest) -> Generate {
    let remaining = request.deadline.remaining(SystemClock::now());
    Generate {
        id,
        prompt: Some(match request.prompt {
            Prompt::Text(text) => prompt::Body::Text(text),
            Prompt::Chat(turns) => prompt::Body::Chat(Chat {
                turns: turns.into_iter().map(|turn| Turn { role: turn.role, content: turn.content }).collect(),
            }),
            Prompt::Tokens(ids) => prompt::Body::Tokens(Tokens { ids }),
        }),
        max_tokens: request.max_tokens.map_or(0, |most| most.max(1)),
        sampling: Some(request.sampling.into()),
        stop: request.stop,
        ignore_eos: request.ignore_eos,
        logprobs: request.logprobs,
        band: request.band,
        deadline_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
        credit: CREDIT,
    }
}

impl From<Sampling> for language::Sampling {
    fn from(sampling: Sampling) -> Self {
        let (gbnf, json_schema) = match sampling.grammar {
            Some(Grammar::Gbnf(text)) => (text, String::new()),
            Some(Grammar::JsonSchema(text)) => (String::new(), text),
            None => (String::new(), String::new()),
        };
        Self {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: sampling.seed,
            logit_bias: sampling.logit_bias.into_iter().map(|(token, bias)| Bias { token, bias }).collect(),
            gbnf,
            json_schema,
        }
    }
}

impl From<language::Piece> for Piece {
    fn from(piece: language::Piece) -> Self {
        let end = |end: End| {
            let finish = if end.finish == Finish::Length.as_str() { Finish::Length } else { Finish::Stop };
            let End { prompt_tokens, cached_tokens, output_tokens, preemptions, queued_us, .. } = end;
            let queued = Duration::from_micros(queued_us);
            (finish, Usage { prompt_tokens, cached_tokens, output_tokens, preemptions, queued })
        };
        Self { text: piece.text, tokens: piece.tokens, logprobs: piece.logprobs, end: piece.end.map(end) }
    }
}
