//! Executions that take long, cut into several of fewer rows.
//!
//! The runtime stops an execution between the nodes of its graph, and a node of a large batch takes long. Cut into slices, it stops sooner,
//! at next to no cost: an execution so long has rows enough to fill the processor in every slice.

use std::time::Duration;

use weft_engine::DataType;

use crate::protocol::TensorRef;

/// What a slice should take. The longest node of a transformer is about a tenth of its execution.
const SLICE: Duration = Duration::from_millis(100);

/// The rows of each slice of a batch that took so long as a whole; all rows where cutting has nothing to gain.
pub(super) fn rows_each(rows: u64, took: Duration) -> u64 {
    let slices = took.as_nanos().div_ceil(SLICE.as_nanos());
    // What is but a little too long stays whole: two halves of it would be short.
    if took < 2 * SLICE { rows } else { rows.div_ceil(u64::try_from(slices).unwrap_or(u64::MAX)).max(1) }
}

/// The rows that all tensors have, if their rows can be taken apart: the model declares that its first axis is a batch's.
pub(super) fn common_rows<'a>(tensors: impl IntoIterator<Item = &'a TensorRef>) -> Option<u64> {
    let mut common = None;
    for tensor in tensors {
        let rows = *tensor.shape.first()?;
        if rows == 0 || tensor.length % rows != 0 || tensor.datatype == DataType::Bytes.as_str() {
            return None;
        }
        if *common.get_or_insert(rows) != rows {
            return None;
        }
    }
    common
}

/// `rows` rows of a tensor from `first` on; its rows can be taken apart.
pub(super) fn cut(tensor: &TensorRef, first: u64, rows: u64) -> TensorRef {
    let mut part = tensor.clone();
    if let Some(all) = part.shape.first_mut() {
        let bytes = tensor.length / (*all).max(1);
        (part.offset, part.length, *all) = (tensor.offset + first * bytes, rows * bytes, rows);
    }
    part
}

/// A tensor of one row with so many of them; `None` where it would be too large to be.
pub(super) fn grown(tensor: &TensorRef, rows: u64) -> Option<TensorRef> {
    let mut whole = tensor.clone();
    (*whole.shape.first_mut()?, whole.length) = (rows, tensor.length.checked_mul(rows)?);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[u64], length: u64) -> TensorRef {
        TensorRef { port: 1, datatype: "FP32".to_owned(), shape: shape.to_vec(), offset: 640, length }
    }

    #[test]
    fn what_is_short_stays_whole_and_what_is_long_is_cut_evenly() {
        for (rows, took_ms, expected) in
            [(64, 0, 64), (64, 199, 64), (64, 200, 32), (64, 640, 10), (1, 900, 1), (3, 60_000, 1), (64, u64::MAX, 1)]
        {
            assert_eq!(rows_each(rows, Duration::from_millis(took_ms)), expected, "{rows} rows in {took_ms} ms");
        }
    }

    #[test]
    fn slices_lie_side_by_side() {
        let whole = tensor(&[5, 3], 60);
        assert_eq!(cut(&whole, 0, 2), TensorRef { shape: vec![2, 3], offset: 640, length: 24, ..whole.clone() });
        assert_eq!(cut(&whole, 4, 1), TensorRef { shape: vec![1, 3], offset: 688, length: 12, ..whole.clone() });
    }

    #[test]
    fn one_row_tells_of_many() {
        assert_eq!(grown(&tensor(&[1, 3], 12), 5), Some(tensor(&[5, 3], 60)));
        assert_eq!(grown(&tensor(&[], 4), 5), None);
        assert_eq!(grown(&tensor(&[1], u64::MAX), 2), None);
    }

    #[test]
    fn only_rows_that_all_have_can_be_taken_apart() {
        let texts = TensorRef { datatype: "BYTES".to_owned(), ..tensor(&[4], 16) };
        let cases = [
            (vec![tensor(&[4, 2], 32), tensor(&[4], 16)], Some(4)),
            (vec![tensor(&[4, 2], 32), tensor(&[2, 4], 32)], None),
            (vec![tensor(&[4, 2], 32), tensor(&[], 4)], None),
            (vec![tensor(&[0, 2], 0)], None),
            (vec![tensor(&[4], 18)], None),
            (vec![texts], None),
            (vec![], None),
        ];
        for (tensors, expected) in cases {
            assert_eq!(common_rows(&tensors), expected, "{tensors:?}");
        }
    }
}
