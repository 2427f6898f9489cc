use std::time::Duration;

use proptest::prelude::*;
use weft_engine::{Capacity, Grammar, Prompt, Sampling, SequenceRequest, Turn};
use weft_proto::inference::ModelInferRequest;
use weft_proto::inference::infer_parameter::ParameterChoice as Choice;
use weft_proto::inference::model_infer_request::InferRequestedOutputTensor;
use weft_types::{Deadline, Error, SystemClock};

use super::super::ports::Output;
use super::super::request::{Form, Method, Terms};
use super::{In, request, with};

fn read(request: ModelInferRequest, method: Method) -> Result<(SequenceRequest, Form), Error> {
    let capacity = Capacity { context_tokens: 16, ..Capacity::default() };
    let deadline = Deadline::after(SystemClock::now(), Duration::from_secs(60));
    let inference = crate::infer::convert(request)?;
    super::super::request::read(inference, &Terms { method, band: 1, deadline, capacity })
}

fn taken(request: ModelInferRequest) -> (SequenceRequest, Form) {
    read(request, Method::Stream).expect("accepted")
}

fn text(text: &str) -> ModelInferRequest {
    request("", &[("text_input", In::Text(text))])
}

fn set(json: &str) -> ModelInferRequest {
    request("", &[("text_input", In::Text("a")), ("sampling_parameters", In::Text(json))])
}

fn refused(request: ModelInferRequest) -> String {
    let error = read(request, Method::Stream).expect_err("was accepted");
    error.field().unwrap_or_else(|| panic!("no field: {error}")).to_owned()
}

#[test]
fn settings_are_read_by_their_usual_names() {
    let (sequence, _) = taken(set(
        r#"{"max_tokens": 7, "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.5,
        "presence_penalty": -1, "frequency_penalty": 0.25, "seed": 11, "stop": ["x", "y"], "ignore_eos": true, "logprobs": 1,
        "logit_bias": {"3": -100}, "guided_grammar": "root ::= \"a\""}"#,
    ));
    let sampling = Sampling {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.1,
        repetition_penalty: 1.5,
        presence_penalty: -1.0,
        frequency_penalty: 0.25,
        seed: Some(11),
        logit_bias: vec![(3, -100.0)],
        grammar: Some(Grammar::Gbnf("root ::= \"a\"".into())),
    };
    assert_eq!((sequence.max_tokens, sequence.sampling), (Some(7), sampling));
    assert_eq!((sequence.stop, sequence.ignore_eos, sequence.logprobs), (vec!["x".into(), "y".into()], true, true));
}

