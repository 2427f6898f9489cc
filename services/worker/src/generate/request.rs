//! A protocol request becomes a sequence to generate.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use weft_engine::{Capacity, Prompt, SequenceRequest, Tensor, Turn};
use weft_proto::inference::InferParameter;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_types::{Deadline, Error, Result};

use super::ports::{Output, SIGNATURE};
use super::sampling::Settings;
use crate::error::presentable;
use crate::infer::{Inference, flag, positions};

/// The longest `sampling_parameters`, in bytes: parsed, JSON takes many times its size.
const MAX_SETTINGS: usize = 256 << 10;
/// The most messages of a conversation.
const MAX_TURNS: usize = 1024;
/// More bytes than any token has: a text with more of them than the context has tokens cannot fit, and is not worth tokenising.
const MAX_TOKEN_BYTES: usize = 256;
/// Parameters that mean the same to every model. They are read where requests are converted.
const PROTOCOL: [&str; 6] =
    ["timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "triton_enable_empty_final_response"];

/// The method that a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// It has one response.
    Unary,
    /// It has as many as there are pieces.
    Stream,
}

/// What the worker adds to a request.
pub(super) struct Terms {
    pub(super) method: Method,
    pub(super) band: u64,
    pub(super) deadline: Deadline,
    pub(super) capacity: Capacity,
}

/// The form that the responses to a request have.
#[derive(Debug, PartialEq)]
pub(super) struct Form {
    /// What every response holds, in order.
    pub(super) outputs: Vec<Output>,
    /// Whether each piece is a response of its own.
    pub(super) is_streamed: bool,
    /// What the first response begins with.
    pub(super) echo: Option<String>,
}

/// Reads a request.
pub(super) fn read(inference: Inference, terms: &Terms) -> Result<(SequenceRequest, Form)> {
    let wanted = positions(&inference.wanted, &SIGNATURE.outputs)?;
    let tensors = SIGNATURE.check(inference.tensors)?;
    let mut given = Given { tensors, parameters: inference.parameters };
    flag(&given.parameters, "triton_enable_empty_final_response")?;
    let is_streamed = given.is_streamed(terms.method)?;
    let prompt = given.prompt(terms.capacity)?;
    let echo = given.echo(&prompt, is_streamed)?;
    let mut outputs = vec![Output::Text];
    for output in Output::ALL {
        if let Some(name) = output.flag()
            && given.flag(name)? == Some(true)
        {
            outputs.push(output);
        }
    }
    let settings = given.settings()?;
    if settings.logprobs && !outputs.contains(&Output::Logprobs) {
        outputs.push(Output::Logprobs);
    }
    // Naming outputs chooses among them, and asks for what would not come by itself.
    if let Some(positions) = wanted {
        outputs = positions.into_iter().filter_map(|position| Output::ALL.get(position).copied()).collect();
    }
    let sequence = SequenceRequest {
        prompt,
        max_tokens: settings.max_tokens,
        sampling: settings.sampling,
        stop: settings.stop,
        ignore_eos: settings.ignore_eos,
        logprobs: outputs.iter().any(|output| output.needs_logprobs()),
        band: terms.band,
        deadline: terms.deadline,
    };
    Ok((sequence, Form { outputs, is_streamed, echo }))
}

/// What has come and was not read yet.
struct Given {
    tensors: Vec<Tensor>,
    parameters: HashMap<String, InferParameter>,
}

impl Given {
    fn tensor(&mut self, name: &str) -> Option<Tensor> {
        let index = self.tensors.iter().position(|tensor| tensor.name == name)?;
        Some(self.tensors.swap_remove(index))
    }

