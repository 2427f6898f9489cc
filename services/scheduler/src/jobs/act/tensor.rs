//! Tensors in the Open Inference Protocol's JSON (its REST form) and in its gRPC form.
//!
//! `{"datatype": "FP32", "shape": [1, 4], "data": [...]}`, with data flat or nested, the last dimension fastest. What JSON's numbers cannot
//! hold is text: `"NaN"`, `"Infinity"`, `"-Infinity"` as in protobuf's JSON. `BYTES` are strings, or `{"b64": "..."}` where they are no text.

mod element;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use weft_proto::inference::ModelInferResponse;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::model_infer_response::InferOutputTensor;

use crate::jobs::template::{Problem, Room};
use element::Element;

/// Elements of one tensor: of the smallest kind they take as many bytes.
const MAX_ELEMENTS: u64 = 8 << 20;
const MAX_DIMENSIONS: usize = 16;

/// Why a value is no tensor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misshapen {
    pub(super) field: String,
    pub(super) problem: String,
}

/// Makes an input of a value: its description, and its elements as bytes.
pub(super) fn input(name: &str, value: &Value) -> Result<(InferInputTensor, Bytes), Misshapen> {
    let at = |field: &str, problem: String| Misshapen { field: format!("inputs.{name}{field}"), problem };
    let datatype = value.get("datatype").and_then(Value::as_str).unwrap_or_default();
    let element = Element::of(datatype).ok_or_else(|| at(".datatype", Element::told()))?;
    let shape = value.get("shape").and_then(Value::as_array).and_then(|shape| {
        shape.iter().map(|size| size.as_i64().filter(|size| *size >= 0)).collect::<Option<Vec<i64>>>()
    });
    let shape = shape.ok_or_else(|| at(".shape", "must be a list of sizes, 0 or more".to_owned()))?;
    let count = elements(&shape).ok_or_else(|| at(".shape", format!("has more than {MAX_ELEMENTS} elements")))?;
    let data = value.get("data").and_then(Value::as_array);
    let data = data.ok_or_else(|| at(".data", "must be a list".to_owned()))?;
    let mut raw = Vec::new();
    let mut found = 0;
    write(data, element, &mut raw, &mut found).map_err(|problem| at(".data", problem))?;
    if found != count {
        return Err(at(".data", format!("has {found} elements where the shape has {count}")));
    }
    let tensor = InferInputTensor { name: name.to_owned(), datatype: datatype.to_owned(), shape, ..Default::default() };
    Ok((tensor, raw.into()))
}

/// How many elements a shape has.
fn elements(shape: &[i64]) -> Option<u64> {
    if shape.len() > MAX_DIMENSIONS {
        return None;
    }
    // No size is multiplied before it is known to be in bounds, not even beside a zero.
    let sizes: Option<Vec<u64>> =
        shape.iter().map(|size| u64::try_from(*size).ok().filter(|size| *size <= MAX_ELEMENTS)).collect();
    sizes?.into_iter().try_fold(1u64, u64::checked_mul).filter(|count| *count <= MAX_ELEMENTS)
}

/// Writes all elements of a list. How deep it can be was bounded when it was made.
fn write(data: &[Value], element: Element, raw: &mut Vec<u8>, found: &mut u64) -> Result<(), String> {
    for value in data {
        match value {
            Value::Array(inner) => write(inner, element, raw, found)?,
            value => {
                element.write(value, raw).ok_or_else(|| format!("element {found} is no {}", element.name()))?;
                *found += 1;
            }
        }
    }
    Ok(())
}

/// The outputs of an answer, by name. Together they weigh at most what a value may: more are not written out.
pub(super) fn outputs(answer: &ModelInferResponse) -> Result<BTreeMap<String, Value>, Problem> {
    let raw = &answer.raw_output_contents;
    if !raw.is_empty() && raw.len() != answer.outputs.len() {
        let problem = format!("it has {} outputs and the contents of {}", answer.outputs.len(), raw.len());
        return Err(Problem::Unfit(problem));
    }
    let mut room = Room::of_value();
    let mut outputs = BTreeMap::new();
    for (index, output) in answer.outputs.iter().enumerate() {
        let of = |problem: Problem| match problem {
            Problem::TooLarge => problem,
            problem => Problem::Unfit(format!("output '{}': {problem}", output.name)),
        };
        outputs.insert(output.name.clone(), self::output(output, raw.get(index), &mut room).map_err(of)?);
    }
    Ok(outputs)
}

fn output(output: &InferOutputTensor, raw: Option<&Bytes>, room: &mut Room) -> Result<Value, Problem> {
    let unfit = |problem: &str| Problem::Unfit(problem.to_owned());
    let (torn, untyped) = (|| unfit("its bytes are cut short"), || unfit("its datatype has no contents but raw ones"));
    let element = Element::of(&output.datatype).ok_or_else(|| Problem::Unfit(Element::told()))?;
    let count = elements(&output.shape).ok_or(Problem::TooLarge)?;
    let (found, weight) = match (raw, &output.contents) {
        (Some(raw), _) => element.weigh(raw).ok_or_else(torn)?,
        (None, Some(contents)) => element.weigh_contents(contents).ok_or_else(untyped)?,
        (None, None) => (0, 0),
    };
    if found as u64 != count {
        return Err(Problem::Unfit(format!("has {found} elements where the shape has {count}")));
    }
    room.take(weight)?;
    let data = match (raw, &output.contents) {
        (Some(raw), _) => element.read(raw).ok_or_else(torn)?,
        (None, Some(contents)) => element.contents(contents).ok_or_else(untyped)?,
        (None, None) => Vec::new(),
    };
    Ok(json!({ "datatype": output.datatype, "shape": output.shape, "data": data }))
}

#[cfg(test)]
mod tests;
