//! What every store does. Each case has a prefix of its own; nothing else uses the store meanwhile.

use futures_util::FutureExt;
use futures_util::future::join_all;
use weft_store::{Compare, MAX_OPS, MAX_TXN_BYTES, MAX_VALUE_BYTES, Maintain};

use super::*;

/// Every case that needs nothing but the port.
pub(crate) async fn run(store: &dyn Store) {
    entries_carry_their_history(store, "history/").await;
    deletions_count_only_when_something_goes(store, "deletions/").await;
    ranges_hold_what_they_say(store, "ranges/").await;
    comparisons_decide(store, "compare/").await;
    a_transaction_is_one_revision(store, "txn/").await;
    limits_hold(store, "limits/").await;
    leases_hold_keys(store, "lease/").await;
    a_key_hangs_on_its_last_lease(store, "moved/").await;
    leases_expire(store, "expiry/").await;
    many_leases_are_renewed_at_once(store).await;
    watches_begin_where_they_are_told(store, "watch/").await;
    a_watch_of_a_key_is_of_that_key(store, "one/").await;
    many_records_are_one_listing(store, "many/").await;
    large_records_are_one_listing(store, "large/").await;
}

async fn entries_carry_their_history(store: &dyn Store, prefix: &str) {
    let key = format!("{prefix}a");
    let first = done(store, ops([put(&key, "1", None)])).await;
    let entry = get(store, &key).await.expect("there");
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (first, first, 1));
    assert_eq!((entry.value, entry.lease), (Bytes::from("1"), None));

    let second = done(store, ops([put(&key, "", None)])).await;
    assert_eq!(second, first + 1);
    let entry = get(store, &key).await.expect("there");
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (first, second, 2));
    assert!(entry.value.is_empty());

    // Another life of the key: this is what fences rest on.
    done(store, ops([delete(&key)])).await;
    let again = done(store, ops([put(&key, "1", None)])).await;
    let entry = get(store, &key).await.expect("there");
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (again, again, 1));
}

async fn deletions_count_only_when_something_goes(store: &dyn Store, prefix: &str) {
    let key = format!("{prefix}a");
    let first = done(store, ops([put(&key, "1", None)])).await;
    assert_eq!(done(store, ops([delete(&key)])).await, first + 1);
    assert!(get(store, &key).await.is_none());
    assert_eq!(done(store, ops([delete(&key)])).await, first + 1);
    assert_eq!(done(store, ops([])).await, first + 1);
}

async fn ranges_hold_what_they_say(store: &dyn Store, prefix: &str) {
    let keys = ["p", "p/", "p/b", "p/a", "p/a/c", "p0", "o", "q"].map(|key| format!("{prefix}{key}"));
    for key in &keys {
        done(store, ops([put(key, "1", None)])).await;
    }
    let listing = store.read(Range::Prefix(format!("{prefix}p/"))).await.expect("read");
    let names: Vec<&str> = listing.entries.iter().map(|entry| &entry.key[prefix.len()..]).collect();
    assert_eq!(names, ["p/", "p/a", "p/a/c", "p/b"]);
    assert_eq!(listing.revision, now(store).await);

    let one = store.read(Range::Key(format!("{prefix}p"))).await.expect("read");
    assert_eq!(one.entries.len(), 1);
    let none = store.read(Range::Prefix(format!("{prefix}absent"))).await.expect("read");
    assert_eq!((none.entries.len(), none.revision), (0, listing.revision));
    let all = store.read(Range::Prefix(String::new())).await.expect("read");
    assert!(all.entries.len() >= keys.len() && all.entries.is_sorted_by_key(|entry| entry.key.clone()));
}