    /// The one element of a `BYTES` input. The signature's check has counted it.
    fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        let Some(tensor) = self.tensor(name) else { return Ok(None) };
        let element = tensor.bytes_elements().and_then(|elements| elements.into_iter().next()).unwrap_or_default();
        let text = std::str::from_utf8(&element).map_err(|_| Error::invalid(name, "must be UTF-8"))?;
        Ok(Some(text.to_owned()))
    }

    /// A flag, which may be an input or a parameter.
    fn flag(&mut self, name: &'static str) -> Result<Option<bool>> {
        let parameter = flag(&self.parameters, name)?;
        self.parameters.remove(name);
        let input = self.tensor(name).map(|tensor| tensor.data.first().is_some_and(|byte| *byte != 0));
        match (input, parameter) {
            (Some(_), Some(_)) => Err(Error::invalid(name, "given as an input and as a parameter")),
            (one, other) => Ok(one.or(other)),
        }
    }

    fn is_streamed(&mut self, method: Method) -> Result<bool> {
        match (self.flag("stream")?, method) {
            (Some(true), Method::Unary) => {
                Err(Error::invalid("stream", "ModelInfer has one response: call ModelStreamInfer"))
            }
            (_, Method::Unary) => Ok(false),
            // Who calls this method wants a stream; vLLM's backend wants to be told so.
            (asked, Method::Stream) => Ok(asked.unwrap_or(true)),
        }
    }

    fn prompt(&mut self, capacity: Capacity) -> Result<Prompt> {
        let text = self.text("text_input")?;
        let messages = self.text("messages")?;
        let tokens = self.tensor("input_ids");
        match (text, messages, tokens) {
            (Some(text), None, None) => bounded("text_input", text.len(), capacity).map(|()| Prompt::Text(text)),
            (None, Some(json), None) => {
                // JSON may write a byte in six.
                bounded("messages", json.len() / 6, capacity)?;
                turns(&json).map(Prompt::Chat)
            }
            (None, None, Some(tokens)) => ids(&tokens, capacity).map(Prompt::Tokens),
            (None, None, None) => Err(Error::invalid("inputs", "one of text_input, messages and input_ids is needed")),
            _ => Err(Error::invalid("inputs", "only one of text_input, messages and input_ids can be given")),
        }
    }

    /// As vLLM's backend: a whole text begins with its prompt unless that is declined, a stream never does.
    fn echo(&mut self, prompt: &Prompt, is_streamed: bool) -> Result<Option<String>> {
        const NAME: &str = "exclude_input_in_output";
        match (self.flag(NAME)?, is_streamed, prompt) {
            (Some(false), true, _) => Err(Error::invalid(NAME, "must be true for a stream")),
            (Some(true), _, _) | (None, true, _) => Ok(None),
            (Some(false) | None, false, Prompt::Text(text)) => Ok(Some(text.clone())),
            (Some(false), false, _) => Err(Error::invalid(NAME, "only text_input can be part of the output")),
            (None, false, _) => Ok(None),
        }
    }

    /// The settings, which may come as JSON in one input, as parameters, or both.
    fn settings(&mut self) -> Result<Settings> {
        let mut settings = Settings::default();
        let json = self.text("sampling_parameters")?;
        let object = json.map_or_else(|| Ok(serde_json::Map::new()), |text| object(&text))?;
        for (name, value) in &object {
            set(&mut settings, (name, value), |name| format!("sampling_parameters.{name}"))?;
        }
        let mut parameters: Vec<_> = std::mem::take(&mut self.parameters).into_iter().collect();
        // In order, so that of several mistakes the same is told each time.
        parameters.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (name, parameter) in parameters.iter().filter(|(name, _)| !PROTOCOL.contains(&name.as_str())) {
            let field = |name: &str| format!("parameters[{name}]");
            if object.contains_key(name) {
                return Err(Error::invalid(field(name), "given in sampling_parameters too"));
            }
            set(&mut settings, (name, &value(parameter)), field)?;
        }
        Ok(settings)
    }
}

fn set(settings: &mut Settings, (name, value): (&str, &Value), field: impl Fn(&str) -> String) -> Result<()> {
    match settings.set(name, value) {
        Some(outcome) => outcome.map_err(|problem| Error::invalid(field(name), problem)),
        None => Err(Error::invalid(field(&presentable(name)), "unknown")),
    }
}

fn object(text: &str) -> Result<serde_json::Map<String, Value>> {
    const FIELD: &str = "sampling_parameters";
    if text.len() > MAX_SETTINGS {
        return Err(Error::invalid(FIELD, format_args!("at most {MAX_SETTINGS} bytes, got {}", text.len())));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::invalid(FIELD, "must be a JSON object")),
        Err(error) => Err(Error::invalid(FIELD, format_args!("not valid JSON: {error}"))),
    }
}

/// A parameter as JSON has it; what JSON has no word for is no valid setting either.
fn value(parameter: &InferParameter) -> Value {
    match &parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(flag)) => Value::Bool(*flag),
        Some(ParameterChoice::Int64Param(number)) => Value::from(*number),
        Some(ParameterChoice::Uint64Param(number)) => Value::from(*number),
        // A number that is none would become null, which leaves the default.
        Some(ParameterChoice::DoubleParam(number)) if number.is_finite() => Value::from(*number),
        Some(ParameterChoice::StringParam(text)) => Value::String(text.clone()),
        Some(ParameterChoice::DoubleParam(_)) | None => Value::Array(Vec::new()),
    }
}

/// A message as callers write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: String,
    content: String,
}

fn bounded(field: &'static str, bytes: usize, capacity: Capacity) -> Result<()> {
    let tokens = capacity.context_tokens;
    match bytes > (tokens as usize).saturating_mul(MAX_TOKEN_BYTES) {
        true => Err(Error::invalid(field, format_args!("longer than the {tokens} tokens of the context"))),
        false => Ok(()),
    }
}

fn turns(json: &str) -> Result<Vec<Turn>> {
    let messages: Vec<Message> = serde_json::from_str(json).map_err(|error| {
        Error::invalid("messages", format_args!("must be a JSON list of role and content: {error}"))
    })?;
    if messages.is_empty() || messages.len() > MAX_TURNS {
        return Err(Error::invalid("messages", format_args!("1 to {MAX_TURNS}, got {}", messages.len())));
    }
    Ok(messages.into_iter().map(|message| Turn { role: message.role, content: message.content }).collect())
}

fn ids(tokens: &Tensor, capacity: Capacity) -> Result<Vec<u32>> {
    let most = capacity.context_tokens as usize;
    let count = tokens.rows();
    if count == 0 || count > most {
        return Err(Error::invalid("input_ids", format_args!("1 to {most} tokens, got {count}")));
    }
    let ids = tokens.elements::<i32>().into_iter().flatten();
    ids.map(|id| u32::try_from(id).map_err(|_| Error::invalid("input_ids", format_args!("{id} is no token")))).collect()
}
