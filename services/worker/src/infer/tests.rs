use std::collections::HashMap;

use proptest::prelude::*;
use weft_engine::Port;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, InferTensorContents};

use super::*;

fn input(datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: "INPUT".into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn raw(datatype: &str, shape: &[i64], bytes: usize) -> ModelInferRequest {
    ModelInferRequest {
        inputs: vec![input(datatype, shape)],
        raw_input_contents: vec![vec![0; bytes].into()],
        ..ModelInferRequest::default()
    }
}

fn filled(datatype: &str, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
    let input = InferInputTensor { contents: Some(contents), ..input(datatype, shape) };
    ModelInferRequest { inputs: vec![input], ..ModelInferRequest::default() }
}

fn ints(values: &[i32]) -> InferTensorContents {
    InferTensorContents { int_contents: values.to_vec(), ..InferTensorContents::default() }
}

fn floats(values: &[f32]) -> InferTensorContents {
    InferTensorContents { fp32_contents: values.to_vec(), ..InferTensorContents::default() }
}

fn number(value: i64) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(value)) }
}

fn refused(request: ModelInferRequest) -> String {
    let error = convert(request).expect_err("was accepted");
    error.field().unwrap_or_else(|| panic!("no field: {error}")).to_owned()
}

#[test]
fn every_bad_input_names_its_field() {
    let mixed =
        ModelInferRequest { raw_input_contents: vec![vec![0; 4].into()], ..filled("FP32", &[1], floats(&[1.0])) };
    let uncounted = ModelInferRequest { raw_input_contents: vec![Bytes::new(), Bytes::new()], ..raw("FP32", &[0], 0) };
    let both = InferTensorContents { fp32_contents: vec![1.0], ..ints(&[1]) };
    let cases = [
        ("inputs", ModelInferRequest { inputs: vec![input("FP32", &[1]); 10_000], ..ModelInferRequest::default() }),
        (
            "raw_input_contents",
            ModelInferRequest { raw_input_contents: vec![Bytes::new(); 65], ..ModelInferRequest::default() },
        ),
        (
            "outputs",
            ModelInferRequest { outputs: vec![InferRequestedOutputTensor::default(); 65], ..raw("FP32", &[1], 4) },
        ),
        ("raw_input_contents", uncounted),
        ("inputs[0].contents", mixed),
        ("inputs[0].datatype", raw("FLOAT", &[1], 4)),
        ("inputs[0].datatype", raw("", &[1], 4)),
        ("inputs[0].shape", raw("FP32", &[-1, 64], 256)),
        ("inputs[0].shape", raw("FP32", &[i64::MIN], 0)),
        ("inputs[0].shape", raw("FP32", &[1; 9], 4)),
        ("inputs[0].shape", raw("FP32", &[i64::MAX, i64::MAX], 4)),
        ("raw_input_contents[0]", raw("FP32", &[i64::MAX], 4)),
        ("raw_input_contents[0]", raw("FP32", &[1 << 40], 4)),
        ("raw_input_contents[0]", raw("FP32", &[2], 7)),
        ("raw_input_contents[0]", raw("FP32", &[0], 4)),
        ("inputs[0].contents", filled("FP32", &[2], floats(&[1.0]))),
        ("inputs[0].contents", filled("FP32", &[i64::MAX], floats(&[1.0]))),
        ("inputs[0].contents", filled("FP32", &[1], ints(&[1]))),
        ("inputs[0].contents", filled("FP32", &[1], both)),
        ("inputs[0].contents", filled("INT8", &[1], ints(&[128]))),
        ("inputs[0].contents", filled("INT16", &[1], ints(&[-32_769]))),
        ("inputs[0].contents", filled("FP16", &[1], floats(&[1.0]))),
        ("inputs[0].contents", filled("INT32", &[1], InferTensorContents::default())),
    ];
    for (index, (field, request)) in cases.into_iter().enumerate() {
        assert_eq!(refused(request), field, "case {index}");
    }
}

#[test]
fn bad_parameters_name_their_field() {
    let with = |name: &str, value: InferParameter| ModelInferRequest {
        parameters: HashMap::from([(name.to_owned(), value)]),
        ..raw("FP32", &[1], 4)
    };
    assert_eq!(refused(with("timeout", number(-1))), "parameters[timeout]");
    assert_eq!(refused(with("priority", InferParameter { parameter_choice: None })), "parameters[priority]");
    let mut shared = raw("FP32", &[1], 4);
    shared.inputs[0].parameters.insert("shared_memory_region".into(), number(1));
    assert_eq!(refused(shared), "inputs[0].parameters[shared_memory_region]");
    let mut shared = raw("FP32", &[1], 4);
    let parameters = HashMap::from([("shared_memory_region".to_owned(), number(1))]);
    shared.outputs.push(InferRequestedOutputTensor { name: "OUTPUT".into(), parameters });
    assert_eq!(refused(shared), "outputs[0].parameters[shared_memory_region]");
}

