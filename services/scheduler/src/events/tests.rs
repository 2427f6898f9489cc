//! Heralds of whole schedulers, over a store that can be full.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tonic::{Request, async_trait};
use weft_proto::weft::control::v1::ListEventsRequest;
use weft_proto::weft::control::v1::events_server::Events as _;
use weft_proto::weft::state::v1::{Event, Leader};
use weft_store::{LeaseId, Listing, Member, MemoryStore, Range, Revision, Store, Watch};

use super::*;
use crate::fixture::{key, worker};
use crate::grpc::Surface;
use crate::tests::{Cluster, Members, PATIENCE, request};
use crate::{Options, Scheduler};

/// The embedded store, which takes neither puts nor leases while it is full, as etcd; and counts the events it is given.
struct Narrow {
    inner: MemoryStore,
    is_full: AtomicBool,
    events: AtomicUsize,
}

impl Narrow {
    fn new() -> Arc<Self> {
        let inner = MemoryStore::new(Arc::new(SystemClock));
        Arc::new(Self { inner, is_full: AtomicBool::new(false), events: AtomicUsize::new(0) })
    }

    fn take(&self) -> Result<(), Error> {
        match self.is_full.load(Ordering::SeqCst) {
            true => Err(Error::Unavailable("database space exceeded".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Narrow {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(range, from).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        if txn.ops.iter().any(|op| op.key().contains("/events/")) {
            self.events.fetch_add(1, Ordering::SeqCst);
        }
        if txn.ops.iter().any(|op| matches!(op, Op::Put { .. })) {
            self.take()?;
        }
        self.inner.commit(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.take()?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke(lease).await
    }
}

/// A scheduler whose own loops tell nothing, because somebody else holds the leadership, for heralds that the test drives.
struct Stage {
    cluster: Cluster,
    store: Arc<Narrow>,
    members: Members,
    scheduler: Scheduler,
    term: i64,
}

impl Stage {
    async fn new() -> Self {
        let store = Narrow::new();
        let cluster = Cluster::over(Arc::clone(&store) as Arc<dyn Store>);
        cluster.put(cluster.keys.leader(), &Leader::default()).await;
        let members = Members::default();
        let (scheduler, _) = cluster.scheduler_with("s1", Options::default(), members.clone());
        let mesh = &scheduler.inner.mesh;
        mesh.changes().wait_for(|_| mesh.snapshot().leader.is_some()).await.expect("the mesh lives");
        let term = mesh.snapshot().leader.as_ref().expect("told").create_revision;
        Self { cluster, store, members, scheduler, term }
    }

    /// A herald that leads, in the term that began at `create_revision`, until the sender says otherwise.
    fn herald(&self, create_revision: i64) -> (Herald, watch::Sender<Option<Fence>>) {
        let valid_until = SystemClock::now() + PATIENCE;
        let (leads, fence) =
            watch::channel(Some(Fence { key: self.cluster.keys.leader(), create_revision, valid_until }));
        (Herald::under(Arc::clone(&self.scheduler.inner), fence), leads)
    }

    fn alarm(&self, alarms: &[&str]) {
        let alarms = alarms.iter().map(|alarm| (*alarm).to_owned()).collect();
        *self.members.told.lock().expect("not poisoned") = vec![Member { alarms, ..Member::default() }];
    }

    async fn garbage(&self, name: &str) {
        let key = self.cluster.keys.model(&name.parse().expect("a name"));
        self.cluster.write(Op::Put { key: key.clone(), value: "\u{7f}".into(), lease: None }).await;
        let mesh = &self.scheduler.inner.mesh;
        let seen = |_: &Revision| mesh.snapshot().undecodable.contains_key(&key);
        mesh.changes().wait_for(seen).await.expect("the mesh lives");
    }

    async fn listed(&self) -> Vec<Event> {
        let surface = Surface(Arc::clone(&self.scheduler.inner));
        let list: Request<ListEventsRequest> = request(ListEventsRequest { limit: 0 });
        let events = surface.list_events(list).await.expect("the store answers").into_inner().events;
        events.into_iter().filter(|event| event.reason != "LeaderElected").collect()
    }

    /// What is told of states: the elections of the heralds are beside the point here.
    async fn stored(&self) -> Vec<weft_store::Entry> {
        let events = self.cluster.store.read(Range::Prefix(self.cluster.keys.events())).await.expect("read").entries;
        events.into_iter().filter(|entry| !entry.key.contains("/LeaderElected-")).collect()
    }
}

/// The events that stand in the store, once there are so many.
async fn events(surface: &Surface, count: usize) -> Vec<Event> {
    let mut changes = surface.0.mesh.changes();
    loop {
        let list = request(ListEventsRequest { limit: 0 });
        let mut told = surface.list_events(list).await.expect("the store answers").into_inner().events;
        told.retain(|event| event.reason != "LeaderElected");
        if told.len() >= count {
            return told;
        }
        tokio::time::timeout(PATIENCE, changes.changed()).await.expect("too few events").expect("the mesh lives");
    }
}

#[tokio::test]
async fn what_is_odd_is_told_once_whoever_leads() {
    let cluster = Cluster::new();
    let members = Members::default();
    *members.told.lock().expect("not poisoned") =
        vec![Member { alarms: vec!["NOSPACE".to_owned()], ..Member::default() }];
    let (first, first_tasks) = cluster.scheduler_with("s1", Options::default(), members.clone());
    let surface = Surface(Arc::clone(&first.inner));
    let garbage = |name: &str| Op::Put {
        key: cluster.keys.model(&name.parse().expect("a name")),
        value: bytes::Bytes::from_static(b"\xff\xff"),
        lease: None,
    };
    cluster.write(garbage("m")).await;
    let told = events(&surface, 2).await;
    let mut words: Vec<_> = told.iter().map(|event| (event.reason.as_str(), event.subject.as_str())).collect();
    words.sort_unstable();
    assert_eq!(words, [("StoreAlarm", "store/0/NOSPACE"), ("UndecodableRecord", "models/m")]);
    assert!(told.iter().all(|event| event.reporter == "s1" && event.time.is_some()));

    // The next leader tells what is new and repeats nothing.
    first_tasks.finish(PATIENCE).await;
    let (second, _second_tasks) = cluster.scheduler_with("s2", Options::default(), members);
    let surface = Surface(Arc::clone(&second.inner));
    cluster.write(garbage("n")).await;
    let told = events(&surface, 3).await;
    let reporters: Vec<_> = told.iter().map(|event| event.reporter.as_str()).collect();
    assert_eq!((reporters.len(), reporters[0]), (3, "s2"), "{told:?}");
    let entries = cluster.store.read(Range::Prefix(cluster.keys.events())).await.expect("read").entries;
    assert!(entries.iter().all(|entry| entry.lease.is_some()), "events must go away by themselves");
}

#[tokio::test]
async fn a_leader_of_the_past_tells_nothing() {
    let stage = Stage::new().await;
    stage.garbage("m").await;
    for (term, count) in [(stage.term - 1, 0), (stage.term, 1)] {
        stage.herald(term).0.pass().await.expect("the store answers");
        assert_eq!(stage.stored().await.len(), count);
    }
}

#[tokio::test]
async fn what_a_full_store_does_not_take_is_told_all_the_same() {
    let stage = Stage::new().await;
    stage.alarm(&["NOSPACE"]);
    stage.garbage("m").await;
    stage.store.is_full.store(true, Ordering::SeqCst);
    let (mut herald, leads) = stage.herald(stage.term);
    for _ in 0..2 {
        herald.pass().await.expect_err("it is full");
    }
    let told = stage.listed().await;
    let mut reasons: Vec<_> = told.iter().map(|event| event.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["StoreAlarm", "UndecodableRecord"]);
    assert!(stage.stored().await.is_empty());

    // Once there is room they are written, as of the time at which they began.
    stage.store.is_full.store(false, Ordering::SeqCst);
    assert_eq!(herald.pass().await.expect("it takes them"), Pass::Told);
    assert_eq!(stage.stored().await.len(), 2);
    assert_eq!(stage.listed().await, told, "each once, and as it was");

    // Who does not lead any more leaves it to the leader to tell what is so.
    stage.garbage("n").await;
    stage.store.is_full.store(true, Ordering::SeqCst);
    herald.pass().await.expect_err("it is full");
    assert_eq!(stage.listed().await.len(), 3);
    leads.send_replace(None);
    assert_eq!(herald.pass().await.expect("nothing to do"), Pass::Idle);
    assert_eq!(stage.listed().await, told);
}

#[tokio::test]
async fn what_went_unseen_between_two_leaders_is_news_when_it_comes_again() {
    let stage = Stage::new().await;
    stage.alarm(&["NOSPACE"]);
    let (mut first, leads) = stage.herald(stage.term);
    first.pass().await.expect("told");
    leads.send_replace(None);
    assert_eq!(first.pass().await.expect("nothing to do"), Pass::Idle);
    // As if that had been in the hour before.
    let entry = stage.stored().await.remove(0);
    let (hour, id) =
        entry.key.strip_prefix(&stage.cluster.keys.events()).and_then(|key| key.split_once('/')).expect("a key");
    let before = stage.cluster.keys.event(hour.parse::<u64>().expect("a number") - 1, id);
    stage.cluster.write(Op::Delete(entry.key.clone())).await;
    stage.cluster.write(Op::Put { key: before, value: entry.value.clone(), lease: entry.lease }).await;

    // The next leader finds the alarm gone, and later raised again.
    stage.alarm(&[]);
    let (mut herald, _leads) = stage.herald(stage.term);
    herald.pass().await.expect("nothing to tell");
    stage.alarm(&["NOSPACE"]);
    herald.next_look = SystemClock::now();
    herald.pass().await.expect("told");
    assert_eq!(stage.stored().await.len(), 2);
}

/// Removals are what a full store takes: their events come when it has room again.
#[tokio::test]
async fn what_is_done_does_not_wait_for_its_events() {
    let store = Narrow::new();
    let cluster = Cluster::over(Arc::clone(&store) as Arc<dyn Store>);
    let (scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    let surface = Surface(Arc::clone(&scheduler.inner));
    cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    cluster.until_placed(&[key("w1", "m", 1)]).await;
    let told = |events: &[Event]| events.iter().map(|event| event.reason.clone()).collect::<Vec<_>>();
    assert_eq!(told(&events(&surface, 1).await), ["ReplicasPlaced"]);
    store.is_full.store(true, Ordering::SeqCst);
    // What its worker does not offer any more is removed.
    Cluster::over(Arc::new(store.inner.clone())).join(&worker("w1", 1, &[])).await;
    cluster.until_placed(&[]).await;
    store.is_full.store(false, Ordering::SeqCst);
    assert_eq!(told(&events(&surface, 2).await), ["ReplicasRemoved", "ReplicasPlaced"]);

    // Nor for their lease.
    let entries = cluster.store.read(Range::Prefix(cluster.keys.events())).await.expect("read").entries;
    let leases: BTreeSet<LeaseId> = entries.iter().filter_map(|entry| entry.lease).collect();
    for lease in leases {
        cluster.store.revoke(lease).await.expect("it was there");
    }
    cluster.join(&worker("w2", 1, &[("n", 1)])).await;
    cluster.until_placed(&[key("w2", "n", 1)]).await;
    let news = events(&surface, 1).await;
    assert_eq!((told(&news), news[0].subject.as_str()), (vec!["ReplicasPlaced".to_owned()], "models/n"));
}

#[tokio::test]
async fn a_lost_write_ends_the_pass() {
    let stage = Stage::new().await;
    for name in ["a", "b", "c"] {
        stage.garbage(name).await;
    }
    let (mut herald, _leads) = stage.herald(stage.term - 1);
    assert_eq!(herald.pass().await.expect("the store answers"), Pass::Lost);
    assert_eq!(stage.store.events.load(Ordering::SeqCst), 1, "the others are doomed as well");
}

#[test]
fn a_follower_sleeps_and_a_failure_waits_longer_each_time() {
    let mut backoff = Backoff::new(LEAST_BACKOFF, LOOK);
    assert_eq!(rest(Pass::Idle, Duration::ZERO, &mut backoff, 1.0), LOOK);
    assert_eq!(rest(Pass::Told, Duration::ZERO, &mut backoff, 1.0), LEAST_BACKOFF);
    assert_eq!(rest(Pass::Told, LOOK / 2, &mut backoff, 1.0), LOOK / 2);
    let waits: Vec<Duration> = (0..3).map(|_| rest(Pass::Lost, LOOK, &mut backoff, 1.0)).collect();
    assert_eq!(waits, [LEAST_BACKOFF, LEAST_BACKOFF * 2, LEAST_BACKOFF * 4]);
    rest(Pass::Told, LOOK, &mut backoff, 1.0);
    assert_eq!(rest(Pass::Lost, LOOK, &mut backoff, 1.0), LEAST_BACKOFF);
}
