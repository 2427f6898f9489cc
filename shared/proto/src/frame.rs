//! Reads the few fields of a `ModelInferRequest` that routing needs, straight from the undecoded message.
//!
//! The scanner visits the top-level fields once and skips tensors by their length: it copies nothing, allocates nothing, and
//! compares every claimed length with the bytes that are there before it believes it.

use std::time::Duration;

use weft_types::{Error, Result};

/// The most tensors, in or out, that a request may carry.
pub const MAX_TENSORS: usize = 64;
/// The most parameters that a request may carry.
pub const MAX_PARAMETERS: usize = 64;

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
fn parameter(entry: &[u8], head: &mut Head<'_>) -> Result<()> {
    let (mut key, mut value) = ("", None);
    let mut reader = Reader { rest: entry };
    while let Some(field) = reader.field()? {
        match field {
            (1, Value::Bytes(bytes)) => key = text("parameters", bytes)?,
            (2, Value::Bytes(bytes)) => value = Some(bytes),
            _ => {}
        }
    }
    match key {
        "timeout" => {
            let micros = whole("parameters[timeout]", value)?;
            head.timeout = (micros > 0).then(|| Duration::from_micros(micros));
        }
        "priority" => head.priority = whole("parameters[priority]", value)?,
        _ => {}
    }
    Ok(())
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
    use crate::inference::{InferParameter, ModelInferRequest, infer_parameter::ParameterChoice};
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
        assert_eq!(head, Head { model_name: "digits", model_version: "3", id: "call-7", timeout, priority: 1 });
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
        fn a_cut_message_is_an_error_or_a_shorter_head(cut in 0usize..400) {
            let message = request().encode_to_vec();
            let _ = scan(&message[..cut.min(message.len())]);
        }
    }
}
