//! A protocol request becomes tensors, and tensors become a protocol response. No decision is taken here.
//!
//! Every claimed size is compared with the bytes that arrived before anything is allocated for it. Raw contents stay views of
//! the received message.

mod contents;
mod parameters;
mod response;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use weft_engine::{DataType, Tensor};
use weft_proto::frame::{MAX_PARAMETERS, MAX_TENSORS};
use weft_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use weft_proto::inference::{InferParameter, ModelInferRequest};
use weft_types::{Error, Result};

pub(crate) use parameters::{Sequence, SequenceId, flag};
pub(crate) use response::{positions, respond};

/// The most axes of a tensor.
const MAX_AXES: usize = 8;

/// A request, converted: what its model takes is checked later, against the model's signature.
#[derive(Debug, PartialEq)]
pub(crate) struct Inference {
    /// `id`: the caller's own mark, told back.
    pub(crate) id: String,
    /// The inputs, in the request's order.
    pub(crate) tensors: Vec<Tensor>,
    /// The names of the outputs wanted; all of them when empty.
    pub(crate) wanted: Vec<String>,
    /// The `timeout` parameter.
    pub(crate) timeout: Option<Duration>,
    /// The `priority` parameter: 1 is the highest, 0 the model's default.
    pub(crate) priority: u64,
    /// The sequence that it belongs to, if to any.
    pub(crate) sequence: Option<Sequence>,
    /// Every parameter as it came, for models that have some of their own.
    pub(crate) parameters: HashMap<String, InferParameter>,
}

/// Checks and converts a request.
pub(crate) fn convert(request: ModelInferRequest) -> Result<Inference> {
    at_most("inputs", request.inputs.len(), MAX_TENSORS)?;
    at_most("outputs", request.outputs.len(), MAX_TENSORS)?;
    at_most("raw_input_contents", request.raw_input_contents.len(), MAX_TENSORS)?;
    at_most("parameters", request.parameters.len(), MAX_PARAMETERS)?;
    let timeout = parameters::timeout(&request.parameters)?;
    let priority = parameters::whole(&request.parameters, "priority")?.unwrap_or(0);
    let sequence = parameters::sequence(&request.parameters)?;
    let wanted =
        request.outputs.into_iter().enumerate().map(|(index, output)| wanted(index, output)).collect::<Result<_>>()?;
    let tensors = match request.raw_input_contents {
        raw if raw.is_empty() => {
            request.inputs.into_iter().enumerate().map(|(index, input)| typed(index, input)).collect::<Result<_>>()?
        }
        raw => all_raw(request.inputs, raw)?,
    };
    Ok(Inference { id: request.id, tensors, wanted, timeout, priority, sequence, parameters: request.parameters })
}

fn at_most(field: &'static str, count: usize, limit: usize) -> Result<()> {
    if count > limit { Err(Error::invalid(field, format_args!("at most {limit}, got {count}"))) } else { Ok(()) }
}

fn all_raw(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<Tensor>> {
    if inputs.len() != raw.len() {
        let problem =
            format!("{} contents for {} inputs: one for each, or none and typed contents", raw.len(), inputs.len());
        return Err(Error::invalid("raw_input_contents", problem));
    }
    inputs.into_iter().zip(raw).enumerate().map(|(index, (input, data))| with_raw(index, input, data)).collect()
}

fn with_raw(index: usize, input: InferInputTensor, data: Bytes) -> Result<Tensor> {
    let head = Head::of(index, &input)?;
    if input.contents.as_ref().is_some_and(|typed| contents::kinds(typed).next().is_some()) {
        return Err(Error::invalid(
            format!("inputs[{index}].contents"),
            "must be empty when raw_input_contents is used",
        ));
    }
    // Elements of BYTES carry their own lengths: the signature's check walks them.
    if let Some(size) = head.datatype.size() {
        let expected = head.elements.checked_mul(size);
        if expected != Some(data.len()) {
            let problem =
                format!("{} bytes, where {} of {:?} needs {}", data.len(), head.datatype, head.shape, Needs(expected));
            return Err(Error::invalid(format!("raw_input_contents[{index}]"), problem));
        }
    }
    Ok(Tensor { name: input.name, datatype: head.datatype, shape: head.shape, data })
}

fn typed(index: usize, input: InferInputTensor) -> Result<Tensor> {
    let head = Head::of(index, &input)?;
    let data = contents::convert(index, head.datatype, head.elements, &input.contents.unwrap_or_default())?;
    Ok(Tensor { name: input.name, datatype: head.datatype, shape: head.shape, data })
}

/// Type and shape of an input, checked.
struct Head {
    datatype: DataType,
    shape: Vec<usize>,
    elements: usize,
}

impl Head {
    fn of(index: usize, input: &InferInputTensor) -> Result<Self> {
        at_most_in(index, input.parameters.len())?;
        if let Some(name) = input.parameters.keys().find(|name| parameters::is_shared_memory(name)) {
            let field = format!("inputs[{index}].parameters[{name}]");
            return Err(Error::invalid(field, "shared memory of the caller is not offered: send the contents"));
        }
        let datatype = input.datatype.parse().map_err(|()| {
            let problem = format!("unknown datatype \"{}\"", crate::error::presentable(&input.datatype));
            Error::invalid(format!("inputs[{index}].datatype"), problem)
        })?;
        let (shape, elements) =
            shape(&input.shape).map_err(|problem| Error::invalid(format!("inputs[{index}].shape"), problem))?;
        Ok(Self { datatype, shape, elements })
    }
}

fn at_most_in(index: usize, count: usize) -> Result<()> {
    if count > MAX_PARAMETERS {
        return Err(Error::invalid(
            format!("inputs[{index}].parameters"),
            format_args!("at most {MAX_PARAMETERS}, got {count}"),
        ));
    }
    Ok(())
}

/// A shape as sizes, and the number of elements.
fn shape(claimed: &[i64]) -> Result<(Vec<usize>, usize), String> {
    if claimed.len() > MAX_AXES {
        return Err(format!("at most {MAX_AXES} axes, got {}", claimed.len()));
    }
    let sizes = claimed
        .iter()
        .map(|size| usize::try_from(*size).map_err(|_| format!("axis of size {size}")))
        .collect::<Result<Vec<_>, _>>()?;
    let elements =
        if sizes.contains(&0) { Some(0) } else { sizes.iter().try_fold(1usize, |all, size| all.checked_mul(*size)) };
    match elements {
        Some(elements) => Ok((sizes, elements)),
        None => Err("more elements than can be counted".to_owned()),
    }
}

fn wanted(index: usize, output: InferRequestedOutputTensor) -> Result<String> {
    let refused = output.parameters.keys().find(|name| parameters::is_shared_memory(name) || *name == "classification");
    match refused {
        Some(name) => Err(Error::invalid(format!("outputs[{index}].parameters[{name}]"), "not offered")),
        None => Ok(output.name),
    }
}

struct Needs(Option<usize>);

impl std::fmt::Display for Needs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(formatter),
            None => formatter.write_str("more than can be counted"),
        }
    }
}

#[cfg(test)]
mod tests;
