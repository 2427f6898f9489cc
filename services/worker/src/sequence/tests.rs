mod config;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use weft_engine::{DataType, Engine, Inputs, Outputs, Port, Signature, Tensor};
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelMetadataRequest};
use weft_proto::weft::state::v1::ReplicaState;
use weft_runtime::{Call, Running};
use weft_telemetry::{Scope, TraceContext};
use weft_types::{Deadline, Reason, SystemClock};

use super::{FIELD, Sequences};
use crate::answer::{Asked, answer};
use crate::error::Failure;
use crate::fake::{Handle, World, fake};
use crate::grpc::tests::client;
use crate::infer::SequenceId;
use crate::replica::Replica;

const LONG: Duration = Duration::from_secs(60);

const CONFIG: &str = "
    sequence_batching {
      max_sequence_idle_microseconds: 3600000000
      control_input [
        { name: 'START' control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 10, 11 ] } },
        { name: 'END' control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0.5, 1.5 ] } },
        { name: 'READY' control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } },
        { name: 'ID' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
      ]
      state { input_name: 'STATE' output_name: 'NEXT' data_type: TYPE_INT64 dims: [ 1 ] }
    }";

/// A model whose state is what it was asked so far.
fn signature(max_batch_size: usize) -> Signature {
    let shape: &[i64] = if max_batch_size > 0 { &[-1, 1] } else { &[1] };
    let port = |(name, datatype)| Port::new(name, datatype, shape);
    let inputs = [
        ("START", DataType::Int32),
        ("STATE", DataType::Int64),
        ("INPUT", DataType::Uint8),
        ("END", DataType::Fp32),
        ("READY", DataType::Bool),
        ("ID", DataType::Uint64),
    ];
    Signature {
        platform: "test".into(),
        inputs: inputs.map(port).into(),
        outputs: [("NEXT", DataType::Int64), ("OUTPUT", DataType::Int64)].map(port).into(),
        max_batch_size,
        concurrency: 4,
    }
}

fn follow(state: i64, mark: u8) -> i64 {
    state * 31 + i64::from(mark)
}

/// What the model answers.
fn step(inputs: &Inputs) -> Outputs {
    let names: Vec<&str> = inputs.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["START", "STATE", "INPUT", "END", "READY", "ID"]);
    let state = inputs[1].elements::<i64>().and_then(|mut state| state.next()).expect("a number");
    let next = Tensor::of("NEXT", &inputs[2].shape, &[follow(state, inputs[2].data[0])]);
    let output = Tensor { name: "OUTPUT".into(), ..next.clone() };
    vec![next, output]
}

async fn serving_as(config: &str, signature: Signature) -> (World, Handle) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("identity/1")).expect("a folder");
    std::fs::write(folder.path().join("identity/1/model.onnx"), "").expect("a file");
    let config = format!("backend: 'onnxruntime' max_batch_size: {} {config}", signature.max_batch_size);
    std::fs::write(folder.path().join("identity/config.pbtxt"), config).expect("a file");
    let (engine, handle) = fake(signature);
    let engines = [("onnxruntime", engine as Arc<dyn Engine>)].into();
    let world = World::with_engines(engines, |options| options.models_dir = Some(folder.path().to_owned())).await;
    assert_eq!(world.worker.problems(), []);
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    (world, handle)
}

async fn serving(max_batch_size: usize) -> (World, Handle) {
    serving_as(CONFIG, signature(max_batch_size)).await
}

fn replica(world: &World) -> Arc<Replica> {
    world.worker.shared.find("", "identity", "").expect("ready")
}

fn sequences(world: &World) -> Arc<Sequences> {
    replica(world).stateful.clone().expect("the model carries state")
}

/// Answers every execution.
fn step_all(world: &World, mut handle: Handle) -> Running {
    world.tasks.attach(async move {
        loop {
            handle.next().await.answer(step);
        }
    })
}

/// A request of a sequence.
#[derive(Clone)]
struct Ask {
    id: Option<ParameterChoice>,
    mark: u8,
    is_start: bool,
    is_end: bool,
    timeout: Duration,
    input: &'static str,
}

fn ask(id: i64, mark: u8) -> Ask {
    let id = Some(ParameterChoice::Int64Param(id));
    Ask { id, mark, is_start: false, is_end: false, timeout: LONG, input: "INPUT" }
}

fn start(id: i64, mark: u8) -> Ask {
    Ask { is_start: true, ..ask(id, mark) }
}

fn end(id: i64, mark: u8) -> Ask {
    Ask { is_end: true, ..ask(id, mark) }
}

