//! One element of a tensor: as JSON, and as bytes (little-endian, as Triton's extension of the protocol has them).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::{bf16, f16};
use serde_json::{Number, Value, json};
use weft_proto::inference::InferTensorContents;

use crate::jobs::template::NODE;

/// An element's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

const NAMES: [(Element, &str); 14] = [
    (Element::Bool, "BOOL"),
    (Element::Uint8, "UINT8"),
    (Element::Uint16, "UINT16"),
    (Element::Uint32, "UINT32"),
    (Element::Uint64, "UINT64"),
    (Element::Int8, "INT8"),
    (Element::Int16, "INT16"),
    (Element::Int32, "INT32"),
    (Element::Int64, "INT64"),
    (Element::Fp16, "FP16"),
    (Element::Bf16, "BF16"),
    (Element::Fp32, "FP32"),
    (Element::Fp64, "FP64"),
    (Element::Bytes, "BYTES"),
];

impl Element {
    pub(super) fn of(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(element, _)| *element)
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    /// What a datatype must be.
    pub(super) fn told() -> String {
        format!("must be one of {}", NAMES.map(|(_, name)| name).join(", "))
    }

    /// Adds one element's bytes; `None` where the value is not of this type, or out of its range.
    pub(super) fn write(self, value: &Value, raw: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool => raw.push(u8::from(value.as_bool()?)),
            Self::Uint8 => raw.push(whole(value)?),
            Self::Uint16 => raw.extend(whole::<u16>(value)?.to_le_bytes()),
            Self::Uint32 => raw.extend(whole::<u32>(value)?.to_le_bytes()),
            Self::Uint64 => raw.extend(whole::<u64>(value)?.to_le_bytes()),
            Self::Int8 => raw.extend(whole::<i8>(value)?.to_le_bytes()),
            Self::Int16 => raw.extend(whole::<i16>(value)?.to_le_bytes()),
            Self::Int32 => raw.extend(whole::<i32>(value)?.to_le_bytes()),
            Self::Int64 => raw.extend(whole::<i64>(value)?.to_le_bytes()),
            Self::Fp16 => {
                raw.extend(rounded(value, f16::from_f64, |half| half.is_finite())?.to_le_bytes());
            }
            Self::Bf16 => {
                raw.extend(rounded(value, bf16::from_f64, |half| half.is_finite())?.to_le_bytes());
            }
            Self::Fp32 => raw.extend(rounded(value, single, |single| single.is_finite())?.to_le_bytes()),
            Self::Fp64 => raw.extend(real(value)?.to_le_bytes()),
            Self::Bytes => {
                let bytes = text(value)?;
                raw.extend(u32::try_from(bytes.len()).ok()?.to_le_bytes());
                raw.extend(bytes);
            }
        }
        Some(())
    }

    /// How many elements raw contents hold, and what they weigh as values; `None` where they end within one.
    pub(super) fn weigh(self, raw: &[u8]) -> Option<(usize, usize)> {
        let size = match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => 2,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 4,
            Self::Uint64 | Self::Int64 | Self::Fp64 => 8,
            Self::Bytes => return weigh_texts(raw),
        };
        let count = raw.len() / size;
        raw.len().is_multiple_of(size).then_some((count, count * NODE))
    }

    /// The same of typed contents; `None` for the datatypes that have none.
    pub(super) fn weigh_contents(self, contents: &InferTensorContents) -> Option<(usize, usize)> {
        let count = match self {
            Self::Bool => contents.bool_contents.len(),
            Self::Uint8 | Self::Uint16 | Self::Uint32 => contents.uint_contents.len(),
            Self::Uint64 => contents.uint64_contents.len(),
            Self::Int8 | Self::Int16 | Self::Int32 => contents.int_contents.len(),
            Self::Int64 => contents.int64_contents.len(),
            Self::Fp32 => contents.fp32_contents.len(),
            Self::Fp64 => contents.fp64_contents.len(),
            Self::Bytes => {
                let texts = &contents.bytes_contents;
                return Some((texts.len(), texts.iter().map(|text| weigh_text(text)).sum()));
            }
            Self::Fp16 | Self::Bf16 => return None,
        };
        Some((count, count * NODE))
    }

    /// The elements of raw contents; `None` where they end within one.
    pub(super) fn read(self, raw: &[u8]) -> Option<Vec<Value>> {
        match self {
            Self::Bool => Some(raw.iter().map(|byte| Value::Bool(*byte != 0)).collect()),
            Self::Uint8 => Some(raw.iter().map(|byte| Value::from(*byte)).collect()),
            Self::Uint16 => each(raw, |bytes| u16::from_le_bytes(bytes).into()),
            Self::Uint32 => each(raw, |bytes| u32::from_le_bytes(bytes).into()),
            Self::Uint64 => each(raw, |bytes| u64::from_le_bytes(bytes).into()),
            Self::Int8 => each(raw, |bytes| i8::from_le_bytes(bytes).into()),
            Self::Int16 => each(raw, |bytes| i16::from_le_bytes(bytes).into()),
            Self::Int32 => each(raw, |bytes| i32::from_le_bytes(bytes).into()),
            Self::Int64 => each(raw, |bytes| i64::from_le_bytes(bytes).into()),
            Self::Fp16 => each(raw, |bytes| told_single(f16::from_le_bytes(bytes).to_f32())),
            Self::Bf16 => each(raw, |bytes| told_single(bf16::from_le_bytes(bytes).to_f32())),
            Self::Fp32 => each(raw, |bytes| told_single(f32::from_le_bytes(bytes))),
            Self::Fp64 => each(raw, |bytes| told(f64::from_le_bytes(bytes))),
            Self::Bytes => texts(raw),
        }
    }

    /// The elements of typed contents; `None` for the datatypes that have none.
    pub(super) fn contents(self, contents: &InferTensorContents) -> Option<Vec<Value>> {
        fn all<T: Copy + Into<Value>>(values: &[T]) -> Option<Vec<Value>> {
            Some(values.iter().map(|value| (*value).into()).collect())
        }
        match self {
            Self::Bool => all(&contents.bool_contents),
            Self::Uint8 | Self::Uint16 | Self::Uint32 => all(&contents.uint_contents),
            Self::Uint64 => all(&contents.uint64_contents),
            Self::Int8 | Self::Int16 | Self::Int32 => all(&contents.int_contents),
            Self::Int64 => all(&contents.int64_contents),
            Self::Fp32 => Some(contents.fp32_contents.iter().map(|value| told_single(*value)).collect()),
            Self::Fp64 => Some(contents.fp64_contents.iter().map(|value| told(*value)).collect()),
            Self::Bytes => Some(contents.bytes_contents.iter().map(|bytes| told_text(bytes)).collect()),
            Self::Fp16 | Self::Bf16 => None,
        }
    }
}

