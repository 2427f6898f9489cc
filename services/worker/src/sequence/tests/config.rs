//! What becomes of a configuration at the load, and the bounds.

use bytes::Bytes;
use weft_proto::inference::model_config::SchedulingChoice;
use weft_proto::inference::model_sequence_batching::{InitialState, State};
use weft_proto::inference::{DataType as ConfigType, ModelConfig, ModelOutput, ModelSequenceBatching};
use weft_types::Result;

use super::super::{Limits, Turn};
use super::*;
use crate::face::Face;
use crate::infer::Sequence;

/// A model of one state and nothing else.
fn plain(state: &[i64]) -> Signature {
    let ports = |names: [&str; 2]| names.map(|name| Port::new(name, DataType::Uint8, state)).into();
    Signature { inputs: ports(["X", "IN"]), outputs: ports(["Y", "OUT"]), ..signature(0) }
}

fn config(dims: &[i64], initial: &[i64]) -> (ModelConfig, State) {
    let state = State {
        input_name: "IN".into(),
        output_name: "OUT".into(),
        data_type: ConfigType::TypeUint8.into(),
        dims: dims.to_vec(),
        initial_state: vec![InitialState { dims: initial.to_vec(), ..InitialState::default() }],
        ..State::default()
    };
    (with_state(state.clone()), state)
}

fn with_state(state: State) -> ModelConfig {
    let batching = ModelSequenceBatching { state: vec![state], ..ModelSequenceBatching::default() };
    ModelConfig { scheduling_choice: Some(SchedulingChoice::SequenceBatching(batching)), ..ModelConfig::default() }
}

const LIMITS: Limits = Limits { sequences: 2, state_bytes: 10, waiting: 2, waiting_bytes: 8 };

fn of(config: &ModelConfig, signature: &Signature) -> std::result::Result<Arc<Sequences>, String> {
    Sequences::of(config, signature, LIMITS).map(|sequences| sequences.expect("there are some"))
}

async fn enter(sequences: &Arc<Sequences>, id: u64, is_start: bool, bytes: usize) -> Result<Turn> {
    let sequence = Sequence { id: SequenceId::Number(id), is_start, is_end: false };
    let input = Tensor { data: vec![0; bytes].into(), ..Tensor::of("X", &[bytes], &[0u8]) };
    sequences.enter(Some(sequence), &[input], Deadline::after(SystemClock::now(), LONG)).await
}

fn outputs(state: &[u8]) -> Outputs {
    // A view of more than itself, as an engine's answers are.
    let whole = Bytes::from([state, &[9; 1000]].concat());
    let state = Tensor { data: whole.slice(..state.len()), ..Tensor::of("OUT", &[state.len()], state) };
    vec![Tensor::of("Y", &[1], &[7u8]), state]
}

#[test]
fn a_configuration_that_does_not_fit_the_model_is_told() {
    let fits = |dims: &[i64], initial: &[i64], model: &[i64]| of(&config(dims, initial).0, &plain(model)).is_ok();
    assert!(fits(&[2, 1, 3], &[], &[2, -1, 3]) && fits(&[-1], &[4], &[-1]) && fits(&[], &[], &[2, 2]));
    let of = |state: State, model: &Signature| of(&with_state(state), model).err().expect("it does not fit");
    let state = config(&[2], &[]).1;
    let cases = [
        (State { input_name: "NO".into(), ..state.clone() }, plain(&[2]), "an input NO that the model lacks"),
        (State { output_name: "NO".into(), ..state.clone() }, plain(&[2]), "an output NO that the model lacks"),
        (State { data_type: ConfigType::TypeFp32.into(), ..state.clone() }, plain(&[2]), "type of state IN"),
        (State { dims: vec![3], ..state.clone() }, plain(&[2]), "dims of state IN"),
        (State { dims: vec![2, 1], ..state }, plain(&[2]), "dims of state IN"),
        (config(&[2], &[3]).1, plain(&[2]), "dims of the initial state of IN"),
        (config(&[11], &[]).1, plain(&[11]), "the state of one sequence is larger than 10 bytes"),
        (config(&[i64::MAX, 9], &[]).1, plain(&[-1, -1]), "IN is too large"),
    ];
    for (state, model, expected) in cases {
        let problem = of(state, &model);
        assert!(problem.contains(expected), "{problem}, expected {expected}");
    }
}

