//! GGUF, the file format of llama.cpp: versions 2 and 3, little-endian, one file, with the metadata and tensors that a
//! language model must have.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. The limits are tighter than the format's where no
//! real file comes near.

mod bytes;
mod layout;
mod metadata;
mod needs;
mod types;

use std::io::{Read, Seek};

use super::{Refusal, Rule};
use bytes::Bytes;
use metadata::Metadata;

/// The longest file that is accepted.
pub const MAX_FILE_BYTES: u64 = 1 << 40;

/// The most metadata entries.
const MAX_KEYS: u64 = 4096;

/// The most tensors: the largest published models have some thousands.
const MAX_TENSORS: u64 = 65_536;

/// What a file turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The version of the format.
    pub version: u32,
    /// `general.architecture`.
    pub architecture: String,
    /// Tensors.
    pub tensors: usize,
    /// Bytes before the first tensor's data.
    pub header_bytes: u64,
    /// Bytes of tensor data.
    pub data_bytes: u64,
    /// Layers.
    pub blocks: u64,
    /// The longest sequence that it was trained for, in tokens.
    pub context: u64,
    /// Tokens of its vocabulary.
    pub vocabulary: u64,
}

/// Reads the whole header; of the weights, only that they are there.
pub fn check(source: impl Read + Seek) -> Result<Summary, Refusal> {
    let mut bytes = Bytes::new(source, MAX_FILE_BYTES)?;
    let version = read_version(&mut bytes)?;
    let tensors = bytes.count(MAX_TENSORS, Rule::TensorCount, "the number of tensors")?;
    let keys = bytes.count(MAX_KEYS, Rule::KeyCount, "the number of metadata entries")?;
    let metadata = Metadata::read(&mut bytes, keys)?;
    let needs = needs::Needs::of(&metadata)?;
    let layout = layout::Layout::read(&mut bytes, tensors, needs.alignment)?;
    needs.check_tensors(&layout)?;
    Ok(Summary {
        version,
        tensors: layout.tensors.len(),
        header_bytes: layout.start,
        data_bytes: layout.data_bytes,
        architecture: needs.architecture,
        blocks: needs.blocks,
        context: needs.context,
        vocabulary: needs.vocabulary,
    })
}

fn read_version<R: Read + Seek>(bytes: &mut Bytes<R>) -> Result<u32, Refusal> {
    bytes.place("the magic number");
    if bytes.array::<4>()? != *b"GGUF" {
        return Err(bytes.refuse(Rule::Magic));
    }
    bytes.place("the version");
    match bytes.u32()? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=0xffff) => Err(bytes.refuse(Rule::Endianness)),
        _ => Err(bytes.refuse(Rule::Version)),
    }
}
