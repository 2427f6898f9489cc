//! Outputs become a protocol response.

use std::collections::HashMap;

use weft_engine::{Port, Tensor};
use weft_proto::inference::ModelInferResponse;
use weft_proto::inference::model_infer_response::InferOutputTensor;
use weft_types::{Error, ModelName, Result, Version};

/// Where the wanted outputs stand in the model's own order; `None` when all are wanted as they come.
///
/// Asked before the call is queued, so that a wrong name costs no computation.
pub(crate) fn positions(wanted: &[String], outputs: &[Port]) -> Result<Option<Vec<usize>>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut positions = Vec::with_capacity(wanted.len());
    for (index, name) in wanted.iter().enumerate() {
        let position = outputs.iter().position(|output| output.name == *name);
        match position {
            Some(position) if positions.contains(&position) => {
                return Err(Error::invalid(format!("outputs[{index}].name"), "named twice"));
            }
            Some(position) => positions.push(position),
            None => {
                let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
                let problem = format!("the model has no such output: it has {}", names.join(", "));
                return Err(Error::invalid(format!("outputs[{index}].name"), problem));
            }
        }
    }
    Ok(Some(positions))
}

/// The response: contents always raw, in the order asked for.
pub(crate) fn respond(
    model: (&ModelName, Version),
    id: String,
    outputs: Vec<Tensor>,
    positions: Option<&[usize]>,
) -> ModelInferResponse {
    let chosen = match positions {
        None => outputs,
        // A tensor is a view: copying it copies a pointer.
        Some(positions) => positions.iter().filter_map(|position| outputs.get(*position).cloned()).collect(),
    };
    let (outputs, raw_output_contents) = chosen.into_iter().map(output).unzip();
    ModelInferResponse {
        model_name: model.0.to_string(),
        model_version: model.1.to_string(),
        id,
        parameters: HashMap::new(),
        outputs,
        raw_output_contents,
    }
}

fn output(tensor: Tensor) -> (InferOutputTensor, bytes::Bytes) {
    let output = InferOutputTensor {
        name: tensor.name,
        datatype: tensor.datatype.to_string(),
        shape: tensor.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
        ..InferOutputTensor::default()
    };
    (output, tensor.data)
}
