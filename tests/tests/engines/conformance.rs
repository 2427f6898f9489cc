//! What the worker relies on, whatever runs the model.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use weft_engine::{
    Batch, Builtin, DataType, Engine, Error, Inputs, Model, Outputs, Source, Spec, Tensor, Tract, digits,
};
use weft_engine_native::HostOptions;
use weft_tests::graphs;

use crate::{cpu_ticks, host, load, options, run, spec, until};

/// What the suite must be told about an engine.
struct Subject {
    engine: Arc<dyn Engine>,
    /// A model that answers, and requests for it.
    spec: Spec,
    requests: Vec<Inputs>,
    /// A model and a request that run until they are stopped, or at least for minutes.
    endless: (Spec, Inputs),
    /// Executions that still compute or wait.
    running: Box<dyn Fn() -> usize>,
    /// Whether the endless execution has been seen to make progress.
    progressed: Box<dyn Fn() -> bool>,
    /// Whether it has come to its end after all.
    ended: Box<dyn Fn() -> bool>,
    /// A model that cannot be loaded.
    broken: Spec,
    /// A model and a request that fails in it.
    failing: (Spec, Inputs),
}

pub(crate) fn digits_spec() -> Spec {
    spec("digits", Source::Bytes(Bytes::from_static(digits::MODEL)), digits::MAX_BATCH_SIZE)
}

pub(crate) fn digits_request(start: usize, rows: usize) -> Inputs {
    let images: Vec<_> = digits::heldout().skip(start).take(rows).flat_map(|image| image.input()).collect();
    vec![Tensor::of("PIXELS", &[rows, 64], &images)]
}

pub(crate) fn endless(side: usize) -> (Spec, Inputs) {
    let spec = spec("endless", Source::Bytes(graphs::endless(side)), 0);
    (spec, vec![Tensor::of("X", &[side; 2], &vec![0f32; side * side])])
}

fn builtin() -> Subject {
    let engine = Builtin::new();
    let (counted, begun) = (engine.clone(), engine.clone());
    let text = |texts: &[&str]| vec![Tensor { name: "INPUT".to_owned(), ..Tensor::of_bytes("INPUT", texts) }];
    Subject {
        engine: Arc::new(engine),
        spec: spec("identity", Source::Builtin, 0),
        requests: vec![
            text(&["one", ""]),
            vec![Tensor::of("INPUT", &[0, 7], &[0f64; 0])],
            vec![Tensor::of("INPUT", &[], &[7i16])],
            vec![Tensor::of("INPUT", &[2, 2], &[1u64, 2, 3, 4])],
        ],
        endless: (spec("sleep", Source::Builtin, 0), vec![Tensor::of("MILLISECONDS", &[1], &[u32::MAX])]),
        running: Box::new(move || counted.running()),
        progressed: Box::new(move || begun.running() > 0),
        ended: Box::new(|| false),
        broken: spec("nonsense", Source::Builtin, 0),
        failing: (spec("fail", Source::Builtin, 0), vec![Tensor::of_bytes("MESSAGE", &["told to"])]),
    }
}

fn tract() -> Subject {
    let engine = Tract::new();
    let (counted, stepped, ended) = (engine.clone(), engine.clone(), engine.clone());
    Subject {
        engine: Arc::new(engine),
        spec: digits_spec(),
        requests: (0..40).map(|at| digits_request(at * 9, 1 + at % 9)).collect(),
        // More than a minute of work for a processor of our day.
        endless: endless(1024),
        running: Box::new(move || counted.running()),
        progressed: Box::new(move || stepped.steps() > 3),
        ended: Box::new(move || ended.steps() >= graphs::PRODUCTS),
        broken: spec("broken", Source::Bytes(Bytes::from_static(b"not a graph")), 0),
        failing: (spec("pick", Source::Bytes(graphs::pick()), 8), vec![Tensor::of("INDEX", &[1, 1], &[99i64])]),
    }
}

/// The same models as tract's, each in a process of its own.
fn hosted(engine: &'static str) -> Subject {
    let host = host(HostOptions { cancel_grace: Duration::from_secs(30), ..options() });
    let (held, begun) = (host.clone(), host.clone());
    Subject {
        engine: host.engine(engine),
        // Buffers are held until the process says that it has stopped.
        running: Box::new(move || usize::from(held.statistics().in_use > 0)),
        progressed: Box::new(move || begun.processes().iter().any(|process| cpu_ticks(process.pid) > 20)),
        // One that does not stop is ended together with its process, which the suite sees.
        ended: Box::new(|| false),
        // So much work that the process would be ended before the work is.
        endless: endless(2048),
        ..tract()
    }
}