#[test]
fn what_is_not_set_is_greedy_and_unbounded() {
    let (sequence, form) = taken(set(r#"{"top_k": -1, "stop": null, "seed": null}"#));
    assert_eq!((sequence.sampling, sequence.max_tokens, sequence.stop), (Sampling::default(), None, vec![]));
    assert_eq!(form, Form { outputs: vec![Output::Text], is_streamed: true, echo: None });
}

#[test]
fn request_parameters_do_as_well() {
    let mut asked = text("a");
    for (name, choice) in [
        ("max_tokens", Choice::Int64Param(3)),
        ("temperature", Choice::DoubleParam(0.5)),
        ("seed", Choice::Uint64Param(4)),
        ("stop", Choice::StringParam("end".into())),
        ("ignore_eos", Choice::BoolParam(true)),
        ("logit_bias", Choice::StringParam(r#"{"5": 1.5}"#.into())),
        ("guided_json", Choice::StringParam(r#"{"type": "object"}"#.into())),
        ("return_token_ids", Choice::BoolParam(true)),
        ("sequence_id", Choice::Int64Param(9)),
        ("triton_enable_empty_final_response", Choice::BoolParam(true)),
    ] {
        asked = with(asked, name, choice);
    }
    let (sequence, form) = taken(asked);
    let sampling = Sampling {
        temperature: 0.5,
        seed: Some(4),
        logit_bias: vec![(5, 1.5)],
        grammar: Some(Grammar::JsonSchema(r#"{"type": "object"}"#.into())),
        ..Sampling::default()
    };
    assert_eq!((sequence.max_tokens, sequence.sampling), (Some(3), sampling));
    assert_eq!((sequence.stop, sequence.ignore_eos), (vec!["end".into()], true));
    assert_eq!(form.outputs, [Output::Text, Output::TokenIds]);
}

#[test]
fn every_bad_setting_is_named() {
    for (name, wrong) in [
        ("max_tokens", "0"),
        ("max_tokens", "-1"),
        ("max_tokens", "1.5"),
        ("max_tokens", "4294967296"),
        ("temperature", "-0.1"),
        ("temperature", "\"hot\""),
        ("temperature", "1e300"),
        ("top_k", "-2"),
        ("top_p", "0"),
        ("top_p", "1.01"),
        ("min_p", "-0.5"),
        ("repetition_penalty", "0"),
        ("presence_penalty", "2.5"),
        ("frequency_penalty", "true"),
        ("seed", "-1"),
        ("stop", "\"\""),
        ("stop", "[1]"),
        ("stop", r#"["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"]"#),
        ("ignore_eos", "1"),
        ("logprobs", "5"),
        ("logit_bias", "[]"),
        ("logit_bias", r#"{"x": 1}"#),
        ("logit_bias", r#"{"1": 101}"#),
        ("guided_json", "\"{\""),
        ("guided_json", "7"),
        ("guided_grammar", "\"\""),
        ("max_token", "1"),
        ("beam_width", "null"),
    ] {
        assert_eq!(
            refused(set(&format!(r#"{{"{name}": {wrong}}}"#))),
            format!("sampling_parameters.{name}"),
            "{wrong}"
        );
    }
    assert_eq!(refused(with(text("a"), "max_token", Choice::Int64Param(1))), "parameters[max_token]");
    assert_eq!(refused(with(text("a"), "temperature", Choice::DoubleParam(f64::NAN))), "parameters[temperature]");
    assert_eq!(refused(with(set(r#"{"seed": 1}"#), "seed", Choice::Int64Param(1))), "parameters[seed]");
    let shapes = r#"{"guided_json": {}, "guided_grammar": "root ::= \"a\""}"#;
    assert_eq!(refused(set(shapes)), "sampling_parameters.guided_json");
}

#[test]
fn every_bad_input_names_its_field() {
    let long = "a".repeat(16 * 256 + 1);
    let deep = "[".repeat(100_000);
    let huge = format!(r#"{{"stop": "{}"}}"#, "a".repeat(256 << 10));
    let cases = [
        ("inputs", request("", &[])),
        ("inputs", request("", &[("text_input", In::Text("a")), ("messages", In::Text("[]"))])),
        ("text_input", text(&long)),
        ("messages", request("", &[("messages", In::Text("[]"))])),
        ("messages", request("", &[("messages", In::Text(r#"[{"role": "user"}]"#))])),
        ("messages", request("", &[("messages", In::Text(r#"[{"role": "user", "content": "a", "name": "b"}]"#))])),
        ("messages", request("", &[("messages", In::Text(&deep))])),
        ("input_ids", request("", &[("input_ids", In::Ids(&[]))])),
        ("input_ids", request("", &[("input_ids", In::Ids(&[1; 17]))])),
        ("input_ids", request("", &[("input_ids", In::Ids(&[1, -1]))])),
        ("inputs[0].datatype", request("", &[("text_input", In::Flag(true))])),
        ("inputs[0].name", request("", &[("prompt", In::Text("a"))])),
        ("sampling_parameters", set("")),
        ("sampling_parameters", set("[1]")),
        ("sampling_parameters", set(&deep)),
        ("sampling_parameters", set(&huge)),
        (
            "parameters[triton_enable_empty_final_response]",
            with(text("a"), "triton_enable_empty_final_response", Choice::Int64Param(1)),
        ),
        ("parameters[sequence_id]", with(text("a"), "sequence_id", Choice::BoolParam(true))),
        ("parameters[stream]", with(text("a"), "stream", Choice::StringParam("true".into()))),
        (
            "stream",
            with(
                request("", &[("text_input", In::Text("a")), ("stream", In::Flag(true))]),
                "stream",
                Choice::BoolParam(true),
            ),
        ),
        (
            "exclude_input_in_output",
            request("", &[("text_input", In::Text("a")), ("exclude_input_in_output", In::Flag(false))]),
        ),
    ];
    for (index, (field, request)) in cases.into_iter().enumerate() {
        assert_eq!(refused(request), field, "case {index}");
    }
    let streamed = request("", &[("text_input", In::Text("a")), ("stream", In::Flag(true))]);
    assert_eq!(read(streamed, Method::Unary).expect_err("one response").field(), Some("stream"));
}

#[test]
fn prompts_come_in_three_forms() {
    assert_eq!(taken(text("a b")).0.prompt, Prompt::Text("a b".into()));
    let messages = r#"[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]"#;
    let turn = |role: &str, content: &str| Turn { role: role.into(), content: content.into() };
    let chat = taken(request("", &[("messages", In::Text(messages))])).0.prompt;
    assert_eq!(chat, Prompt::Chat(vec![turn("system", "s"), turn("user", "u")]));
    assert_eq!(taken(request("", &[("input_ids", In::Ids(&[2, 7]))])).0.prompt, Prompt::Tokens(vec![2, 7]));
}

/// As vLLM's backend has it: a whole text repeats its prompt unless that is declined, a stream does not.
#[test]
fn only_a_whole_text_repeats_its_prompt() {
    let echo = |inputs: &[(&str, In<'_>)], method| read(request("", inputs), method).expect("accepted").1.echo;
    let prompt = ("text_input", In::Text("a"));
    assert_eq!(echo(&[("text_input", In::Text("a"))], Method::Unary).as_deref(), Some("a"));
    assert_eq!(echo(&[("text_input", In::Text("a"))], Method::Stream), None);
    assert_eq!(
        echo(&[("text_input", In::Text("a")), ("stream", In::Flag(false))], Method::Stream).as_deref(),
        Some("a")
    );
    assert_eq!(echo(&[prompt, ("exclude_input_in_output", In::Flag(true))], Method::Unary), None);
    assert_eq!(echo(&[("input_ids", In::Ids(&[1]))], Method::Unary), None);
}

#[test]
fn outputs_come_when_asked_for() {
    let asked = |inputs: &[(&str, In<'_>)], wanted: &[&str]| {
        let mut request = request("", inputs);
        request.outputs = wanted
            .iter()
            .map(|name| InferRequestedOutputTensor { name: (*name).into(), ..InferRequestedOutputTensor::default() })
            .collect();
        let (sequence, form) = taken(request);
        (form.outputs, sequence.logprobs)
    };
    let all = [
        ("text_input", In::Text("a")),
        ("return_finish_reason", In::Flag(true)),
        ("return_cumulative_logprob", In::Flag(true)),
        ("return_logprobs", In::Flag(true)),
        ("return_num_input_tokens", In::Flag(true)),
        ("return_num_cached_tokens", In::Flag(true)),
        ("return_num_output_tokens", In::Flag(true)),
        ("return_token_ids", In::Flag(true)),
    ];
    assert_eq!(asked(&all, &[]), (Output::ALL.to_vec(), true));
    assert_eq!(asked(&all, &["text_output"]), (vec![Output::Text], false));
    let plain = [("text_input", In::Text("a")), ("return_finish_reason", In::Flag(false))];
    assert_eq!(asked(&plain, &[]), (vec![Output::Text], false));
    assert_eq!(asked(&plain, &["logprobs", "text_output"]), (vec![Output::Logprobs, Output::Text], true));
}

proptest! {
    /// Whatever text comes as settings, it is a sequence or a refusal that names its field.
    #[test]
    fn any_settings_are_read_or_refused(json in "\\{\"[a-z_]{1,12}\": (null|[0-9.e-]{1,5}|\"[a-z]{0,3}\"|\\[\\]|\\{\\})\\}") {
        if let Err(error) = read(set(&json), Method::Stream) {
            prop_assert!(error.field().is_some_and(|field| field.starts_with("sampling_parameters")));
        }
    }
}
