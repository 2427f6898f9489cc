//! Versions come and go: what fails leaves the others alone, and what went leaves nothing.

use prost::Message as _;
use tokio::runtime::Handle as Runtime;
use weft_client::ReplicaKey;
use weft_proto::weft::state::v1::Placement;
use weft_store::{Op, Store as _, Txn};
use weft_types::Version;

use super::*;

fn version(number: u64) -> Version {
    Version::new(number).expect("a version")
}

fn second() -> ReplicaKey {
    ReplicaKey { version: version(2), ..World::key("w-1", "identity") }
}

async fn place_second(world: &World) {
    let value = Placement { epoch: 1, ..Placement::default() }.encode_to_vec().into();
    let op = Op::Put { key: world.keys.placement(&second()), value, lease: None };
    world.store.commit(Txn { compares: vec![], ops: vec![op] }).await.expect("the store takes it");
}

async fn told_second(world: &World, state: ReplicaState) {
    let is_told = |held: &weft_proto::weft::state::v1::Replica| held.state() == state;
    world.until(|snapshot| snapshot.replicas.get(&second()).is_some_and(|held| is_told(&held.value))).await;
}

#[tokio::test]
async fn a_new_version_that_fails_to_load_leaves_the_old_one_serving() {
    let (world, handle, _) = stored(0, &[]).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    handle.failures.store(1, Ordering::SeqCst);
    handle.loads.forget_permits(Semaphore::MAX_PERMITS);
    place_second(&world).await;
    let serving = || world.worker.shared.find("", "identity", "").expect("one is ready").identity.version;
    told_second(&world, ReplicaState::Loading).await;
    assert_eq!(serving(), version(1), "while it loads");
    handle.loads.add_permits(1);
    told_second(&world, ReplicaState::Failed).await;
    assert_eq!(serving(), version(1), "when it has failed");
    assert!(world.worker.shared.replicas.any_ready(&"identity".parse().expect("a name")));
    handle.loads.add_permits(1);
    told_second(&world, ReplicaState::Ready).await;
    assert_eq!(serving(), version(2));
}

#[tokio::test]
async fn files_that_are_not_what_their_manifest_says_are_not_loaded() {
    // `one` and `two`, the second wrong in its last digit.
    let manifest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  1/model.onnx\n\
                    3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f4  2/model.onnx\n";
    let (world, handle, _folder) = stored(0, &[("manifest.sha256", manifest)]).await;
    place_second(&world).await;
    told_second(&world, ReplicaState::Failed).await;
    let reason = world.mesh.snapshot().replicas[&second()].value.reason.clone();
    assert_eq!((reason.as_str(), handle.models()), ("2/model.onnx: is not what manifest.sha256 says", 0));
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
}

#[tokio::test]
async fn loads_and_unloads_leave_nothing() {
    let (world, handle) = World::start(signature(0, 1)).await;
    let cycle = async || {
        world.place("identity").await;
        world.told("identity", ReplicaState::Ready).await;
        world.unplace("identity").await;
        world.gone("identity").await;
    };
    // Ends when no more of them are left; whoever has just been told to end may take a moment.
    let until = async |holds: &dyn Fn() -> bool, what: &str| {
        let waiting = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} stay"));
    };
    let tasks = || Runtime::current().metrics().num_alive_tasks();
    cycle().await;
    until(&|| handle.models() == 0, "models").await;
    let before = tasks();
    for _ in 0..1000 {
        cycle().await;
    }
    until(&|| handle.models() == 0, "models").await;
    until(&|| tasks() <= before, "tasks").await;
    assert!(world.worker.shared.replicas.all().is_empty());
    let asked = Request::new(HealthCheckRequest { service: "identity".into() });
    assert_eq!(world.health.check(asked).await.map_err(|status| status.code()).err(), Some(Code::NotFound));
}