fn subjects() -> [Subject; 4] {
    [builtin(), tract(), hosted("tract"), hosted("onnxruntime")]
}

/// Engines that run ONNX graphs.
fn graph_engines() -> [Arc<dyn Engine>; 3] {
    let host = host(options());
    [Arc::new(Tract::new()), host.engine("tract"), host.engine("onnxruntime")]
}

/// The answers to requests executed in batches of these sizes; the last takes the rest.
pub(crate) fn answers(model: &dyn Model, requests: &[Inputs], batches: &[usize]) -> Vec<Outputs> {
    let mut rest = requests.to_vec();
    let mut answers = Vec::new();
    for size in batches.iter().copied().chain([requests.len()]) {
        let later = rest.split_off(size.min(rest.len()));
        let batch = std::mem::replace(&mut rest, later);
        answers.extend(run(model.execute(batch.into())).unwrap().into_iter().map(|answer| answer.unwrap()));
    }
    answers
}

fn assert_same(left: &[Outputs], right: &[Outputs], context: &str) {
    assert_eq!(left.len(), right.len(), "{context}");
    for (left, right) in left.iter().flatten().zip(right.iter().flatten()) {
        assert_eq!((&left.name, left.datatype, &left.shape), (&right.name, right.datatype, &right.shape), "{context}");
        match (left.elements::<f32>(), right.elements::<f32>()) {
            (Some(left), Some(right)) => {
                let furthest = left.zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
                assert!(furthest <= 1e-6, "{context}: an answer differs by {furthest}");
            }
            _ => assert_eq!(left.data, right.data, "{context}"),
        }
    }
}

#[test]
fn answers_every_request_by_its_signature() {
    for subject in subjects() {
        let name = subject.engine.name();
        let model = load(&*subject.engine, &subject.spec);
        run(model.warm()).unwrap();
        let signature = model.signature();
        assert!(signature.concurrency > 0, "{name}");
        for request in &subject.requests {
            assert_eq!(signature.check(request.clone()).as_ref(), Ok(request), "{name}");
        }
        for outputs in answers(&*model, &subject.requests, &[]) {
            let names: Vec<_> = outputs.iter().map(|output| &output.name).collect();
            assert_eq!(names, signature.outputs.iter().map(|port| &port.name).collect::<Vec<_>>(), "{name}");
            for (output, port) in outputs.iter().zip(&signature.outputs) {
                assert!(port.datatype.is_none_or(|datatype| datatype == output.datatype), "{name}");
                let elements: usize = output.shape.iter().product();
                assert!(output.datatype.size().is_none_or(|size| size * elements == output.data.len()), "{name}");
            }
        }
    }
}

#[test]
fn batching_changes_no_answer() {
    for subject in subjects() {
        let model = load(&*subject.engine, &subject.spec);
        let alone = answers(&*model, &subject.requests, &vec![1; subject.requests.len()]);
        let mut seed = 7u64;
        for _ in 0..20 {
            let mut split = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as usize % 12
            };
            let batches: Vec<_> = (0..subject.requests.len()).map(|_| split()).collect();
            let together = answers(&*model, &subject.requests, &batches);
            assert_same(&alone, &together, &format!("{} in {batches:?}", subject.engine.name()));
        }
    }
}

#[test]
fn dropping_an_execution_stops_it() {
    for subject in subjects() {
        let name = subject.engine.name();
        let model = load(&*subject.engine, &subject.endless.0);
        assert_eq!((subject.running)(), 0, "{name}");
        run(async {
            let (batch, stopped) = Batch::watched(vec![subject.endless.1.clone()]);
            let execution = model.execute(batch);
            tokio::select! {
                answer = execution => panic!("{name} answered: {answer:?}"),
                () = until(|| (subject.progressed)()) => {}
            }
            stopped.wait().await;
            until(|| (subject.running)() == 0).await;
            assert!(!(subject.ended)(), "{name} went on to the end");
            assert_eq!(futures_util::poll!(model.lost()), Poll::Pending, "{name} was not stopped but ended");
        });
    }
}

#[test]
fn dropping_the_last_handle_unloads() {
    for subject in subjects() {
        let model = load(&*subject.engine, &subject.spec);
        let gone = Arc::downgrade(&model);
        answers(&*model, &subject.requests, &[]);
        drop(model);
        assert_eq!(gone.strong_count(), 0, "{} keeps its model", subject.engine.name());
    }
}

