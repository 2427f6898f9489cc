//! Where outputs go.

use super::{Executed, Region, TensorRef};
use crate::arena::ALIGNMENT;

/// Places outputs one after the other; when the room is too small, only how much is needed is told. `None` when numbers overflow.
pub(crate) fn lay_out(mut outputs: Vec<TensorRef>, room: Region) -> Option<Executed> {
    let mut end = room.offset;
    for output in &mut outputs {
        output.offset = end.checked_next_multiple_of(ALIGNMENT)?;
        end = output.offset.checked_add(output.length)?;
    }
    let needed = end - room.offset;
    if needed > room.length {
        return Some(Executed { needed, ..Executed::default() });
    }
    Some(Executed { outputs, ..Executed::default() })
}