async fn comparisons_decide(store: &dyn Store, prefix: &str) {
    let (key, absent, target) = (format!("{prefix}a"), format!("{prefix}absent"), format!("{prefix}target"));
    let created = done(store, ops([put(&key, "1", None)])).await;
    let changed = done(store, ops([put(&key, "2", None)])).await;
    let cases = [
        (Compare::CreateRevision(key.clone(), created), true),
        (Compare::CreateRevision(key.clone(), changed), false),
        (Compare::ModRevision(key.clone(), changed), true),
        (Compare::ModRevision(key.clone(), created), false),
        (Compare::Version(key.clone(), 2), true),
        (Compare::Version(key.clone(), 1), false),
        (Compare::CreateRevision(absent.clone(), 0), true),
        (Compare::ModRevision(absent.clone(), 0), true),
        (Compare::Version(absent.clone(), 0), true),
        (Compare::CreateRevision(key.clone(), 0), false),
        (Compare::Version(absent.clone(), 1), false),
    ];
    for (compare, holds) in cases {
        let before = now(store).await;
        // One that holds beside it must not help.
        let compares = vec![Compare::Version(absent.clone(), 0), compare.clone()];
        let commit = store.commit(Txn { compares, ops: vec![put(&target, "1", None)] }).await.expect("an answer");
        let expected = if holds { Commit::Done(before + 1) } else { Commit::Lost(before) };
        assert_eq!(commit, expected, "{compare:?}");
    }
    // A lost transaction is lost before its operations are looked at.
    let compares = vec![Compare::Version(key.clone(), 9)];
    let txn = Txn { compares, ops: vec![put(&target, "1", Some(LeaseId(4711)))] };
    assert!(matches!(store.commit(txn).await, Ok(Commit::Lost(_))));
}

async fn a_transaction_is_one_revision(store: &dyn Store, prefix: &str) {
    let keys = ["a", "b", "c"].map(|key| format!("{prefix}{key}"));
    let start = done(store, ops([put(&keys[0], "old", None)])).await;
    let mut watch = store.watch(Range::Prefix(prefix.into()), start + 1).await.expect("watch");
    let revision = done(store, ops([put(&keys[1], "1", None), delete(&keys[0]), put(&keys[2], "1", None)])).await;
    assert_eq!(revision, start + 1);
    let message = loop {
        let message = watch.next().await.expect("runs").expect("no error");
        if !message.changes.is_empty() {
            break message;
        }
    };
    assert_eq!(message.revision, revision);
    let told: Vec<_> = message.changes.iter().map(|change| (change.key(), mod_revision(change))).collect();
    assert_eq!(told, [(keys[1].as_str(), revision), (&keys[0], revision), (&keys[2], revision)]);
}

async fn limits_hold(store: &dyn Store, prefix: &str) {
    let key = |index: usize| format!("{prefix}{index:03}");
    let many = |count: usize| ops((0..count).map(|index| put(&key(index), "1", None)).collect::<Vec<_>>());
    done(store, many(MAX_OPS)).await;
    refused(store, many(MAX_OPS + 1)).await;
    let compares = |count: usize| (0..count).map(|index| Compare::Version(key(index), 1)).collect();
    done(store, Txn { compares: compares(MAX_OPS), ops: vec![] }).await;
    refused(store, Txn { compares: compares(MAX_OPS + 1), ops: vec![] }).await;

    let value = |bytes: usize| vec![7; bytes];
    done(store, ops([put(&key(0), value(MAX_VALUE_BYTES), None)])).await;
    refused(store, ops([put(&key(0), value(MAX_VALUE_BYTES + 1), None)])).await;
    let rest = MAX_TXN_BYTES - MAX_VALUE_BYTES - 2 * key(0).len();
    let pair = |rest: usize| ops([put(&key(0), value(MAX_VALUE_BYTES), None), put(&key(1), value(rest), None)]);
    done(store, pair(rest)).await;
    refused(store, pair(rest + 1)).await;

    refused(store, ops([put(&key(0), "1", None), put(&key(0), "2", None)])).await;
    refused(store, ops([put(&key(0), "1", None), delete(&key(0))])).await;
    refused(store, ops([delete(&key(0)), delete(&key(0))])).await;
    refused(store, ops([put("", "1", None)])).await;
}

