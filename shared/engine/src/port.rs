//! The execution port: what the worker asks of an engine.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::{Language, Signature, Tensor};

/// Where a model version comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Compiled into the engine, by name.
    Builtin,
    /// The bytes of a model file.
    Bytes(bytes::Bytes),
    /// A model file in the worker's repository.
    File(PathBuf),
    /// The same, already open: what it holds has been compared with what it must be.
    Open(Arc<File>),
}

/// What to load.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The model's name.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// The most rows that one execution may take along the first axis; 0 means that requests are not batched.
    pub max_batch_size: usize,
    /// Engine-specific settings, from `config.pbtxt`'s parameters.
    pub parameters: BTreeMap<String, String>,
}

/// Why an engine did not do as asked. The text may be shown to a caller: no paths, no addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be loaded: the file is missing, damaged, or needs what the engine lacks.
    #[error("cannot load the model: {0}")]
    Load(String),
    /// The runtime failed on this input.
    #[error("the model failed: {0}")]
    Run(String),
    /// The input is not acceptable in a way that only the model can tell.
    #[error("{field}: {problem}")]
    Input {
        /// The offending tensor.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The engine's process ended, or was ended, while it worked on this: the model is gone with it (see [`Model::lost`]).
    #[error("the model's process was lost: {0}")]
    Lost(String),
    /// There is no room for it now; later there may be.
    #[error("{0}")]
    Full(String),
    /// The model answered with a gRPC status of its own choosing (the builtin `fail` does).
    #[error("{message}")]
    Status {
        /// The gRPC status code number.
        code: i32,
        /// The text.
        message: String,
    },
}

/// The inputs of one request, in the signature's order, already checked against it.
pub type Inputs = Vec<Tensor>;
/// The outputs of one request, in the signature's order.
pub type Outputs = Vec<Tensor>;

/// Requests that are executed together.
#[derive(Debug)]
pub struct Batch {
    /// The requests.
    pub requests: Vec<Inputs>,
    /// To be kept for as long as anything computes for them.
    pub hold: Hold,
}

impl Batch {
    /// A batch, and what tells when nothing computes for it any more: that may be later than the moment its execution is dropped.
    pub fn watched(requests: Vec<Inputs>) -> (Self, Stopped) {
        let (sender, stopped) = oneshot::channel();
        (Self { requests, hold: Hold(Some(Arc::new(sender))) }, Stopped(stopped))
    }
}

impl From<Vec<Inputs>> for Batch {
    /// A batch that nobody watches.
    fn from(requests: Vec<Inputs>) -> Self {
        Self { requests, hold: Hold(None) }
    }
}

/// An engine keeps this, or clones of it, while it computes for a batch.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "its end is what tells")] Option<Arc<oneshot::Sender<()>>>);

/// Tells when nothing computes for a batch any more.
#[derive(Debug)]
pub struct Stopped(oneshot::Receiver<()>);

impl Stopped {
    /// Ends then.
    pub async fn wait(self) {
        // Nothing is ever sent: the sender goes with the last hold.
        let _ = self.0.await;
    }
}

/// Loads models of one kind.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The name that configuration and `platform` use.
    fn name(&self) -> &'static str;
    /// Loads a model; nothing is kept when it fails or is dropped.
    async fn load(&self, spec: &Spec) -> Result<Arc<dyn Model>, Error>;
}

/// A loaded model. Dropping the last handle unloads it and returns its memory.
#[async_trait]
pub trait Model: Send + Sync + 'static {
    /// Its inputs, outputs and batching.
    fn signature(&self) -> &Signature;
    /// What it holds, in bytes: measured where the engine can, else estimated from the file.
    fn size_bytes(&self) -> u64;
    /// Executes once on made-up input, so that the first caller does not pay for preparation.
    async fn warm(&self) -> Result<(), Error>;
    /// Executes requests together and answers each; an outer error fails all of them.
    ///
    /// Batching must not change an answer. Dropping the future stops the computation at its next yield point: between
    /// graph nodes for `tract`, at once for a builtin that waits.
    /// What goes on for longer keeps [`Batch::hold`] until it has stopped.
    async fn execute(&self, batch: Batch) -> Result<Vec<Result<Outputs, Error>>, Error>;

    /// The model as a language model, where it is one: its requests are sequences that [`Language::generate`] steps.
    fn language(&self) -> Option<&dyn Language> {
        None
    }

    /// Ends with the reason when the model is gone for good although nobody has dropped it: the process that held it has
    /// ended. Models in this process are never lost.
    async fn lost(&self) -> String {
        std::future::pending().await
    }
}
