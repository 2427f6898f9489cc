use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::faults::{Faulty, Mode, within};
use crate::port::Maintain;

/// Runs a mirror of `a/` beside `script`, which gets what it tells.
async fn beside<F: Future<Output = ()>>(store: &Arc<Faulty>, script: impl FnOnce(mpsc::Receiver<MirrorEvent>) -> F) {
    let cancel = CancellationToken::new();
    let (sender, events) = mpsc::channel(1024);
    let mirror = Mirror::new(store.clone(), Range::Prefix("a/".into()));
    let run = mirror.run(cancel.clone(), move |event| sender.try_send(event).expect("the test reads along"));
    let script = async {
        script(events).await;
        cancel.cancel();
    };
    within(async { tokio::join!(run, script) }).await;
}

/// The next changes, by key and value (`None` for deleted), and whether they are the first.
async fn changes(events: &mut mpsc::Receiver<MirrorEvent>) -> (Vec<(String, Option<String>)>, bool) {
    loop {
        if let MirrorEvent::Changes { changes, first, .. } = events.recv().await.expect("runs") {
            return (changes.iter().map(pair).collect(), first);
        }
    }
}

fn pair(change: &Change) -> (String, Option<String>) {
    let value = match change {
        Change::Put(entry) => Some(String::from_utf8_lossy(&entry.value).into_owned()),
        Change::Delete { .. } => None,
    };
    (change.key().to_owned(), value)
}

fn expected(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect()
}

#[tokio::test]
async fn tells_the_first_listing_even_when_it_is_empty_then_changes() {
    let store = Faulty::new();
    beside(&store, async |mut events| {
        assert_eq!(changes(&mut events).await, (vec![], true));
        store.put("b/elsewhere", "0").await;
        store.put("a/x", "1").await;
        assert_eq!(changes(&mut events).await, (expected(&[("a/x", Some("1"))]), false));
        store.delete("a/x").await;
        assert_eq!(changes(&mut events).await, (expected(&[("a/x", None)]), false));
    })
    .await;
}

/// Waits until the mirror has noticed an outage.
async fn lost(events: &mut mpsc::Receiver<MirrorEvent>) {
    while !matches!(events.recv().await.expect("runs"), MirrorEvent::Lost { .. }) {}
}

fn key(key: &str) -> Range {
    Range::Key(key.to_owned())
}

/// Takes the store away, lets `meanwhile` happen, and returns what is told of it.
async fn outage(
    store: &Faulty,
    events: &mut mpsc::Receiver<MirrorEvent>,
    meanwhile: impl AsyncFnOnce(),
) -> Vec<(String, Option<String>)> {
    store.set(Mode::Down);
    lost(events).await;
    meanwhile().await;
    store.reads();
    store.set(Mode::Up);
    let (told, first) = changes(events).await;
    assert!(!first);
    told
}

#[tokio::test]
async fn after_an_outage_it_goes_on_where_it_was() {
    let store = Faulty::new();
    store.put("a/old", "1").await;
    store.put("a/newest", "1").await;
    beside(&store, async |mut events| {
        assert_eq!(changes(&mut events).await.0.len(), 2);
        let told = outage(&store, &mut events, async || {
            store.put("b/elsewhere", "1").await;
            store.put("a/new", "1").await;
            store.delete("a/new").await;
            store.put("a/old", "2").await;
        });
        // Every change as it happened, for one read of one key.
        assert_eq!(told.await, expected(&[("a/new", Some("1")), ("a/new", None), ("a/old", Some("2"))]));
        assert_eq!(store.reads(), [key("a/newest")]);

        // Also after changes that a watch told, and when the newest key is gone.
        let told = outage(&store, &mut events, async || store.delete("a/old").await).await;
        assert_eq!((told, store.reads()), (expected(&[("a/old", None)]), vec![key("a/old")]));
        let told = outage(&store, &mut events, async || store.delete("a/newest").await).await;
        assert_eq!((told, store.reads()), (expected(&[("a/newest", None)]), vec![key("a/newest")]));
        let told = outage(&store, &mut events, async || store.put("a/x", "1").await).await;
        assert_eq!((told, store.reads()), (expected(&[("a/x", Some("1"))]), vec![key("a/")]));
    })
    .await;
}

#[tokio::test]
async fn after_a_compaction_only_differences_are_told() {
    let store = Faulty::new();
    for key in ["a/kept", "a/changed", "a/gone", "a/reborn"] {
        store.put(key, "old").await;
    }
    beside(&store, async |mut events| {
        assert_eq!(changes(&mut events).await.0.len(), 4);
        let told = outage(&store, &mut events, async || {
            store.delete("a/gone").await;
            store.put("a/new", "new").await;
            store.put("a/changed", "new").await;
            store.delete("a/reborn").await;
            // The same value again, but another life of the key: its fence differs.
            store.put("a/reborn", "old").await;
            store.put("b/last", "1").await;
            let revision = store.inner.read(key("b/last")).await.expect("memory answers").revision;
            store.inner.compact(revision).await.expect("compacts");
        });
        let want = [("a/gone", None), ("a/new", Some("new")), ("a/changed", Some("new")), ("a/reborn", Some("old"))];
        assert_eq!(told.await, expected(&want));
    })
    .await;
}

