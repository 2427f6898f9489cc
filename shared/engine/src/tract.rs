//! The engine `tract`: ONNX graphs in process, in pure Rust.
//!
//! A file is checked by [`crate::format`] first, and parsed from its bytes alone, so that it cannot name another file. For each shape it executes an optimised plan
//! is made once and kept within a bound. Work runs on tokio's blocking threads; a flag that dropping the future raises
//! is looked at between graph nodes.

mod batch;
mod gather;
mod graph;
mod plans;
mod run;

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::running::Running;
use crate::{Batch, Engine, Error, Model, Outputs, Signature, Source, Spec, format};
use run::{Execution, Loaded};

/// The longest model file that is read: protobuf, which ONNX is written in, ends there.
pub const MAX_FILE_BYTES: u64 = 2 << 30;

/// What a model is expected to hold once loaded: the graph's own weights, and the weights that each plan packs for itself.
pub fn estimate_bytes(file_bytes: u64, max_batch_size: usize) -> u64 {
    let plans = batch::sizes(max_batch_size).count().max(1) as u64;
    file_bytes.saturating_mul(1 + plans)
}

/// Runs ONNX models.
#[derive(Clone, Debug, Default)]
pub struct Tract {
    running: Running,
}

impl Tract {
    /// An engine whose models share one count of running executions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Executions that still compute: it falls when a dropped one has reached its next yield point.
    pub fn running(&self) -> usize {
        self.running.count()
    }

    /// Graph nodes that its models have begun to execute, ever. It stands still once dropped executions have stopped.
    pub fn steps(&self) -> u64 {
        self.running.steps()
    }
}

#[async_trait]
impl Engine for Tract {
    fn name(&self) -> &'static str {
        "tract"
    }

    async fn load(&self, spec: &Spec) -> Result<Arc<dyn Model>, Error> {
        let spec = spec.clone();
        let work = move || {
            let bytes = read(&spec.source)?;
            format::onnx::check(Cursor::new(&bytes))?;
            Loaded::load(&bytes, &spec)
        };
        let loaded =
            blocking(work).await.unwrap_or_else(|| Err(Error::Load("the runtime failed on this file".to_owned())))?;
        Ok(Arc::new(Handle { loaded: Arc::new(loaded), running: self.running.clone() }))
    }
}

/// The loaded graph is shared with work on blocking threads, which ends soon after the last handle is dropped.
struct Handle {
    loaded: Arc<Loaded>,
    running: Running,
}

impl Handle {
    /// Runs `work` on a blocking thread; it is told to stop when this future is dropped.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Loaded, &Execution) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let loaded = self.loaded.clone();
        let stop = StopOnDrop::default();
        let execution = Execution::new(self.running.enter(), stop.0.clone());
        let done = blocking(move || work(&loaded, &execution));
        done.await.unwrap_or_else(|| Err(Error::Run("the runtime failed on this input".to_owned())))
    }
}

#[async_trait]
impl Model for Handle {
    fn signature(&self) -> &Signature {
        self.loaded.signature()
    }

    fn size_bytes(&self) -> u64 {
        self.loaded.size_bytes()
    }

    async fn warm(&self) -> Result<(), Error> {
        self.run(Loaded::warm).await
    }

    async fn execute(&self, batch: Batch) -> Result<Vec<Result<Outputs, Error>>, Error> {
        // The batch, and what it holds, go with the work.
        self.run(move |loaded, execution| {
            let batch = batch;
            loaded.execute(&batch.requests, execution)
        })
        .await
    }
}

/// Raises the flag when the future that waits for the work is dropped; after the work is done nobody looks.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a blocking thread; `None` when it panicked or the process is ending.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn read(source: &Source) -> Result<Bytes, Error> {
    match source {
        Source::Bytes(bytes) => Ok(bytes.clone()),
        Source::File(path) => {
            let (file, _) = format::open_plain(path, MAX_FILE_BYTES)?;
            read_file(&file).map(Bytes::from)
        }
        Source::Open(file) => read_file(file).map(Bytes::from),
        Source::Builtin => Err(Error::Load("this engine has no models of its own".to_owned())),
    }
}

/// A file that would be refused is not read into memory first. It may change or grow meanwhile, so the bound is on what is
/// read, and what is read is checked again.
fn read_file(mut file: &File) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::Load(format!("the model file cannot be read ({})", error.kind()));
    format::onnx::check(file)?;
    file.rewind().map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    let room = bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX));
    room.map_err(|_| Error::Load("there is no memory for the model file".to_owned()))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Load("the model file is too large".to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, digits};

    #[tokio::test]
    async fn the_graph_goes_with_the_last_handle() {
        let source = Source::Bytes(Bytes::from_static(digits::MODEL));
        let spec = Spec { name: "digits".to_owned(), source, max_batch_size: 4, parameters: Default::default() };
        let loaded = Arc::new(Loaded::load(digits::MODEL, &spec).unwrap());
        let gone = Arc::downgrade(&loaded);
        let handle = Handle { loaded, running: Running::default() };
        handle.warm().await.unwrap();
        handle.execute(vec![vec![Tensor::of("PIXELS", &[1, 64], &[0f32; 64])]].into()).await.unwrap();
        assert_eq!(handle.running.count(), 0);
        drop(handle);
        assert!(gone.upgrade().is_none(), "something keeps the graph");
    }
}
