//! What leads a route's calls.

use bytes::Bytes;
use prost::Message as _;
use tonic::metadata::MetadataMap;
use weft_policy::Affinity;
use weft_policy::choose::Bound;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{InferParameter, InferTensorContents, ModelInferRequest};
use weft_proto::message::Payload;
use weft_proto::weft::control::v1::affinity::Source;
use weft_proto::weft::control::v1::{self as control, PromptPrefix};

use crate::leading::Leading;
use crate::rules::Marks;

/// What is looked at of a prompt where a route does not say how much, and at most.
const BYTES: usize = 512;
const MAX_BYTES: usize = 4_096;

fn leading(source: Source, balance_factor: f64) -> Option<Leading> {
    Leading::of(&control::Affinity { source: Some(source), balance_factor })
}

fn prefix(input: &str, bytes: u32) -> Source {
    Source::PromptPrefix(PromptPrefix { input: input.to_owned(), bytes })
}

fn prompt(input: &str, text: &str) -> Bytes {
    let contents = InferTensorContents { bytes_contents: vec![text.to_owned().into()], ..Default::default() };
    let input = InferInputTensor {
        name: input.to_owned(),
        datatype: "BYTES".to_owned(),
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { inputs: vec![input], ..Default::default() }.encode_to_vec().into()
}

fn of_prompt(source: Source, model: &str, request: &Bytes) -> Option<Affinity> {
    let leading = leading(source, 0.0).expect("it can be meant");
    leading.affinity(model, &Marks::default(), Payload::of(request)).expect("it can be read")
}

/// What the scheduler would refuse may still be in the store: it costs nothing but itself.
#[test]
fn what_cannot_be_meant_is_left_out() {
    assert!(Leading::of(&control::Affinity::default()).is_none());
    assert!(leading(Source::Metadata("not a key".to_owned()), 2.0).is_none());
    for wrong in [f64::NAN, f64::INFINITY, -1.0, 0.5, 1e9] {
        assert_eq!(leading(prefix("", 0), wrong).map(|leading| leading.bound), Some(Bound::default()));
    }
    assert_eq!(leading(prefix("", 0), 2.0).map(|leading| Some(leading.bound)), Some(Bound::new(2.0)));
    let long = |end: &str| prompt("text_input", &("x".repeat(MAX_BYTES) + end));
    assert_eq!(of_prompt(prefix("", u32::MAX), "m", &long("a")), of_prompt(prefix("", u32::MAX), "m", &long("b")));
}

#[test]
fn prompts_that_begin_alike_have_one_affinity_for_each_model() {
    let (one, other) = (prompt("text_input", "system, how"), prompt("text_input", "system, why"));
    let of = |bytes, model, request| of_prompt(prefix("", bytes), model, request);
    assert!(of(7, "m", &one).is_some());
    assert_eq!(of(7, "m", &one), of(7, "m", &other));
    assert_ne!(of(0, "m", &one), of(0, "m", &other));
    assert_ne!(of(7, "m", &one), of(7, "n", &one));
    let [one_end, other_end] = ["a", "b"].map(|end| prompt("text_input", &("x".repeat(BYTES) + end)));
    assert_eq!(of(0, "m", &one_end), of(0, "m", &other_end));
    assert_eq!(of_prompt(prefix("PROMPT", 0), "m", &one), None);
    assert_eq!(of_prompt(prefix("PROMPT", 7), "m", &prompt("PROMPT", "system")), of(6, "m", &one));
}

#[test]
fn keys_come_from_metadata_and_parameters() {
    let mut metadata = MetadataMap::new();
    metadata.insert("session", "s-1".parse().expect("text"));
    let by = leading(Source::Metadata("session".to_owned()), 0.0).expect("it can be meant");
    let of = |metadata| by.affinity("m", &Marks { metadata, ..Marks::default() }, Payload::default());
    assert_eq!(of(Some(&metadata)), Ok(Some(Affinity::of("m", "s-1"))));
    assert_eq!((of(None), of(Some(&MetadataMap::new()))), (Ok(None), Ok(None)));
    let by = leading(Source::Parameter("user".to_owned()), 0.0).expect("it can be meant");
    let of = |choice| {
        let parameters = [("user".to_owned(), InferParameter { parameter_choice: Some(choice) })].into();
        let message = ModelInferRequest { parameters, ..Default::default() }.encode_to_vec();
        by.affinity("m", &Marks { message: &message, ..Marks::default() }, Payload::default())
    };
    assert_eq!(of(ParameterChoice::Int64Param(7)), Ok(Some(Affinity::of("m", 7))));
    let refused = of(ParameterChoice::DoubleParam(1.0)).expect_err("it is no key");
    assert_eq!(refused.field(), Some("parameters[user]"));
}