#[test]
fn a_broken_model_is_refused() {
    for subject in subjects() {
        let refusal = run(subject.engine.load(&subject.broken)).map(|_| "it was loaded");
        assert!(matches!(refusal, Err(Error::Load(_))), "{}: {refusal:?}", subject.engine.name());
    }
}

#[test]
fn a_failing_request_fails_alone() {
    for subject in subjects() {
        let name = subject.engine.name();
        let model = load(&*subject.engine, &subject.failing.0);
        let good = name != "builtin";
        let mut batch = vec![subject.failing.1.clone(); 2];
        if good {
            batch.push(vec![Tensor::of("INDEX", &[2, 1], &[1i64, 3])]);
        }
        let answers = run(model.execute(batch.into())).unwrap();
        assert!(answers[..2].iter().all(|answer| matches!(answer, Err(Error::Run(_)))), "{name}: {answers:?}");
        if good {
            let answer: Vec<f32> = answers[2].as_ref().unwrap()[0].elements().unwrap().collect();
            assert_eq!(answer, [10.0, 30.0]);
        }
    }
}

#[test]
fn identity_copies_nothing() {
    let model = load(&Builtin::new(), &spec("identity", Source::Builtin, 0));
    let input = Tensor::of("INPUT", &[3], &[1u8, 2, 3]);
    let answer = answers(&*model, &[vec![input.clone()]], &[]);
    assert_eq!(answer[0][0].data.as_ptr(), input.data.as_ptr());
}

