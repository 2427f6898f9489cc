//! The metadata: keys with values, of which only what is looked at later is kept.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::super::{Refusal, Rule};
use super::bytes::Bytes;

/// The longest key. The format allows 65,535 bytes; no real one comes near.
const MAX_KEY_BYTES: u64 = 1024;

/// The most elements of an array: the largest vocabularies have some 300,000, with as many merges.
const MAX_ELEMENTS: u64 = 4 << 20;

/// The longest text: a chat template.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// The longest text within an array: a token.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// The longest text that is kept.
const MAX_KEPT_BYTES: u64 = 256;

/// Element kinds by number.
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A value, as far as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Integer(i128),
    Float,
    Bool,
    /// Empty where it was too long to keep.
    Text(String),
    Array {
        kind: u32,
        elements: u64,
    },
}

/// All entries by key.
pub(super) struct Metadata {
    values: BTreeMap<String, Value>,
    /// Where they end.
    pub(super) end: u64,
}

impl Metadata {
    pub(super) fn read<R: Read + Seek>(bytes: &mut Bytes<R>, keys: u64) -> Result<Self, Refusal> {
        let mut values = BTreeMap::new();
        for _ in 0..keys {
            bytes.place("a metadata key");
            let key = bytes.text(MAX_KEY_BYTES, Rule::KeyName)?;
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(bytes.refuse(Rule::KeyName));
            }
            bytes.place_named("metadata", &key);
            if values.contains_key(&key) {
                return Err(bytes.refuse(Rule::DuplicateKey));
            }
            let kind = bytes.u32()?;
            let value = read_value(bytes, kind)?;
            values.insert(key, value);
        }
        Ok(Self { values, end: bytes.at() })
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }
}

fn read_value<R: Read + Seek>(bytes: &mut Bytes<R>, kind: u32) -> Result<Value, Refusal> {
    Ok(match kind {
        0 => Value::Integer(bytes.array().map(u8::from_le_bytes)?.into()),
        1 => Value::Integer(bytes.array().map(i8::from_le_bytes)?.into()),
        2 => Value::Integer(bytes.array().map(u16::from_le_bytes)?.into()),
        3 => Value::Integer(bytes.array().map(i16::from_le_bytes)?.into()),
        4 => Value::Integer(bytes.u32()?.into()),
        5 => Value::Integer(bytes.array().map(i32::from_le_bytes)?.into()),
        10 => Value::Integer(bytes.u64()?.into()),
        11 => Value::Integer(bytes.array().map(i64::from_le_bytes)?.into()),
        6 | 12 => {
            bytes.skip(if kind == 6 { 4 } else { 8 })?;
            Value::Float
        }
        BOOL => {
            read_bool(bytes)?;
            Value::Bool
        }
        STRING => Value::Text(read_text(bytes)?),
        ARRAY => read_array(bytes)?,
        _ => return Err(bytes.refuse(Rule::ValueKind)),
    })
}

/// Another byte would be true to one reader and undefined behaviour to the next.
fn read_bool<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(), Refusal> {
    match bytes.array::<1>()? {
        [0 | 1] => Ok(()),
        _ => Err(bytes.refuse(Rule::Boolean)),
    }
}

fn read_text<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<String, Refusal> {
    let text = bytes.text(MAX_TEXT_BYTES, Rule::StringLength)?;
    Ok(if text.len() as u64 > MAX_KEPT_BYTES { String::new() } else { text })
}

fn read_array<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<Value, Refusal> {
    let kind = bytes.u32()?;
    let elements = bytes.u64()?;
    if elements > MAX_ELEMENTS {
        return Err(bytes.refuse(Rule::ArrayLength));
    }
    match kind {
        ARRAY => return Err(bytes.refuse(Rule::NestedArray)),
        BOOL => (0..elements).try_for_each(|_| read_bool(bytes))?,
        STRING => (0..elements).try_for_each(|_| skip_token(bytes))?,
        _ => {
            let width = match kind {
                0 | 1 => 1,
                2 | 3 => 2,
                4..=6 => 4,
                10..=12 => 8,
                _ => return Err(bytes.refuse(Rule::ValueKind)),
            };
            bytes.skip(elements * width)?;
        }
    }
    Ok(Value::Array { kind, elements })
}

/// Tokens need not be UTF-8: some are single bytes of it.
fn skip_token<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<(), Refusal> {
    match bytes.u64()? {
        length if length > MAX_TOKEN_BYTES => Err(bytes.refuse(Rule::StringLength)),
        length => bytes.skip(length),
    }
}
