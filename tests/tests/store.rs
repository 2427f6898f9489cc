//! The store port: one suite, held by both adapters, the second over real etcd processes.

#![expect(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

#[path = "store/auth.rs"]
mod auth;
#[path = "store/conformance.rs"]
mod conformance;
#[path = "store/differential.rs"]
mod differential;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/maintenance.rs"]
mod maintenance;
#[path = "store/members.rs"]
mod members;
#[path = "store/mirrored.rs"]
mod mirrored;
#[path = "store/outage.rs"]
mod outage;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use weft_store::etcd::{Maintenance, Options};
use weft_store::{
    CancellationToken, Change, Commit, Entry, Error, EtcdStore, LeaseId, MemoryStore, Op, Range, Revision, Store, Txn,
    Watch,
};
use weft_tests::etcd::{Cluster, Etcd};
use weft_types::SystemClock;

/// Far more than anything here takes: a test that would hang fails instead.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn memory_passes_the_suite() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let cancel = CancellationToken::new();
    let suite = async {
        conformance::run(&store).await;
        conformance::compaction(&store, &store).await;
        cancel.cancel();
    };
    tokio::join!(store.clone().run(cancel.clone()), within(suite));
}

#[tokio::test]
async fn etcd_passes_the_suite() {
    let etcd = Etcd::start().await.expect("etcd starts");
    etcd_suite(Options::new(vec![etcd.client_url.clone()])).await;
}

#[tokio::test]
async fn three_members_pass_the_suite() {
    let cluster = Cluster::start(3).await.expect("etcd starts");
    etcd_suite(Options::new(cluster.endpoints())).await;
}

async fn etcd_suite(options: Options) {
    let maintenance = Maintenance::try_new(&options).expect("good endpoints");
    let store = EtcdStore::connect(options).await.expect("etcd answers");
    let suite = async {
        conformance::run(&store).await;
        Box::pin(conformance::compaction(&store, &maintenance)).await;
    };
    within(Box::pin(suite)).await;
}

/// Records move from the end of the range to its beginning and back while it is read in many pages.
#[tokio::test]
async fn a_listing_in_pages_is_of_one_revision() {
    const COUNT: usize = 100;
    let etcd = Etcd::start().await.expect("etcd starts");
    let writer = connect(&etcd).await;
    let options = Options { page: 7, ..Options::new(vec![etcd.client_url.clone()]) };
    let reader = EtcdStore::connect(options).await.expect("etcd answers");
    let keys: Vec<String> = (0..COUNT).map(|index| format!("p/{index:03}")).collect();
    done(&writer, ops(keys.iter().map(|key| put(key, "1", None)).collect::<Vec<_>>())).await;
    let moves = async {
        loop {
            done(&writer, ops([delete("p/099"), put("p/-", "1", None)])).await;
            done(&writer, ops([delete("p/-"), put("p/099", "1", None)])).await;
        }
    };
    let readings = async {
        for _ in 0..100 {
            let listing = reader.read(Range::Prefix("p/".into())).await.expect("read");
            assert_eq!(listing.entries.len(), COUNT);
            assert!(listing.entries.iter().all(|entry| entry.mod_revision <= listing.revision));
        }
    };
    let race = async {
        tokio::select! {
            () = moves => {}
            () = readings => {}
        }
    };
    within(race).await;
}

async fn connect(etcd: &Etcd) -> EtcdStore {
    EtcdStore::connect(Options::new(vec![etcd.client_url.clone()])).await.expect("etcd answers")
}

/// What a call yields once etcd answers in time: one that gives up soon may do so on a busy machine, too. A change that is
/// tried again may happen twice.
async fn patient<T>(mut call: impl AsyncFnMut() -> Result<T, Error>) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it hangs")
}

fn put(key: &str, value: impl Into<Bytes>, lease: Option<LeaseId>) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease }
}

fn delete(key: &str) -> Op {
    Op::Delete(key.into())
}

fn ops(ops: impl Into<Vec<Op>>) -> Txn {
    Txn { compares: vec![], ops: ops.into() }
}

/// Commits what must succeed.
async fn done(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(txn).await.expect("the store answers") {
        Commit::Done(revision) => revision,
        Commit::Lost(revision) => panic!("lost at {revision}"),
    }
}

/// Commits what must be refused, and sees that nothing happened.
async fn refused(store: &dyn Store, txn: Txn) {
    let before = now(store).await;
    assert!(matches!(store.commit(txn).await, Err(Error::Refused(_))));
    assert_eq!(now(store).await, before, "something was written");
}

async fn get(store: &dyn Store, key: &str) -> Option<Entry> {
    store.read(Range::Key(key.into())).await.expect("the store answers").entries.pop()
}

async fn now(store: &dyn Store) -> Revision {
    store.read(Range::Key("absent".into())).await.expect("the store answers").revision
}

/// The next `count` changes, checked to come in order.
async fn told(watch: &mut Watch, count: usize) -> Vec<Change> {
    let mut told = vec![];
    let mut revision = 0;
    while told.len() < count {
        let message = watch.next().await.expect("the watch runs").expect("no error");
        assert!(message.revision >= revision, "{} after {revision}", message.revision);
        revision = message.revision;
        for change in &message.changes {
            assert!(mod_revision(change) <= revision, "told before its revision");
        }
        told.extend(message.changes);
    }
    assert_eq!(told.len(), count, "more was told: {told:?}");
    assert!(told.is_sorted_by_key(mod_revision), "out of order: {told:?}");
    told
}

fn mod_revision(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.mod_revision,
        Change::Delete { mod_revision, .. } => *mod_revision,
    }
}
