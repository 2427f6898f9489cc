use std::sync::atomic::AtomicBool;
use std::time::Duration;

use prost::Message as _;
use weft_proto::weft::state::v1::{Leader, Placement, Replica, ReplicaState, Worker};
use weft_runtime::{Api, Health, Server, ServerOptions};
use weft_store::{Commit, Error, LeaseId, Listing, MemoryStore, Op, Revision, Txn, Watch};
use weft_types::Version;

use super::*;
use crate::ReplicaKey;

mod keeping;

/// Far longer than anything here takes: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The embedded store behind a connection that can be cut.
struct Cut {
    inner: MemoryStore,
    down: AtomicBool,
}

impl Cut {
    fn reach(&self) -> Result<&MemoryStore, Error> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(Error::Unavailable("cut".into())),
            false => Ok(&self.inner),
        }
    }
}

#[tonic::async_trait]
impl Store for Cut {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.reach()?.read(range).await
    }
    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.reach()?.watch(range, from).await
    }
    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        self.inner.commit(txn).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke(lease).await
    }
}

/// A cluster's store and what runs over it.
struct World {
    store: Arc<Cut>,
    keys: Keys,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        let inner = MemoryStore::new(Arc::new(SystemClock));
        let store = Arc::new(Cut { inner, down: AtomicBool::new(false) });
        Self { store, keys: Keys::new("test"), tasks: Tasks::new() }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    /// A mesh that asks often, so that a test need not wait.
    fn mesh(&self, saved: Option<SavedFile>) -> Mesh {
        let quick =
            Probing { interval: Duration::from_millis(50), retry: Duration::from_millis(20), ..Probing::default() };
        let scoped = Scoped {
            store: self.store(),
            prefixes: vec![self.keys.root().to_owned()],
            guard: Some((Settings::default(), quick)),
        };
        Mesh::over(&self.keys, &self.tasks, scoped, saved)
    }

    async fn put(&self, key: String, value: Vec<u8>, lease: Option<LeaseId>) {
        let ops = vec![Op::Put { key, value: value.into(), lease }];
        self.store.commit(Txn { compares: vec![], ops }).await.expect("memory takes it");
    }

    async fn delete(&self, key: String) {
        self.store.commit(Txn { compares: vec![], ops: vec![Op::Delete(key)] }).await.expect("memory takes it");
    }

    /// Registers a worker with one replica under a lease of its own.
    async fn register(&self, worker: &Worker) -> LeaseId {
        let lease = self.store.grant(Duration::from_secs(60)).await.expect("memory grants");
        let replica = Replica { state: ReplicaState::Ready.into(), ..Replica::default() };
        self.put(self.keys.replica(&replica_of(&worker.id)), replica.encode_to_vec(), Some(lease)).await;
        self.put(self.keys.worker(&id(&worker.id)), worker.encode_to_vec(), Some(lease)).await;
        lease
    }
}

fn id(worker: &str) -> WorkerId {
    worker.parse().expect("a name")
}

fn replica_of(worker: &str) -> ReplicaKey {
    ReplicaKey { worker: id(worker), model: "m".parse().expect("a name"), version: Version::new(1).expect("not zero") }
}

/// A worker at a real address: its health answers there.
async fn live(name: &str, tasks: &Tasks) -> (Worker, Health) {
    let health = Health::default();
    health.set("", true);
    let server = Server::bind(ServerOptions::default()).await.expect("a free port");
    let worker = Worker { id: name.to_owned(), address: server.address().to_string(), ..Worker::default() };
    server.serve(Api::new(&health), Scope::disabled(), tasks).expect("descriptors");
    (worker, health)
}

/// A worker at an address where nobody listens.
async fn dead(name: &str) -> Worker {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    Worker { id: name.to_owned(), address, ..Worker::default() }
}

