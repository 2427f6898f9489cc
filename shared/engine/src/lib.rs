//! Engines: what runs models, behind one small port.
//!
//! [`port`](Engine) is what the worker asks of an engine. [`Builtin`] needs no weights and exercises the mesh; [`Tract`]
//! runs ONNX graphs in process, in pure Rust. [`Signature::check`] stands between a caller's tensors and both.
//!
//! A request's way through: wire bytes become [`Tensor`]s without a copy, the signature refuses what does not fit, the
//! worker gathers requests into one [`Model::execute`], and each answer is again a view of one buffer.

pub mod batching;
mod builtin;
pub mod digits;
mod element;
pub mod format;
mod language;
mod port;
mod running;
mod signature;
mod tensor;
mod tract;

pub use builtin::Builtin;
pub use element::Element;
pub use language::{
    Capacity, Finish, Generation, Grammar, Language, Occupancy, Piece, Prompt, Sampling, SequenceRequest, Turn, Usage,
};
pub use port::{Batch, Engine, Error, Hold, Inputs, Model, Outputs, Source, Spec, Stopped};
pub use signature::{MAX_AXES, Port, Signature};
pub use tensor::{DataType, Tensor};
pub use tract::{MAX_FILE_BYTES, Tract, estimate_bytes};
