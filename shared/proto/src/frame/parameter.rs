//! One parameter of a request, by a key that only its route knows.

use weft_types::{Error, Result};

use super::{Reader, Value, key_and_value, malformed, text};

/// The longest text that a parameter may give, in bytes.
pub const MAX_GIVEN: usize = 256;

/// What a parameter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given<'a> {
    /// A number or a flag. The protocol's signed numbers stand for the unsigned ones of the same bits.
    Number(u64),
    /// A text of at most [`MAX_GIVEN`] bytes.
    Text(&'a str),
}

/// Looks for a parameter of a `ModelInferRequest`; of several with the same key the last counts, as in any map on the wire. An empty
/// text counts as none.
pub fn given<'a>(message: &'a [u8], key: &str) -> Result<Option<Given<'a>>> {
    let mut found = None;
    let mut reader = Reader { rest: message };
    while let Some(field) = reader.field()? {
        let (4, Value::Bytes(entry)) = field else { continue };
        let (name, value) = key_and_value(entry)?;
        if name == key {
            found = choice(key, value.unwrap_or_default())?;
        }
    }
    Ok(found)
}

/// An `InferParameter`: `bool_param` = 1, `int64_param` = 2, `string_param` = 3 or `uint64_param` = 5.
fn choice<'a>(key: &str, value: &'a [u8]) -> Result<Option<Given<'a>>> {
    let unfit = || {
        let problem = format_args!("must be a whole number, a flag or a text of at most {MAX_GIVEN} bytes");
        Error::invalid(format!("parameters[{key}]"), problem)
    };
    let mut reader = Reader { rest: value };
    let mut found = None;
    while let Some(field) = reader.field()? {
        found = match field {
            // Any number but zero is the flag that is set.
            (1, Value::Varint(flag)) => Some(Given::Number(u64::from(flag != 0))),
            (2 | 5, Value::Varint(number)) => Some(Given::Number(number)),
            (3, Value::Bytes(bytes)) if bytes.len() <= MAX_GIVEN => Some(Given::Text(text("parameters", bytes)?)),
            (1..=5, _) => return Err(unfit()),
            _ => return Err(malformed("a parameter holds an unknown field")),
        };
    }
    Ok(found.filter(|found| *found != Given::Text("")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::inference::infer_parameter::ParameterChoice;
    use crate::inference::{InferParameter, ModelInferRequest};

    fn message(parameters: &[(&str, ParameterChoice)]) -> Vec<u8> {
        let parameter = |choice: &ParameterChoice| InferParameter { parameter_choice: Some(choice.clone()) };
        let parameters = parameters.iter().map(|(key, choice)| ((*key).to_owned(), parameter(choice))).collect();
        ModelInferRequest { model_name: "m".into(), parameters, ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn every_kind_is_read_or_refused() {
        let text = |length| ParameterChoice::StringParam("x".repeat(length));
        let longest = "x".repeat(MAX_GIVEN);
        let table = [
            (ParameterChoice::BoolParam(true), Ok(Some(Given::Number(1)))),
            (ParameterChoice::Int64Param(-1), Ok(Some(Given::Number(u64::MAX)))),
            (ParameterChoice::Uint64Param(0), Ok(Some(Given::Number(0)))),
            (text(MAX_GIVEN), Ok(Some(Given::Text(&longest)))),
            (text(0), Ok(None)),
            (text(MAX_GIVEN + 1), Err(Some("parameters[user]"))),
            (ParameterChoice::DoubleParam(f64::NAN), Err(Some("parameters[user]"))),
        ];
        for (choice, expected) in table {
            let message = message(&[("other", ParameterChoice::Int64Param(9)), ("user", choice.clone())]);
            let read = given(&message, "user");
            assert_eq!(read.as_ref().map(|given| *given).map_err(Error::field), expected, "{choice:?}");
            assert_eq!(given(&message, "absent"), Ok(None));
        }
    }

    /// An encoder writes a flag as 0 or 1, and a decoder takes any other number for 1: as a key they must not differ.
    #[test]
    fn a_flag_is_set_or_not_whatever_its_number() {
        for (number, expected) in [(0, 0), (1, 1), (40, 1)] {
            let entry = [0x0a, 4, b'u', b's', b'e', b'r', 0x12, 2, 0x08, number];
            let message = [&[0x22, 10][..], &entry].concat();
            assert_eq!(given(&message, "user"), Ok(Some(Given::Number(expected))));
        }
    }

    proptest! {
        /// Whatever the bytes, it ends, and reads no more than is there.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = given(&bytes, "user");
            let mut framed = message(&[("user", ParameterChoice::Int64Param(1))]);
            framed.extend(&bytes);
            let _ = given(&framed, "user");
        }
    }
}
