//! Strict readers of model files, in safe Rust: they stand before every engine, most of which were written for files that
//! mean well. What they let through has the structure that it claims; what they refuse, they refuse for a named [`Rule`].
//!
//! Memory is bounded whatever a file claims: weights are passed over, never read, and what is kept of the rest has a limit of
//! its own. Arithmetic on claimed sizes is checked.

mod file;
pub mod gguf;
pub mod onnx;
mod refusal;

pub use file::{open_model_file, open_plain};
pub use refusal::{Refusal, Rule};
