//! Records that cannot be read: what hangs on them stays as it is, and nothing else waits for them.

use super::*;

async fn spoil(cluster: &Cluster, key: String) {
    cluster.write(Op::Put { key, value: "\u{7f}".into(), lease: None }).await;
}

fn options() -> Options {
    Options { model_control: ModelControl::Explicit, ..Options::default() }
}

async fn apply(scheduler: &Scheduler, model_name: &str) {
    let surface = Surface(Arc::clone(&scheduler.inner));
    surface.apply_model(model(model_name, 1)).await.expect("applied");
}

#[tokio::test]
async fn a_placement_that_cannot_be_read_holds_up_nothing_and_is_made_anew() {
    let cluster = Cluster::new();
    let [one, two] = ["m", "n"].map(|name| key("w1", name, 1));
    cluster.join(&worker("w1", 1, &[("m", 1), ("n", 1)])).await;
    spoil(&cluster, cluster.keys.placement(&one)).await;
    let (scheduler, _tasks) = cluster.scheduler("s1", options());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    scheduler.inner.mesh.synced().await;
    apply(&scheduler, "m").await;
    apply(&scheduler, "n").await;
    cluster.until_placed(&[one.clone(), two]).await;
    assert!(cluster.snapshot().undecodable.is_empty(), "it was written over");

    // And one that could be read before, together with another one.
    spoil(&cluster, cluster.keys.placement(&one)).await;
    let surface = Surface(Arc::clone(&scheduler.inner));
    for name in ["m", "n"] {
        let delete = request(DeleteModelRequest { name: name.to_owned() });
        surface.delete_model(delete).await.expect("deleted");
    }
    cluster.until_placed(&[]).await;
}

/// A scheduler that has just started knows no better value.
#[tokio::test]
async fn what_hangs_on_a_record_that_cannot_be_read_stays() {
    let cluster = Cluster::new();
    cluster.join(&worker("w1", 1, &[("m", 1), ("n", 1)])).await;
    cluster.join(&worker("w2", 1, &[("o", 1), ("p", 1)])).await;
    let (first, first_tasks) = cluster.scheduler("s1", options());
    cluster.until("a leader", |snapshot| snapshot.leader.is_some()).await;
    first.inner.mesh.synced().await;
    apply(&first, "m").await;
    apply(&first, "o").await;
    let held = [key("w1", "m", 1), key("w2", "o", 1)];
    cluster.until_placed(&held).await;
    for key in &held {
        cluster.report(key, ReplicaState::Ready).await;
    }
    first_tasks.finish(PATIENCE).await;

    spoil(&cluster, cluster.keys.model(&"m".parse().expect("a name"))).await;
    spoil(&cluster, cluster.keys.worker(&"w2".parse().expect("an id"))).await;
    let (second, _second_tasks) = cluster.scheduler("s2", options());
    second.inner.mesh.synced().await;
    // Whatever it has to do, it does in one look.
    apply(&second, "n").await;
    cluster.until_placed(&[key("w1", "m", 1), key("w1", "n", 1), key("w2", "o", 1)]).await;
    let moved = second.inner.moves_written.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(moved, 1, "something was taken away and put back");
}