async fn until(mesh: &Mesh, what: &str, mut holds: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut changes = mesh.changes();
    let wait = async {
        loop {
            let snapshot = mesh.snapshot();
            if holds(&snapshot) {
                return snapshot;
            }
            changes.changed().await.expect("the mesh is followed");
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("never came: {what}; there is {:?}", mesh.snapshot()))
}

fn workers(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.workers.keys().map(WorkerId::as_str).collect()
}

fn retained(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.retained.iter().map(WorkerId::as_str).collect()
}

/// Every snapshot that readers get to see, checked as it comes.
fn watch_all(mesh: &Mesh, tasks: &Tasks, mut check: impl FnMut(&Snapshot) + Send + 'static) -> weft_runtime::Running {
    let (mesh, mut changes) = (mesh.clone(), mesh.changes());
    tasks.attach(async move {
        while changes.changed().await.is_ok() {
            check(&mesh.snapshot());
        }
    })
}

#[tokio::test]
async fn of_many_that_vanish_at_once_those_that_answer_stay() {
    let world = World::new();
    let mesh = world.mesh(None);
    let (mut leases, mut healths, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["w1", "w2", "w3", "w4"] {
        let (worker, health) = live(name, &world.tasks).await;
        leases.push(world.register(&worker).await);
        healths.push(health);
        records.push(worker);
    }
    let gone = dead("w5").await;
    leases.push(world.register(&gone).await);
    until(&mesh, "all five", |snapshot| snapshot.workers.len() == 5 && snapshot.replicas.len() == 5).await;

    for lease in &leases {
        world.store.revoke(*lease).await.expect("memory revokes");
    }
    let left = until(&mesh, "the four that answer", |snapshot| {
        retained(snapshot) == ["w1", "w2", "w3", "w4"] && snapshot.workers.len() == 4
    });
    let left = left.await;
    assert_eq!(left.replicas.keys().map(|key| key.worker.as_str()).collect::<Vec<_>>(), ["w1", "w2", "w3", "w4"]);

    // One that registers again is nothing special any more; what it no longer holds is gone.
    world.put(world.keys.worker(&id("w1")), records[0].encode_to_vec(), None).await;
    let back = until(&mesh, "w1 back", |snapshot| retained(snapshot) == ["w2", "w3", "w4"]).await;
    assert_eq!(workers(&back), ["w1", "w2", "w3", "w4"]);
    assert!(!back.replicas.contains_key(&replica_of("w1")), "it was kept for its worker's absence only");

    // One that says that it does not serve is gone, however well it answers.
    healths[1].drain();
    let fewer = until(&mesh, "w2 gone", |snapshot| retained(snapshot) == ["w3", "w4"]).await;
    assert_eq!(workers(&fewer), ["w1", "w3", "w4"]);
    assert!(!fewer.replicas.contains_key(&replica_of("w2")));
}

#[tokio::test]
async fn readers_never_see_the_gap() {
    let world = World::new();
    let mesh = world.mesh(None);
    let (one, _one) = live("w1", &world.tasks).await;
    let (two, _two) = live("w2", &world.tasks).await;
    // Both under one lease, so that the store tells their end at once, as it does after a long pause.
    let lease = world.store.grant(Duration::from_secs(60)).await.expect("memory grants");
    for worker in [&one, &two] {
        world.put(world.keys.worker(&id(&worker.id)), worker.encode_to_vec(), Some(lease)).await;
    }
    until(&mesh, "both", |snapshot| snapshot.workers.len() == 2).await;
    let fewest = Arc::new(std::sync::atomic::AtomicUsize::new(2));
    let seen = Arc::clone(&fewest);
    let _watching = watch_all(&mesh, &world.tasks, move |snapshot| {
        seen.fetch_min(snapshot.workers.len(), Ordering::SeqCst);
    });
    world.store.revoke(lease).await.expect("memory revokes");
    until(&mesh, "both kept", |snapshot| retained(snapshot) == ["w1", "w2"]).await;
    assert_eq!(fewest.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn those_who_said_that_they_would_go_are_believed() {
    let world = World::new();
    let mesh = world.mesh(None);
    let lease = world.store.grant(Duration::from_secs(60)).await.expect("memory grants");
    let (mut going, _going) = live("w1", &world.tasks).await;
    going.draining = true;
    let (staying, _staying) = live("w2", &world.tasks).await;
    for worker in [&going, &staying] {
        world.put(world.keys.worker(&id(&worker.id)), worker.encode_to_vec(), Some(lease)).await;
    }
    until(&mesh, "both", |snapshot| snapshot.workers.len() == 2).await;
    world.store.revoke(lease).await.expect("memory revokes");
    // The other one is all that is left to be doubted, and answers; this one would, too.
    let left = until(&mesh, "the one that did not say so", |snapshot| retained(snapshot) == ["w2"]).await;
    assert_eq!(workers(&left), ["w2"]);
}

#[tokio::test]
async fn a_few_among_many_are_believed() {
    let world = World::new();
    let mesh = world.mesh(None);
    let (worker, _health) = live("w0", &world.tasks).await;
    let lease = world.register(&worker).await;
    for number in 1..4 {
        world.register(&Worker { id: format!("w{number}"), ..worker.clone() }).await;
    }
    until(&mesh, "all four", |snapshot| snapshot.workers.len() == 4).await;
    let seen = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&seen);
    let _watching = watch_all(&mesh, &world.tasks, move |snapshot| {
        flag.fetch_or(!snapshot.retained.is_empty(), Ordering::SeqCst);
    });
    world.store.revoke(lease).await.expect("memory revokes");
    until(&mesh, "three", |snapshot| workers(snapshot) == ["w1", "w2", "w3"]).await;
    assert!(!seen.load(Ordering::SeqCst), "a quarter is nothing to doubt");
}

#[tokio::test]
async fn a_worker_follows_its_own_placements_and_the_leader() {
    let world = World::new();
    let placement = Placement { epoch: 7, ..Placement::default() }.encode_to_vec();
    for worker in ["w1", "w10", "w2"] {
        world.put(world.keys.placement(&replica_of(worker)), placement.clone(), None).await;
        world.register(&Worker { id: worker.to_owned(), ..Worker::default() }).await;
    }
    let mesh = Mesh::follow_worker(world.store(), &world.keys, &id("w1"), &world.tasks, None);
    tokio::time::timeout(PATIENCE, mesh.synced()).await.expect("listed");
    let leader = Leader { id: "s1".to_owned(), ..Leader::default() };
    world.put(world.keys.leader(), leader.encode_to_vec(), None).await;
    world.put(world.keys.placement(&replica_of("w2")), placement, None).await;
    let seen = until(&mesh, "a leader", |snapshot| snapshot.leader.is_some()).await;
    assert_eq!(seen.placements.keys().cloned().collect::<Vec<_>>(), [replica_of("w1")]);
    assert!(seen.workers.is_empty() && seen.replicas.is_empty());
}

#[tokio::test]
async fn a_worker_knows_nothing_before_all_is_listed() {
    let mut writer = Writer::new("/r/", 2, None);
    let now = SystemClock::now();
    writer.told(0, &[], 5, now);
    assert_eq!(writer.snapshot().confirmed, None);
    let later = now + Duration::from_secs(1);
    writer.told(1, &[], 7, later);
    assert_eq!((writer.snapshot().confirmed, writer.snapshot().revision), (Some(now), 7), "as old as the older part");
    writer.told(0, &[], 3, later);
    writer.told(1, &[], 4, later);
    assert_eq!(writer.snapshot().revision, 4, "a store restored from backup has gone back");
}

#[tokio::test]
async fn what_was_saved_serves_until_the_store_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    let world = World::new();
    let (first, _health) = live("w1", &Tasks::new()).await;
    for number in 1..=4 {
        world.register(&Worker { id: format!("w{number}"), ..first.clone() }).await;
    }
    world.put(world.keys.worker(&id("torn")), vec![0x0a, 0x7f], None).await;
    let mesh = world.mesh(Some(SavedFile::open(path.clone(), "test").await));
    let before = until(&mesh, "all four", |snapshot| snapshot.workers.len() == 4).await;
    assert!(!before.restored && before.found.is_none() && before.undecodable.len() == 1);
    // The end of the process writes what was not written yet.
    world.tasks.finish(PATIENCE).await;

    let second = World { store: Arc::clone(&world.store), keys: world.keys.clone(), tasks: Tasks::new() };
    second.store.down.store(true, Ordering::SeqCst);
    let saved = SavedFile::open(path.clone(), "test").await;
    assert!(saved.is_usable());
    let mesh = second.mesh(Some(saved));
    assert!(mesh.is_known() && !mesh.is_synced());
    let restored = mesh.snapshot();
    assert!(restored.restored && restored.confirmed.is_none());
    assert_eq!(restored.revision, before.revision);
    let age = restored.age(SystemClock::now());
    assert!(age.is_some_and(|age| age < PATIENCE), "{age:?}");
    assert_eq!(workers(&restored), workers(&before));
    assert_eq!(restored.replicas.keys().collect::<Vec<_>>(), before.replicas.keys().collect::<Vec<_>>());
    let record = |snapshot: &Snapshot| {
        let record = Arc::clone(&snapshot.workers[&id("w3")]);
        (record.value.clone(), record.create_revision, record.mod_revision)
    };
    assert_eq!(record(&restored), record(&before));

    // Meanwhile one of the four has gone: the first listing tells it.
    second.delete(second.keys.worker(&id("w2"))).await;
    second.delete(second.keys.replica(&replica_of("w2"))).await;
    second.store.down.store(false, Ordering::SeqCst);
    let now = until(&mesh, "the store's word", |snapshot| snapshot.confirmed.is_some()).await;
    assert_eq!(workers(&now), ["w1", "w3", "w4"]);
    assert_eq!(now.replicas.len(), 3);
    assert!(mesh.is_synced() && !now.restored && now.undecodable.len() == 1);
}

#[tokio::test]
async fn many_that_vanished_while_nobody_looked_are_asked_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    let world = World::new();
    let (alive, _health) = live("w1", &world.tasks).await;
    let leases = [world.register(&alive).await, world.register(&dead("w2").await).await];
    let first = World { store: Arc::clone(&world.store), keys: world.keys.clone(), tasks: Tasks::new() };
    let mesh = first.mesh(Some(SavedFile::open(path.clone(), "test").await));
    until(&mesh, "both", |snapshot| snapshot.workers.len() == 2 && snapshot.replicas.len() == 2).await;
    first.tasks.finish(PATIENCE).await;

    for lease in leases {
        world.store.revoke(lease).await.expect("memory revokes");
    }
    let mesh = world.mesh(Some(SavedFile::open(path, "test").await));
    let left = until(&mesh, "the one that answers", |snapshot| workers(snapshot) == ["w1"]).await;
    assert_eq!(retained(&left), ["w1"]);
    assert_eq!(left.replicas.keys().collect::<Vec<_>>(), [&replica_of("w1")]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_harms_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocked = folder.path().join("state");
    std::fs::write(&blocked, "a file where the folder should be").expect("written");
    let path = blocked.join("test.snapshot");
    let world = World::new();
    let mesh = world.mesh(Some(SavedFile::open(path.clone(), "test").await));
    world.register(&dead("w1").await).await;
    until(&mesh, "the worker", |snapshot| snapshot.workers.len() == 1).await;
    // The way is free again: the next attempt comes by itself.
    std::fs::remove_file(&blocked).expect("removed");
    let written = async {
        while !SavedFile::open(path.clone(), "test").await.is_usable() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("it is tried again");
    assert!(!world.tasks.failed());
}
