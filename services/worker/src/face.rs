//! What callers see of a model: its inputs and outputs as the configuration has them, where it says something of them.
//!
//! As in Triton, a configuration that lists outputs gives out these and no others, and where there is a `reshape`, `dims` are the
//! shape that callers know and the other is the model's. The state of sequences is the worker's, and what it fills in for them.

use std::collections::BTreeMap;

use weft_engine::{Inputs, Outputs, Port, Signature, Tensor};
use weft_proto::inference::ModelConfig;
use weft_proto::inference::model_config::SchedulingChoice;
use weft_types::Result;

use crate::infer;

/// A model as callers see it.
pub(crate) struct Face {
    signature: Signature,
    /// Where each output that callers see stands among the model's, if not all are as they come.
    places: Option<Vec<usize>>,
    /// From what callers send to what the model takes, by the input's name.
    inputs: BTreeMap<String, Reshape>,
    /// From what the model gives to what callers get, by the output's name.
    outputs: BTreeMap<String, Reshape>,
}

impl Face {
    /// `signature` is the model's own, and agrees with the configuration.
    pub(crate) fn new(config: &ModelConfig, signature: &Signature) -> Self {
        let batches = signature.max_batch_size > 0;
        let reshaped = config.input.iter().filter_map(|input| Some((input, input.reshape.as_ref()?)));
        let inputs = reshaped.map(|(input, own)| (input.name.clone(), Reshape::new(batches, &input.dims, &own.shape)));
        let inputs: BTreeMap<String, Reshape> = inputs.collect();
        let reshaped = config.output.iter().filter_map(|output| Some((output, output.reshape.as_ref()?)));
        let outputs =
            reshaped.map(|(output, own)| (output.name.clone(), Reshape::new(batches, &own.shape, &output.dims)));
        let outputs: BTreeMap<String, Reshape> = outputs.collect();
        let is_shown = |port: &Port| match &config.output[..] {
            [] => !is_state(config, &port.name),
            listed => listed.iter().any(|output| output.name == port.name),
        };
        let all = signature.outputs.len();
        let shown = signature.outputs.iter().enumerate().filter(|(_, port)| is_shown(port));
        let places: Vec<usize> = shown.map(|(at, _)| at).collect();
        let taken = signature.inputs.iter().filter(|port| !is_filled_in(config, &port.name));
        let given = signature.outputs.iter().filter(|port| is_shown(port));
        let signature = Signature {
            inputs: taken
                .map(|port| seen(port, inputs.get(&port.name).map(|reshape| &reshape.from), batches))
                .collect(),
            outputs: given
                .map(|port| seen(port, outputs.get(&port.name).map(|reshape| &reshape.to), batches))
                .collect(),
            ..signature.clone()
        };
        Self { signature, places: (places.len() < all).then_some(places), inputs, outputs }
    }

    pub(crate) const fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Checks a caller's inputs and puts them as the model takes them.
    pub(crate) fn take(&self, tensors: Vec<Tensor>) -> Result<Inputs> {
        let mut inputs = self.signature.check(tensors)?;
        inputs.iter_mut().for_each(|tensor| reshape(&self.inputs, tensor));
        Ok(inputs)
    }

    /// Where the wanted outputs stand among the model's; `None` when all are wanted as they come.
    pub(crate) fn positions(&self, wanted: &[String]) -> Result<Option<Vec<usize>>> {
        let positions = infer::positions(wanted, &self.signature.outputs)?;
        Ok(match (positions, &self.places) {
            (positions, None) => positions,
            (None, Some(places)) => Some(places.clone()),
            (Some(positions), Some(places)) => {
                Some(positions.iter().filter_map(|at| places.get(*at).copied()).collect())
            }
        })
    }

    /// The model's outputs in the shapes that callers know.
    pub(crate) fn give(&self, mut outputs: Outputs) -> Outputs {
        outputs.iter_mut().for_each(|tensor| reshape(&self.outputs, tensor));
        outputs
    }
}

fn is_state(config: &ModelConfig, output: &str) -> bool {
    let Some(SchedulingChoice::SequenceBatching(batching)) = &config.scheduling_choice else { return false };
    batching.state.iter().any(|state| state.output_name == output)
}

fn is_filled_in(config: &ModelConfig, input: &str) -> bool {
    let Some(SchedulingChoice::SequenceBatching(batching)) = &config.scheduling_choice else { return false };
    let mut states = batching.state.iter().map(|state| &state.input_name);
    let mut controls = batching.control_input.iter().map(|control| &control.name);
    states.any(|name| name == input) || controls.any(|name| name == input)
}

/// A port with the dims that callers know it by.
fn seen(port: &Port, dims: Option<&Vec<i64>>, batches: bool) -> Port {
    let Some(dims) = dims else { return port.clone() };
    let rows = port.shape.as_ref().and_then(|shape| shape.first().copied()).unwrap_or(-1);
    let shape = batches.then_some(rows).into_iter().chain(dims.iter().copied()).collect();
    Port { shape: Some(shape), ..port.clone() }
}

fn reshape(reshapes: &BTreeMap<String, Reshape>, tensor: &mut Tensor) {
    if let Some(shape) = reshapes.get(&tensor.name).and_then(|reshape| reshape.apply(&tensor.shape)) {
        tensor.shape = shape;
    }
}

/// From one shape to another of as many elements, both without the batch axis; free axes keep their order and their sizes.
struct Reshape {
    batches: bool,
    from: Vec<i64>,
    to: Vec<i64>,
}

impl Reshape {
    fn new(batches: bool, from: &[i64], to: &[i64]) -> Self {
        Self { batches, from: from.to_vec(), to: to.to_vec() }
    }

    /// `None` for a shape that is not the one expected: of an output that the model gives as it likes.
    fn apply(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let (batch, own) = shape.split_at_checked(usize::from(self.batches))?;
        let fits = |(axis, size): (&i64, &usize)| *axis < 0 || usize::try_from(*axis) == Ok(*size);
        if own.len() != self.from.len() || !self.from.iter().zip(own).all(fits) {
            return None;
        }
        let mut free = self.from.iter().zip(own).filter(|(axis, _)| **axis < 0).map(|(_, size)| *size);
        let sizes = self.to.iter().map(|axis| usize::try_from(*axis).ok().or_else(|| free.next()));
        batch.iter().map(|rows| Some(*rows)).chain(sizes).collect()
    }
}

#[cfg(test)]
mod tests;
