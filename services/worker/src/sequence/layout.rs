//! Which of a model's inputs and outputs are its state, and which are the worker's to fill in.

use bytes::Bytes;
use weft_engine::{DataType, Inputs, Port, Signature, Tensor};
use weft_proto::inference::model_sequence_batching::State as Declared;
use weft_proto::inference::{DataType as ConfigType, ModelSequenceBatching};
use weft_types::{Error, Reason, Result};

use super::control::Control;
use crate::converge::datatype_of;
use crate::error::{Failure, presentable};
use crate::infer::{Sequence, SequenceId};

/// What the worker adds to a request and keeps of an answer.
#[derive(Debug)]
pub(super) struct Layout {
    states: Vec<State>,
    controls: Vec<Control>,
    batches: bool,
    /// All inputs, in the model's order.
    inputs: Vec<String>,
}

/// A tensor that goes from one execution to the next.
#[derive(Debug)]
struct State {
    input: String,
    /// Where the next one stands among the outputs.
    output: usize,
    /// With the batch axis, if there is one; below zero where it is free.
    shape: Vec<i64>,
    initial: Tensor,
}

impl Layout {
    /// The text of a failure is safe to show.
    pub(super) fn new(batching: &ModelSequenceBatching, signature: &Signature) -> std::result::Result<Self, String> {
        let batches = signature.max_batch_size > 0;
        let states = batching.state.iter().map(|state| State::new(state, signature, batches));
        let states = states.collect::<std::result::Result<Vec<_>, String>>()?;
        let controls = batching
            .control_input
            .iter()
            .map(|input| Control::new(input, port("input", &input.name, &signature.inputs)?.1, batches));
        let controls = controls.collect::<std::result::Result<Vec<_>, String>>()?;
        let inputs = signature.inputs.iter().map(|port| port.name.clone()).collect();
        Ok(Self { states, controls, batches, inputs })
    }

    /// What a sequence begins with.
    pub(super) fn initial(&self) -> Vec<Tensor> {
        self.states.iter().map(|state| state.initial.clone()).collect()
    }

    pub(super) fn initial_bytes(&self) -> usize {
        self.states.iter().map(|state| state.initial.data.len()).sum()
    }

    /// What would not fit the model, before the request waits for anything.
    pub(super) fn check(&self, id: &SequenceId, inputs: &[Tensor]) -> Result<()> {
        self.controls.iter().try_for_each(|control| control.check(id))?;
        let many = inputs.iter().position(|tensor| self.batches && tensor.rows() != 1);
        match many {
            Some(at) => Err(Error::invalid(format!("inputs[{at}].shape"), "a request of a sequence has one row")),
            None => Ok(()),
        }
    }

    /// All inputs of the model, in its order.
    pub(super) fn complete(&self, sequence: &Sequence, inputs: Inputs, state: Vec<Tensor>) -> Result<Inputs> {
        let mut all = inputs;
        all.extend(state);
        for control in &self.controls {
            all.push(control.tensor(sequence)?);
        }
        all.sort_by_key(|tensor| self.inputs.iter().position(|name| *name == tensor.name));
        Ok(all)
    }

    /// The state that the next request takes.
    pub(super) fn next(&self, outputs: &[Tensor]) -> std::result::Result<Vec<Tensor>, Failure> {
        Ok(self.states.iter().map(|state| state.next(outputs)).collect::<Result<_>>()?)
    }
}

impl State {
    fn new(declared: &Declared, signature: &Signature, batches: bool) -> std::result::Result<Self, String> {
        let (_, input) = port("input", &declared.input_name, &signature.inputs)?;
        let (at, output) = port("output", &declared.output_name, &signature.outputs)?;
        let name = presentable(&input.name);
        let datatype = match declared.data_type() {
            ConfigType::TypeInvalid => input.datatype,
            declared => datatype_of(declared),
        };
        let datatype = datatype.ok_or_else(|| format!("the configuration gives state {name} no type"))?;
        let batch = |axis| batches.then_some(axis).into_iter();
        let shape: Vec<i64> = match (&declared.dims[..], &input.shape) {
            ([], Some(shape)) => shape.clone(),
            (dims, _) => batch(-1).chain(dims.iter().copied()).collect(),
        };
        for port in [input, output] {
            if port.datatype.is_some_and(|own| own != datatype) {
                return Err(format!("the configuration's type of state {name} is not the model's"));
            }
            if port.shape.as_ref().is_some_and(|own| !agree(own, &shape)) {
                return Err(format!("the configuration's dims of state {name} are not the model's"));
            }
        }
        // An axis that is left open begins with one, as in Triton; the first request of a sequence has one row.
        let own = declared.initial_state.first().map(|initial| initial.dims.as_slice()).filter(|dims| !dims.is_empty());
        let first: Vec<i64> = match own {
            Some(dims) => batch(1).chain(dims.iter().copied()).collect(),
            None => shape.iter().map(|axis| if *axis < 0 { 1 } else { *axis }).collect(),
        };
        if !agree(&first, &shape) {
            return Err(format!("the dims of the initial state of {name} are not the state's"));
        }
        let initial = zeros(&input.name, datatype, &first).ok_or_else(|| format!("the state {name} is too large"))?;
        Ok(Self { input: input.name.clone(), output: at, shape, initial })
    }

    /// The state that an execution has left. It is copied: what an engine gives out is a view of the whole answer, of the whole
    /// batch even, and would keep all of it in memory for as long as the sequence lives.
    fn next(&self, outputs: &[Tensor]) -> Result<Tensor> {
        let output = outputs.get(self.output).filter(|output| {
            let shape: Vec<i64> = output.shape.iter().map(|axis| i64::try_from(*axis).unwrap_or(i64::MAX)).collect();
            output.datatype == self.initial.datatype && agree(&shape, &self.shape)
        });
        let output =
            output.ok_or_else(|| Error::new(Reason::ModelFailed, "the model's next state is not of its shape"))?;
        Ok(Tensor { name: self.input.clone(), data: Bytes::copy_from_slice(&output.data), ..output.clone() })
    }
}

/// An input or output that the configuration names.
fn port<'a>(side: &str, name: &str, ports: &'a [Port]) -> std::result::Result<(usize, &'a Port), String> {
    let found = ports.iter().enumerate().find(|(_, port)| port.name == name);
    found.ok_or_else(|| {
        format!("the configuration's sequences need an {side} {} that the model lacks", presentable(name))
    })
}

/// Whether two shapes can be the same.
fn agree(one: &[i64], other: &[i64]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one == other || *one < 0 || *other < 0)
}

fn zeros(name: &str, datatype: DataType, shape: &[i64]) -> Option<Tensor> {
    let shape = shape.iter().map(|axis| usize::try_from(*axis).ok()).collect::<Option<Vec<_>>>()?;
    // An empty text is its length alone, which is zero.
    let size = datatype.size().unwrap_or(4);
    let bytes = shape.iter().try_fold(size, |product, axis| product.checked_mul(*axis));
    let bytes = bytes.filter(|bytes| *bytes <= super::Limits::STATE_BYTES)?;
    Some(Tensor { name: name.to_owned(), datatype, shape, data: vec![0; bytes].into() })
}
