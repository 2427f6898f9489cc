//! What both kinds of tests ask with.

mod read;
mod serve;

use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{InferParameter, InferTensorContents, ModelInferRequest};

/// A request with typed inputs, each of one axis.
fn request(id: &str, inputs: &[(&str, In<'_>)]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "identity".into(),
        id: id.into(),
        inputs: inputs.iter().map(|(name, value)| input(name, value)).collect(),
        ..ModelInferRequest::default()
    }
}

/// What goes into an input.
enum In<'a> {
    Text(&'a str),
    Flag(bool),
    Ids(&'a [i32]),
}

fn input(name: &str, value: &In<'_>) -> InferInputTensor {
    let mut contents = InferTensorContents::default();
    let (datatype, elements) = match value {
        In::Text(text) => {
            contents.bytes_contents.push(text.as_bytes().to_vec().into());
            ("BYTES", 1)
        }
        In::Flag(flag) => {
            contents.bool_contents.push(*flag);
            ("BOOL", 1)
        }
        In::Ids(ids) => {
            contents.int_contents.extend(ids.iter());
            ("INT32", ids.len())
        }
    };
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![i64::try_from(elements).expect("short")],
        contents: Some(contents),
        ..InferInputTensor::default()
    }
}

fn with(mut request: ModelInferRequest, name: &str, choice: ParameterChoice) -> ModelInferRequest {
    request.parameters.insert(name.into(), InferParameter { parameter_choice: Some(choice) });
    request
}
