//! The request parameters that Weft understands.

use std::collections::HashMap;
use std::time::Duration;

use weft_proto::inference::InferParameter;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_types::{Error, Result};

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