type Answer = Result<i64, Failure>;

/// Begins nothing until it is polled.
fn send(world: &World, ask: Ask) -> BoxFuture<'static, Answer> {
    let replica = replica(world);
    let received = SystemClock::now();
    let trace = TraceContext::new([1; 16], [1; 8], false).expect("not zero");
    let call = Call { deadline: Deadline::after(received, ask.timeout), received, trace };
    let parameters = [
        ("sequence_start", Some(ParameterChoice::BoolParam(ask.is_start))),
        ("sequence_end", Some(ParameterChoice::BoolParam(ask.is_end))),
        ("sequence_id", ask.id),
    ];
    let parameters = parameters.into_iter().filter_map(|(name, choice)| Some((name.to_owned(), Some(choice?))));
    let shape = vec![1; 1 + usize::from(replica.model.signature().max_batch_size > 0)];
    let (name, datatype) = (ask.input.to_owned(), "UINT8".to_owned());
    let request = ModelInferRequest {
        inputs: vec![InferInputTensor { name, datatype, shape, ..InferInputTensor::default() }],
        raw_input_contents: vec![vec![ask.mark].into()],
        parameters: parameters.map(|(name, parameter_choice)| (name, InferParameter { parameter_choice })).collect(),
        ..ModelInferRequest::default()
    };
    Box::pin(async move {
        let response =
            answer(replica, &Scope::disabled(), &call, Asked { tenant: 0, on_stream: false, request }).await?;
        let names: Vec<&str> = response.outputs.iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["OUTPUT"], "the state is not for callers");
        Ok(i64::from_le_bytes(response.raw_output_contents[0][..].try_into().expect("one number")))
    })
}

/// Sends, as far as it goes by itself.
fn sent(world: &World, ask: Ask) -> BoxFuture<'static, Answer> {
    let mut sent = send(world, ask);
    assert!(sent.as_mut().now_or_never().is_none(), "it was answered at once");
    sent
}

