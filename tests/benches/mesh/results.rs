//! All slices of a run.

use weft_tests::load::rounds::Rounds;

use super::cell::Cell;

/// The slices of every cell, by round.
pub(crate) type Results = Rounds<Cell>;