/// Followed up to revision 4, with `a/x` and `a/y`; what comes back has only `a/z`, and has come as far as `revision`.
async fn restored(same_number: bool, revision: i64) {
    let store = Faulty::new();
    for key in ["a/w", "a/x", "a/y"] {
        store.put(key, "1").await;
    }
    beside(&store, async |mut events| {
        assert_eq!(changes(&mut events).await.0.len(), 3);
        let told = outage(&store, &mut events, async || {
            let other = Faulty::new();
            other.put("a/z", "1").await;
            for _ in 2..revision {
                other.put("a/y", "1").await;
            }
            store.restore(other.inner.clone(), same_number);
        });
        let told = told.await;
        let gone: Vec<&str> = told.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.as_str()).collect();
        assert_eq!(gone[..2], ["a/w", "a/x"], "same number: {same_number}, revision {revision}");
        assert!(told.contains(&("a/z".into(), Some("1".into()))));
    })
    .await;
}

#[tokio::test]
async fn another_store_is_listed_anew() {
    // Another one that is far ahead, one that went back, and one that went back to just where we were.
    restored(false, 20).await;
    restored(true, 3).await;
    restored(true, 4).await;
}

#[tokio::test]
async fn an_outage_without_changes_is_confirmed() {
    let store = Faulty::new();
    store.put("a/x", "1").await;
    beside(&store, async |mut events| {
        assert!(changes(&mut events).await.1);
        for elsewhere in [false, true] {
            store.set(Mode::Down);
            lost(&mut events).await;
            if elsewhere {
                store.put("b/y", "1").await;
            }
            store.set(Mode::Up);
            loop {
                match events.recv().await.expect("runs") {
                    MirrorEvent::Lost { .. } => {}
                    MirrorEvent::Confirmed { revision } => break assert!(revision >= 2),
                    event @ MirrorEvent::Changes { .. } => panic!("{event:?}"),
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn early_attempts_are_quick_and_later_ones_rare() {
    let mut pace = Pace::new();
    let waits: Vec<Duration> = (0..60).map(|_| pace.next()).collect();
    let early = EARLY_ATTEMPTS as usize;
    assert!(waits[0] <= MIN_BACKOFF);
    assert!(waits[..early].iter().all(|wait| *wait <= MAX_EARLY_BACKOFF));
    assert!(waits[early + 4..].iter().any(|wait| *wait > MAX_EARLY_BACKOFF));
}

#[test]
fn a_change_told_twice_is_no_news() {
    let entry = |mod_revision| Entry {
        key: "a/x".into(),
        value: bytes::Bytes::new(),
        create_revision: 5,
        mod_revision,
        version: 1,
        lease: None,
    };
    let gone = |mod_revision| Change::Delete { key: "a/x".into(), mod_revision };
    let mut mirror = Mirror::new(Faulty::new(), Range::Prefix("a/".into()));
    mirror.known.insert("a/x".into(), entry(7));
    assert!(!mirror.learn(&Change::Put(entry(7))));
    assert!(!mirror.learn(&Change::Put(entry(6))));
    assert!(!mirror.learn(&gone(6)));
    assert!(mirror.learn(&Change::Put(entry(8))));
    assert!(mirror.learn(&gone(9)));
    assert!(!mirror.learn(&gone(9)));
}

/// One thing that happens to the store.
#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    Fault(bool),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6).prop_map(Step::Put),
        3 => (0u8..6).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::Fault),
        1 => Just(Step::Compact),
    ]
}

/// Applies events, insisting that each is news, until `last` arrives.
async fn replay(mut events: mpsc::Receiver<MirrorEvent>, last: &str) -> BTreeMap<String, Entry> {
    let mut copy: BTreeMap<String, Entry> = BTreeMap::new();
    loop {
        let Some(MirrorEvent::Changes { changes, .. }) = events.recv().await else { continue };
        for change in changes {
            match change {
                Change::Put(entry) => {
                    assert_ne!(copy.get(&entry.key), Some(&entry), "told twice");
                    copy.insert(entry.key.clone(), entry);
                }
                Change::Delete { key, .. } => assert!(copy.remove(&key).is_some(), "{key} was not there"),
            }
        }
        if copy.contains_key(last) {
            return copy;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, in the end the copy is the store, and nothing is told that is not news.
    #[test]
    fn converges(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let store = Faulty::new();
            beside(&store, async |events| {
                for step in steps {
                    match step {
                        Step::Put(key) => store.put(&format!("a/{key}"), "v").await,
                        Step::Delete(key) => store.delete(&format!("a/{key}")).await,
                        Step::Compact => {
                            let now = store.inner.read(key("now")).await.expect("memory answers").revision;
                            store.inner.compact(now).await.expect("compacts");
                        }
                        Step::Fault(down) => store.set(if down { Mode::Down } else { Mode::Up }),
                    }
                    tokio::task::yield_now().await;
                }
                store.set(Mode::Up);
                store.put("a/last", "v").await;
                let copy = replay(events, "a/last").await;
                let truth = store.inner.read(Range::Prefix("a/".into())).await.expect("memory answers");
                assert_eq!(copy.into_values().collect::<Vec<_>>(), truth.entries);
            })
            .await;
        });
    }
}