#[test]
fn a_state_that_is_listed_as_an_output_is_shown() {
    let (mut config, _) = config(&[2], &[]);
    let shown = |config: &ModelConfig| -> Vec<String> {
        Face::new(config, &plain(&[2])).signature().outputs.iter().map(|port| port.name.clone()).collect()
    };
    assert_eq!(shown(&config), ["Y"]);
    config.output = ["Y", "OUT"].map(|name| ModelOutput { name: name.into(), ..ModelOutput::default() }).into();
    assert_eq!(shown(&config), ["Y", "OUT"]);
}

#[tokio::test]
async fn sequences_and_their_state_are_bounded() {
    let sequences = of(&config(&[-1], &[4]).0, &plain(&[-1])).expect("it fits");
    for id in [1, 2] {
        let turn = enter(&sequences, id, true, 1).await.expect("there is room");
        turn.commit(&outputs(&[1; 4])).expect("taken");
    }
    let refused = enter(&sequences, 3, true, 1).await.err().expect("both places are taken");
    assert_eq!(refused.reason(), Reason::QueueFull);
    // Ten bytes in all: the first may have six.
    let grow =
        async |bytes: usize| enter(&sequences, 1, false, 1).await.expect("live").commit(&outputs(&vec![2; bytes]));
    assert!(grow(6).await.is_ok());
    let Err(Failure::Weft(refused)) = grow(7).await else { panic!("there are eleven") };
    assert_eq!(refused.reason(), Reason::QueueFull);
    let turn = enter(&sequences, 1, false, 1).await.expect("live");
    let state = turn.complete(vec![]).expect("it has begun").remove(0);
    assert_eq!((&state.data[..], &state.shape[..], state.name.as_str()), (&[2; 6][..], &[6][..], "IN"));
    drop(turn);
    assert!(grow(1).await.is_ok());
    assert_eq!(sequences.state.available_permits(), 10 - 4 - 1, "what is not needed any more is given back");
    // A start in a live sequence's place takes its room.
    drop(enter(&sequences, 2, true, 1).await.expect("its own place"));
    assert_eq!((sequences.places.available_permits(), sequences.state.available_permits()), (1, 9));
}

#[tokio::test]
async fn a_state_keeps_nothing_else_in_memory() {
    let sequences = of(&config(&[4], &[]).0, &plain(&[4])).expect("it fits");
    let turn = enter(&sequences, 1, true, 1).await.expect("there is room");
    let outputs = outputs(&[3; 4]);
    let view = outputs[1].data.clone();
    turn.commit(&outputs).expect("taken");
    drop(outputs);
    assert!(view.is_unique(), "the state is a view of the whole answer");
}

#[tokio::test]
async fn requests_that_wait_for_their_turn_are_bounded() {
    let sequences = of(&config(&[4], &[]).0, &plain(&[4])).expect("it fits");
    let turn = enter(&sequences, 1, true, 1).await.expect("there is room");
    let waiting = |bytes| {
        let mut entering = Box::pin(enter(&sequences, 1, false, bytes));
        match entering.as_mut().now_or_never() {
            None => Ok(entering),
            Some(entered) => Err(entered.err().expect("it is not its turn").reason()),
        }
    };
    let one = waiting(6).expect("there is room");
    assert_eq!(waiting(3).err(), Some(Reason::QueueFull), "too many bytes");
    let two = waiting(2).expect("there is room");
    assert_eq!(waiting(0).err(), Some(Reason::QueueFull), "too many requests");
    drop(two);
    let three = waiting(1).expect("there is room again");
    drop((one, three));
    drop(waiting(1000).expect("alone, one of any size waits"));
    drop(turn);
    assert!(waiting(0).is_err_and(|reason| reason == Reason::SequenceUnknown), "it has not begun");
}
