mod lost;
mod versions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Semaphore;
use tonic::{Code, Request};
use weft_engine::Engine;
use weft_proto::health::HealthCheckRequest;
use weft_proto::health::health_check_response::ServingStatus;
use weft_proto::health::health_server::Health as _;
use weft_proto::weft::state::v1::{FailureKind, ModelOffer, ReplicaState};
use weft_types::Reason;

use crate::fake::{Handle, World, fake, signature};

/// Far longer than anything here takes: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker with two versions of `identity` in its repository, since only what an engine of that name runs has a process of its
/// own; and with more files in the model's folder.
async fn stored(max_batch_size: usize, more: &[(&str, &str)]) -> (World, Handle, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = [("1/model.onnx", "one"), ("2/model.onnx", "two"), ("config.pbtxt", "backend: 'onnxruntime'")];
    for (file, text) in files.iter().chain(more) {
        let path = folder.path().join("identity").join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    let (engine, handle) = fake(signature(max_batch_size, 1));
    let engine: Arc<dyn Engine> = engine;
    let engines = BTreeMap::from([("builtin", Arc::clone(&engine)), ("onnxruntime", engine)]);
    let world = World::with_engines(engines, |options| options.models_dir = Some(folder.path().to_owned())).await;
    (world, handle, folder)
}

#[tokio::test]
async fn the_worker_tells_who_it_is_and_what_it_offers() {
    let (world, _handle) = World::start(signature(0, 1)).await;
    let snapshot = world.mesh.snapshot();
    let record = &snapshot.workers.values().next().expect("registered").value;
    assert_eq!((record.id.as_str(), record.address.as_str(), record.draining), ("w-1", "127.0.0.1:1", false));
    assert!(record.epoch > 0 && record.threads > 0 && record.memory_bytes > 0);
    for model in ["identity", "sleep", "fail", "digits"] {
        assert!(record.offers.iter().any(|offer| offer.name == model), "{model}");
    }
}

/// What comes into the repository, and goes, while the worker runs.
#[tokio::test]
async fn the_worker_offers_what_its_repository_holds_by_now() {
    let config = "backend: 'onnxruntime' parameters { key: 'cpus' value { string_value: '0.5' } }";
    let (world, _handle, folder) = stored(0, &[("config.pbtxt", config)]).await;
    let offered = async |versions: &[u64]| {
        let mut changes = world.mesh.changes();
        let has = || {
            let snapshot = world.mesh.snapshot();
            let record = &snapshot.workers.values().next().expect("registered").value;
            let offer = record.offers.iter().find(|offer| offer.name == "identity");
            let told = |offer: &ModelOffer| offer.versions.iter().map(|told| (told.version, told.cpu_millis)).collect();
            let told: Vec<_> = offer.map(told).unwrap_or_default();
            told.into_iter().eq(versions.iter().map(|version| (*version, 500)))
        };
        let waits = async {
            while !has() {
                changes.changed().await.expect("it is followed");
            }
        };
        tokio::time::timeout(PATIENCE, waits).await.expect("it is told");
    };
    offered(&[1, 2]).await;
    let model = folder.path().join("identity");
    std::fs::create_dir(model.join("3")).expect("made");
    std::fs::write(model.join("3/model.onnx"), "three").expect("written");
    offered(&[1, 2, 3]).await;
    std::fs::remove_dir_all(model.join("2")).expect("removed");
    offered(&[1, 3]).await;
}

#[tokio::test]
async fn a_placement_becomes_a_replica_and_goes_again() {
    let (world, handle) = World::start(signature(0, 1)).await;
    world.place("identity").await;
    let record = world.told("identity", ReplicaState::Ready).await;
    assert_eq!(record.size_bytes, 7);
    let shared = &world.worker.shared;
    assert!(shared.find("", "identity", "").is_ok() && shared.find("", "identity", "1").is_ok());
    assert_eq!(shared.find("", "identity", "2").err().expect("unknown").reason(), Reason::NotFound);
    assert_eq!(shared.find("", "sleep", "").err().expect("elsewhere").reason(), Reason::NoReadyReplica);
    assert_eq!(shared.find("model_", "../etc", "").err().expect("invalid").field(), Some("model_name"));
    assert_eq!(shared.find("model_", "identity", "x").err().expect("invalid").field(), Some("model_version"));
    world.unplace("identity").await;
    world.gone("identity").await;
    assert_eq!(handle.models(), 0);
}

/// What takes less than was expected goes on to count as much: otherwise placement would fill what the worker keeps free.
#[tokio::test]
async fn placement_is_told_the_memory_that_the_worker_counts() {
    let (engine, _handle) = fake(signature(0, 1));
    let engines: BTreeMap<&'static str, Arc<dyn Engine>> = BTreeMap::from([("tract", engine as Arc<dyn Engine>)]);
    let world = World::with_engines(engines, |_| {}).await;
    let snapshot = world.mesh.snapshot();
    let record = &snapshot.workers.values().next().expect("registered").value;
    let digits = record.offers.iter().find(|offer| offer.name == "digits").expect("it is built in");
    let expected = digits.versions[0].size_bytes;
    assert!(expected > 7, "what the engine measures");
    world.place("digits").await;
    assert_eq!(world.told("digits", ReplicaState::Ready).await.size_bytes, expected);
}

#[tokio::test]
async fn a_load_in_progress_holds_up_nobody_and_can_be_taken_back() {
    let (world, handle) = World::start(signature(0, 1)).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    handle.loads.forget_permits(Semaphore::MAX_PERMITS);
    world.place("sleep").await;
    world.told("sleep", ReplicaState::Loading).await;
    let shared = &world.worker.shared;
    assert_eq!(shared.find("", "sleep", "").err().expect("loading").reason(), Reason::ModelLoading);
    assert!(shared.find("", "identity", "").is_ok());
    world.unplace("sleep").await;
    world.gone("sleep").await;
    handle.loads.add_permits(8);
    world.place("fail").await;
    world.told("fail", ReplicaState::Ready).await;
    assert_eq!(handle.models(), 2, "the load that was taken back left nothing");
}

#[tokio::test]
async fn a_load_without_end_fails_and_gives_its_turn_to_another() {
    let (world, handle) = World::start_with(signature(0, 1), |options| {
        (options.parallel_loads, options.load_limit) = (1, Duration::from_millis(50));
    })
    .await;
    handle.loads.forget_permits(Semaphore::MAX_PERMITS);
    world.place("identity").await;
    let record = world.told("identity", ReplicaState::Failed).await;
    assert_eq!(record.reason, "its load took longer than 0.05 s");
    world.place("sleep").await;
    handle.loads.add_permits(8);
    world.told("sleep", ReplicaState::Ready).await;
}

#[tokio::test]
async fn a_failed_load_is_told_and_tried_again() {
    let (world, handle) = World::start(signature(0, 1)).await;
    handle.failures.store(1, Ordering::SeqCst);
    world.place("identity").await;
    let record = world.told("identity", ReplicaState::Failed).await;
    assert_eq!(
        (record.reason.as_str(), record.failure()),
        ("cannot load the model: planted", FailureKind::Unspecified)
    );
    let found = world.worker.shared.find("", "identity", "");
    assert_eq!(found.err().expect("failed").reason(), Reason::NoReadyReplica);
    world.told("identity", ReplicaState::Ready).await;
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why() {
    let (world, _handle) = World::start_with(signature(0, 1), |options| options.memory_bytes = Some(1)).await;
    world.place("digits").await;
    let record = world.told("digits", ReplicaState::Failed).await;
    assert_eq!(record.reason, "the worker has not enough memory for it");
    assert_eq!(record.failure(), FailureKind::NoRoom, "the version is not at fault");
    world.place("nonsense").await;
    let record = world.told("nonsense", ReplicaState::Failed).await;
    assert_eq!(record.reason, "the model is not in this worker's repository");
}

#[tokio::test]
async fn a_drain_waits_for_what_can_move_and_for_nothing_else() {
    let (world, _handle) = World::start(signature(0, 1)).await;
    for model in ["identity", "sleep"] {
        world.place(model).await;
        world.told(model, ReplicaState::Ready).await;
    }
    world.other("w-2", "identity").await;
    world.until(|snapshot| snapshot.workers.len() == 2).await;
    let mut drained = world.worker.shared.drained.subscribe();
    assert!(!*drained.borrow_and_update());
    world.tasks.stop();
    world.until(|snapshot| snapshot.workers.values().any(|worker| worker.value.draining)).await;
    // Not even for a moment, before the others were looked at.
    assert!(!drained.has_changed().expect("the worker lives"), "another worker could take identity");
    assert!(world.worker.shared.find("", "identity", "").is_ok(), "it serves until then");
    world.unplace("identity").await;
    world.worker.drained().await;
    assert!(world.worker.shared.find("", "sleep", "").is_ok(), "nobody else could take it");
    world.worker.leave().await;
    world.until(|snapshot| snapshot.replicas.is_empty() && snapshot.workers.len() == 1).await;
}

#[tokio::test]
async fn a_look_that_fails_does_not_end_the_drain() {
    let (world, _handle) = World::start(signature(0, 1)).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    world.other("w-2", "identity").await;
    world.until(|snapshot| snapshot.workers.len() == 2).await;
    world.store.fail(world.keys.workers(), 2);
    let mut drained = world.worker.shared.drained.subscribe();
    drained.borrow_and_update();
    world.tasks.stop();
    let mut reads = world.store.reads();
    reads.wait_for(|reads| *reads == 3).await.expect("the store lives");
    assert!(!drained.has_changed().expect("the worker lives"), "another worker could take identity");
    world.unplace("identity").await;
    world.worker.drained().await;
}

#[tokio::test]
async fn a_drain_of_a_worker_that_holds_nothing_asks_nobody() {
    let (world, _handle) = World::start(signature(0, 1)).await;
    world.store.fail(world.keys.workers(), 0);
    world.tasks.stop();
    world.worker.drained().await;
    world.worker.leave().await;
    world.until(|snapshot| snapshot.workers.is_empty()).await;
    assert_eq!(*world.store.reads().borrow(), 0);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_store_that_is_away() {
    let hour = Duration::from_secs(3600);
    let (world, _handle) = World::start_with(signature(0, 1), |options| options.move_grace = hour).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    world.other("w-2", "identity").await;
    world.until(|snapshot| snapshot.workers.len() == 2).await;
    world.store.go();
    tokio::time::timeout(PATIENCE, world.worker.drained()).await.expect("nothing can be moved");
    assert!(world.worker.shared.find("", "identity", "").is_ok(), "it serves what it has");
}

#[tokio::test]
async fn a_leader_of_the_past_is_not_obeyed() {
    let (world, handle) = World::start(signature(0, 1)).await;
    let past = world.lead("s-1").await;
    world.place_as(past, "identity").await;
    world.told("identity", ReplicaState::Ready).await;
    let present = world.lead("s-2").await;
    // What the first leader wrote in its time stands. What it writes now is refused, whether the model is new here or not.
    world.place_as(past, "fail").await;
    world.place_as(present, "sleep").await;
    world.told("sleep", ReplicaState::Ready).await;
    assert!(world.worker.shared.find("", "identity", "").is_ok());
    assert_eq!(world.worker.shared.find("", "fail", "").err().expect("refused").reason(), Reason::NoReadyReplica);
    world.place_as(past, "identity").await;
    world.gone("identity").await;
    world.place_as(present, "fail").await;
    world.told("fail", ReplicaState::Ready).await;
    assert_eq!(handle.models(), 2);
}

#[tokio::test]
async fn a_draining_worker_loads_nothing() {
    let (world, handle) = World::start(signature(0, 1)).await;
    world.worker.drained().await;
    world.until(|snapshot| snapshot.workers.values().all(|worker| worker.value.draining)).await;
    world.place("identity").await;
    world.other("w-2", "identity").await;
    world.until(|snapshot| snapshot.workers.len() == 2).await;
    assert_eq!(handle.models(), 0);
    assert!(world.worker.shared.replicas.all().is_empty());
}

#[tokio::test]
async fn health_follows_each_model() {
    let (world, _handle) = World::start(signature(0, 1)).await;
    let check = async || {
        let asked = Request::new(HealthCheckRequest { service: "identity".into() });
        world.health.check(asked).await.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
    };
    assert_eq!(check().await, Err(Code::NotFound));
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    assert_eq!(check().await, Ok(ServingStatus::Serving));
    world.unplace("identity").await;
    world.gone("identity").await;
    assert_eq!(check().await, Err(Code::NotFound));
}
