//! What a worker and its engine process say to each other: prost messages, each after its length as a 4-byte little-endian number.
//!
//! Both ends are the same build of `weft`, so the messages need no versions. Tensors are not in them: they stand in the arena that both map.

mod convert;
pub(crate) mod frame;
pub mod language;
mod layout;

pub(crate) use layout::lay_out;

/// What comes before the first message, together with two descriptors: the arena's and the model file's.
pub(crate) const GREETING: &[u8] = b"weft engine 1\n";

/// From the worker to the engine process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// What to do.
    #[prost(oneof = "command::Body", tags = "1, 2, 3, 4, 5")]
    pub body: Option<command::Body>,
}

/// The commands.
pub mod command {
    /// One of them.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// The first command, and there is only one.
        #[prost(message, tag = "1")]
        Load(super::Load),
        /// Execute a batch.
        #[prost(message, tag = "2")]
        Execute(super::Execute),
        /// Stop what was begun under this number.
        #[prost(uint64, tag = "3")]
        Cancel(u64),
        /// Begin a sequence.
        #[prost(message, tag = "4")]
        Generate(super::language::Generate),
        /// The reader of a sequence has taken so many more tokens.
        #[prost(message, tag = "5")]
        Taken(super::language::Taken),
    }
}

/// From the engine process to the worker.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// What has happened.
    #[prost(oneof = "event::Body", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub body: Option<event::Body>,
}

/// The events.
pub mod event {
    /// One of them.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// The model stands ready.
        #[prost(message, tag = "1")]
        Loaded(super::Loaded),
        /// What was begun under a number has failed; a failed load has the number 0.
        #[prost(message, tag = "2")]
        Failed(super::Failed),
        /// A batch has been executed.
        #[prost(message, tag = "3")]
        Executed(super::Executed),
        /// What was cancelled computes no more.
        #[prost(uint64, tag = "4")]
        Stopped(u64),
        /// More of a sequence.
        #[prost(message, tag = "5")]
        Piece(super::language::Piece),
        /// How full a language model is.
        #[prost(message, tag = "6")]
        Occupancy(super::language::Occupancy),
        /// A sequence has been queued.
        #[prost(uint64, tag = "7")]
        Queued(u64),
    }
}

/// Load a model.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Load {
    /// `onnxruntime`, `llama`, or the name of another engine that can run in a process of its own.
    #[prost(string, tag = "1")]
    pub engine: String,
    /// The model's name, for messages.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The model file.
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
    /// The most rows of one execution; 0 when requests are not batched.
    #[prost(uint64, tag = "4")]
    pub max_batch_size: u64,
    /// Engine-specific settings.
    #[prost(btree_map = "string, string", tag = "5")]
    pub parameters: std::collections::BTreeMap<String, String>,
    /// Threads that compute.
    #[prost(uint32, tag = "6")]
    pub threads: u32,
    /// The library that the engine is in, where it is not part of the build.
    #[prost(bytes = "vec", tag = "7")]
    pub library: Vec<u8>,
}

/// A loaded model.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Loaded {
    /// Its inputs, outputs and batching; for a language model only its platform.
    #[prost(message, optional, tag = "1")]
    pub signature: Option<Signature>,
    /// What it holds, in bytes.
    #[prost(uint64, tag = "2")]
    pub size_bytes: u64,
    /// Set for a language model.
    #[prost(message, optional, tag = "3")]
    pub capacity: Option<language::Capacity>,
}

/// A `weft_engine::Signature`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Signature {
    /// The engine's name for itself.
    #[prost(string, tag = "1")]
    pub platform: String,
    /// What goes in.
    #[prost(message, repeated, tag = "2")]
    pub inputs: Vec<Port>,
    /// What comes out.
    #[prost(message, repeated, tag = "3")]
    pub outputs: Vec<Port>,
    /// The most rows of one execution; 0 when requests are not batched.
    #[prost(uint64, tag = "4")]
    pub max_batch_size: u64,
    /// How many executions may run at once.
    #[prost(uint64, tag = "5")]
    pub concurrency: u64,
}

/// A `weft_engine::Port`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Port {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The protocol's name of its element type; empty for any.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// Axes, -1 for a free one; absent for any shape.
    #[prost(message, optional, tag = "3")]
    pub shape: Option<Shape>,
    /// Whether it may be left out.
    #[prost(bool, tag = "4")]
    pub optional: bool,
}

/// Axes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shape {
    /// Their sizes.
    #[prost(int64, repeated, tag = "1")]
    pub axes: Vec<i64>,
}

/// A tensor in the arena.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorRef {
    /// Its place among the signature's inputs or outputs.
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// The protocol's name of its element type.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// Its axes.
    #[prost(uint64, repeated, tag = "3")]
    pub shape: Vec<u64>,
    /// Where it begins in the arena.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// Its bytes.
    #[prost(uint64, tag = "5")]
    pub length: u64,
}

/// Room in the arena.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Region {
    /// Where it begins.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Its bytes.
    #[prost(uint64, tag = "2")]
    pub length: u64,
}

/// Execute a batch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Execute {
    /// The worker's number for it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// One tensor for each input that is given, already gathered from the requests.
    #[prost(message, repeated, tag = "2")]
    pub inputs: Vec<TensorRef>,
    /// Where the outputs shall go, one after the other.
    #[prost(message, optional, tag = "3")]
    pub room: Option<Region>,
}

/// An executed batch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Executed {
    /// The worker's number for it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its outputs.
    #[prost(message, repeated, tag = "2")]
    pub outputs: Vec<TensorRef>,
    /// When the room was too small: how many bytes the outputs take. They are lost then.
    #[prost(uint64, tag = "3")]
    pub needed: u64,
}

/// A failure, as `weft_engine::Error` has it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failed {
    /// The worker's number for it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// `load`, `run`, `input` or `full`.
    #[prost(string, tag = "2")]
    pub kind: String,
    /// The field at fault, with `input`.
    #[prost(string, tag = "3")]
    pub field: String,
    /// What went wrong; it may be shown to callers.
    #[prost(string, tag = "4")]
    pub problem: String,
}
