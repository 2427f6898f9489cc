//! What becomes of workers that are kept, and of those that were kept before.

use super::*;

/// Two workers that are kept for their answers alone.
async fn two_kept(world: &World, mesh: &Mesh) -> [(Worker, Health); 2] {
    let both = [live("w1", &world.tasks).await, live("w2", &world.tasks).await];
    let leases = [world.register(&both[0].0).await, world.register(&both[1].0).await];
    until(mesh, "both", |snapshot| snapshot.workers.len() == 2 && snapshot.replicas.len() == 2).await;
    for lease in leases {
        world.store.revoke(lease).await.expect("memory revokes");
    }
    until(mesh, "both kept", |snapshot| retained(snapshot) == ["w1", "w2"]).await;
    both
}

#[tokio::test]
async fn one_that_restarts_under_another_name_leaves_nothing_behind() {
    let world = World::new();
    let mesh = world.mesh(None);
    let [(first, _first), (second, health)] = two_kept(&world, &mesh).await;
    world.register(&Worker { id: "w8".to_owned(), ..first }).await;
    let left = until(&mesh, "w1 as w8", |snapshot| workers(snapshot) == ["w2", "w8"] && snapshot.replicas.len() == 2);
    let left = left.await;
    assert_eq!(retained(&left), ["w2"]);
    assert!(!left.replicas.contains_key(&replica_of("w1")));

    // One that is silent at that moment does not come back beside its successor either.
    health.set("", false);
    until(&mesh, "w2 silent", |snapshot| workers(snapshot) == ["w8"]).await;
    world.register(&Worker { id: "w9".to_owned(), ..second }).await;
    until(&mesh, "w2 as w9", |snapshot| workers(snapshot) == ["w8", "w9"]).await;
    let probed = mesh.inner.writer.lock().expect("whole").keeps(&Suspect {
        worker: id("w2"),
        address: String::new(),
        revision: left.workers[&id("w2")].mod_revision,
    });
    assert!(!probed, "w2 is forgotten");
}

#[tokio::test]
async fn one_whose_successor_is_registered_is_not_doubted() {
    let world = World::new();
    let mesh = world.mesh(None);
    let (old, _old) = live("w1", &world.tasks).await;
    let (other, _other) = live("w2", &world.tasks).await;
    let lease = world.store.grant(Duration::from_secs(60)).await.expect("memory grants");
    for worker in [&old, &other] {
        world.put(world.keys.worker(&id(&worker.id)), worker.encode_to_vec(), Some(lease)).await;
    }
    world.register(&Worker { id: "w9".to_owned(), ..old }).await;
    until(&mesh, "all three", |snapshot| snapshot.workers.len() == 3).await;
    world.store.revoke(lease).await.expect("memory revokes");
    let left = until(&mesh, "the one without a successor", |snapshot| retained(snapshot) == ["w2"]).await;
    assert_eq!(workers(&left), ["w2", "w9"]);
}

#[tokio::test]
async fn one_that_falls_silent_is_put_back_when_it_answers_again() {
    let world = World::new();
    let mesh = world.mesh(None);
    let [(_, health), _second] = two_kept(&world, &mesh).await;
    for _ in 0..2 {
        health.set("", false);
        let without = until(&mesh, "w1 silent", |snapshot| retained(snapshot) == ["w2"]).await;
        assert_eq!(workers(&without), ["w2"]);
        assert!(!without.replicas.contains_key(&replica_of("w1")));
        health.set("", true);
        let with = until(&mesh, "w1 again", |snapshot| retained(snapshot) == ["w1", "w2"]).await;
        assert_eq!(workers(&with), ["w1", "w2"]);
        assert!(with.replicas.contains_key(&replica_of("w1")), "it comes back with what it holds");
    }
}

#[tokio::test]
async fn few_that_vanished_while_nobody_looked_are_asked_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    let world = World::new();
    let (mut leases, mut healths) = (Vec::new(), Vec::new());
    for number in 0..10 {
        let (worker, health) = live(&format!("w{number}"), &world.tasks).await;
        leases.push(world.register(&worker).await);
        healths.push(health);
    }
    let first = World { store: Arc::clone(&world.store), keys: world.keys.clone(), tasks: Tasks::new() };
    let mesh = first.mesh(Some(SavedFile::open(path.clone(), "test").await));
    until(&mesh, "all ten", |snapshot| snapshot.workers.len() == 10 && snapshot.replicas.len() == 10).await;
    first.tasks.finish(PATIENCE).await;

    // Perhaps it was kept already, one of many; a tenth alone would be believed.
    world.store.revoke(leases[0]).await.expect("memory revokes");
    let mesh = world.mesh(Some(SavedFile::open(path, "test").await));
    let left = until(&mesh, "the store's word", |snapshot| snapshot.confirmed.is_some()).await;
    assert_eq!((retained(&left), left.workers.len(), left.replicas.len()), (vec!["w0"], 10, 10));
}
