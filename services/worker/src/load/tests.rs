use std::sync::Arc;

use weft_engine::{Finish, Occupancy, Usage};
use weft_proto::inference::ModelInferRequest;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::orca::{self, OrcaLoadReport, named};
use weft_proto::weft::state::v1::ReplicaState;
use weft_types::{Deadline, SystemClock};

use super::{capacity_of, of_replica, of_worker};
use crate::fake::language::speaking;
use crate::fake::{World, signature};
use crate::grpc::tests::{LONG, client};
use crate::replica::Replica;

fn request(text: bool) -> ModelInferRequest {
    let (name, datatype, content) =
        if text { ("text_input", "BYTES", &b"\x02\0\0\0hi"[..]) } else { ("INPUT", "UINT8", &[7][..]) };
    let input = InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1],
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: "identity".into(),
        inputs: vec![input],
        raw_input_contents: vec![content.to_vec().into()],
        ..ModelInferRequest::default()
    }
}

fn replica(world: &World) -> Arc<Replica> {
    world.worker.shared.replicas.find("identity", None).expect("held").expect("ready")
}

/// What the replica tells once that holds: calls go their way beside the test.
async fn until(world: &World, holds: impl Fn(&OrcaLoadReport) -> bool) -> OrcaLoadReport {
    let limit = Deadline::after(SystemClock::now(), LONG);
    loop {
        let report = of_replica(&replica(world), SystemClock::now());
        if holds(&report) {
            return report;
        }
        assert!(!limit.expired(SystemClock::now()), "{report:?}");
        tokio::task::yield_now().await;
    }
}

fn counts(report: &OrcaLoadReport) -> (f64, f64) {
    (report.named_metrics[named::RUNNING], report.named_metrics[named::QUEUE_DEPTH])
}

/// Makes calls beside the test.
fn calls(world: &World, count: usize, text: bool) -> Vec<weft_runtime::Running> {
    let call = |_| {
        let mut client = client(world, LONG);
        world.tasks.attach(async move { drop(client.model_infer(request(text)).await) })
    };
    (0..count).map(call).collect()
}

#[tokio::test]
async fn a_tensor_model_tells_what_runs_and_what_waits() {
    let (world, mut handle) = World::start(signature(0, 1)).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    let idle = of_replica(&replica(&world), SystemClock::now());
    assert_eq!((idle.application_utilization, idle.rps_fractional, counts(&idle)), (0.0, 0.0, (0.0, 0.0)));
    let _calls = calls(&world, 3, false);
    let busy = until(&world, |report| counts(report) == (1.0, 2.0)).await;
    // One executor that is busy, and two executions that wait for it.
    assert!((busy.application_utilization - 3.0).abs() < 1e-9, "{busy:?}");
    assert_eq!(busy.named_metrics[named::CAPACITY], 2.0, "one that runs and one that is next");
    for _ in 0..3 {
        handle.next().await.echo();
    }
    let after = until(&world, |report| counts(report) == (0.0, 0.0)).await;
    assert!(after.application_utilization < 1.0 && after.rps_fractional > 0.0 && after.eps == 0.0, "{after:?}");
    // Now that the model is known: one that runs is waited for by whoever comes next, those that wait as well.
    let _calls = calls(&world, 3, false);
    let known = until(&world, |report| counts(report) == (1.0, 2.0)).await;
    assert!(known.named_metrics[named::EST_WAIT_MS] > 0.0, "{known:?}");
    handle.next().await.fail();
    let failed = until(&world, |report| report.eps > 0.0).await;
    assert!(failed.eps < failed.rps_fractional, "{failed:?}");
}

/// Every answer of the handler's carries the report, a refusal, too; a call that ended is no longer part of it.
#[tokio::test]
async fn a_refusal_carries_the_load_as_well() {
    let (world, _handle) = World::start(signature(0, 1)).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    let wrong = ModelInferRequest { inputs: Vec::new(), raw_input_contents: Vec::new(), ..request(false) };
    let mut status = client(&world, LONG).model_infer(wrong).await.expect_err("no input");
    let load = orca::take(status.metadata_mut()).expect("it is carried");
    assert_eq!((status.code(), load.requests), (tonic::Code::InvalidArgument, Some(0.0)));
}

#[test]
fn what_can_be_put_to_use_is_what_runs_and_what_is_next() {
    assert_eq!([(1, 1), (2, 32), (16, 1), (1_024, 1)].map(|(of, each)| capacity_of(of, each)), [2, 96, 17, 1_088]);
}

#[tokio::test]
async fn a_language_model_tells_its_slots_and_its_memory() {
    let (world, mut handle) = speaking().await;
    let _calls = calls(&world, 2, true);
    let sequences = [handle.next().await, handle.next().await];
    handle.occupy(Occupancy { running: 1, waiting: 1, kv_tokens: 16 });
    let report = of_worker(&world.worker.shared);
    let named = |name: &str| report.named_metrics[name];
    assert_eq!(counts(&report), (1.0, 1.0));
    assert_eq!((named(named::FREE_SLOTS), named(named::KV_CACHE_USAGE)), (3.0, 0.25));
    assert_eq!(named(named::CAPACITY), 5.0, "four slots and one that is next");
    assert_eq!(report.application_utilization, 0.5);
    for sequence in sequences {
        sequence.end(Finish::Stop, Usage::default()).await;
    }
    // The engine's own figures are of its last step: what waits is no more than there is.
    let idle = until(&world, |report| counts(report) == (0.0, 0.0)).await;
    assert_eq!((idle.application_utilization, idle.named_metrics[named::FREE_SLOTS]), (0.0, 4.0));
}
