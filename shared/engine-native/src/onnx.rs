//! The engine `onnxruntime`: ONNX graphs by ONNX Runtime, whose library is loaded at run time.
//!
//! One session serves every execution that runs at once: the runtime allows it, weights are held once, and its threads are shared. Inputs
//! are read where the worker put them. Outputs are written where the worker wants them as soon as their shapes are known from an
//! earlier execution of the same shapes; until then the runtime's own buffers are copied once.
#![expect(
    unsafe_code,
    reason = "tensors in shared memory are handed to the runtime as pointers, which only its C interface takes"
)]

mod describe;
mod session;
mod shapes;
mod slices;
mod value;

use std::ffi::CString;
use std::ptr;
use std::sync::Arc;

use ort::AsPointer as _;
use ort::session::Session;
use ort::sys::{OrtRunOptions, OrtValue};
use weft_engine::{DataType, Error, Port, batching};
use weft_types::SystemClock;

use crate::arena::Memory;
use crate::child::Backend;
use crate::protocol::{Execute, Executed, Load, Loaded, Region, TensorRef, lay_out};
use shapes::{Known, Shapes};
use value::Value;

/// A loaded graph.
pub(crate) struct Onnx {
    session: Session,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    memory: Arc<Memory>,
    shapes: Shapes,
    /// An output has an input's name. The runtime answers with the input itself then, and writes nowhere.
    passes_on: bool,
    /// The first axis of its tensors is a batch's.
    batches: bool,
}

impl Onnx {
    /// Loads a graph.
    pub(crate) fn load(load: &Load, memory: Arc<Memory>) -> Result<(Self, Loaded), Error> {
        let instances = batching::instances(&load.parameters)?.unwrap_or(1);
        let session = session::open(load, instances)?;
        let signature = describe::signature(&session, load, instances)?;
        let name = |name: &str| CString::new(name).map_err(|_| Error::Load("a name holds a zero byte".to_owned()));
        let is_input = |output: &Port| signature.inputs.iter().any(|input| input.name == output.name);
        let onnx = Self {
            batches: signature.max_batch_size > 0,
            passes_on: signature.outputs.iter().any(is_input),
            inputs: signature.inputs.iter().map(|port| name(&port.name)).collect::<Result<_, _>>()?,
            outputs: signature.outputs.iter().map(|port| name(&port.name)).collect::<Result<_, _>>()?,
            shapes: Shapes::default(),
            session,
            memory,
        };
        Ok((onnx, Loaded { signature: Some((&signature).into()), size_bytes: 0, capacity: None }))
    }

    fn input(&self, tensor: &TensorRef) -> Result<Value, Error> {
        let datatype = tensor.datatype.parse::<DataType>().map_err(|()| misplaced())?;
        let part = self.memory.part(tensor.offset, tensor.length).ok_or_else(misplaced)?;
        if datatype == DataType::Bytes {
            // SAFETY: the worker does not write to inputs until the execution has ended.
            let texts = unsafe { self.memory.bytes(tensor.offset, tensor.length) }.ok_or_else(misplaced)?;
            return Value::of_texts(&tensor.shape, texts);
        }
        // SAFETY: the part is within the arena, which outlives the session, and is not written until the execution has ended.
        unsafe { Value::over(datatype, &tensor.shape, part, tensor.length) }
    }

    /// Executes; outputs that are given no place are the runtime's to make.
    fn call(&self, run: &Run, tensors: &[TensorRef], places: Vec<Value>) -> Result<Vec<Value>, Error> {
        let inputs = tensors.iter().map(|tensor| self.input(tensor)).collect::<Result<Vec<_>, _>>()?;
        let port = |tensor: &TensorRef| self.inputs.get(tensor.port as usize).map(|name| name.as_ptr());
        let names = tensors.iter().map(port).collect::<Option<Vec<_>>>().ok_or_else(misplaced)?;
        let values: Vec<*const OrtValue> = inputs.iter().map(Value::pointer).collect();
        let wanted: Vec<_> = self.outputs.iter().map(|name| name.as_ptr()).collect();
        let mut places: Vec<*mut OrtValue> = places.into_iter().map(Value::into_pointer).collect();
        places.resize(wanted.len(), ptr::null_mut());
        let (api, session) = (ort::api(), self.session.ptr().cast_mut());
        // SAFETY: each array has the length that is told, names end with a zero byte, and all of it outlives the call. The runtime
        // allows calls on one session from several threads.
        let status = unsafe {
            (api.Run)(
                session,
                run.0,
                names.as_ptr(),
                values.as_ptr(),
                values.len(),
                wanted.as_ptr(),
                wanted.len(),
                places.as_mut_ptr(),
            )
        };
        // SAFETY: what is not null was made by the runtime, or by `Value`, and is nobody else's.
        let outputs = places.into_iter().map(|place| unsafe { Value::owned(place) }).collect::<Vec<_>>();
        value::checked(status)?;
        outputs.into_iter().collect::<Option<_>>().ok_or_else(|| Error::Run("the runtime lost an output".to_owned()))
    }

