//! The request parameters that Weft understands.

use std::collections::HashMap;
use std::time::Duration;

use weft_proto::frame::MAX_SEQUENCE_ID;
use weft_proto::inference::InferParameter;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_types::{Error, Result};

/// Which sequence of a stateful model a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// The caller's name for it.
    pub(crate) id: SequenceId,
    /// `sequence_start`: the request is its first.
    pub(crate) is_start: bool,
    /// `sequence_end`: the request is its last.
    pub(crate) is_end: bool,
}

/// The caller's name for a sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SequenceId {
    /// A number other than zero. The protocol's signed numbers stand for the unsigned ones of the same bits.
    Number(u64),
    /// A text that is not empty.
    Text(String),
}

/// `sequence_id`, `sequence_start` and `sequence_end`; zero and the empty text mean no sequence, as they do to Triton.
pub(super) fn sequence(parameters: &HashMap<String, InferParameter>) -> Result<Option<Sequence>> {
    let id = match parameters.get("sequence_id").map(|parameter| &parameter.parameter_choice) {
        None => None,
        Some(Some(ParameterChoice::Int64Param(0) | ParameterChoice::Uint64Param(0))) => None,
        Some(Some(ParameterChoice::Int64Param(number))) => Some(SequenceId::Number(number.cast_unsigned())),
        Some(Some(ParameterChoice::Uint64Param(number))) => Some(SequenceId::Number(*number)),
        Some(Some(ParameterChoice::StringParam(text))) if text.len() <= MAX_SEQUENCE_ID => {
            Some(text.clone()).filter(|text| !text.is_empty()).map(SequenceId::Text)
        }
        Some(_) => {
            let problem = format!("must be a whole number or a text of at most {MAX_SEQUENCE_ID} bytes");
            return Err(Error::invalid("parameters[sequence_id]", problem));
        }
    };
    let is_start = flag(parameters, "sequence_start")?.unwrap_or(false);
    let is_end = flag(parameters, "sequence_end")?.unwrap_or(false);
    Ok(id.map(|id| Sequence { id, is_start, is_end }))
}

/// A parameter that must be true or false, if it is there.
pub(crate) fn flag(parameters: &HashMap<String, InferParameter>, name: &str) -> Result<Option<bool>> {
    match parameters.get(name).map(|parameter| &parameter.parameter_choice) {
        None => Ok(None),
        Some(Some(ParameterChoice::BoolParam(flag))) => Ok(Some(*flag)),
        Some(_) => Err(Error::invalid(format!("parameters[{name}]"), "must be true or false")),
    }
}

/// `timeout`, in microseconds; zero means none.
pub(super) fn timeout(parameters: &HashMap<String, InferParameter>) -> Result<Option<Duration>> {
    let micros = whole(parameters, "timeout")?;
    Ok(micros.filter(|micros| *micros > 0).map(Duration::from_micros))
}

/// A parameter that must be a whole number, if it is there.
pub(super) fn whole(parameters: &HashMap<String, InferParameter>, name: &str) -> Result<Option<u64>> {
    let Some(parameter) = parameters.get(name) else { return Ok(None) };
    let number = match &parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(*number).ok(),
        Some(ParameterChoice::Uint64Param(number)) => Some(*number),
        _ => None,
    };
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(Error::invalid(format!("parameters[{name}]"), "must be a whole number, not negative")),
    }
}

/// Whether a tensor's parameter refers to memory shared with the caller.
pub(super) fn is_shared_memory(name: &str) -> bool {
    name.starts_with("shared_memory_")
}
