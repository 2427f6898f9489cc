//! What the conformance suite cannot see: the clock, the bounds and the timer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use weft_types::{ManualClock, SystemClock};

use super::*;
use crate::faults::within;
use crate::port::{Change, Op};

fn put(key: &str, value: impl Into<Bytes>, lease: Option<LeaseId>) -> Txn {
    Txn { compares: vec![], ops: vec![Op::Put { key: key.into(), value: value.into(), lease }] }
}

fn all() -> Range {
    Range::Prefix(String::new())
}

#[tokio::test]
async fn a_lease_ends_with_its_time_and_not_before() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::new(clock.clone());
    let lease = store.grant(Duration::from_millis(1500)).await.expect("granted");
    store.commit(put("a", "1", Some(lease))).await.expect("put");

    // Rounded up to two seconds; the renewal counts from when it came.
    clock.advance(Duration::from_millis(1999));
    assert_eq!(store.keep_alive(lease).await.expect("still there"), Duration::from_secs(2));
    clock.advance(Duration::from_millis(1999));
    assert_eq!(store.read(all()).await.expect("read").entries.len(), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(store.read(all()).await.expect("read").entries.len(), 0);
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(lost)) if lost == lease));
}

#[tokio::test]
async fn the_timer_ends_leases_without_any_call() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let cancel = CancellationToken::new();
    let script = async {
        let mut watch = store.watch(all(), 1).await.expect("watch");
        let lease = store.grant(Duration::from_secs(1)).await.expect("granted");
        store.commit(put("a", "1", Some(lease))).await.expect("put");
        let mut changes = vec![];
        while changes.len() < 2 {
            changes.extend(watch.next().await.expect("runs").expect("no error").changes);
        }
        assert!(matches!(&changes[1], Change::Delete { key, mod_revision: 3 } if key == "a"));
        cancel.cancel();
    };
    within(async { tokio::join!(store.clone().run(cancel.clone()), script) }).await;
}

#[tokio::test]
async fn a_watch_that_lags_is_told_to_list_again_and_costs_nothing() {
    let store = MemoryStore::with_history(Arc::new(SystemClock), 10);
    let mut watch = store.watch(all(), 1).await.expect("watch");
    for index in 0..10 {
        store.commit(put("a", index.to_string(), None)).await.expect("put");
    }
    assert_eq!(watch.next().await.expect("runs").expect("within bounds").changes.len(), 10);
    for index in 0..11 {
        store.commit(put("a", index.to_string(), None)).await.expect("put");
    }
    assert!(matches!(watch.next().await, Some(Err(Error::Compacted(13)))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn the_history_is_bounded_in_bytes() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    let mut watch = store.watch(all(), 2).await.expect("watch");
    for _ in 0..70 {
        store.commit(put("a", vec![0; crate::MAX_VALUE_BYTES], None)).await.expect("put");
    }
    assert!(matches!(watch.next().await, Some(Err(Error::Compacted(_)))));
}

#[tokio::test]
async fn catching_up_comes_in_whole_revisions() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    for index in 0..50 {
        let op = |key| Op::Put { key: format!("{key}"), value: index.to_string().into(), lease: None };
        store.commit(Txn { compares: vec![], ops: (0..100).map(op).collect() }).await.expect("put");
    }
    let mut watch = store.watch(all(), 2).await.expect("watch");
    let (mut told, mut messages) = (0, 0);
    while told < 5000 {
        let message = watch.next().await.expect("runs").expect("no error");
        told += message.changes.len();
        messages += 1;
        assert_eq!(told % 100, 0);
        assert_eq!(message.revision, i64::try_from(told / 100).expect("small") + 1);
    }
    assert!(messages > 1, "one message held everything");
}