async fn leases_hold_keys(store: &dyn Store, prefix: &str) {
    let lease = store.grant(Duration::from_secs(30)).await.expect("granted");
    let other = store.grant(Duration::from_secs(30)).await.expect("granted");
    assert_ne!(lease, other);
    let keys = ["a", "b"].map(|key| format!("{prefix}{key}"));
    let start = now(store).await;
    let mut watch = store.watch(Range::Prefix(prefix.into()), start + 1).await.expect("watch");
    done(store, ops([put(&keys[0], "1", Some(lease))])).await;
    done(store, ops([put(&keys[1], "1", Some(lease))])).await;
    assert_eq!(get(store, &keys[0]).await.and_then(|entry| entry.lease), Some(lease));
    let left = store.keep_alive(lease).await.expect("renewed");
    assert!(left > Duration::from_secs(25) && left <= Duration::from_secs(30), "{left:?} left");

    store.revoke(lease).await.expect("revoked");
    let told = told(&mut watch, 4).await;
    for change in &told[2..] {
        assert!(matches!(change, Change::Delete { mod_revision, .. } if *mod_revision == start + 3), "{change:?}");
    }
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(lost)) if lost == lease));
    assert!(matches!(store.revoke(lease).await, Err(Error::LeaseLost(lost)) if lost == lease));
    let late = store.commit(ops([put(&keys[0], "late", Some(lease))])).await;
    assert!(matches!(late, Err(Error::LeaseLost(lost)) if lost == lease));
    let mixed = store.commit(ops([put(&keys[0], "1", None), put(&keys[1], "late", Some(lease))])).await;
    assert!(matches!(mixed, Err(Error::LeaseLost(_))));
    assert!(get(store, &keys[0]).await.is_none() && get(store, &keys[1]).await.is_none());
    store.revoke(other).await.expect("revoked");
}

async fn a_key_hangs_on_its_last_lease(store: &dyn Store, prefix: &str) {
    let first = store.grant(Duration::from_secs(30)).await.expect("granted");
    let second = store.grant(Duration::from_secs(30)).await.expect("granted");
    let keys = ["freed", "moved", "stays"].map(|key| format!("{prefix}{key}"));
    done(store, ops(keys.each_ref().map(|key| put(key, "1", Some(first))))).await;
    done(store, ops([put(&keys[0], "2", None), put(&keys[1], "2", Some(second))])).await;
    assert_eq!(get(store, &keys[0]).await.map(|entry| entry.lease), Some(None));
    store.revoke(first).await.expect("revoked");
    let left = [get(store, &keys[0]).await, get(store, &keys[1]).await, get(store, &keys[2]).await];
    assert_eq!(left.map(|entry| entry.is_some()), [true, true, false]);
    store.revoke(second).await.expect("revoked");
    assert!(get(store, &keys[1]).await.is_none());
}

/// The watch hears of it though nobody calls the store.
async fn leases_expire(store: &dyn Store, prefix: &str) {
    let key = format!("{prefix}a");
    let lease = store.grant(Duration::from_millis(1)).await.expect("granted");
    let start = now(store).await;
    let mut watch = store.watch(Range::Key(key.clone()), start + 1).await.expect("watch");
    done(store, ops([put(&key, "1", Some(lease))])).await;
    let told = told(&mut watch, 2).await;
    assert_eq!(told[1], Change::Delete { key, mod_revision: start + 2 });
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(_))));
}

/// Everybody gets the answer for his own lease, whoever else goes away, and whatever became of the others.
async fn many_leases_are_renewed_at_once(store: &dyn Store) {
    let mut leases = vec![];
    for index in 0..100 {
        leases.push(store.grant(Duration::from_secs(100 + index)).await.expect("granted"));
    }
    let revoked = leases[50];
    store.revoke(revoked).await.expect("revoked");
    for _ in 0..3 {
        // These give up right after their requests were sent.
        for lease in &leases[..10] {
            assert!(store.keep_alive(*lease).now_or_never().is_none_or(|left| left.is_ok()));
        }
        let answers = join_all(leases.iter().map(|lease| store.keep_alive(*lease))).await;
        for ((index, lease), answer) in (0..).zip(&leases).zip(answers) {
            match answer {
                Ok(left) => assert_eq!(left, Duration::from_secs(100 + index), "another lease's answer"),
                Err(Error::LeaseLost(lost)) => assert_eq!((lost, *lease), (revoked, revoked)),
                Err(error) => panic!("lease {index}: {error}"),
            }
        }
    }
    for lease in leases {
        assert_eq!(store.revoke(lease).await.is_ok(), lease != revoked);
    }
}

