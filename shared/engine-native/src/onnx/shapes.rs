//! What shapes come out for what shapes go in, so that outputs can be written where they are wanted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weft_engine::DataType;

use crate::protocol::TensorRef;

/// The most combinations that are remembered; beyond it all are forgotten.
const MAX_KNOWN: usize = 1024;

type Key = Vec<(u32, Vec<u64>)>;

/// What came of inputs of some shapes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    /// The outputs, with places that mean nothing.
    pub(super) outputs: Vec<TensorRef>,
    /// The shortest time that it took.
    pub(super) took: Duration,
}

/// What is known of a graph's outputs.
#[derive(Debug, Default)]
pub(super) struct Shapes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashMap<Key, Known>,
    /// An output's shape follows from values: nothing can be known beforehand.
    distrusted: bool,
    /// The bytes of the largest inputs so far, and the shortest time that these took.
    largest: Option<(u64, Duration)>,
}

impl Shapes {
    /// What has come out for inputs like these.
    pub(super) fn get(&self, inputs: &[TensorRef]) -> Option<Known> {
        self.state().known.get(&key(inputs)).cloned()
    }

    /// Remembers what came out. When the same shapes have given others before, nothing can be known: from then on the runtime's
    /// own buffers are copied. Texts are not written in place, since their length is not that of their shape.
    pub(super) fn learn(&self, inputs: &[TensorRef], outputs: &[TensorRef], took: Duration) {
        let mut state = self.state();
        state.saw(inputs, took);
        if state.distrusted || outputs.iter().any(|output| output.datatype == DataType::Bytes.as_str()) {
            return;
        }
        if state.known.len() >= MAX_KNOWN {
            state.known.clear();
        }
        let before = state.known.insert(key(inputs), Known { outputs: outputs.to_vec(), took });
        if before.is_some_and(|before| before.outputs != outputs) {
            *state = State { known: HashMap::new(), distrusted: true, ..*state };
        }
    }

    /// An execution of known shapes took so long: what is slow once, because others computed beside it, is not for ever.
    pub(super) fn took(&self, inputs: &[TensorRef], took: Duration) {
        let mut state = self.state();
        state.saw(inputs, took);
        if let Some(known) = state.known.get_mut(&key(inputs)) {
            known.took = known.took.min(took);
        }
    }

    /// How long inputs of shapes that are new may take: in proportion to the largest so far. `None` where nothing can be said, and where
    /// it is known.
    pub(super) fn guess(&self, inputs: &[TensorRef]) -> Option<Duration> {
        let state = self.state();
        let (most, took) = state.largest.filter(|_| !state.distrusted && !state.known.contains_key(&key(inputs)))?;
        Duration::try_from_secs_f64(took.as_secs_f64() * bytes(inputs) as f64 / most.max(1) as f64).ok()
    }

    /// A poisoned lock guards plain values that are whole at every step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn saw(&mut self, inputs: &[TensorRef], took: Duration) {
        let own = bytes(inputs);
        match &mut self.largest {
            Some((most, least)) if *most == own => *least = took.min(*least),
            Some((most, _)) if *most > own => {}
            largest => *largest = Some((own, took)),
        }
    }
}

fn bytes(inputs: &[TensorRef]) -> u64 {
    inputs.iter().map(|input| input.length).fold(0, u64::saturating_add)
}

fn key(inputs: &[TensorRef]) -> Key {
    inputs.iter().map(|input| (input.port, input.shape.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tensor(length: u64, shape: &[u64]) -> TensorRef {
        TensorRef { port: 0, datatype: "FP32".to_owned(), shape: shape.to_vec(), offset: 64 * length, length }
    }

    #[test]
    fn shapes_are_known_until_they_contradict_themselves() {
        let shapes = Shapes::default();
        let (two, three) = ([tensor(8, &[2])], [tensor(12, &[3])]);
        let output = |length| vec![TensorRef { offset: 0, ..tensor(length, &[length / 4]) }];
        assert_eq!(shapes.get(&two), None);
        shapes.learn(&two, &output(8), SECOND);
        shapes.learn(&three, &output(12), SECOND);
        shapes.learn(&two, &output(8), SECOND);
        let known = |shapes: &Shapes| shapes.get(&[TensorRef { offset: 4096, ..two[0].clone() }]);
        assert_eq!(known(&shapes), Some(Known { outputs: output(8), took: SECOND }), "a place counts");
        shapes.took(&two, SECOND / 2);
        shapes.took(&two, SECOND * 2);
        assert_eq!(known(&shapes), Some(Known { outputs: output(8), took: SECOND / 2 }));
        shapes.learn(&two, &output(4), SECOND);
        assert_eq!((shapes.get(&two), shapes.get(&three)), (None, None));
        shapes.learn(&two, &output(8), SECOND);
        assert_eq!(shapes.get(&two), None, "it was trusted again");
    }

    #[test]
    fn what_is_new_is_guessed_from_the_largest_so_far() {
        let shapes = Shapes::default();
        let (small, large, new) = ([tensor(40, &[10])], [tensor(400, &[100])], [tensor(800, &[200])]);
        assert_eq!(shapes.guess(&new), None, "nothing is known");
        shapes.learn(&large, &large, SECOND);
        shapes.learn(&small, &small, SECOND);
        assert_eq!(shapes.guess(&new), Some(2 * SECOND));
        shapes.took(&large, SECOND / 4);
        assert_eq!(shapes.guess(&new), Some(SECOND / 2));
        assert_eq!(shapes.guess(&small), None, "it is known");
    }

    #[test]
    fn texts_are_not_remembered_and_there_is_a_bound() {
        let shapes = Shapes::default();
        shapes.learn(&[tensor(4, &[1])], &[TensorRef { datatype: "BYTES".to_owned(), ..tensor(4, &[1]) }], SECOND);
        assert_eq!(shapes.get(&[tensor(4, &[1])]), None);
        for at in 0..3 * MAX_KNOWN as u64 {
            shapes.learn(&[tensor(4, &[at])], &[tensor(4, &[at])], SECOND);
            assert!(shapes.state().known.len() <= MAX_KNOWN);
        }
    }
}
