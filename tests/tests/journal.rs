//! The log of jobs over real etcd.

#![expect(clippy::expect_used, reason = "a helper of a test fails the test")]

#[path = "../../shared/journal/tests/journal/checks.rs"]
mod checks;

use std::future::Future;
use std::sync::Arc;

use weft_store::{EtcdStore, Store, etcd};
use weft_tests::etcd::Etcd;

/// Runs a check over an etcd of its own.
async fn over_etcd<F: Future<Output = ()>>(check: impl FnOnce(Arc<dyn Store>) -> F) {
    let etcd = Etcd::start().await.expect("etcd starts");
    let options = etcd::Options::new(vec![etcd.client_url.clone()]);
    let store = EtcdStore::connect(options).await.expect("etcd answers");
    checks::within(check(Arc::new(store))).await;
}

checks::every!(over_etcd);