    /// Executes with outputs written where the worker wants them, if all their shapes are known. `None` when they are not, or
    /// turn out to be others.
    fn in_place(&self, run: &Run, execute: &Execute, room: Region) -> Option<Executed> {
        if self.passes_on {
            return None;
        }
        let Known { outputs, took } = self.shapes.get(&execute.inputs)?;
        let executed = lay_out(outputs, room)?;
        if executed.needed > 0 {
            return Some(executed);
        }
        let began = SystemClock::now();
        let rows = slices::common_rows(execute.inputs.iter().chain(&executed.outputs)).filter(|_| self.batches);
        let each = rows.map_or(u64::MAX, |rows| slices::rows_each(rows, took));
        let done = match rows {
            Some(rows) if each < rows => (0..rows).step_by(usize::try_from(each).ok()?).all(|first| {
                let cut = |tensor| slices::cut(tensor, first, each.min(rows - first));
                let inputs: Vec<_> = execute.inputs.iter().map(cut).collect();
                let outputs: Vec<_> = executed.outputs.iter().map(cut).collect();
                self.write(run, &inputs, &outputs).is_some()
            }),
            _ => self.write(run, &execute.inputs, &executed.outputs).is_some(),
        };
        // Why it failed is found out by executing again: the input may be bad, or an output's shape follows from values.
        done.then(|| {
            self.shapes.took(&execute.inputs, SystemClock::now().saturating_duration_since(began));
            executed
        })
    }

    /// Finds out what shapes come of a batch that is new and will take long by executing its first row, so that even the first
    /// such batch is cut into slices. What it tells is tested by the batch's own execution.
    fn probe(&self, run: &Run, execute: &Execute) {
        let rows = slices::common_rows(&execute.inputs).filter(|_| self.batches && !self.passes_on);
        let (Some(rows), Some(took)) = (rows, self.shapes.guess(&execute.inputs)) else { return };
        if slices::rows_each(rows, took) == rows {
            return;
        }
        let first: Vec<_> = execute.inputs.iter().map(|tensor| slices::cut(tensor, 0, 1)).collect();
        let Ok(outputs) = self.call(run, &first, Vec::new()) else { return };
        let described =
            outputs.iter().zip(0..).map(|(output, port)| output.describe(port)).collect::<Result<Vec<_>, _>>();
        let Ok(described) = described else { return };
        if slices::common_rows(&described) == Some(1) {
            let whole: Vec<_> = described.iter().filter_map(|tensor| slices::grown(tensor, rows)).collect();
            if whole.len() == described.len() {
                self.shapes.learn(&execute.inputs, &whole, took);
            }
        }
    }

    /// Executes with outputs written to their places.
    fn write(&self, run: &Run, inputs: &[TensorRef], outputs: &[TensorRef]) -> Option<()> {
        let place = |tensor: &TensorRef| {
            let part = self.memory.part(tensor.offset, tensor.length)?;
            // SAFETY: the room is this execution's alone until it has ended, and lies within the arena.
            unsafe { Value::over(tensor.datatype.parse().ok()?, &tensor.shape, part, tensor.length) }.ok()
        };
        let places = outputs.iter().map(place).collect::<Option<Vec<_>>>()?;
        self.call(run, inputs, places).ok().map(drop)
    }

    /// Copies outputs from the runtime's buffers, and remembers their shapes.
    fn copied(&self, run: &Run, execute: &Execute, room: Region) -> Result<Executed, Error> {
        let began = SystemClock::now();
        let outputs = self.call(run, &execute.inputs, Vec::new())?;
        let took = SystemClock::now().saturating_duration_since(began);
        let described = outputs.iter().zip(0..).map(|(output, port)| output.describe(port));
        let described = described.collect::<Result<Vec<_>, _>>()?;
        self.shapes.learn(&execute.inputs, &described, took);
        let executed = lay_out(described, room).ok_or_else(misplaced)?;
        for (output, tensor) in outputs.iter().zip(&executed.outputs) {
            // SAFETY: the room is this execution's alone until it has ended.
            let target = unsafe { self.memory.bytes_mut(tensor.offset, tensor.length) }.ok_or_else(misplaced)?;
            output.copy_to(target)?;
        }
        Ok(executed)
    }
}

impl Backend for Onnx {
    type Run = Run;

    fn begin(&self) -> Result<Run, Error> {
        let mut options = ptr::null_mut();
        // SAFETY: the runtime writes a pointer that it made.
        value::checked(unsafe { (ort::api().CreateRunOptions)(&mut options) })?;
        Ok(Run(options))
    }

    fn stop(&self, run: &Run) {
        // SAFETY: the options live as long as `run`. The runtime looks at the flag before each node.
        // It cannot fail, and a run that goes on all the same is ended with the process.
        let _ = value::checked(unsafe { (ort::api().RunOptionsSetTerminate)(run.0) });
    }

    fn execute(&self, run: &Run, execute: &Execute) -> Result<Executed, Error> {
        let room = execute.room.unwrap_or_default();
        self.probe(run, execute);
        self.in_place(run, execute, room).map_or_else(|| self.copied(run, execute, room), Ok)
    }
}

/// One execution, as something that can be stopped.
pub(crate) struct Run(*mut OrtRunOptions);

// SAFETY: the only thing that another thread does with it is to raise its flag, for which the runtime made it.
unsafe impl Send for Run {}
// SAFETY: as above.
unsafe impl Sync for Run {}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: the runtime made it, and nobody else has it.
        unsafe { (ort::api().ReleaseRunOptions)(self.0) };
    }
}

fn misplaced() -> Error {
    Error::Run("the tensors are not where they were said to be".to_owned())
}
