//! Reads the few fields of a `ModelInferRequest` that routing needs, straight from the undecoded message, and of an answer on
//! a stream whether it is its request's last.
//!
//! The scanner visits the top-level fields once and skips tensors by their length: it copies nothing, allocates nothing, and
//! compares every claimed length with the bytes that are there before it believes it.

mod parameter;

use std::time::Duration;

use weft_types::{Error, Result};

pub use parameter::{Given, MAX_GIVEN, given};

/// The most tensors, in or out, that a request may carry.
pub const MAX_TENSORS: usize = 64;
/// The most parameters that a request may carry.
pub const MAX_PARAMETERS: usize = 64;
/// The longest `sequence_id`, in bytes: Triton's own limit.
pub const MAX_SEQUENCE_ID: usize = 128;

/// The parameter that Triton marks the last answer of a request on a stream with.
pub const FINAL_RESPONSE: &str = "triton_final_response";

/// What routing needs to know of a request, borrowed from its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head<'a> {
    /// `model_name`: a model or a route.
    pub model_name: &'a str,
    /// `model_version`: empty when any will do.
    pub model_version: &'a str,
    /// `id`: the caller's own mark.
    pub id: &'a str,
    /// The `timeout` parameter, in microseconds on the wire; zero there means none.
    pub timeout: Option<Duration>,
    /// The `priority` parameter: 0 is the default, 1 the highest.
    pub priority: u64,
    /// The `sequence_id` parameter; zero and the empty text mean none.
    pub sequence: Option<Sequence<'a>>,
    /// The `sequence_end` parameter: the request is the last of its sequence.
    pub ends_sequence: bool,
}

/// The caller's name for a sequence of requests that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence<'a> {
    /// A number. The protocol's signed numbers stand for the unsigned ones of the same bits.
    Number(u64),
    /// A text of at most [`MAX_SEQUENCE_ID`] bytes.
    Text(&'a str),
}

/// Scans a whole `ModelInferRequest` message.
pub fn scan(message: &[u8]) -> Result<Head<'_>> {
    let mut head = Head::default();
    let (mut inputs, mut outputs, mut contents, mut parameters) = (0, 0, 0, 0);
    let mut reader = Reader { rest: message };
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Bytes(name)) => head.model_name = text("model_name", name)?,
            (2, Value::Bytes(version)) => head.model_version = text("model_version", version)?,
            (3, Value::Bytes(id)) => head.id = text("id", id)?,
            (4, Value::Bytes(entry)) => {
                count("parameters", &mut parameters, MAX_PARAMETERS)?;
                parameter(entry, &mut head)?;
            }
            (5, Value::Bytes(_)) => count("inputs", &mut inputs, MAX_TENSORS)?,
            (6, Value::Bytes(_)) => count("outputs", &mut outputs, MAX_TENSORS)?,
            (7, Value::Bytes(_)) => count("raw_input_contents", &mut contents, MAX_TENSORS)?,
            (1..=7, _) => return Err(malformed("a field has the wrong wire type")),
            // An unknown field is a later version's: the worker may know it.
            _ => {}
        }
    }
    Ok(head)
}

fn count(field: &'static str, seen: &mut usize, limit: usize) -> Result<()> {
    *seen += 1;
    if *seen > limit { Err(Error::invalid(field, format_args!("more than {limit}"))) } else { Ok(()) }
}

/// One entry of the `parameters` map.
fn parameter<'a>(entry: &'a [u8], head: &mut Head<'a>) -> Result<()> {
    let (key, value) = key_and_value(entry)?;
    match key {
        "timeout" => {
            let micros = whole("parameters[timeout]", value)?;
            head.timeout = (micros > 0).then(|| Duration::from_micros(micros));
        }
        "priority" => head.priority = whole("parameters[priority]", value)?,
        "sequence_id" => head.sequence = sequence(value)?,
        "sequence_end" => head.ends_sequence = flag(value)?,
        _ => {}
    }
    Ok(())
}

