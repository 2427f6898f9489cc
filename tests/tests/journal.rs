//! The log of jobs: what it promises, over the embedded store and over real etcd, and while the way to the store is at fault.

#![expect(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

#[path = "journal/desk.rs"]
mod desk;
#[path = "journal/faults.rs"]
mod faults;
#[path = "journal/faulty.rs"]
mod faulty;
#[path = "journal/history.rs"]
mod history;
#[path = "journal/suite.rs"]
mod suite;
#[path = "journal/upkeep.rs"]
mod upkeep;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use weft_store::{CancellationToken, EtcdStore, MemoryStore, Store, etcd};
use weft_tests::etcd::Etcd;
use weft_types::SystemClock;

/// Far more than anything here takes: a test that would hang fails instead.
const LIMIT: Duration = Duration::from_secs(90);

/// Fails a test that hangs.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it hangs")
}

/// Runs a check over an embedded store whose leases end in time.
async fn over_memory<F: Future<Output = ()>>(check: impl FnOnce(Arc<dyn Store>) -> F) {
    let store = MemoryStore::with_history(Arc::new(SystemClock), 1 << 20);
    let cancel = CancellationToken::new();
    let checked = async {
        within(check(Arc::new(store.clone()))).await;
        cancel.cancel();
    };
    tokio::join!(store.clone().run(cancel.clone()), checked);
}

/// Runs a check over an etcd of its own.
async fn over_etcd<F: Future<Output = ()>>(check: impl FnOnce(Arc<dyn Store>) -> F) {
    let etcd = Etcd::start().await.expect("etcd starts");
    let options = etcd::Options::new(vec![etcd.client_url.clone()]);
    let store = EtcdStore::connect(options).await.expect("etcd answers");
    within(check(Arc::new(store))).await;
}

macro_rules! suite {
    ($($check:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $check() { Box::pin(super::over_memory(super::suite::$check)).await; })*
        }
        mod etcd_process {
            $(#[tokio::test] async fn $check() { Box::pin(super::over_etcd(super::suite::$check)).await; })*
        }
    };
}

suite!(
    a_job_is_logged_from_its_beginning_to_its_end,
    a_key_stands_for_one_job,
    slots_are_never_given_twice,
    a_reservation_takes_all_or_nothing,
    a_scheduler_that_stops_hands_over_at_once,
    a_scheduler_that_vanishes_is_replaced,
    a_scheduler_that_comes_takes_its_part,
    a_record_that_cannot_be_read_stops_nobody,
    what_is_not_journaled_ends_with_its_scheduler,
    definitions_and_long_values_read_back,
);
