//! A request's prompt becomes tokens.

use llama_cpp_2::model::{LlamaChatMessage, LlamaModel};
use llama_cpp_2::token::LlamaToken;

use crate::protocol::language::{Chat, Turn, prompt};

/// No vocabulary has tokens of more bytes. A text that is longer than this for each token of the context is refused without
/// being tokenised, which takes time that others would wait for.
const TOKEN_BYTES: usize = 128;

/// Why a request cannot be served, and which field is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) field: &'static str,
    pub(super) problem: String,
}

impl Refusal {
    pub(super) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Tokenises; what has no token or more than `context` is refused.
pub(super) fn tokens(
    model: &LlamaModel,
    prompt: Option<prompt::Body>,
    context: u32,
) -> Result<Vec<LlamaToken>, Refusal> {
    let (field, tokens) = match prompt {
        Some(prompt::Body::Text(text)) => ("text_input", from_text(model, &text, context)?),
        Some(prompt::Body::Chat(chat)) => ("messages", from_chat(model, chat, context)?),
        Some(prompt::Body::Tokens(tokens)) => ("token_ids", from_ids(model, &tokens.ids)?),
        None => ("text_input", Vec::new()),
    };
    if tokens.is_empty() {
        return Err(Refusal::new(field, "has no tokens"));
    }
    if tokens.len() > context as usize {
        let problem = format!("has {} tokens; the context has room for {context}", tokens.len());
        return Err(Refusal::new(field, problem));
    }
    Ok(tokens)
}

fn from_text(model: &LlamaModel, text: &str, context: u32) -> Result<Vec<LlamaToken>, Refusal> {
    bounded("text_input", text, context)?;
    Ok(model.vocab().tokenize(text.as_bytes(), true, false))
}

fn from_ids(model: &LlamaModel, ids: &[u32]) -> Result<Vec<LlamaToken>, Refusal> {
    let known = |id: &u32| i32::try_from(*id).ok().filter(|id| *id < model.n_vocab()).map(LlamaToken);
    let refuse = |id: &u32| Refusal::new("token_ids", format!("{id} is not a token of the model"));
    ids.iter().map(|id| known(id).ok_or_else(|| refuse(id))).collect()
}

/// Lays out a conversation, up to where the model's next message begins.
fn from_chat(model: &LlamaModel, chat: Chat, context: u32) -> Result<Vec<LlamaToken>, Refusal> {
    let refuse = |problem: &str| Refusal::new("messages", problem);
    if chat.turns.is_empty() {
        return Err(refuse("has no message"));
    }
    for turn in &chat.turns {
        bounded("messages", &turn.content, context)?;
        bounded("messages", &turn.role, context)?;
    }
    let message = |turn: Turn| LlamaChatMessage::new(turn.role, turn.content);
    let messages: Result<Vec<_>, _> = chat.turns.into_iter().map(message).collect();
    let messages = messages.map_err(|_| refuse("has a zero byte"))?;
    let template = model.chat_template(None).map_err(|_| refuse("the model's file has no chat template"))?;
    let text = model.apply_chat_template(&template, &messages, true);
    let text = text.map_err(|_| refuse("the chat template of the model's file is not one that the engine knows"))?;
    bounded("messages", &text, context)?;
    Ok(model.vocab().tokenize(text.as_bytes(), true, true))
}

fn bounded(field: &'static str, text: &str, context: u32) -> Result<(), Refusal> {
    let most = (context as usize).saturating_mul(TOKEN_BYTES);
    if text.len() <= most {
        return Ok(());
    }
    Err(Refusal::new(field, format!("has {} bytes; the context has room for {context} tokens", text.len())))
}
