//! The scanner of undecoded messages against a decoder: what both take for valid, both read alike.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use weft_proto::frame::{self, FINAL_RESPONSE, Given, Head, Sequence};
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use weft_proto::message::Payload;

/// The parameter that a route would look for.
pub const KEY: &str = "user";
/// The input that a route would look for.
pub const INPUT: &str = "text_input";

/// The bytes as a request and as an answer on a stream.
pub fn check(data: &[u8]) {
    let scanned = frame::scan(data);
    let given = frame::given(data, KEY);
    let bytes = Bytes::copy_from_slice(data);
    let limit = usize::from(data.first().copied().unwrap_or(0));
    let prompt = Payload::of(&bytes).prompt(INPUT, limit);
    if let Ok(Some(prompt)) = &prompt {
        assert!(!prompt.is_empty() || limit == 0);
        assert!(prompt.capacity() <= limit, "more than {limit} bytes are kept");
        assert!(prompt.len() <= data.len());
    }
    if let Ok(request) = ModelInferRequest::decode(data) {
        if let Ok(head) = scanned {
            compare(&head, &request);
        }
        if let Ok(given) = given {
            assert_eq!(given, expected_given(&request));
        }
        // Groups of unknown fields are the one thing that a decoder passes over and the scanner refuses.
        if let Ok(prompt) = prompt {
            assert_eq!(prompt.as_deref(), expected_prompt(&request, limit));
        }
    }
    answer(data);
}

fn choice<'a>(request: &'a ModelInferRequest, key: &str) -> Option<&'a ParameterChoice> {
    request.parameters.get(key)?.parameter_choice.as_ref()
}

fn whole(request: &ModelInferRequest, key: &str) -> u64 {
    match choice(request, key) {
        Some(ParameterChoice::Int64Param(number)) => number.cast_unsigned(),
        Some(ParameterChoice::Uint64Param(number)) => *number,
        _ => 0,
    }
}

fn compare(head: &Head<'_>, request: &ModelInferRequest) {
    assert_eq!(head.model_name, request.model_name);
    assert_eq!(head.model_version, request.model_version);
    assert_eq!(head.id, request.id);
    let micros = whole(request, "timeout");
    assert_eq!(head.timeout, (micros > 0).then(|| Duration::from_micros(micros)));
    assert_eq!(head.priority, whole(request, "priority"));
    let sequence = match choice(request, "sequence_id") {
        Some(ParameterChoice::StringParam(text)) if !text.is_empty() => Some(Sequence::Text(text)),
        Some(ParameterChoice::StringParam(_)) => None,
        _ => Some(whole(request, "sequence_id")).filter(|number| *number > 0).map(Sequence::Number),
    };
    assert_eq!(head.sequence, sequence);
    assert_eq!(head.ends_sequence, choice(request, "sequence_end") == Some(&ParameterChoice::BoolParam(true)));
    let tensors = [request.inputs.len(), request.outputs.len(), request.raw_input_contents.len()];
    assert!(tensors.iter().all(|count| *count <= frame::MAX_TENSORS));
    assert!(request.parameters.len() <= frame::MAX_PARAMETERS);
}

fn expected_given(request: &ModelInferRequest) -> Option<Given<'_>> {
    match choice(request, KEY)? {
        ParameterChoice::BoolParam(flag) => Some(Given::Number(u64::from(*flag))),
        ParameterChoice::Int64Param(number) => Some(Given::Number(number.cast_unsigned())),
        ParameterChoice::Uint64Param(number) => Some(Given::Number(*number)),
        ParameterChoice::StringParam(text) => Some(Given::Text(text)).filter(|_| !text.is_empty()),
        ParameterChoice::DoubleParam(_) => Some(Given::Text("a double is no key")),
    }
}

fn expected_prompt(request: &ModelInferRequest, limit: usize) -> Option<&[u8]> {
    let index = request.inputs.iter().position(|input| input.name == INPUT)?;
    let input = request.inputs.get(index).filter(|input| input.datatype == "BYTES")?;
    let typed = input.contents.as_ref().and_then(|contents| contents.bytes_contents.first());
    let text = match typed {
        Some(text) => &text[..],
        None => {
            let (length, rest) = request.raw_input_contents.get(index)?.split_first_chunk::<4>()?;
            rest.get(..u32::from_le_bytes(*length) as usize)?
        }
    };
    Some(&text[..text.len().min(limit)]).filter(|_| !text.is_empty())
}