/// A whole number in the type's range. One that was computed as a fraction may have a point, and nothing behind it.
fn whole<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    let number = value.as_number()?;
    let whole = match (number.as_i128(), number.as_f64()) {
        (Some(whole), _) => whole,
        // Beyond 2^64 nothing fits any type here.
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        (None, Some(real)) if real.fract() == 0.0 && real.abs() <= 18_446_744_073_709_551_616.0 => real as i128,
        _ => return None,
    };
    T::try_from(whole).ok()
}

fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest is what is asked for; overflow is looked at"
)]
const fn single(number: f64) -> f32 {
    number as f32
}

/// The nearest number of a shorter type, unless a finite one would become infinite.
fn rounded<T>(value: &Value, round: impl Fn(f64) -> T, is_finite: impl Fn(&T) -> bool) -> Option<T> {
    let number = real(value)?;
    let rounded = round(number);
    (is_finite(&rounded) || !number.is_finite()).then_some(rounded)
}

fn text(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) if object.len() == 1 => STANDARD.decode(object.get("b64")?.as_str()?).ok(),
        _ => None,
    }
}

fn each<const SIZE: usize>(raw: &[u8], element: impl Fn([u8; SIZE]) -> Value) -> Option<Vec<Value>> {
    let (elements, rest) = raw.as_chunks::<SIZE>();
    rest.is_empty().then(|| elements.iter().map(|bytes| element(*bytes)).collect())
}

fn told(number: f64) -> Value {
    Number::from_f64(number).map_or_else(|| untold(number), Value::Number)
}

/// The shortest number that is read as this one: `0.1` and not `0.10000000149011612`.
fn told_single(number: f32) -> Value {
    let shortest = number.is_finite().then(|| number.to_string().parse().ok()).flatten();
    told(shortest.unwrap_or_else(|| f64::from(number)))
}

fn untold(number: f64) -> Value {
    let name = match (number.is_nan(), number.is_sign_positive()) {
        (true, _) => "NaN",
        (false, true) => "Infinity",
        (false, false) => "-Infinity",
    };
    Value::from(name)
}

fn texts(raw: &[u8]) -> Option<Vec<Value>> {
    let mut texts = Vec::new();
    for_each_text(raw, |text| texts.push(told_text(text)))?;
    Some(texts)
}

fn weigh_texts(raw: &[u8]) -> Option<(usize, usize)> {
    let (mut count, mut weight) = (0, 0);
    for_each_text(raw, |text| (count, weight) = (count + 1, weight + weigh_text(text)))?;
    Some((count, weight))
}

/// `None` where they end within one.
fn for_each_text<'a>(mut raw: &'a [u8], mut take: impl FnMut(&'a [u8])) -> Option<()> {
    while let Some((length, rest)) = raw.split_first_chunk::<4>() {
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        take(text);
        raw = rest;
    }
    raw.is_empty().then_some(())
}

fn weigh_text(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(text) => NODE + text.len(),
        Err(_) => 2 * NODE + "b64".len() + bytes.len().div_ceil(3) * 4,
    }
}

fn told_text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "b64": STANDARD.encode(bytes) }),
    }
}
