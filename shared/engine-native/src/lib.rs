//! Engines in C and C++, each model in a supervised process of its own, and the devices they run on. The only crate with
//! `unsafe` code.
//!
//! On the worker's side, [`Host`] starts a `weft engine` process per model and speaks [`protocol`] with it over a Unix socket; tensors stand in
//! an [`arena`], memory that both processes map. On the other side, [`child`] reads commands and runs them on the engine:
//! [`onnx`] for tensor models, [`llama`] for language models. [`devices`] tells what there is to run on.

mod arena;
pub mod child;
pub mod devices;
mod host;
pub mod llama;
mod onnx;
pub mod protocol;

pub use arena::Statistics;
pub use host::{EngineProcess, Host, HostOptions};
