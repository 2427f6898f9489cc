//! The barrier of participants: one suite over both stores, the second a real etcd, and the example participant as a process that dies.

#![expect(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

#[path = "participant/conformance.rs"]
mod conformance;
#[path = "participant/ledger.rs"]
mod ledger;

use std::sync::Arc;
use std::time::Duration;

use weft_store::etcd::Options;
use weft_store::{EtcdStore, MemoryStore};
use weft_tests::etcd::Etcd;
use weft_types::SystemClock;

/// Far more than anything here takes: a test that would hang fails instead.
const LIMIT: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it hangs")
}

#[tokio::test]
async fn rows_in_memory_pass_the_suite() {
    within(conformance::run(Arc::new(MemoryStore::new(Arc::new(SystemClock))))).await;
}

#[tokio::test]
async fn rows_in_etcd_pass_the_suite() {
    let etcd = Etcd::start().await.expect("etcd starts");
    let store = EtcdStore::connect(Options::new(vec![etcd.client_url.clone()])).await.expect("etcd answers");
    within(Box::pin(conformance::run(Arc::new(store)))).await;
}
