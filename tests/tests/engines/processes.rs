//! Engine processes that crash, hang, grow and come and go by the hundred: nobody else notices, and nothing is left.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use weft_engine::{Batch, Engine, Error, Inputs, Model, Source, Spec, Tensor, Tract};
use weft_engine_native::{Host, HostOptions};
use weft_tests::graphs;
use weft_tests::tree::children;

use crate::conformance::{answers, digits_request, digits_spec, endless};
use crate::{cpu_ticks, host, load, onnxruntime, options, run, spec, until};

fn pid(host: &Host, model: &str) -> u32 {
    host.processes().iter().find(|process| process.model == model).unwrap().pid
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn with_instances(spec: Spec, instances: usize) -> Spec {
    Spec { parameters: [("instances".to_owned(), instances.to_string())].into(), ..spec }
}

/// Ends once another model has answered, which it must be able to do.
async fn answers_meanwhile(model: &Arc<dyn Model>) {
    for at in 0..20 {
        let answer = model.execute(vec![digits_request(at, 3)].into()).await.unwrap();
        assert_eq!(answer[0].as_ref().unwrap()[1].shape, [3]);
    }
}

#[test]
fn a_killed_process_fails_its_own_callers_at_once() {
    let host = host(options());
    let engine = host.engine("onnxruntime");
    let (endless, request) = endless(1024);
    let (lost, other) = (load(&*engine, &with_instances(endless, 3)), load(&*engine, &digits_spec()));
    let victim = pid(&host, "endless");
    run(async {
        let callers = join_all((0..8).map(|_| lost.execute(vec![request.clone()].into())));
        let killed = async {
            until(|| cpu_ticks(victim) > 20).await;
            signal(victim, Signal::KILL);
        };
        let (outcomes, (), ()) = tokio::join!(callers, killed, answers_meanwhile(&other));
        for outcome in outcomes {
            let Err(Error::Lost(reason)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(reason, "it was ended by signal 9");
        }
        assert_eq!(lost.lost().await, "it was ended by signal 9");
        assert!(matches!(lost.execute(vec![request.clone()].into()).await, Err(Error::Lost(_))), "it was executed");
        assert_eq!(other.lost().now_or_never(), None);
        answers_meanwhile(&other).await;
        until(|| host.statistics().in_use == 0).await;
    });
    assert!(!is_alive(victim));
}

#[test]
fn a_process_that_hangs_is_ended_once_nobody_waits_for_it() {
    let host = host(HostOptions { cancel_grace: Duration::from_millis(300), ..options() });
    let engine = host.engine("onnxruntime");
    let (endless, request) = endless(1024);
    let (hung, other) = (load(&*engine, &endless), load(&*engine, &digits_spec()));
    let victim = pid(&host, "endless");
    run(async {
        signal(victim, Signal::STOP);
        let (batch, stopped) = Batch::watched(vec![request.clone()]);
        let mut stopped = Box::pin(stopped.wait());
        let mut execution = hung.execute(batch);
        assert!(futures_util::poll!(&mut execution).is_pending());
        assert!(host.statistics().in_use > 0);
        drop(execution);
        assert!(futures_util::poll!(&mut stopped).is_pending(), "it may still compute");
        assert!(host.statistics().in_use > 0, "memory was given back that the process may still write to");
        let (reason, ()) = tokio::join!(hung.lost(), answers_meanwhile(&other));
        assert_eq!(reason, "it went on computing for more than 300 ms after it was told to stop");
        stopped.await;
        until(|| host.statistics().in_use == 0).await;
    });
    assert!(!is_alive(victim));
}

#[test]
fn a_process_that_takes_too_much_memory_is_ended() {
    let host = host(HostOptions { memory_bytes: 200 << 20, ..options() });
    let engine = host.engine("onnxruntime");
    let (hungry, other) =
        (load(&*engine, &spec("hungry", Source::Bytes(graphs::hungry()), 0)), load(&*engine, &digits_spec()));
    run(async {
        let little = hungry.execute(vec![vec![Tensor::of("SHAPE", &[1], &[1000i64])]].into()).await.unwrap();
        assert_eq!(little[0].as_ref().unwrap()[0].elements::<f32>().unwrap().collect::<Vec<_>>(), [0.0]);
        // 8 GiB: more than the limit by far, and less than would fail at once.
        let much = hungry.execute(vec![vec![Tensor::of("SHAPE", &[1], &[2i64 << 30])]].into());
        let (outcome, ()) = tokio::join!(much, answers_meanwhile(&other));
        let Err(Error::Lost(reason)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(reason, "it took more than its limit of 264 MiB of memory");
        assert_eq!(other.lost().now_or_never(), None);
    });
}

#[test]
fn memory_comes_back_after_mixed_traffic_and_random_cancels() {
    let host = host(options());
    let model =
        load(&*host.engine("onnxruntime"), &with_instances(spec("double", Source::Bytes(graphs::double()), 64), 3));
    let mut seed = 1u64;
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    run(async {
        let mut answered = 0;
        for _ in 0..60 {
            let calls = (0..12).map(|_| (1 + draw(64), 1 + draw(3000), draw(6))).collect::<Vec<_>>();
            let calls = calls.into_iter().map(async |(rows, width, patience)| {
                let elements: Vec<f32> = (0..rows * width).map(|at| at as f32).collect();
                let execution = model.execute(vec![vec![Tensor::of("X", &[rows, width], &elements)]].into());
                if patience < 3 {
                    return give_up(execution, patience).await;
                }
                let answer = execution.await.unwrap().remove(0).unwrap();
                assert!(answer[0].elements::<f32>().unwrap().zip(elements).all(|(twice, once)| twice == 2.0 * once));
                true
            });
            answered += join_all(calls).await.into_iter().filter(|answered| *answered).count();
        }
        assert!(answered > 200, "only {answered} were answered");
        assert_eq!(model.lost().now_or_never(), None);
        until(|| host.statistics().in_use == 0).await;
    });
    let statistics = host.statistics();
    assert!(statistics.high_water <= 64 << 20, "{statistics:?}");
}

/// Drops an execution after a few turns of the runtime; tells whether it was answered before.
async fn give_up(execution: impl Future, turns: usize) -> bool {
    let turns = async {
        for _ in 0..turns * 20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = execution => true,
        () = turns => false,
    }
}

#[test]
#[expect(clippy::async_yields_async, reason = "an execution that has been seen to wait is what is wanted")]
fn what_can_never_fit_is_refused_and_what_fits_later_waits() {
    let host = host(HostOptions { arena_bytes: 8 << 20, ..options() });
    let model = load(&*host.engine("onnxruntime"), &spec("double", Source::Bytes(graphs::double()), 0));
    let request = |megabytes: usize| vec![Tensor::of("X", &[megabytes, 1 << 18], &vec![1f32; megabytes << 18])];
    run(async {
        let refusal = model.execute(vec![request(9)].into()).await.unwrap().remove(0);
        assert!(matches!(refusal, Err(Error::Full(_))), "{:?}", refusal.map(|_| "it was answered"));
        let first = model.execute(vec![request(2)].into()).await.unwrap().remove(0).unwrap();
        let waiting = async || {
            let (before, mut execution) = (host.statistics().refusals, model.execute(vec![request(3)].into()));
            // The first answer is still held, and takes the room that this one needs.
            while host.statistics().refusals == before {
                assert!(futures_util::poll!(&mut execution).is_pending());
                tokio::task::yield_now().await;
            }
            execution
        };
        let second = waiting().await;
        drop(first);
        let second = second.await.unwrap().remove(0).unwrap();
        assert_eq!(second[0].shape, [3, 1 << 18]);
        assert_eq!(host.statistics().in_use, 0, "an answer of more than its share keeps room from others");
        let _third = model.execute(vec![request(2)].into()).await.unwrap();
        let fourth = waiting().await;
        signal(pid(&host, "double"), Signal::KILL);
        assert!(matches!(fourth.await, Err(Error::Lost(_))), "it waits for room in a process that is gone");
    });
}

#[test]
fn what_the_runtime_passes_on_is_not_what_was_there_before() {
    let host = host(options());
    let model = load(&*host.engine("onnxruntime"), &spec("passed on", Source::Bytes(graphs::passed_on()), 0));
    for call in 0..4 {
        let elements = [call as f32, 10.0 * call as f32];
        let answer = answers(&*model, &[vec![Tensor::of("X", &[1, 2], &elements)]], &[]).remove(0);
        let outputs: Vec<Vec<f32>> = answer.iter().map(|output| output.elements().unwrap().collect()).collect();
        let expected = [elements.to_vec(), elements.map(|element| 2.0 * element).to_vec(), vec![7.0, 8.0]];
        assert_eq!(outputs, expected, "call {call}");
    }
}

#[test]
fn a_shape_beyond_all_memory_is_refused_and_not_allocated() {
    let host = host(options());
    let engines: [Arc<dyn Engine>; 2] = [host.engine("onnxruntime"), Arc::new(Tract::new())];
    for engine in engines {
        let model = load(&*engine, &spec("enormous", Source::Bytes(graphs::enormous()), 4));
        let Err(Error::Load(problem)) = run(model.warm()) else { panic!("{} was warmed", engine.name()) };
        assert!(problem.contains("do not fit"), "{problem}");
    }
}

#[test]
fn hundreds_of_loads_leave_nothing_behind() {
    let host = host(options());
    let cycle = |engine: &str, spec: &Spec, request: &[Inputs]| {
        let engine = host.engine(if engine == "tract" { "tract" } else { "onnxruntime" });
        answers(&*load(&*engine, spec), request, &[]);
    };
    let request = [digits_request(0, 2)];
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let resident = || {
        let text = fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let gone = || run(until(|| host.processes().is_empty()));
    for _ in 0..20 {
        cycle("tract", &digits_spec(), &request);
    }
    gone();
    let (files, memory) = (open(), resident());
    for at in 0..200 {
        cycle(if at % 10 == 0 { "onnxruntime" } else { "tract" }, &digits_spec(), &request);
    }
    gone();
    // Other tests of this program open files, too, but not by the hundred.
    assert!(open() < files + 100, "{files} files were open, and {} are", open());
    assert!(resident() < memory + (64 << 20), "{memory} bytes were resident, and {} are", resident());
}

#[test]
fn processes_do_not_outlive_their_worker() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("elsewhere");
    fs::create_dir_all(model.join("1")).unwrap();
    fs::write(model.join("1/model.onnx"), weft_engine::digits::MODEL).unwrap();
    fs::write(model.join("config.pbtxt"), "backend: \"onnxruntime\" max_batch_size: 64").unwrap();
    let library = onnxruntime();
    let flags = ["--worker-models", folder.path().to_str().unwrap(), "--worker-onnxruntime", library.to_str().unwrap()];
    let mut weft = weft_tests::process::Weft::start("dev", &flags).unwrap();
    let mut child = None;
    run(until(|| {
        child = children(weft.id()).first().copied();
        child.is_some()
    }));
    let child = child.unwrap();
    assert!(is_alive(child));
    weft.kill().unwrap();
    run(until(|| !is_alive(child)));
}