/// One entry of a map from text to messages. A value that comes in two parts, which a decoder would merge, is refused: no encoder writes it.
pub(crate) fn key_and_value(entry: &[u8]) -> Result<(&str, Option<&[u8]>)> {
    let (mut key, mut value) = ("", None);
    let mut reader = Reader { rest: entry };
    while let Some(field) = reader.field()? {
        match field {
            (1, Value::Bytes(bytes)) => key = text("parameters", bytes)?,
            (2, Value::Bytes(_)) if value.is_some() => return Err(malformed("an entry of a map has two values")),
            (2, Value::Bytes(bytes)) => value = Some(bytes),
            _ => {}
        }
    }
    Ok((key, value))
}

/// An `InferParameter` that names a sequence: `int64_param` = 2, `string_param` = 3 or `uint64_param` = 5.
fn sequence(value: Option<&[u8]>) -> Result<Option<Sequence<'_>>> {
    const FIELD: &str = "parameters[sequence_id]";
    let mut reader = Reader { rest: value.unwrap_or_default() };
    let mut found = None;
    while let Some((number, value)) = reader.field()? {
        found = match (number, value) {
            (2 | 5, Value::Varint(number)) => Some(Sequence::Number(number)),
            (3, Value::Bytes(bytes)) if bytes.len() <= MAX_SEQUENCE_ID => Some(Sequence::Text(text(FIELD, bytes)?)),
            _ => None,
        };
    }
    match found {
        Some(Sequence::Number(0) | Sequence::Text("")) => Ok(None),
        Some(named) => Ok(Some(named)),
        None => Err(Error::invalid(
            FIELD,
            format_args!("must be a whole number or a text of at most {MAX_SEQUENCE_ID} bytes"),
        )),
    }
}

/// Whether a `ModelStreamInferResponse` is the last answer of its request: it tells of an error, or carries the parameter
/// `triton_final_response`.
///
/// A message that cannot be read is not: then more is expected, and its absence is told rather than overlooked.
pub fn is_last(answer: &[u8]) -> bool {
    scan_answer(answer).unwrap_or(false)
}

/// Whether a `ModelStreamInferResponse` tells of an error.
///
/// A message that cannot be read does: it is no good answer.
pub fn is_failure(answer: &[u8]) -> bool {
    let mut is_failure = false;
    let mut reader = Reader { rest: answer };
    loop {
        match reader.field() {
            Ok(Some((1, Value::Bytes(error)))) => is_failure = !error.is_empty(),
            Ok(Some(_)) => {}
            Ok(None) => return is_failure,
            Err(_) => return true,
        }
    }
}

fn scan_answer(answer: &[u8]) -> Result<bool> {
    let (mut has_failed, mut has_mark) = (false, false);
    let mut reader = Reader { rest: answer };
    while let Some(field) = reader.field()? {
        match field {
            (1, Value::Bytes(error)) => has_failed = !error.is_empty(),
            // A response in several parts is one, of which the last word counts.
            (2, Value::Bytes(response)) => has_mark = is_final(response)?.unwrap_or(has_mark),
            _ => {}
        }
    }
    Ok(has_failed || has_mark)
}

/// Whether a `ModelInferResponse` has `bool_param` = 1 set under `triton_final_response` in its `parameters` = 4; `None` where it does
/// not say.
fn is_final(response: &[u8]) -> Result<Option<bool>> {
    let mut is_final = None;
    let mut reader = Reader { rest: response };
    while let Some(field) = reader.field()? {
        let (4, Value::Bytes(entry)) = field else { continue };
        let (FINAL_RESPONSE, value) = key_and_value(entry)? else { continue };
        is_final = Some(flag(value)?);
    }
    Ok(is_final)
}

/// An `InferParameter` that says yes: `bool_param` = 1. Whatever else it holds is for the worker to refuse.
fn flag(value: Option<&[u8]>) -> Result<bool> {
    let mut reader = Reader { rest: value.unwrap_or_default() };
    let mut is_set = false;
    while let Some((number, value)) = reader.field()? {
        is_set = match (number, value) {
            (1, Value::Varint(flag)) => flag != 0,
            (2..=5, _) => false,
            _ => is_set,
        };
    }
    Ok(is_set)
}

/// An `InferParameter` that must hold a whole number: `int64_param` = 2 or `uint64_param` = 5.
fn whole(field: &'static str, value: Option<&[u8]>) -> Result<u64> {
    let mut reader = Reader { rest: value.unwrap_or_default() };
    let mut found = None;
    while let Some((number, value)) = reader.field()? {
        found = match (number, value) {
            (2, Value::Varint(number)) => u64::try_from(number.cast_signed()).ok(),
            (5, Value::Varint(number)) => Some(number),
            _ => None,
        };
    }
    found.ok_or_else(|| Error::invalid(field, "must be a whole number, not negative"))
}

fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| Error::invalid(field, "must be UTF-8"))
}

fn malformed(problem: &'static str) -> Error {
    Error::invalid("message", format_args!("not a valid protobuf message: {problem}"))
}

enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn field(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return Err(malformed("a field number is out of range"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| malformed("a length is too large"))?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(malformed("an unknown wire type")),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && *byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(number);
            }
        }
        Err(malformed("a number is cut short or too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| malformed("a length runs past the end"))?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::model_infer_request::InferInputTensor;
    use crate::inference::model_infer_response::InferOutputTensor;
    use crate::inference::{
        InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
        infer_parameter::ParameterChoice,
    };
    use proptest::prelude::*;
    use prost::Message as _;

    fn request() -> ModelInferRequest {
        let choice = |choice| InferParameter { parameter_choice: Some(choice) };
        ModelInferRequest {
            model_name: "digits".into(),
            model_version: "3".into(),
            id: "call-7".into(),
            parameters: [
                ("timeout".into(), choice(ParameterChoice::Int64Param(250_000))),
                ("priority".into(), choice(ParameterChoice::Uint64Param(1))),
                ("other".into(), choice(ParameterChoice::StringParam("x".into()))),
            ]
            .into(),
            inputs: vec![InferInputTensor { name: "PIXELS".into(), shape: vec![1, 64], ..Default::default() }],
            raw_input_contents: vec![vec![7; 256].into()],
            ..Default::default()
        }
    }

    #[test]
    fn reads_the_head_and_skips_the_tensors() {
        let message = request().encode_to_vec();
        let head = scan(&message).expect("a valid message");
        let timeout = Some(Duration::from_millis(250));
        let expected =
            Head { model_name: "digits", model_version: "3", id: "call-7", timeout, priority: 1, ..Head::default() };
        assert_eq!(head, expected);
    }

    fn named(choice: Option<ParameterChoice>) -> Vec<u8> {
        let mut named = request();
        named.parameters.insert("sequence_id".into(), InferParameter { parameter_choice: choice });
        named.encode_to_vec()
    }

    #[test]
    fn reads_the_sequence_in_each_of_its_forms() {
        let sequence = |choice| scan(&named(Some(choice))).expect("valid").sequence.map(|named| format!("{named:?}"));
        let longest = "s".repeat(MAX_SEQUENCE_ID);
        assert_eq!(sequence(ParameterChoice::Int64Param(7)).as_deref(), Some("Number(7)"));
        assert_eq!(sequence(ParameterChoice::Int64Param(-1)), Some(format!("Number({})", u64::MAX)));
        assert_eq!(sequence(ParameterChoice::Uint64Param(u64::MAX)), Some(format!("Number({})", u64::MAX)));
        assert_eq!(sequence(ParameterChoice::StringParam(longest.clone())), Some(format!("Text({longest:?})")));
        for none in [ParameterChoice::Int64Param(0), ParameterChoice::StringParam(String::new())] {
            assert_eq!(sequence(none), None);
        }
        let longer = ParameterChoice::StringParam("s".repeat(MAX_SEQUENCE_ID + 1));
        for wrong in [Some(longer), Some(ParameterChoice::BoolParam(true)), None] {
            assert_eq!(scan(&named(wrong)).expect_err("refused").field(), Some("parameters[sequence_id]"));
        }
    }

    #[test]
    fn reads_whether_a_sequence_ends() {
        let ends = |choice| {
            let mut ending = request();
            let parameter = InferParameter { parameter_choice: Some(choice) };
            ending.parameters.insert("sequence_end".into(), parameter);
            scan(&ending.encode_to_vec()).expect("valid").ends_sequence
        };
        assert!(ends(ParameterChoice::BoolParam(true)));
        assert!(!ends(ParameterChoice::BoolParam(false)) && !ends(ParameterChoice::Int64Param(1)));
    }

    /// Where bytes could be read in two ways, they are read as a decoder reads them, or refused.
    #[test]
    fn what_no_encoder_writes_is_read_as_a_decoder_does() {
        let with_unknown = b"\x22\x14\x0a\x0csequence_end\x12\x04\x08\x01\x48\x01";
        assert!(scan(with_unknown).expect("valid").ends_sequence);
        let two_values = b"\x22\x11\x0a\x07timeout\x12\x02\x10\x05\x12\x02\x10\x06";
        assert_eq!(scan(two_values).expect_err("refused").field(), Some("message"));
        // A field that is there twice: the last word counts, in both directions.
        let error =
            |text: &str| ModelStreamInferResponse { error_message: text.into(), infer_response: None }.encode_to_vec();
        let cleared = [error("no"), vec![0x0a, 0]].concat();
        assert!(!is_failure(&cleared) && !is_last(&cleared) && is_failure(&[cleared, error("no")].concat()));
        let marked = |flag| {
            let mark = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(flag)) };
            let response =
                ModelInferResponse { parameters: [(FINAL_RESPONSE.into(), mark)].into(), ..Default::default() };
            ModelStreamInferResponse { infer_response: Some(response), ..Default::default() }.encode_to_vec()
        };
        assert!(!is_last(&[marked(true), marked(false)].concat()) && is_last(&[marked(false), marked(true)].concat()));
    }

    #[test]
    fn only_an_error_or_the_mark_makes_an_answer_the_last() {
        let marked = |mark: Option<ParameterChoice>| {
            let parameters = mark.map(|mark| (FINAL_RESPONSE.into(), InferParameter { parameter_choice: Some(mark) }));
            // Tensors whose bytes would read as the mark must not be taken for it.
            let other = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
            let tensor =
                InferOutputTensor { parameters: [(FINAL_RESPONSE.into(), other.clone())].into(), ..Default::default() };
            let response = ModelInferResponse {
                parameters: parameters.into_iter().chain([("x".into(), other)]).collect(),
                outputs: vec![tensor],
                raw_output_contents: vec![FINAL_RESPONSE.into()],
                ..Default::default()
            };
            ModelStreamInferResponse { infer_response: Some(response), ..Default::default() }.encode_to_vec()
        };
        assert!(is_last(&marked(Some(ParameterChoice::BoolParam(true)))));
        assert!(!is_last(&marked(Some(ParameterChoice::BoolParam(false)))));
        assert!(!is_last(&marked(Some(ParameterChoice::Int64Param(1)))));
        assert!(!is_last(&marked(None)));
        let failed = ModelStreamInferResponse { error_message: "no".into(), infer_response: None };
        assert!(is_last(&failed.encode_to_vec()));
        assert!(!is_last(&[]) && !is_last(&[0xff; 20]));
    }

    #[test]
    fn refuses_floods_and_wrong_parameters() {
        let flood = ModelInferRequest { inputs: vec![InferInputTensor::default(); 10_000], ..request() };
        assert_eq!(scan(&flood.encode_to_vec()).expect_err("too many").field(), Some("inputs"));
        let mut negative = request();
        let minus = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(-5)) };
        negative.parameters.insert("timeout".into(), minus);
        assert_eq!(scan(&negative.encode_to_vec()).expect_err("negative").field(), Some("parameters[timeout]"));
    }

    #[test]
    fn refuses_a_length_past_the_end_and_groups() {
        assert!(scan(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
        assert!(scan(&[0x0b]).is_err());
        assert!(scan(&[0x00]).is_err());
        assert!(scan(&[0xff; 11]).is_err());
    }

    proptest! {
        /// Whatever prost accepts as a request with one head, the scanner reads alike; nothing makes it panic.
        #[test]
        fn agrees_with_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let scanned = scan(&bytes);
            if let (Ok(head), Ok(decoded)) = (scanned, ModelInferRequest::decode(&*bytes)) {
                prop_assert_eq!(head.model_name, decoded.model_name);
                prop_assert_eq!(head.id, decoded.id);
            }
        }

        #[test]
        fn nothing_makes_the_reader_of_answers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(decoded) = ModelStreamInferResponse::decode(&*bytes) {
                prop_assert!(decoded.error_message.is_empty() || is_last(&bytes));
            } else {
                let _ = is_last(&bytes);
            }
        }

        #[test]
        fn a_cut_message_is_an_error_or_a_shorter_head(cut in 0usize..400) {
            let message = request().encode_to_vec();
            let _ = scan(&message[..cut.min(message.len())]);
        }
    }
}
