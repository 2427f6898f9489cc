//! The tensors: what each is, and where its data lies. Data follows data in the order of the tensors, padded to the alignment.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use super::super::{Refusal, Rule};
use super::bytes::Bytes;
use super::types;

/// The longest tensor name that ggml holds, without its final zero.
const MAX_NAME_BYTES: u64 = 63;

/// The most axes that ggml holds.
const MAX_AXES: u32 = 4;

/// All tensors by name, with their axes, innermost first.
pub(super) struct Layout {
    pub(super) tensors: BTreeMap<String, Vec<u64>>,
    /// Where the data begins.
    pub(super) start: u64,
    /// How long it is, without the padding after the last tensor.
    pub(super) data_bytes: u64,
}

/// Where a tensor's data lies, from the start of all data.
struct Extent {
    name: String,
    offset: u64,
    bytes: u64,
}

impl Layout {
    pub(super) fn read<R: Read + Seek>(bytes: &mut Bytes<R>, count: u64, alignment: u64) -> Result<Self, Refusal> {
        let mut tensors = BTreeMap::new();
        let mut extents = Vec::new();
        for _ in 0..count {
            let (extent, axes) = read_tensor(bytes, alignment)?;
            if tensors.insert(extent.name.clone(), axes).is_some() {
                return Err(bytes.refuse(Rule::DuplicateTensor));
            }
            extents.push(extent);
        }
        let start = bytes.at().next_multiple_of(alignment);
        let data_bytes = check_extents(&extents, start, alignment, bytes.length())?;
        Ok(Self { tensors, start, data_bytes })
    }
}

fn read_tensor<R: Read + Seek>(bytes: &mut Bytes<R>, alignment: u64) -> Result<(Extent, Vec<u64>), Refusal> {
    bytes.place("a tensor's name");
    let name = bytes.text(MAX_NAME_BYTES, Rule::TensorName)?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bytes.refuse(Rule::TensorName));
    }
    bytes.place_named("tensor", &name);
    let count = bytes.u32()?;
    if !(1..=MAX_AXES).contains(&count) {
        return Err(bytes.refuse(Rule::Axes));
    }
    let axes = (0..count).map(|_| bytes.u64()).collect::<Result<Vec<_>, _>>()?;
    // Engines count with signed numbers.
    if axes.iter().any(|axis| *axis == 0 || i64::try_from(*axis).is_err()) {
        return Err(bytes.refuse(Rule::Extent));
    }
    let kind = bytes.u32()?;
    let (block, block_bytes) = types::block(kind).ok_or_else(|| bytes.refuse(Rule::ElementType))?;
    if !axes[0].is_multiple_of(block) {
        return Err(bytes.refuse(Rule::BlockSize));
    }
    let elements = axes.iter().try_fold(1u64, |product, axis| product.checked_mul(*axis));
    let size = elements
        .and_then(|elements| (elements / block).checked_mul(block_bytes))
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| bytes.refuse(Rule::TensorSize))?;
    let offset = bytes.u64()?;
    if !offset.is_multiple_of(alignment) {
        return Err(bytes.refuse(Rule::Misaligned));
    }
    Ok((Extent { name, offset, bytes: size }, axes))
}

/// Each tensor must begin where the one before it ends, and all must lie in the file. Returns how long the data is.
fn check_extents(extents: &[Extent], start: u64, alignment: u64, length: u64) -> Result<u64, Refusal> {
    let (mut next, mut end) = (0u64, 0u64);
    for extent in extents {
        let refuse = |rule| Err(Refusal::new(rule, format!("tensor {}", extent.name), extent.offset));
        match extent.offset {
            offset if offset < next => return refuse(Rule::Overlap),
            offset if offset > next => return refuse(Rule::Gap),
            _ => {}
        }
        let stop = next.checked_add(extent.bytes);
        match stop.and_then(|stop| Some((stop, start.checked_add(stop)?, stop.checked_next_multiple_of(alignment)?))) {
            Some((stop, in_file, padded)) if in_file <= length => (end, next) = (stop, padded),
            _ => return refuse(Rule::PastEnd),
        }
    }
    // The last tensor may be padded or not.
    if start.saturating_add(next) < length {
        return Err(Refusal::new(Rule::Trailing, "the tensor data", start.saturating_add(next)));
    }
    Ok(end)
}
