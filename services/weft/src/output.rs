//! What people read on standard output.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// Prints a line.
pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