#[test]
fn parameters_are_read() {
    let mut request = raw("FP32", &[1], 4);
    request.parameters.insert("timeout".into(), number(1500));
    request
        .parameters
        .insert("priority".into(), InferParameter { parameter_choice: Some(ParameterChoice::Uint64Param(1)) });
    let inference = convert(request).expect("accepted");
    assert_eq!((inference.timeout, inference.priority), (Some(Duration::from_micros(1500)), 1));
}

#[test]
fn raw_contents_are_views_of_the_message() {
    let request = raw("FP32", &[2, 2], 16);
    let sent = request.raw_input_contents[0].as_ptr();
    let tensors = convert(request).expect("accepted").tensors;
    assert_eq!((tensors[0].data.as_ptr(), tensors[0].shape.as_slice()), (sent, &[2, 2][..]));
}

#[test]
fn typed_contents_become_little_endian_bytes() {
    let bytes = |request| convert(request).expect("accepted").tensors.remove(0).data.to_vec();
    assert_eq!(bytes(filled("INT8", &[2], ints(&[-1, 127]))), [0xff, 0x7f]);
    assert_eq!(bytes(filled("INT16", &[1], ints(&[-2]))), [0xfe, 0xff]);
    assert_eq!(bytes(filled("FP32", &[1], floats(&[1.0]))), 1.0f32.to_le_bytes());
    let text = InferTensorContents { bytes_contents: vec!["ab".into(), "".into()], ..InferTensorContents::default() };
    assert_eq!(bytes(filled("BYTES", &[2], text)), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
    let flags = InferTensorContents { bool_contents: vec![true, false], ..InferTensorContents::default() };
    assert_eq!(bytes(filled("BOOL", &[1, 2], flags)), [1, 0]);
}

#[test]
fn empty_tensors_and_scalars_are_valid() {
    let empty = convert(filled("FP32", &[0, 64], InferTensorContents::default())).expect("accepted");
    assert!(empty.tensors[0].data.is_empty());
    let scalar = convert(raw("FP64", &[], 8)).expect("accepted");
    assert_eq!(scalar.tensors[0].shape, [0usize; 0]);
}

#[test]
fn outputs_are_chosen_by_name_in_the_order_asked() {
    let port = |name: &str| Port { name: name.into(), datatype: None, shape: None, optional: false };
    let ports = [port("A"), port("B")];
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(positions(&[], &ports).expect("all"), None);
    let chosen = positions(&names(&["B", "A"]), &ports).expect("known");
    assert_eq!(chosen.as_deref(), Some(&[1, 0][..]));
    assert_eq!(positions(&names(&["A", "C"]), &ports).expect_err("unknown").field(), Some("outputs[1].name"));
    assert_eq!(positions(&names(&["A", "A"]), &ports).expect_err("twice").field(), Some("outputs[1].name"));
    let tensor = |name: &str| Tensor {
        name: name.into(),
        datatype: DataType::Uint8,
        shape: vec![1],
        data: name.to_owned().into(),
    };
    let model = "m".parse().expect("a name");
    let version = Version::new(3).expect("a version");
    let response = respond((&model, version), "7".into(), vec![tensor("A"), tensor("B")], chosen.as_deref());
    assert_eq!((response.model_name.as_str(), response.model_version.as_str(), response.id.as_str()), ("m", "3", "7"));
    assert_eq!(response.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["B", "A"]);
    assert_eq!(response.raw_output_contents, ["B", "A"]);
}

proptest! {
    /// Whatever shape is claimed, an accepted tensor holds exactly the bytes that its shape needs.
    #[test]
    fn an_accepted_tensor_fits_its_shape(shape in proptest::collection::vec(-1i64..5, 0..10), bytes in 0usize..600) {
        if let Ok(inference) = convert(raw("INT16", &shape, bytes)) {
            let elements: usize = inference.tensors[0].shape.iter().product();
            prop_assert_eq!(elements * 2, bytes);
            prop_assert!(shape.len() <= 8);
        }
    }
}

use weft_types::Version;
