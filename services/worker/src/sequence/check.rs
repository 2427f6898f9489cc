//! What a configuration may ask for.

use std::collections::BTreeSet;

use weft_proto::inference::model_sequence_batching::control::Kind;
use weft_proto::inference::model_sequence_batching::initial_state::StateData;
use weft_proto::inference::{ModelConfig, ModelSequenceBatching};

use super::control::{flags, id_type};

/// Every mistake is told by the name of its field.
pub(crate) fn check(config: &ModelConfig, batching: &ModelSequenceBatching, problems: &mut Vec<String>) {
    let mut problem = |field: &str, text: &str| problems.push(format!("sequence_batching.{field}: {text}"));
    if batching.iterative_sequence {
        problem("iterative_sequence", "is not offered");
    }
    let (states, controls) = (&batching.state, &batching.control_input);
    let own =
        states.iter().map(|state| state.input_name.as_str()).chain(controls.iter().map(|input| input.name.as_str()));
    let own: Vec<&str> = own.collect();
    let inputs: BTreeSet<&str> = own.iter().copied().collect();
    let outputs: BTreeSet<&str> = states.iter().map(|state| state.output_name.as_str()).collect();
    if inputs.len() != own.len() || outputs.len() != states.len() {
        problem("state", "an input or output is named twice");
    }
    if config.input.iter().any(|input| inputs.contains(input.name.as_str())) {
        problem("state", "what the worker fills in cannot be listed under input");
    }
    let initial = || states.iter().flat_map(|state| &state.initial_state);
    if states.iter().any(|state| state.initial_state.len() > 1) {
        problem("state.initial_state", "expected at most one");
    }
    if initial().any(|initial| matches!(initial.state_data, Some(StateData::DataFile(_)))) {
        problem("state.initial_state.data_file", "is not offered: sequences begin with zeros");
    }
    if initial().any(|initial| initial.dims.iter().any(|axis| *axis < 0)) {
        problem("state.initial_state.dims", "expected sizes");
    }
    let mut kinds = BTreeSet::new();
    for input in controls {
        let [control] = &input.control[..] else {
            problem("control_input.control", "expected one for each input");
            continue;
        };
        let is_whole = match control.kind() {
            Kind::ControlSequenceCorrid => id_type(control).is_some(),
            _ => flags(control, &input.name, &[1]).is_some(),
        };
        if !is_whole {
            problem("control_input.control", "expected a type for CORRID, and two values of one type for the others");
        }
        if !kinds.insert(control.kind) {
            problem("control_input.control.kind", "is there twice");
        }
    }
}
