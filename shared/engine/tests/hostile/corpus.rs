//! Model files that mean harm, made by rules: each is a good file with one thing wrong.

#[path = "gguf.rs"]
pub(crate) mod gguf;
#[path = "onnx.rs"]
pub(crate) mod onnx;

use weft_engine::format::Rule;

/// A file, and the rule that it breaks.
pub(crate) struct Hostile {
    /// Fit for a folder's name.
    pub(crate) name: String,
    /// The name that a worker looks for.
    pub(crate) file: &'static str,
    pub(crate) rule: Rule,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn all() -> Vec<Hostile> {
    gguf::all().into_iter().chain(onnx::all()).collect()
}
