//! Typed contents become the little-endian bytes that raw contents would have been.

use bytes::{BufMut as _, Bytes, BytesMut};
use weft_engine::DataType;
use weft_proto::inference::InferTensorContents;
use weft_types::{Error, Result};

/// The fields that hold something, with the number of their elements.
pub(super) fn kinds(contents: &InferTensorContents) -> impl Iterator<Item = (&'static str, usize)> {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
    .into_iter()
    .filter(|(_, elements)| *elements > 0)
}

/// The field that holds elements of this type; the 16-bit floats have none.
const fn field_of(datatype: DataType) -> Option<&'static str> {
    match datatype {
        DataType::Bool => Some("bool_contents"),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => Some("int_contents"),
        DataType::Int64 => Some("int64_contents"),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => Some("uint_contents"),
        DataType::Uint64 => Some("uint64_contents"),
        DataType::Fp32 => Some("fp32_contents"),
        DataType::Fp64 => Some("fp64_contents"),
        DataType::Bytes => Some("bytes_contents"),
        DataType::Fp16 | DataType::Bf16 => None,
    }
}

/// Converts the contents of input `index`, which must hold exactly `elements` of the type's own field.
pub(super) fn convert(
    index: usize,
    datatype: DataType,
    elements: usize,
    contents: &InferTensorContents,
) -> Result<Bytes> {
    let refuse = |problem: String| Error::invalid(format!("inputs[{index}].contents"), problem);
    let Some(field) = field_of(datatype) else {
        return Err(refuse(format!("{datatype} has no typed contents: use raw_input_contents")));
    };
    let mut found = 0;
    for (kind, count) in kinds(contents) {
        if kind != field {
            return Err(refuse(format!("{datatype} goes into {field}, not {kind}")));
        }
        found = count;
    }
    if found != elements {
        return Err(refuse(format!("{found} elements, where the shape needs {elements}")));
    }
    write(datatype, contents).map_err(|value| refuse(format!("{value} does not fit {datatype}")))
}

/// Writes the one field that is filled; fails with the first value that is out of its type's range.
fn write(datatype: DataType, contents: &InferTensorContents) -> Result<Bytes, i64> {
    let InferTensorContents { int_contents: ints, uint_contents: uints, .. } = contents;
    match datatype {
        DataType::Int8 => each(ints, |value| i8::try_from(value).map(i8::to_le_bytes).map_err(|_| value.into())),
        DataType::Int16 => each(ints, |value| i16::try_from(value).map(i16::to_le_bytes).map_err(|_| value.into())),
        DataType::Uint8 => each(uints, |value| u8::try_from(value).map(u8::to_le_bytes).map_err(|_| value.into())),
        DataType::Uint16 => each(uints, |value| u16::try_from(value).map(u16::to_le_bytes).map_err(|_| value.into())),
        DataType::Int32 => each(ints, |value| Ok(value.to_le_bytes())),
        DataType::Uint32 => each(uints, |value| Ok(value.to_le_bytes())),
        DataType::Bool => each(&contents.bool_contents, |value| Ok([u8::from(value)])),
        DataType::Int64 => each(&contents.int64_contents, |value| Ok(value.to_le_bytes())),
        DataType::Uint64 => each(&contents.uint64_contents, |value| Ok(value.to_le_bytes())),
        DataType::Fp32 => each(&contents.fp32_contents, |value| Ok(value.to_le_bytes())),
        DataType::Fp64 => each(&contents.fp64_contents, |value| Ok(value.to_le_bytes())),
        DataType::Bytes => prefixed(&contents.bytes_contents),
        // `convert` has refused them: they have no field.
        DataType::Fp16 | DataType::Bf16 => Ok(Bytes::new()),
    }
}

fn each<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> Result<[u8; N], i64>) -> Result<Bytes, i64> {
    let mut data = BytesMut::with_capacity(values.len() * N);
    for value in values {
        data.put_slice(&bytes(*value)?);
    }
    Ok(data.freeze())
}

/// The wire form of BYTES: each element after its length in four bytes.
fn prefixed(elements: &[Bytes]) -> Result<Bytes, i64> {
    let mut data = BytesMut::with_capacity(elements.iter().map(|element| element.len() + 4).sum());
    for element in elements {
        // A message is far below 4 GiB, so the length always fits.
        data.put_u32_le(u32::try_from(element.len()).map_err(|_| i64::MAX)?);
        data.put_slice(element);
    }
    Ok(data.freeze())
}
