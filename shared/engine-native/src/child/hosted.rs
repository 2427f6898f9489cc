//! Engines of this build in a process of their own: whatever an unknown file makes them do, the worker does not share it.
//!
//! They know nothing of the arena, so tensors are copied in and out. Where that matters, the worker runs them in its own process.
#![expect(unsafe_code, reason = "tensors stand in memory that the worker shares")]

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use weft_engine::{Batch, Builtin, Engine, Error, Inputs, MAX_FILE_BYTES, Model, Outputs, Source, Spec, Tensor, Tract};

use super::executors::Backend;
use crate::arena::Memory;
use crate::protocol::{Execute, Executed, Load, Loaded, Region, TensorRef, lay_out};

/// A model of an engine that is part of this build.
pub(crate) struct HostedEngine {
    runtime: Runtime,
    model: Arc<dyn Model>,
    memory: Arc<Memory>,
}

impl HostedEngine {
    /// Loads a model on the engine of this name.
    pub(super) fn load(name: &str, load: &Load, file: &File, memory: Arc<Memory>) -> Result<(Self, Loaded), Error> {
        let engines: [Arc<dyn Engine>; 2] = [Arc::new(Tract::new()), Arc::new(Builtin::new())];
        let engine = engines.into_iter().find(|engine| engine.name() == name);
        let engine = engine.ok_or_else(|| Error::Load(format!("there is no engine '{name}'")))?;
        let spec = Spec {
            name: load.name.clone(),
            source: Source::Bytes(read(file)?.into()),
            max_batch_size: usize::try_from(load.max_batch_size).unwrap_or(usize::MAX),
            parameters: load.parameters.clone(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Error::Load(format!("cannot start threads ({})", error.kind())))?;
        let model = runtime.block_on(engine.load(&spec))?;
        let signature = Some(model.signature().into());
        let loaded = Loaded { signature, size_bytes: model.size_bytes(), capacity: None };
        Ok((Self { runtime, model, memory }, loaded))
    }

    fn inputs(&self, execute: &Execute) -> Option<Inputs> {
        let input = |tensor: &TensorRef| {
            // SAFETY: the worker does not write to inputs until the execution has ended.
            let data = unsafe { self.memory.bytes(tensor.offset, tensor.length) }?;
            let shape = tensor.shape.iter().map(|axis| usize::try_from(*axis).ok()).collect::<Option<_>>()?;
            let name = self.model.signature().inputs.get(tensor.port as usize)?.name.clone();
            Some(Tensor { name, datatype: tensor.datatype.parse().ok()?, shape, data: Bytes::copy_from_slice(data) })
        };
        execute.inputs.iter().map(input).collect()
    }

    fn outputs(&self, outputs: &Outputs, room: Region) -> Option<Executed> {
        let describe = |(port, tensor): (u32, &Tensor)| TensorRef {
            port,
            datatype: tensor.datatype.as_str().to_owned(),
            shape: tensor.shape.iter().map(|axis| *axis as u64).collect(),
            offset: 0,
            length: tensor.data.len() as u64,
        };
        let executed = lay_out((0..).zip(outputs).map(describe).collect(), room)?;
        for (tensor, place) in outputs.iter().zip(&executed.outputs) {
            // SAFETY: the room is this execution's alone until it has ended.
            unsafe { self.memory.bytes_mut(place.offset, place.length) }?.copy_from_slice(&tensor.data);
        }
        Some(executed)
    }
}

impl Backend for HostedEngine {
    type Run = CancellationToken;

    fn begin(&self) -> Result<CancellationToken, Error> {
        Ok(CancellationToken::new())
    }

    fn stop(&self, run: &CancellationToken) {
        run.cancel();
    }

    fn execute(&self, run: &CancellationToken, execute: &Execute) -> Result<Executed, Error> {
        let misplaced = || Error::Run("the tensors are not where they were said to be".to_owned());
        let inputs = self.inputs(execute).ok_or_else(misplaced)?;
        let (batch, stopped) = Batch::watched(vec![inputs]);
        let answer = self.runtime.block_on(async {
            let answer = run.run_until_cancelled(self.model.execute(batch)).await;
            // What was stopped has stopped only when nothing computes any more.
            stopped.wait().await;
            answer
        });
        let mut answers = answer.ok_or_else(|| Error::Run("stopped".to_owned()))??;
        let outputs = answers.pop().ok_or_else(|| Error::Run("the runtime lost an answer".to_owned()))??;
        self.outputs(&outputs, execute.room.unwrap_or_default()).ok_or_else(misplaced)
    }
}

fn read(mut file: &File) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    // The descriptor's position is shared with the worker's, which has read the file to check it.
    let read = std::io::Seek::rewind(&mut file).and_then(|()| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| Error::Load(format!("the model file cannot be read ({})", error.kind())))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Load("the model file is too large".to_owned()));
    }
    Ok(bytes)
}
