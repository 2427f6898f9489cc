//! A leader that learns nothing any more once it has placed: it is killed, or the answer is lost.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};

use weft_proto::weft::control::v1::events_server::Events as _;
use weft_store::{Error, LeaseId, Listing, Watch};

use super::*;

/// The embedded store, whose answer to the first placement is lost.
struct Mute {
    inner: MemoryStore,
    keys: Keys,
    /// Whether all others are lost, too, and nothing arrives any more: who asks might as well be killed.
    kills: bool,
    has_placed: AtomicBool,
}

impl Mute {
    fn over(inner: &MemoryStore, kills: bool) -> Cluster {
        let (inner, keys) = (inner.clone(), Keys::new("test"));
        Cluster::over(Arc::new(Self { inner, keys, kills, has_placed: AtomicBool::new(false) }))
    }

    async fn reach(&self) {
        if self.kills && self.has_placed.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
    }
}

#[tonic::async_trait]
impl Store for Mute {
    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        self.reach().await;
        let placements = format!("{}placements/", self.keys.root());
        let places = txn.ops.iter().any(|op| op.key().starts_with(&placements));
        if !places || self.has_placed.swap(true, Ordering::SeqCst) {
            return self.inner.commit(txn).await;
        }
        self.inner.commit(txn).await?;
        self.reach().await;
        Err(Error::Unavailable("planted".to_owned()))
    }

    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.reach().await;
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.reach().await;
        self.inner.watch(range, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.reach().await;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.reach().await;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.reach().await;
        self.inner.revoke(lease).await
    }
}

/// Who has told of which subject that something was placed there, once `reporter` has told of `last`.
async fn placed(scheduler: &Scheduler, reporter: &str, last: &str) -> Vec<(String, String)> {
    let surface = Surface(Arc::clone(&scheduler.inner));
    let mut changes = scheduler.inner.mesh.changes();
    loop {
        let listed = surface.list_events(request(ListEventsRequest::default())).await.expect("listed").into_inner();
        if listed.events.iter().any(|event| event.reason == last && event.reporter == reporter) {
            let placed = listed.events.into_iter().filter(|event| event.reason == "ReplicasPlaced");
            let mut placed: Vec<_> = placed.map(|event| (event.reporter, event.subject)).collect();
            placed.sort_unstable();
            return placed;
        }
        tokio::time::timeout(PATIENCE, changes.changed()).await.expect("never told").expect("the mesh lives");
    }
}

fn by(reporter: &str, subject: &str) -> (String, String) {
    (reporter.to_owned(), subject.to_owned())
}

#[tokio::test]
async fn a_leader_that_is_killed_once_it_has_placed_has_told_of_it() {
    let memory = MemoryStore::new(Arc::new(SystemClock));
    let (doomed, cluster) = (Mute::over(&memory, true), Cluster::over(Arc::new(memory)));
    cluster.join(&worker("w1", 1, &[("m", 1), ("n", 1)])).await;
    let (_first, _first_tasks) = doomed.scheduler("s1", Options::default());
    cluster.until_placed(&[key("w1", "m", 1), key("w1", "n", 1)]).await;
    let (second, _second_tasks) = cluster.scheduler("s2", Options::default());
    // As its lease would.
    cluster.write(Op::Delete(cluster.keys.leader())).await;
    cluster.join(&worker("w2", 1, &[("o", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1), key("w1", "n", 1), key("w2", "o", 1)]).await;
    let expected = [by("s1", "models/m"), by("s1", "models/n"), by("s2", "models/o")];
    assert_eq!(placed(&second, "s2", "LeaderElected").await, expected);
}

#[tokio::test]
async fn a_placement_whose_answer_was_lost_is_told_once() {
    let memory = MemoryStore::new(Arc::new(SystemClock));
    let (deaf, cluster) = (Mute::over(&memory, false), Cluster::over(Arc::new(memory)));
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    let (scheduler, _tasks) = deaf.scheduler("s1", Options::default());
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    cluster.join(&worker("w2", 1, &[("n", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1), key("w2", "n", 1)]).await;
    // States are told after everything that has occurred.
    let garbage = cluster.keys.model(&"g".parse().expect("a name"));
    cluster.write(Op::Put { key: garbage, value: "\u{7f}".into(), lease: None }).await;
    let expected = [by("s1", "models/m"), by("s1", "models/n")];
    assert_eq!(placed(&scheduler, "s1", "UndecodableRecord").await, expected);
}
