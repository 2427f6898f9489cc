//! Which engine runs a model, from what its configuration says and what its folder holds.

use weft_proto::inference::ModelConfig;

/// The engine that a configuration means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Builtin,
    Tract,
    Onnxruntime,
    Llama,
}

impl Engine {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Tract => "tract",
            Self::Onnxruntime => "onnxruntime",
            Self::Llama => "llama",
        }
    }

    /// The ending of its models' files.
    pub(super) const fn ending(self) -> &'static str {
        match self {
            Self::Builtin | Self::Tract | Self::Onnxruntime => "onnx",
            Self::Llama => "gguf",
        }
    }

    /// The model file's name where the configuration gives none.
    pub(super) const fn default_file(self) -> &'static str {
        match self {
            Self::Builtin | Self::Tract | Self::Onnxruntime => "model.onnx",
            Self::Llama => "model.gguf",
        }
    }

    /// The longest model file that is taken.
    pub(super) const fn longest_file(self) -> u64 {
        match self {
            // Protobuf, which ONNX is written in, ends there.
            Self::Builtin | Self::Tract | Self::Onnxruntime => weft_engine::MAX_FILE_BYTES,
            // Beyond any machine's memory; the bound on what is used is the worker's own memory.
            Self::Llama => 1 << 40,
        }
    }

    /// What a model is expected to hold once loaded.
    pub(super) fn estimate_bytes(self, file_bytes: u64, max_batch_size: usize) -> u64 {
        match self {
            Self::Builtin => 0,
            Self::Tract => weft_engine::estimate_bytes(file_bytes, max_batch_size),
            // The weights once as they are in the file and once as the library packs them.
            Self::Onnxruntime => file_bytes.saturating_mul(2),
            // The weights, and as much again as a quarter of them for what sequences hold; the engine measures it.
            Self::Llama => file_bytes.saturating_add(file_bytes / 4),
        }
    }
}

/// What the choice was made from.
pub(super) struct Choice {
    pub(super) engine: Engine,
    /// ONNX Runtime was named, and is not there.
    pub(super) is_second_best: bool,
}

/// The engine of a configuration; `None` when it names one that there is not. A model that names none is what its file is:
/// `holds` tells whether there is one of that ending. ONNX Runtime is used where its library is there (`has`), and tract runs
/// its models otherwise.
pub(super) fn choose(config: &ModelConfig, holds: impl Fn(&str) -> bool, has: impl Fn(&str) -> bool) -> Option<Choice> {
    let name = if config.backend.is_empty() { &config.platform } else { &config.backend };
    let only = |engine| Some(Choice { engine, is_second_best: false });
    match name.as_str() {
        "builtin" => only(Engine::Builtin),
        "tract" => only(Engine::Tract),
        "llama" => only(Engine::Llama),
        "" if holds(Engine::Llama.ending()) && !holds(Engine::Onnxruntime.ending()) => only(Engine::Llama),
        "" | "onnx" | "onnxruntime" | "onnxruntime_onnx" if has(Engine::Onnxruntime.as_str()) => {
            only(Engine::Onnxruntime)
        }
        "" => only(Engine::Tract),
        "onnx" | "onnxruntime" | "onnxruntime_onnx" => Some(Choice { engine: Engine::Tract, is_second_best: true }),
        _ => None,
    }
}
