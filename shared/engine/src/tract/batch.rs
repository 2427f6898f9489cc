//! How many rows to execute at once.
//!
//! A plan serves one number of rows, takes a millisecond or more to make and keeps weights of its own, so few sizes are
//! used: the powers of two, and the largest allowed. Rows that fit no size are either filled up, where that wastes at
//! most a quarter, or taken in parts: for a network whose time grows with the rows, 17 as 32 would cost nearly twice.

/// Some rows of a batch, executed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The first row.
    pub(super) start: usize,
    /// The rows it takes.
    pub(super) rows: usize,
    /// The rows its plan is for: at least as many, and at least one.
    pub(super) size: usize,
}

/// The sizes that plans are made for, in order; none when requests are not batched.
pub(super) fn sizes(max_batch_size: usize) -> impl Iterator<Item = usize> {
    let powers = (0..usize::BITS).map(|power| 1 << power).take_while(move |size| *size < max_batch_size);
    powers.chain((max_batch_size > 0).then_some(max_batch_size))
}

/// Splits rows into chunks. No rows at all make one chunk of filling, from which the shape of the answer is learned.
pub(super) fn chunks(rows: usize, max_batch_size: usize) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < rows || chunks.is_empty() {
        let size = size(rows - start, max_batch_size);
        let taken = size.min(rows - start);
        chunks.push(Chunk { start, rows: taken, size });
        start += taken;
    }
    chunks
}

fn size(rows: usize, max_batch_size: usize) -> usize {
    let (mut below, mut above) = (1, None);
    for size in sizes(max_batch_size) {
        if size <= rows {
            below = size;
        } else {
            above = above.or(Some(size));
        }
    }
    match above {
        Some(above) if rows == 0 || (above - rows) * 4 <= above => above,
        _ => below,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fills_up_or_takes_parts() {
        let parts = |rows, max| chunks(rows, max).into_iter().map(|chunk| (chunk.rows, chunk.size)).collect::<Vec<_>>();
        assert_eq!(parts(16, 64), [(16, 16)]);
        assert_eq!(parts(17, 64), [(16, 16), (1, 1)]);
        assert_eq!(parts(31, 64), [(31, 32)]);
        assert_eq!(parts(11, 64), [(8, 8), (3, 4)]);
        assert_eq!(parts(0, 64), [(0, 1)]);
        assert_eq!(parts(45, 48), [(45, 48)]);
        assert_eq!(parts(100, 48), [(48, 48), (48, 48), (4, 4)]);
    }

    proptest! {
        #[test]
        fn chunks_cover_every_row_once_within_bounds(rows in 0usize..600, max in 1usize..300) {
            let chunks = chunks(rows, max);
            let mut next = 0;
            for chunk in &chunks {
                prop_assert_eq!(chunk.start, next);
                prop_assert!(chunk.rows <= chunk.size && chunk.size <= max && sizes(max).any(|size| size == chunk.size));
                prop_assert!(rows == 0 || (chunk.size - chunk.rows) * 4 <= chunk.size, "wastes more than a quarter: {:?}", chunk);
                next += chunk.rows;
            }
            prop_assert_eq!(next, rows);
            prop_assert!(sizes(max).count() <= 10);
        }
    }
}
