use std::sync::Arc;

use super::*;
use crate::faults::{Faulty, Mode, within};
use crate::port::{Range, Txn};

const TTL: Duration = Duration::from_secs(1);

/// Runs a driver beside `script`, then cancels it.
async fn beside(store: &Arc<Faulty>, script: impl AsyncFnOnce(Presence)) {
    let (presence, driver) = Presence::new(store.clone(), TTL);
    let cancel = CancellationToken::new();
    let script = async {
        script(presence).await;
        cancel.cancel();
    };
    // The store's own timer ends with the script.
    let expiry = store.inner.clone().run(cancel.clone());
    within(async { tokio::join!(driver.run(cancel.clone()), expiry, script) }).await;
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn leases(store: &Faulty) -> Vec<Option<LeaseId>> {
    let listing = store.inner.read(Range::Prefix(String::new())).await.expect("memory answers");
    listing.entries.iter().map(|entry| entry.lease).collect()
}

/// Waits until the store holds exactly this.
async fn until(store: &Faulty, expected: &[(&str, &str)]) {
    let mut watch = store.inner.watch(Range::Prefix(String::new()), 1).await.expect("watch");
    while store.contents().await != pairs(expected) {
        use futures_util::StreamExt;
        watch.next().await.expect("runs").expect("no error");
    }
}

#[tokio::test]
async fn keys_come_change_and_go_and_all_go_at_the_end() {
    let store = Faulty::new();
    beside(&store, async |presence| {
        presence.set("a", "1").expect("allowed");
        presence.set("b", "1").expect("allowed");
        presence.flush().await.expect("runs");
        assert_eq!(store.contents().await, pairs(&[("a", "1"), ("b", "1")]));
        presence.set("a", "2").expect("allowed");
        presence.remove("b");
        presence.set("c", "1").expect("allowed");
        presence.flush().await.expect("runs");
        assert_eq!(store.contents().await, pairs(&[("a", "2"), ("c", "1")]));
    })
    .await;
    assert_eq!(store.contents().await, pairs(&[]));
}

#[tokio::test]
async fn what_did_not_change_is_not_written_again() {
    let store = Faulty::new();
    beside(&store, async |presence| {
        presence.set("a", "1").expect("allowed");
        presence.flush().await.expect("runs");
        let before = store.inner.read(Range::Key("a".into())).await.expect("read");
        presence.set("a", "1").expect("allowed");
        presence.set("b", "1").expect("allowed");
        presence.flush().await.expect("runs");
        assert_eq!(store.inner.read(Range::Key("a".into())).await.expect("read").entries, before.entries);
    })
    .await;
}

#[tokio::test]
async fn a_lost_lease_is_replaced_and_everything_put_again() {
    let store = Faulty::new();
    beside(&store, async |presence| {
        presence.set("a", "1").expect("allowed");
        presence.set("b", "2").expect("allowed");
        presence.flush().await.expect("runs");
        let before = leases(&store).await;
        store.inner.revoke(before[0].expect("under a lease")).await.expect("revoked");
        assert_eq!(store.contents().await, pairs(&[]));
        until(&store, &[("a", "1"), ("b", "2")]).await;
        assert!(leases(&store).await.iter().all(|lease| lease.is_some() && *lease != before[0]));
    })
    .await;
}

#[tokio::test]
async fn an_outage_longer_than_the_lease_is_survived() {
    let store = Faulty::new();
    beside(&store, async |presence| {
        presence.set("a", "1").expect("allowed");
        presence.flush().await.expect("runs");
        store.set(Mode::Down);
        until(&store, &[]).await;
        presence.set("a", "2").expect("allowed");
        presence.set("b", "1").expect("allowed");
        store.set(Mode::Up);
        presence.flush().await.expect("runs");
        assert_eq!(store.contents().await, pairs(&[("a", "2"), ("b", "1")]));
    })
    .await;
}

#[tokio::test]
async fn a_write_without_an_answer_leaves_nothing_behind() {
    let store = Faulty::new();
    beside(&store, async |presence| {
        store.set(Mode::Deaf);
        presence.set("a", "1").expect("allowed");
        presence.set("b", "1").expect("allowed");
        until(&store, &[("a", "1"), ("b", "1")]).await;
        // Not known to be there, and no longer wanted.
        presence.remove("a");
        presence.set("b", "2").expect("allowed");
        store.set(Mode::Up);
        presence.flush().await.expect("runs");
        assert_eq!(store.contents().await, pairs(&[("b", "2")]));
    })
    .await;
}

#[tokio::test]
async fn a_write_that_arrives_late_cannot_undo_a_newer_one() {
    let store = Faulty::new();
    beside(&store, async |presence| {
        store.set(Mode::Late);
        presence.set("a", "old").expect("allowed");
        presence.set("gone", "old").expect("allowed");
        while !store.has_late() {
            tokio::task::yield_now().await;
        }
        store.set(Mode::Up);
        presence.set("a", "new").expect("allowed");
        presence.remove("gone");
        presence.flush().await.expect("runs");
        assert!(store.release().await > 0);
        assert_eq!(store.contents().await, pairs(&[("a", "new")]));
    })
    .await;
}

#[tokio::test]
async fn keys_of_a_predecessor_are_taken_over() {
    let store = Faulty::new();
    let old = store.inner.grant(Duration::from_secs(60)).await.expect("granted");
    let put = Op::Put { key: "a".into(), value: "1".into(), lease: Some(old) };
    store.inner.commit(Txn { compares: vec![], ops: vec![put] }).await.expect("put");
    beside(&store, async |presence| {
        // The same value, but it would vanish with the predecessor's lease.
        presence.set("a", "1").expect("allowed");
        presence.flush().await.expect("runs");
        store.inner.revoke(old).await.expect("revoked");
        assert_eq!(store.contents().await, pairs(&[("a", "1")]));
    })
    .await;
}

#[tokio::test]
async fn more_keys_than_one_transaction_takes() {
    let store = Faulty::new();
    beside(&store, async |presence| {
        for index in 0..300 {
            presence.set(format!("k{index:03}"), "1").expect("allowed");
        }
        presence.flush().await.expect("runs");
        assert_eq!(store.contents().await.len(), 300);
    })
    .await;
    assert_eq!(store.contents().await.len(), 0);
}

#[tokio::test]
async fn what_the_store_would_never_take_is_refused_at_once() {
    let (presence, driver) = Presence::new(Faulty::new(), TTL);
    assert!(matches!(presence.set("", "1"), Err(Error::Refused(_))));
    assert!(matches!(presence.set("a", vec![0; crate::MAX_VALUE_BYTES + 1]), Err(Error::Refused(_))));
    presence.set("a", "1").expect("allowed");
    drop(driver);
    assert_eq!(presence.flush().await, Err(Stopped));
}
