//! Values of requests and answers as JSON text, which is what the log keeps.

use bytes::Bytes;
use prost_types::{Struct, Value};
use weft_types::{Error, Result};

use super::template::json::{of_struct, to_proto};

/// A value of JSON text; `None` where it is none.
pub(super) fn value(text: &[u8]) -> Option<Value> {
    // serde_json bounds the depth of what it reads.
    serde_json::from_slice(text).ok().map(|json: serde_json::Value| to_proto(&json))
}

/// The JSON text of a value; unset is `null`.
pub(super) fn bytes(field: &'static str, value: Option<Value>) -> Result<Bytes> {
    const NAME: &str = "value";
    let fields = Struct { fields: [(NAME.to_owned(), value.unwrap_or_default())].into() };
    let mut json = of_struct(&fields).ok_or_else(|| unfit(field))?;
    Ok(json[NAME].take().to_string().into())
}

/// The JSON text of an object.
pub(super) fn object(field: &'static str, fields: &Struct) -> Result<Bytes> {
    Ok(of_struct(fields).ok_or_else(|| unfit(field))?.to_string().into())
}

fn unfit(field: &'static str) -> Error {
    Error::invalid(field, "holds a number that is not finite")
}
