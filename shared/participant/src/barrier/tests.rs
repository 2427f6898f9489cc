//! The barrier over the embedded store, whose contents outlive a barrier as etcd's outlive a process.

mod lost;
mod random;

use futures_util::FutureExt as _;
use weft_store::{CancellationToken, Commit, Compare, Op, Range, Txn};
use weft_types::ManualClock;

use super::*;
use crate::mark::{Direction, Key};

const KEY: &str = "job/publish";

/// Far more than any test here takes: one that would hang fails instead.
const LIMIT: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it hangs")
}

fn mark(direction: Direction, attempt: u32) -> Mark {
    of(KEY, direction, attempt)
}

fn of(key: &str, direction: Direction, attempt: u32) -> Mark {
    Mark { key: Key::try_new(key).expect("a good key"), direction, attempt, epoch: 7 }
}

fn barrier(limits: Limits) -> (Barrier, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (Barrier::in_memory(clock.clone(), limits), clock)
}

fn pass(entry: Result<Entry>) -> Pass {
    match entry {
        Ok(Entry::Run(pass)) => pass,
        other => panic!("expected to run, got {other:?}"),
    }
}

fn reason(entry: Result<Entry>) -> Reason {
    entry.expect_err("refused").reason()
}

async fn ran(barrier: &Barrier, key: &str) {
    let pass = pass(barrier.enter(&of(key, Direction::Action, 1)).await);
    pass.done(Bytes::from_static(b"answer")).await.expect("memory takes it");
}

