//! `google.protobuf.Value` and JSON.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Number, Value};

/// Up to here every whole number has a `f64` of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The number as JSON: whole ones without a fraction, so that they fit where whole numbers are asked for. `None` for NaN and infinities,
/// which JSON does not have.
pub(crate) fn number(value: f64) -> Option<Number> {
    if value.fract() == 0.0 && value.abs() <= EXACT {
        // It is whole and small enough, so nothing is cut.
        #[expect(clippy::cast_possible_truncation, reason = "the range was just checked")]
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

/// A `google.protobuf.Value` as JSON tells it to the caller. Whole numbers above 2^53 lose their last digits: `Value` has only `f64`.
pub(crate) fn to_proto(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(to_proto).collect() }),
        Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), to_proto(value))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

/// JSON of a `google.protobuf.Struct`; `None` where it holds NaN or an infinity. How deep it can be is bounded by how deep messages are read.
pub(crate) fn of_struct(fields: &Struct) -> Option<Value> {
    let object: Option<Map<String, Value>> =
        fields.fields.iter().map(|(key, value)| Some((key.clone(), of_value(value)?))).collect();
    object.map(Value::Object)
}

fn of_value(value: &prost_types::Value) -> Option<Value> {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Some(Value::Null),
        Some(Kind::BoolValue(value)) => Some(Value::Bool(*value)),
        Some(Kind::NumberValue(value)) => number(*value).map(Value::Number),
        Some(Kind::StringValue(text)) => Some(Value::String(text.clone())),
        Some(Kind::ListValue(list)) => list.values.iter().map(of_value).collect::<Option<_>>().map(Value::Array),
        Some(Kind::StructValue(fields)) => of_struct(fields),
    }
}
