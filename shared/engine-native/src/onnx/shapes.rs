//! What shapes come out for what shapes go in, so that outputs can be written where they are wanted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_engine::DataType;

use crate::protocol::TensorRef;

/// The most combinations that are remembered; beyond it all are forgotten.
const MAX_KNOWN: usize = 1024;

type Key = Vec<(u32, Vec<u64>)>;

/// What is known of a graph's outputs.
#[derive(Debug, Default)]
pub(super) struct Shapes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<Key, Vec<TensorRef>>,
    /// An output's shape follows from values: nothing can be known beforehand.
    distrusted: bool,
}

impl Shapes {
    /// What has come out for inputs like these.
    pub(super) fn get(&self, inputs: &[TensorRef]) -> Option<Vec<TensorRef>> {
        self.state().known.get(&key(inputs)).cloned()
    }

    /// Remembers what came out. When the same shapes have given others before, nothing can be known: from then on the runtime's
    /// own buffers are copied. Texts are not written in place, since their length is not that of their shape.
    pub(super) fn learn(&self, inputs: &[TensorRef], outputs: &[TensorRef]) {
        let mut state = self.state();
        if state.distrusted || outputs.iter().any(|output| output.datatype == DataType::Bytes.as_str()) {
            return;
        }
        if state.known.len() >= MAX_KNOWN {
            state.known.clear();
        }
        let before = state.known.insert(key(inputs), outputs.to_vec());
        if before.is_some_and(|before| before != outputs) {
            *state = State { known: HashMap::new(), distrusted: true };
        }
    }

    /// A poisoned lock guards plain values that are whole at every step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(inputs: &[TensorRef]) -> Key {
    inputs.iter().map(|input| (input.port, input.shape.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(length: u64, shape: &[u64]) -> TensorRef {
        TensorRef { port: 0, datatype: "FP32".to_owned(), shape: shape.to_vec(), offset: 64 * length, length }
    }

    #[test]
    fn shapes_are_known_until_they_contradict_themselves() {
        let shapes = Shapes::default();
        let (two, three) = ([tensor(8, &[2])], [tensor(12, &[3])]);
        let output = |length| vec![TensorRef { offset: 0, ..tensor(length, &[length / 4]) }];
        assert_eq!(shapes.get(&two), None);
        shapes.learn(&two, &output(8));
        shapes.learn(&three, &output(12));
        shapes.learn(&two, &output(8));
        assert_eq!(shapes.get(&[TensorRef { offset: 4096, ..two[0].clone() }]), Some(output(8)), "a place counts");
        shapes.learn(&two, &output(4));
        assert_eq!((shapes.get(&two), shapes.get(&three)), (None, None));
        shapes.learn(&two, &output(8));
        assert_eq!(shapes.get(&two), None, "it was trusted again");
    }

    #[test]
    fn texts_are_not_remembered_and_there_is_a_bound() {
        let shapes = Shapes::default();
        shapes.learn(&[tensor(4, &[1])], &[TensorRef { datatype: "BYTES".to_owned(), ..tensor(4, &[1]) }]);
        assert_eq!(shapes.get(&[tensor(4, &[1])]), None);
        for at in 0..3 * MAX_KNOWN as u64 {
            shapes.learn(&[tensor(4, &[at])], &[tensor(4, &[at])]);
            assert!(shapes.state().known.len() <= MAX_KNOWN);
        }
    }
}