#[tokio::test]
async fn a_duplicate_waits_and_gets_the_answer_of_the_first() {
    let (barrier, _) = barrier(Limits::default());
    let first = pass(barrier.enter(&mark(Direction::Action, 1)).await);
    let again = mark(Direction::Action, 2);
    let mut duplicate = Box::pin(barrier.enter(&again));
    assert!(duplicate.as_mut().now_or_never().is_none(), "it did not wait");
    // Whoever waits for another key does not.
    ran(&barrier, "job/other").await;
    first.done(Bytes::from_static(b"first")).await.expect("memory takes it");
    let entry = within(duplicate).await;
    assert!(matches!(&entry, Ok(Entry::Answer(answer)) if answer == "first"), "{entry:?}");
    assert_eq!(barrier.turns.len(), 0, "lines are left behind");
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_nothing_behind() {
    let (barrier, _) = barrier(Limits::default());
    let first = pass(barrier.enter(&mark(Direction::Action, 1)).await);
    let again = mark(Direction::Action, 2);
    let mut waiting = Box::pin(barrier.enter(&again));
    assert!(waiting.as_mut().now_or_never().is_none(), "it did not wait");
    drop(first);
    drop(waiting);
    assert_eq!(barrier.turns.len(), 0, "lines are left behind");
    // The first was dropped without a word.
    let entry = barrier.enter(&mark(Direction::Undo, 1)).await;
    assert!(matches!(entry, Ok(Entry::Unknown(_))), "{entry:?}");
}

#[tokio::test]
async fn after_a_clean_failure_only_a_later_attempt_runs() {
    let (barrier, _) = barrier(Limits::default());
    pass(barrier.enter(&mark(Direction::Action, 2)).await).failed().await.expect("memory takes it");
    for late in [1, 2] {
        assert_eq!(reason(barrier.enter(&mark(Direction::Action, late)).await), Reason::RejectedByBarrier);
    }
    let _third = pass(barrier.enter(&mark(Direction::Action, 3)).await);
}

#[tokio::test]
async fn what_a_probe_was_told_stays_true() {
    let (barrier, _) = barrier(Limits::default());
    let probed = barrier.enter(&mark(Direction::Probe, 2)).await;
    assert!(matches!(probed, Ok(Entry::Nothing)), "{probed:?}");
    assert_eq!(reason(barrier.enter(&mark(Direction::Action, 2)).await), Reason::RejectedByBarrier);
    pass(barrier.enter(&mark(Direction::Action, 3)).await).done(Bytes::new()).await.expect("memory takes it");
    let probed = barrier.enter(&mark(Direction::Probe, 3)).await;
    assert!(matches!(probed, Ok(Entry::Answer(_))), "{probed:?}");
}

#[tokio::test]
async fn an_older_owner_is_refused() {
    let (barrier, _) = barrier(Limits::default());
    ran(&barrier, KEY).await;
    for direction in [Direction::Action, Direction::Undo, Direction::Probe] {
        let late = Mark { epoch: 6, ..mark(direction, 9) };
        assert_eq!(reason(barrier.enter(&late).await), Reason::StaleEpoch);
    }
    let newer = Mark { epoch: 8, ..mark(Direction::Undo, 1) };
    pass(barrier.enter(&newer).await).done(Bytes::new()).await.expect("memory takes it");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_no_clean_failure() {
    let (barrier, _) = barrier(Limits::default());
    let pass = pass(barrier.enter(&mark(Direction::Action, 1)).await);
    let error = pass.done(Bytes::from(vec![0; MAX_ANSWER_BYTES + 1])).await.expect_err("too long");
    assert_eq!((error.reason(), error.field()), (Reason::Internal, Some("answer")));
    let again = barrier.enter(&mark(Direction::Action, 2)).await;
    let Ok(Entry::Unknown(pass)) = again else { panic!("expected to be unknown, got {again:?}") };
    pass.done(Bytes::from(vec![0; MAX_ANSWER_BYTES])).await.expect("just short enough");
}

/// The row and the effect are one transaction: neither a comparison of the caller's nor a lost call leaves one of them.
#[tokio::test]
async fn an_effect_in_the_same_store_is_never_unknown() {
    let store = MemoryStore::new(Arc::new(ManualClock::default()));
    let open = || Barrier::open(Arc::new(store.clone()), Arc::new(ManualClock::default()), "rows/", Limits::default());
    let barrier = open().await.expect("memory answers");
    let effect = |compares| {
        let put = Op::Put { key: "published".into(), value: Bytes::from_static(b"1"), lease: None };
        Txn { compares, ops: vec![put] }
    };
    let act = mark(Direction::Action, 1);
    drop(pass(barrier.enter_with(&act).await));
    let unmet = effect(vec![Compare::Version("published".into(), 4)]);
    let lost = pass(barrier.enter_with(&act).await).done_with(Bytes::new(), unmet).await;
    assert!(matches!(lost, Ok(Commit::Lost(_))), "{lost:?}");
    let all = || async { store.read(Range::Prefix(String::new())).await.expect("memory answers").entries.len() };
    assert_eq!(all().await, 0);
    let done = pass(barrier.enter_with(&act).await).done_with(Bytes::from_static(b"id"), effect(vec![])).await;
    assert!(matches!(done, Ok(Commit::Done(_))), "{done:?}");
    assert_eq!(all().await, 2);
    drop(barrier);
    let entry = open().await.expect("memory answers").enter_with(&act).await;
    assert!(matches!(&entry, Ok(Entry::Answer(answer)) if answer == "id"), "{entry:?}");
}

#[tokio::test]
async fn rows_are_bounded_and_the_last_tenth_is_for_undos() {
    let retention = Duration::from_secs(80);
    let (barrier, clock) = barrier(Limits { rows: 10, retention });
    for job in 0..9 {
        ran(&barrier, &format!("{job}/publish")).await;
    }
    for direction in [Direction::Action, Direction::Probe] {
        let full = barrier.enter(&of("9/publish", direction, 1)).await.expect_err("full");
        assert_eq!((full.reason(), full.pushback().is_some()), (Reason::Overloaded, true));
    }
    // Undos of what has a row need no room; one of what has none takes the last.
    pass(barrier.enter(&of("0/publish", Direction::Undo, 1)).await).done(Bytes::new()).await.expect("memory takes it");
    let empty = barrier.enter(&of("9/publish", Direction::Undo, 1)).await;
    assert!(matches!(empty, Ok(Entry::Nothing)), "{empty:?}");
    assert_eq!(reason(barrier.enter(&of("10/publish", Direction::Undo, 1)).await), Reason::Overloaded);
    clock.advance(retention);
    assert_eq!(reason(barrier.enter(&of("11/publish", Direction::Action, 1)).await), Reason::Overloaded);
    clock.advance(retention / 8);
    ran(&barrier, "9/publish").await;
}

#[tokio::test]
async fn strange_limits_are_limits() {
    for retention in [Duration::ZERO, Duration::MAX] {
        let (barrier, clock) = barrier(Limits { rows: 1, retention });
        ran(&barrier, "0/publish").await;
        clock.advance(Duration::from_millis(999));
        assert_eq!(reason(barrier.enter(&of("1/publish", Direction::Action, 1)).await), Reason::Overloaded);
    }
    let (barrier, _) = barrier(Limits { rows: 0, retention: Duration::from_secs(1) });
    assert_eq!(reason(barrier.enter(&mark(Direction::Undo, 1)).await), Reason::Overloaded);
}

/// A row is kept for its whole time after its last change, whatever else begins or ends meanwhile.
#[tokio::test]
async fn rows_are_kept_for_their_time_and_no_longer() {
    let retention = Duration::from_secs(80);
    let (barrier, clock) = barrier(Limits { retention, ..Limits::default() });
    ran(&barrier, KEY).await;
    clock.advance(retention - Duration::from_secs(1));
    pass(barrier.enter(&mark(Direction::Undo, 1)).await).done(Bytes::new()).await.expect("memory takes it");
    clock.advance(retention - Duration::from_secs(1));
    assert_eq!(reason(barrier.enter(&mark(Direction::Action, 2)).await), Reason::RejectedByBarrier);
    clock.advance(retention / 8 + Duration::from_secs(1));
    let forgotten = barrier.enter(&mark(Direction::Probe, 2)).await;
    assert!(matches!(forgotten, Ok(Entry::Nothing)), "{forgotten:?}");
    // The time of one that took long begins with its end.
    let slow = pass(barrier.enter(&of("slow/publish", Direction::Action, 1)).await);
    clock.advance(retention - Duration::from_secs(1));
    slow.done(Bytes::from_static(b"late")).await.expect("memory takes it");
    clock.advance(retention - Duration::from_secs(1));
    let kept = barrier.enter(&of("slow/publish", Direction::Action, 2)).await;
    assert!(matches!(&kept, Ok(Entry::Answer(answer)) if answer == "late"), "{kept:?}");
}

/// What earlier processes left counts, and nothing is taken for an absent row that is only unreadable.
#[tokio::test]
async fn a_barrier_opens_over_what_it_finds() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::new(clock.clone());
    let limits = Limits { rows: 10, ..Limits::default() };
    let open = || Barrier::open(Arc::new(store.clone()), clock.clone(), "rows/", limits);
    let barrier = open().await.expect("memory answers");
    for job in 0..8 {
        ran(&barrier, &format!("{job}/publish")).await;
    }
    let strange = Op::Put { key: "rows/strange".into(), value: Bytes::from_static(b"\xff"), lease: None };
    store.commit(Txn { compares: vec![], ops: vec![strange] }).await.expect("memory takes it");
    let barrier = open().await.expect("memory answers");
    assert_eq!(reason(barrier.enter(&of("strange", Direction::Action, 1)).await), Reason::Internal);
    ran(&barrier, "8/publish").await;
    assert_eq!(reason(barrier.enter(&of("9/publish", Direction::Action, 1)).await), Reason::Overloaded);
    // Without the store's own timer leases end when it is next used; with it, too.
    let cancel = CancellationToken::new();
    cancel.cancel();
    store.run(cancel).await;
}