async fn watches_begin_where_they_are_told(store: &dyn Store, prefix: &str) {
    let key = |index: usize| format!("{prefix}{index}");
    let start = now(store).await;
    for index in 0..5 {
        done(store, ops([put(&key(index), "1", None)])).await;
    }
    done(store, ops([put("watchdog", "not below the prefix", None)])).await;
    done(store, ops([delete(&key(0))])).await;
    let range = || Range::Prefix(prefix.into());

    let mut past = store.watch(range(), start + 1).await.expect("watch");
    let all = told(&mut past, 6).await;
    assert_eq!(all.last(), Some(&Change::Delete { key: key(0), mod_revision: start + 7 }));
    assert!(matches!(&all[2], Change::Put(entry) if entry.key == key(2) && entry.value == "1"));

    let mut middle = store.watch(range(), start + 4).await.expect("watch");
    assert_eq!(told(&mut middle, 3).await, all[3..]);

    let mut future = store.watch(range(), start + 9).await.expect("watch");
    for value in ["skipped", "told"] {
        done(store, ops([put(&key(9), value, None)])).await;
    }
    assert!(matches!(&told(&mut future, 1).await[0], Change::Put(entry) if entry.value == "told"));
}

async fn a_watch_of_a_key_is_of_that_key(store: &dyn Store, prefix: &str) {
    let start = now(store).await;
    let key = format!("{prefix}a");
    let mut watch = store.watch(Range::Key(key.clone()), start + 1).await.expect("watch");
    for neighbour in ["a/", "aa", "b", ""] {
        done(store, ops([put(&format!("{prefix}{neighbour}"), "1", None)])).await;
    }
    done(store, ops([put(&key, "1", None)])).await;
    assert_eq!(told(&mut watch, 1).await[0].key(), key);
}

/// 20,000 records of 1 KiB: five times what one message may hold.
async fn many_records_are_one_listing(store: &dyn Store, prefix: &str) {
    const COUNT: usize = 20_000;
    let keys: Vec<String> = (0..COUNT).map(|index| format!("{prefix}{index:05}")).collect();
    let value = Bytes::from(vec![7; 1024]);
    for keys in keys.chunks(MAX_OPS) {
        done(store, ops(keys.iter().map(|key| put(key, value.clone(), None)).collect::<Vec<_>>())).await;
    }
    let listing = store.read(Range::Prefix(prefix.into())).await.expect("read");
    assert!(listing.entries.iter().map(|entry| &entry.key).eq(&keys), "{} listed", listing.entries.len());
    assert_eq!(listing.revision, now(store).await);
}

/// Few records, but a page of them is far longer than one message.
async fn large_records_are_one_listing(store: &dyn Store, prefix: &str) {
    for index in 0..12 {
        done(store, ops([put(&format!("{prefix}{index}"), vec![7; MAX_VALUE_BYTES], None)])).await;
    }
    let listing = store.read(Range::Prefix(prefix.into())).await.expect("read");
    assert_eq!(listing.entries.len(), 12);
    assert!(listing.entries.iter().all(|entry| entry.value.len() == MAX_VALUE_BYTES));
}

/// History that is gone is an error, never a gap.
pub(crate) async fn compaction(store: &dyn Store, maintenance: &dyn Maintain) {
    let key = "compaction/a";
    let start = now(store).await;
    for value in ["1", "2", "3", "4"] {
        done(store, ops([put(key, value, None)])).await;
    }
    maintenance.compact(start + 3).await.expect("compacts");
    // Again, and less than that, is as well; what is yet to come cannot be forgotten.
    maintenance.compact(start + 3).await.expect("compacts");
    maintenance.compact(start).await.expect("compacts");
    let future = maintenance.compact(start + 5).await;
    assert!(matches!(future, Err(Error::Refused(_))), "{future:?}");

    // A member that lags behind has the history still; a read waits until the member has caught up.
    now(store).await;
    let error = match store.watch(Range::Key(key.into()), start + 1).await {
        Err(error) => error,
        Ok(mut watch) => loop {
            match watch.next().await.expect("an answer") {
                Ok(message) => assert_eq!(message.changes, []),
                Err(error) => break error,
            }
        },
    };
    assert!(matches!(error, Error::Compacted(revision) if revision == start + 3), "{error}");
    let mut watch = store.watch(Range::Key(key.into()), start + 3).await.expect("watch");
    assert_eq!(told(&mut watch, 2).await.iter().map(mod_revision).collect::<Vec<_>>(), [start + 3, start + 4]);
    assert_eq!(get(store, key).await.map(|entry| entry.version), Some(4));
}