#[test]
fn fail_says_what_it_was_told() {
    let model = load(&Builtin::new(), &spec("fail", Source::Builtin, 0));
    let told =
        |code: Tensor| vec![Tensor::of_bytes("MESSAGE", &["no luck"]), Tensor { name: "CODE".to_owned(), ..code }];
    let cases = [
        (told(Tensor::of("", &[1], &[14i32])), Some(14)),
        (told(Tensor::of("", &[1], &[7u32])), Some(7)),
        (told(Tensor::of("", &[1], &[0i32])), None),
        (told(Tensor::of("", &[1], &[99u32])), None),
        (told(Tensor::of("", &[1], &[1.0f32])), None),
    ];
    for (inputs, expected) in cases {
        let inputs = model.signature().check(inputs).unwrap();
        match run(model.execute(vec![inputs].into())).unwrap().remove(0) {
            Err(Error::Status { code, message }) => assert_eq!((Some(code), message.as_str()), (expected, "no luck")),
            Err(Error::Input { field, .. }) => assert_eq!((None, field.as_str()), (expected, "CODE")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn sleep_answers_how_long_it_slept() {
    let model = load(&Builtin::new(), &spec("sleep", Source::Builtin, 0));
    let answer = answers(&*model, &[vec![Tensor::of("MILLISECONDS", &[1], &[3u32])]], &[]);
    assert_eq!(answer[0], [Tensor::of("SLEPT_MS", &[1], &[3u32])]);
}

#[test]
fn digits_are_read_as_the_reference_reads_them() {
    for engine in graph_engines() {
        read_digits(&*engine);
    }
}

fn read_digits(engine: &dyn Engine) {
    let model = load(engine, &digits_spec());
    let answer = answers(&*model, &[digits_request(0, 360)], &[]);
    let labels: Vec<i64> = answer[0][1].elements().unwrap().collect();
    let reference: Vec<i64> = digits::heldout().map(|image| i64::from(image.reference)).collect();
    assert_eq!(labels, reference);
    let right = digits::heldout().zip(&labels).filter(|(image, label)| i64::from(image.label) == **label).count();
    assert!(right * 100 >= 360 * 97, "only {right} of 360 are right");
}

#[test]
fn no_rows_give_no_rows() {
    for engine in graph_engines() {
        no_rows(&*engine);
    }
}

fn no_rows(engine: &dyn Engine) {
    let model = load(engine, &digits_spec());
    let answer = answers(&*model, &[digits_request(0, 0), digits_request(0, 1)], &[]);
    assert_eq!((answer[0][0].shape.as_slice(), answer[0][1].shape.as_slice()), (&[0, 10][..], &[0][..]));
    assert_eq!(answer[1][0].shape, [1, 10]);
    let alone = answers(&*model, &[digits_request(0, 0)], &[]);
    assert_eq!((alone[0][0].shape.as_slice(), alone[0][0].data.len()), (&[0, 10][..], 0));
}

#[test]
fn damaged_files_are_refused_and_nothing_more() {
    damaged(&Tract::new(), 300);
    // A process for each takes longer.
    damaged(&*host(options()).engine("onnxruntime"), 20);
}

fn damaged(engine: &dyn Engine, files: usize) {
    let load = |bytes: Vec<u8>| run(engine.load(&spec("x", Source::Bytes(bytes.into()), 8))).map(|_| ());
    assert_eq!(load(digits::MODEL.to_vec()).map_err(|error| error.to_string()), Ok(()));
    for keep in (0..digits::MODEL.len()).step_by(997) {
        assert!(matches!(load(digits::MODEL[..keep].to_vec()), Err(Error::Load(_))), "the first {keep} bytes");
    }
    let mut seed = 1u64;
    for _ in 0..files {
        let mut bytes = digits::MODEL.to_vec();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Weights fill most of the file; its structure is in the parts before and after each.
            let at = (seed >> 33) as usize % bytes.len();
            let at = if seed & 1 == 0 { at % 400 } else { at };
            bytes[at] ^= (seed >> 20) as u8;
        }
        // Some still load, with other weights; what matters is that the process is there to say so.
        if let Err(error) = load(bytes) {
            assert!(matches!(error, Error::Load(_)), "{error:?}");
        }
    }
}

#[test]
fn graphs_that_cannot_be_served_are_refused() {
    for engine in graph_engines() {
        refuses(&*engine);
    }
}

fn refuses(engine: &dyn Engine) {
    for (bytes, max_batch_size, problem) in graphs::refused() {
        let refusal = run(engine.load(&spec("x", Source::Bytes(bytes), max_batch_size))).map(|_| "it was loaded");
        let Err(Error::Load(text)) = refusal else { panic!("expected '{problem}', got {refusal:?}") };
        assert!(text.to_lowercase().contains(&problem.to_lowercase()), "expected '{problem}', got '{text}'");
        assert!(!text.contains('/'), "a path is shown: {text}");
    }
    let file = Source::File("does/not/exist".into());
    let refusal = run(engine.load(&spec("x", file, 0))).map(|_| "it was loaded");
    let Err(Error::Load(text)) = refusal else { panic!("{refusal:?}") };
    assert!(!text.contains("exist"), "the path is shown: {text}");
}

#[test]
fn elements_are_cast() {
    for engine in graph_engines() {
        casts(&*engine);
    }
}

fn casts(engine: &dyn Engine) {
    for (input, output) in graphs::casts() {
        let source = Source::Bytes(graphs::cast(input.datatype, output.datatype));
        for max_batch_size in [0, 4] {
            let model = load(engine, &spec("cast", source.clone(), max_batch_size));
            run(model.warm()).unwrap();
            let answer = answers(&*model, &[vec![input.clone()]], &[]);
            assert_eq!(answer[0], std::slice::from_ref(&output), "max_batch_size {max_batch_size}");
        }
    }
}

#[test]
fn other_axes_may_be_free() {
    for engine in graph_engines() {
        free_axes(&*engine);
    }
}

fn free_axes(engine: &dyn Engine) {
    let model = load(engine, &spec("double", Source::Bytes(graphs::double()), 4));
    run(model.warm()).unwrap();
    let request = |rows: usize, width: usize| {
        let elements: Vec<f32> = (0..rows * width).map(|at| at as f32).collect();
        vec![Tensor::of("X", &[rows, width], &elements)]
    };
    let requests: Vec<_> =
        [(1, 3), (2, 5), (3, 3), (1, 0), (0, 4), (2, 3)].map(|(rows, width)| request(rows, width)).into();
    let answers = answers(&*model, &requests, &[]);
    for (request, answer) in requests.iter().zip(&answers) {
        let doubled: Vec<f32> = request[0].elements::<f32>().unwrap().map(|element| element * 2.0).collect();
        assert_eq!(answer[0], Tensor::of("Y", &request[0].shape, &doubled));
    }
    let hollow = vec![Tensor::of("X", &[0, 1 << 40], &[0f32; 0])];
    let refusal = run(model.execute(vec![hollow].into())).unwrap().remove(0);
    assert!(matches!(refusal, Err(Error::Input { .. })), "{refusal:?}");
}

#[test]
fn every_element_type_goes_through_onnxruntime() {
    let engine = host(options()).engine("onnxruntime");
    let sizes = [DataType::Bool, DataType::Uint8, DataType::Uint16, DataType::Uint32, DataType::Uint64, DataType::Int8];
    let more = [DataType::Int16, DataType::Int32, DataType::Int64, DataType::Fp16, DataType::Bf16, DataType::Fp32];
    for datatype in sizes.into_iter().chain(more).chain([DataType::Fp64, DataType::Bytes]) {
        let model = load(&*engine, &spec("same", Source::Bytes(graphs::identity(datatype)), 8));
        let request = |rows: usize| {
            let tensor = match datatype.size() {
                None => Tensor::of_bytes("X", &(0..rows).map(|at| vec![at as u8; at]).collect::<Vec<_>>()),
                Some(size) => {
                    let bytes = (0..rows * size).map(|at| if datatype == DataType::Bool { 1 } else { 3 * at as u8 });
                    Tensor { data: bytes.collect::<Vec<_>>().into(), ..Tensor::of("X", &[rows], &[0u8; 0]) }
                }
            };
            vec![Tensor { datatype, ..tensor }]
        };
        // Twice: the second time the runtime knows where its outputs go.
        for _ in 0..2 {
            let requests = [request(1), request(0), request(5)];
            let expected = requests.clone().map(|inputs| {
                inputs.into_iter().map(|tensor| Tensor { name: "Y".to_owned(), ..tensor }).collect::<Vec<_>>()
            });
            assert_eq!(answers(&*model, &requests, &[]), expected, "{datatype}");
            assert_eq!(answers(&*model, &requests, &[1, 1, 1]), expected, "{datatype}");
        }
    }
}

#[test]
fn shapes_need_not_be_declared() {
    let model = load(&*host(options()).engine("onnxruntime"), &spec("double", Source::Bytes(graphs::shapeless()), 0));
    assert_eq!((&model.signature().inputs[0].shape, &model.signature().outputs[0].shape), (&None, &None));
    for shape in [&[][..], &[1], &[2, 1, 3]] {
        let elements = vec![1.5f32; shape.iter().product()];
        let answer = answers(&*model, &[vec![Tensor::of("X", shape, &elements)]], &[]);
        assert_eq!(answer[0][0], Tensor::of("Y", shape, &vec![3f32; elements.len()]));
    }
}

#[test]
fn shapes_that_follow_from_values_are_right() {
    let model = load(&*host(options()).engine("onnxruntime"), &spec("places", Source::Bytes(graphs::places()), 0));
    for elements in [[1f32, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 4.0], [1.0; 4], [0.0; 4], [1f32, 0.0, 2.0, 0.0]] {
        let expected: Vec<i64> = (0..4).filter(|at| elements[*at as usize] != 0.0).collect();
        let answer = answers(&*model, &[vec![Tensor::of("X", &[4], &elements)]], &[]);
        assert_eq!(answer[0][0], Tensor::of("Y", &[1, expected.len()], &expected));
    }
}

#[test]
fn a_batch_that_takes_long_is_answered_as_a_whole() {
    // Takes about half a second on two cores, so that it is cut into slices once that is known.
    let (side, rows, times) = (512, 61, 3_000);
    let model = load(
        &*host(options()).engine("onnxruntime"),
        &spec("turned", Source::Bytes(graphs::turned(side, times)), rows),
    );
    let row = |row: usize, by: usize| (0..side).map(move |at| (row * side + (at + side - by % side) % side) as f32);
    let elements = |by| (0..rows).flat_map(|at| row(at, by)).collect::<Vec<f32>>();
    for _ in 0..4 {
        let answer = answers(&*model, &[vec![Tensor::of("X", &[rows, side], &elements(0))]], &[]);
        assert!(answer[0][0] == Tensor::of("Y", &[rows, side], &elements(times)));
    }
}

#[test]
fn answers_larger_than_expected_are_answered_all_the_same() {
    // INT64 places of FP32 elements take more than four times their bytes, which is the room that is made at first.
    let engine = host(options()).engine("onnxruntime");
    let model = load(&*engine, &spec("same", Source::Bytes(graphs::cast(DataType::Uint8, DataType::Fp64)), 0));
    let elements: Vec<u8> = (0..4_000_000).map(|at| (at % 251) as u8).collect();
    let expected: Vec<f64> = elements.iter().copied().map(f64::from).collect();
    for _ in 0..2 {
        let answer = answers(&*model, &[vec![Tensor::of("X", &[elements.len()], &elements)]], &[]);
        assert!(answer[0][0] == Tensor::of("Y", &[expected.len()], &expected));
    }
}
