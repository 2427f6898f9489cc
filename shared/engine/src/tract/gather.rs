//! Requests into the runtime's tensors, and answers out of them.

use bytes::{Bytes, BytesMut};
use tract_onnx::prelude::{Arc, DatumType, TValue, Tensor as Native, TractResult};
use tract_onnx::tract_hir::internal::{IntoArcTensor, IntoTValue, bail, ensure};

use super::batch::Chunk;

/// Copies a chunk's rows out of the requests' bytes into one tensor of `shape`, whose first axis is the chunk's size.
///
/// Rows beyond the chunk's own repeat the last one: a row of zeros could be an input that the model cannot take.
pub(super) fn gather(datum: DatumType, shape: &[usize], parts: &[&Bytes], chunk: Chunk) -> TractResult<TValue> {
    let mut tensor = Native::zero_dt(datum, shape)?;
    let bytes = tensor.as_bytes_mut();
    let row = bytes.len() / chunk.size;
    let (own, filling) = bytes.split_at_mut(row * chunk.rows);
    fill(own, parts, row * chunk.start)?;
    if row > 0
        && let Some(last) = own.chunks_exact(row).next_back()
    {
        filling.chunks_exact_mut(row).for_each(|target| target.copy_from_slice(last));
    }
    if datum == DatumType::Bool {
        // Any other byte than 0 and 1 is not a boolean to the runtime.
        bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
    }
    Ok(tensor.into_tvalue())
}

/// A whole request's tensor, for models that do not batch.
pub(super) fn whole(datum: DatumType, shape: &[usize], data: &Bytes) -> TractResult<TValue> {
    let rows = shape.first().copied().unwrap_or(1);
    gather(datum, shape, &[data], Chunk { start: 0, rows, size: rows.max(1) })
}

fn fill(target: &mut [u8], parts: &[&Bytes], mut skip: usize) -> TractResult<()> {
    let mut rest = target;
    for part in parts {
        let from = part.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(part.len());
        let length = from.len().min(rest.len());
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(&from[..length]);
        rest = later;
    }
    ensure!(rest.is_empty(), "the request is shorter than its shape");
    Ok(())
}

/// An answer of the runtime as little-endian bytes of the declared type: a view, unless the type must be changed.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) shape: Vec<usize>,
    pub(super) data: Bytes,
}

impl Answer {
    pub(super) fn new(value: TValue, datum: DatumType) -> TractResult<Self> {
        let mut tensor = value.into_arc_tensor();
        if tensor.datum_type() != datum {
            // Shape arithmetic on INT64 comes out in a symbolic type of the runtime's own.
            tensor = Arc::new(tensor.cast_to_dt(datum)?.into_owned());
        }
        tensor.try_as_plain_ram()?;
        let shape = tensor.shape().to_vec();
        Ok(Self { shape, data: Bytes::from_owner(Owner(tensor)) })
    }

    /// Its first rows, of the `size` that the plan made.
    pub(super) fn take_rows(self, chunk: Chunk) -> TractResult<Self> {
        let Some((axis, tail)) = self.shape.split_first() else {
            bail!("an output has no batch axis");
        };
        ensure!(*axis == chunk.size, "an output has {axis} rows for {} of input", chunk.size);
        let data = self.data.slice(..self.data.len() / chunk.size * chunk.rows);
        Ok(Self { shape: [&[chunk.rows], tail].concat(), data })
    }

    /// Puts chunks behind each other; one alone stays a view.
    pub(super) fn join(mut chunks: Vec<Self>) -> TractResult<Self> {
        if chunks.len() == 1
            && let Some(only) = chunks.pop()
        {
            return Ok(only);
        }
        let tail = chunks.first().map(|first| first.shape[1..].to_vec()).unwrap_or_default();
        let mut data = BytesMut::with_capacity(chunks.iter().map(|chunk| chunk.data.len()).sum());
        let mut rows = 0;
        for chunk in &chunks {
            ensure!(chunk.shape[1..] == tail[..], "an output's shape differs between rows");
            rows += chunk.shape[0];
            data.extend_from_slice(&chunk.data);
        }
        Ok(Self { shape: [&[rows], tail.as_slice()].concat(), data: data.freeze() })
    }

    /// The rows of one request, as a view.
    pub(super) fn rows(&self, start: usize, rows: usize) -> Self {
        let row = self.data.len() / self.shape[0].max(1);
        let shape = [&[rows], &self.shape[1..]].concat();
        Self { shape, data: self.data.slice(start * row..(start + rows) * row) }
    }
}

/// Keeps the runtime's tensor alive for as long as a view of it is.
struct Owner(Arc<Native>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