/// What cannot be read is a failure and not the last answer.
fn answer(data: &[u8]) {
    let (is_last, is_failure) = (frame::is_last(data), frame::is_failure(data));
    let Ok(answer) = ModelStreamInferResponse::decode(data) else { return };
    let parameters = answer.infer_response.as_ref().map(|response| &response.parameters);
    let mark = parameters.and_then(|parameters| parameters.get(FINAL_RESPONSE)?.parameter_choice.clone());
    let has_failed = !answer.error_message.is_empty();
    let is_marked = mark == Some(ParameterChoice::BoolParam(true));
    assert!(!is_last || has_failed || is_marked, "{answer:?} is not the last");
    assert!(is_failure || !has_failed, "{answer:?} is a failure");
    // What an encoder writes is read exactly.
    let canonical = answer.encode_to_vec();
    assert_eq!(frame::is_failure(&canonical), has_failed);
    assert_eq!(frame::is_last(&canonical), has_failed || is_marked);
}

/// Requests and answers of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let mark = |flag| [(FINAL_RESPONSE.to_owned(), parameter(ParameterChoice::BoolParam(flag)))].into();
    let response = |flag| ModelInferResponse { parameters: mark(flag), ..ModelInferResponse::default() };
    let answers = [
        ModelStreamInferResponse { error_message: "no".to_owned(), infer_response: None },
        ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response(true)) },
        ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response(false)) },
    ];
    let texts = |text: &str| InferTensorContents {
        bytes_contents: vec![Bytes::copy_from_slice(text.as_bytes()), Bytes::new()],
        ..InferTensorContents::default()
    };
    let input = |name: &str, datatype: &str, contents| InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![1],
        contents,
        ..InferInputTensor::default()
    };
    let mut requests = Vec::new();
    for (key, choice) in [
        ("timeout", ParameterChoice::Int64Param(5_000)),
        ("timeout", ParameterChoice::Uint64Param(u64::MAX)),
        ("priority", ParameterChoice::Int64Param(1)),
        ("sequence_id", ParameterChoice::StringParam("s-1".to_owned())),
        ("sequence_id", ParameterChoice::Int64Param(-1)),
        ("sequence_end", ParameterChoice::BoolParam(true)),
        (KEY, ParameterChoice::StringParam("me".to_owned())),
        (KEY, ParameterChoice::DoubleParam(0.5)),
    ] {
        let parameters = [(key.to_owned(), parameter(choice))].into();
        requests.push(ModelInferRequest { model_name: "m".to_owned(), parameters, ..ModelInferRequest::default() });
    }
    requests.push(ModelInferRequest {
        model_name: "chat".to_owned(),
        model_version: "1".to_owned(),
        id: "7".to_owned(),
        inputs: vec![input("stream", "BOOL", None), input(INPUT, "BYTES", Some(texts("you are a poet")))],
        ..ModelInferRequest::default()
    });
    requests.push(ModelInferRequest {
        inputs: vec![input(INPUT, "BYTES", None), input("x", "FP32", None)],
        raw_input_contents: vec![Bytes::from_static(b"\x03\0\0\0you\x01\0\0\0a"), Bytes::from_static(&[0; 4])],
        ..ModelInferRequest::default()
    });
    // A flag that is neither 0 nor 1, a map's value in two parts, and a mark that an unknown field follows.
    let odd = [
        b"\x22\x0a\x0a\x04user\x12\x02\x08\x28".to_vec(),
        b"\x22\x0e\x0a\x04user\x12\x02\x10\x05\x12\x02\x10\x06".to_vec(),
        b"\x22\x14\x0a\x0csequence_end\x12\x04\x08\x01\x48\x01".to_vec(),
    ];
    let encoded = requests.iter().map(prost::Message::encode_to_vec);
    encoded.chain(answers.iter().map(prost::Message::encode_to_vec)).chain(odd).collect()
}