fn reason(answer: &Answer) -> Reason {
    match answer {
        Err(Failure::Weft(error)) => error.reason(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn is_unknown(answer: &Answer) -> bool {
    matches!(answer, Err(Failure::Weft(error)) if error.field() == Some(FIELD) && error.reason() == Reason::SequenceUnknown)
}

/// Asks, and steps the model once.
async fn go(world: &World, handle: &mut Handle, ask: Ask) -> Answer {
    let (answer, ()) = tokio::join!(send(world, ask), async { handle.next().await.answer(step) });
    answer
}

#[tokio::test]
async fn interleaved_sequences_are_answered_as_each_alone() {
    for max_batch_size in [0, 8] {
        let (world, handle) = serving(max_batch_size).await;
        let _stepping = step_all(&world, handle);
        let (mut asked, mut expected, mut states) = (Vec::new(), Vec::new(), [0; 5]);
        for at in 0..8u8 {
            for (id, state) in (1..).zip(&mut states) {
                // Each begins and ends at another time, and the third begins anew in the middle.
                let (mark, is_start) = (at * 7 + u8::try_from(id).expect("small"), at == 0 || (id == 3 && at == 4));
                *state = follow(if is_start { 0 } else { *state }, mark);
                asked.push(send(&world, Ask { is_start, is_end: at == 7, ..ask(id, mark) }));
                expected.push(*state);
            }
        }
        // All at once: those of one sequence are behind each other, in this order.
        let answers: Vec<i64> = join_all(asked).await.into_iter().map(|answer| answer.expect("answered")).collect();
        assert_eq!(answers, expected);
        assert!(sequences(&world).lines().is_empty(), "each has ended");
    }
}

#[tokio::test]
async fn sequences_share_an_execution_and_requests_of_one_never_do() {
    let (world, mut handle) = serving_as(CONFIG, Signature { concurrency: 1, ..signature(8) }).await;
    let first = sent(&world, start(1, 1));
    let running = handle.next().await;
    let others = [start(2, 2), ask(1, 3), start(3, 4), ask(2, 5)].map(|ask| sent(&world, ask));
    let marks = |inputs: &[Inputs]| inputs.iter().map(|inputs| inputs[2].data[0]).collect::<Vec<u8>>();
    running.answer(step);
    assert_eq!(first.await, Ok(1));
    let together = handle.next().await;
    assert_eq!(marks(&together.batch), [2, 4]);
    together.answer(step);
    let [two, one, three, again] = others;
    let stepping = async {
        assert_eq!((two.await, three.await), (Ok(2), Ok(4)));
        assert_eq!((one.await, again.await), (Ok(31 + 3), Ok(2 * 31 + 5)));
    };
    let _stepping = step_all(&world, handle);
    stepping.await;
}

#[tokio::test]
async fn the_order_is_that_of_arrival_whatever_is_more_urgent() {
    let (world, mut handle) = serving(0).await;
    let minutes = |ask: Ask, minutes| Ask { timeout: LONG * minutes, ..ask };
    let first = sent(&world, minutes(start(1, 1), 9));
    let rest = [minutes(ask(1, 2), 5), minutes(ask(1, 3), 2), minutes(end(1, 4), 1)].map(|ask| sent(&world, ask));
    handle.next().await.answer(step);
    let mut state = first.await.expect("answered");
    for (mark, answer) in (2..).zip(rest) {
        let (answer, ()) = tokio::join!(answer, async {
            let execution = handle.next().await;
            assert_eq!(execution.batch[0][2].data[..], [mark]);
            execution.answer(step);
        });
        state = follow(state, mark);
        assert_eq!(answer, Ok(state));
    }
}

#[tokio::test]
async fn what_fails_or_is_given_up_leaves_the_state_as_it_was() {
    let (world, mut handle) = serving(0).await;
    assert_eq!(go(&world, &mut handle, start(1, 1)).await, Ok(1));
    let (failed, ()) = tokio::join!(send(&world, ask(1, 2)), async { handle.next().await.fail() });
    assert_eq!(reason(&failed), Reason::ModelFailed);
    let running = sent(&world, ask(1, 3));
    let waiting = sent(&world, ask(1, 4));
    let late = Ask { timeout: Duration::from_millis(1), ..end(1, 5) };
    assert_eq!(reason(&send(&world, late).await), Reason::DeadlineInQueue);
    let execution = handle.next().await;
    drop((waiting, running));
    execution.dropped().await;
    // An end that failed ends nothing.
    let (failed, ()) = tokio::join!(send(&world, end(1, 6)), async { handle.next().await.panic() });
    assert_eq!(reason(&failed), Reason::ModelFailed);
    let wrong = send(&world, Ask { input: "STATE", ..ask(1, 7) }).await;
    assert!(matches!(&wrong, Err(Failure::Weft(error)) if error.field() == Some("inputs[0].name")), "{wrong:?}");
    // A state that is not of its shape is the model's fault, and is not taken.
    let misshapen = |inputs: &Inputs| {
        let mut outputs = step(inputs);
        outputs[0].shape = vec![1, 1];
        outputs
    };
    let (failed, ()) = tokio::join!(send(&world, ask(1, 8)), async { handle.next().await.answer(misshapen) });
    assert_eq!(reason(&failed), Reason::ModelFailed);
    assert_eq!(go(&world, &mut handle, end(1, 9)).await, Ok(31 + 9));
}

#[tokio::test]
async fn a_sequence_that_is_not_there_is_named() {
    let (world, mut handle) = serving(0).await;
    assert!(is_unknown(&send(&world, ask(1, 1)).await), "it never began");
    for id in [None, Some(ParameterChoice::Int64Param(0)), Some(ParameterChoice::StringParam(String::new()))] {
        let answer = send(&world, Ask { id, ..start(1, 1) }).await;
        assert!(matches!(&answer, Err(Failure::Weft(error)) if error.field() == Some(FIELD)), "{answer:?}");
    }
    // The model takes numbers.
    let text = send(&world, Ask { id: Some(ParameterChoice::StringParam("a".into())), ..start(1, 1) }).await;
    assert!(matches!(&text, Err(Failure::Weft(error)) if error.field() == Some(FIELD)), "{text:?}");
    assert_eq!(go(&world, &mut handle, start(1, 1)).await, Ok(1));
    // What waits behind the end comes too late.
    let ending = sent(&world, end(1, 2));
    let behind = sent(&world, ask(1, 3));
    handle.next().await.answer(step);
    assert_eq!(ending.await, Ok(31 + 2));
    assert!(is_unknown(&behind.await) && is_unknown(&send(&world, ask(1, 4)).await), "it has ended");
}

#[tokio::test]
async fn a_start_leaves_nothing_of_the_former_sequence() {
    let (world, mut handle) = serving(0).await;
    assert_eq!(go(&world, &mut handle, start(1, 1)).await, Ok(1));
    // What came before the start still belongs to the former one, and goes first.
    let former = sent(&world, ask(1, 2));
    let anew = sent(&world, start(1, 3));
    let next = sent(&world, ask(1, 4));
    let execution = handle.next().await;
    let replica = replica(&world);
    assert_eq!((replica.running(), replica.queue.len()), (1, 0), "the new one waits for the former");
    execution.answer(step);
    assert_eq!(former.await, Ok(31 + 2));
    let (anew, ()) = tokio::join!(anew, async { handle.next().await.answer(step) });
    let (next, ()) = tokio::join!(next, async { handle.next().await.answer(step) });
    assert_eq!((anew, next), (Ok(3), Ok(3 * 31 + 4)));
    // A start that fails has begun nothing, and brings nothing back.
    let (failing, behind) = (sent(&world, start(1, 5)), sent(&world, ask(1, 6)));
    handle.next().await.fail();
    assert_eq!(reason(&failing.await), Reason::ModelFailed);
    assert!(is_unknown(&behind.await) && is_unknown(&send(&world, ask(1, 7)).await));
    // Nor does one that is given up while it waits.
    assert_eq!(go(&world, &mut handle, start(1, 1)).await, Ok(1));
    let running = sent(&world, ask(1, 2));
    drop(sent(&world, start(1, 3)));
    handle.next().await.answer(step);
    assert_eq!(running.await, Ok(31 + 2));
    assert!(is_unknown(&send(&world, ask(1, 4)).await));
}

#[tokio::test]
async fn a_sequence_that_nobody_continues_is_dropped() {
    let (world, mut handle) = serving(0).await;
    for id in [1, 2] {
        assert_eq!(go(&world, &mut handle, start(id, 1)).await, Ok(1));
    }
    let (sequences, running) = (sequences(&world), sent(&world, ask(2, 2)));
    let id = SequenceId::Number(1);
    let idle = Duration::from_secs(3600);
    assert!(sequences.sweep(SystemClock::now()) && sequences.live(&id, SystemClock::now()).is_ok());
    let later = SystemClock::now() + idle + Duration::from_millis(1);
    assert!(sequences.live(&id, later).is_err(), "nothing has looked it over yet");
    assert!(sequences.sweep(later), "the other is in use");
    assert!(is_unknown(&send(&world, ask(1, 2)).await));
    handle.next().await.answer(step);
    assert_eq!(running.await, Ok(31 + 2));
    assert!(sequences.sweep(later - idle), "it was used just now");
    assert!(!sequences.sweep(later + idle));
    assert_eq!(sequences.places.available_permits(), sequences.limits.sequences);
    assert_eq!(sequences.state.available_permits(), sequences.limits.state_bytes);
}

#[tokio::test]
async fn state_does_not_outlive_its_time_nor_its_replica() {
    let short = CONFIG.replace("3600000000", "1");
    let (world, mut handle) = serving_as(&short, signature(0)).await;
    assert_eq!(go(&world, &mut handle, start(1, 1)).await, Ok(1));
    let held = sequences(&world);
    while !held.lines().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(held);
    let (world, mut handle) = serving(0).await;
    assert_eq!(go(&world, &mut handle, start(1, 1)).await, Ok(1));
    let held = Arc::downgrade(&sequences(&world));
    world.unplace("identity").await;
    world.gone("identity").await;
    while held.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn callers_see_neither_state_nor_controls() {
    let (world, _handle) = serving(0).await;
    let request = ModelMetadataRequest { name: "identity".into(), version: String::new() };
    let metadata = client(&world, LONG).model_metadata(request).await.expect("told").into_inner();
    let inputs: Vec<&str> = metadata.inputs.iter().map(|input| input.name.as_str()).collect();
    let outputs: Vec<&str> = metadata.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!((inputs, outputs), (vec!["INPUT"], vec!["OUTPUT"]));
}

#[tokio::test]
async fn controls_tell_where_a_request_stands() {
    let (world, mut handle) = serving(8).await;
    for (ask, expected) in [(start(-1, 1), (11, 0.5)), (ask(-1, 1), (10, 0.5)), (end(-1, 1), (10, 1.5))] {
        let (answer, ()) = tokio::join!(send(&world, ask), async {
            let execution = handle.next().await;
            let inputs = &execution.batch[0];
            let start = inputs[0].elements::<i32>().expect("of the type").collect::<Vec<_>>();
            let end = inputs[3].elements::<f32>().expect("of the type").collect::<Vec<_>>();
            assert_eq!((start, end), (vec![expected.0], vec![expected.1]));
            assert_eq!(inputs[4].data[..], [1], "ready");
            assert_eq!(inputs[5].elements::<u64>().expect("of the type").collect::<Vec<_>>(), [u64::MAX]);
            assert!(inputs.iter().all(|input| input.shape == [1, 1]));
            execution.answer(step);
        });
        assert!(answer.is_ok());
    }
}
