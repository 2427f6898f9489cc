//! What the barrier does over every store. Each case has a prefix of its own. That a barrier is opened anew is what a participant's next process
//! does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use weft_participant::{Barrier, Direction, Entry, Key, Limits, Mark, Pass};
use weft_store::{Commit, Compare, Op, Range, Store, Txn};
use weft_tests::calls::until;
use weft_types::{Reason, Result, SystemClock};

const KEY: &str = "job/publish";

pub(crate) async fn run(store: Arc<dyn Store>) {
    duplicates_get_the_first_answer(&store).await;
    of_many_at_once_one_runs(&store).await;
    an_undo_of_nothing_keeps_the_action_out(&store).await;
    what_was_done_is_undone_once(&store).await;
    what_began_and_did_not_end_is_unknown(&store).await;
    failures_and_probes_stand(&store).await;
    effects_of_the_same_store_are_one_with_their_row(&store).await;
    rows_end_by_themselves(&store).await;
}

async fn open(store: &Arc<dyn Store>, prefix: &str) -> Barrier {
    opened(store, prefix, Limits::default()).await
}

async fn opened(store: &Arc<dyn Store>, prefix: &str, limits: Limits) -> Barrier {
    Barrier::open(Arc::clone(store), Arc::new(SystemClock), prefix, limits).await.expect("the store answers")
}

fn mark(direction: Direction, attempt: u32) -> Mark {
    Mark { key: Key::try_new(KEY).expect("a good key"), direction, attempt, epoch: 7 }
}

fn pass(entry: Result<Entry>) -> Pass {
    match entry {
        Ok(Entry::Run(pass)) => pass,
        other => panic!("expected to run, got {other:?}"),
    }
}

fn unknown(entry: Result<Entry>) -> Pass {
    match entry {
        Ok(Entry::Unknown(pass)) => pass,
        other => panic!("expected to be unknown, got {other:?}"),
    }
}

fn answer(entry: Result<Entry>) -> Bytes {
    match entry {
        Ok(Entry::Answer(answer)) => answer,
        other => panic!("expected an answer, got {other:?}"),
    }
}

fn is_nothing(entry: &Result<Entry>) {
    assert!(matches!(entry, Ok(Entry::Nothing)), "{entry:?}");
}

fn is_late(entry: Result<Entry>) {
    assert_eq!(entry.expect_err("refused").reason(), Reason::RejectedByBarrier);
}

async fn done(pass: Pass, answer: &'static str) {
    pass.done(Bytes::from_static(answer.as_bytes())).await.expect("the store takes it");
}

async fn duplicates_get_the_first_answer(store: &Arc<dyn Store>) {
    let barrier = open(store, "duplicates/").await;
    done(pass(barrier.enter(&mark(Direction::Action, 1)).await), "first").await;
    assert_eq!(answer(barrier.enter(&mark(Direction::Action, 1)).await), "first");
    let barrier = open(store, "duplicates/").await;
    assert_eq!(answer(barrier.enter(&mark(Direction::Action, 2)).await), "first");
    assert_eq!(answer(barrier.enter(&mark(Direction::Probe, 2)).await), "first");
}

async fn of_many_at_once_one_runs(store: &Arc<dyn Store>) {
    let barrier = Arc::new(open(store, "many/").await);
    let mut calls = JoinSet::new();
    for attempt in 1..=32 {
        let barrier = Arc::clone(&barrier);
        calls.spawn(async move {
            match barrier.enter(&mark(Direction::Action, attempt)).await {
                Ok(Entry::Run(pass)) => {
                    done(pass, "only").await;
                    1
                }
                entry => {
                    assert_eq!(answer(entry), "only");
                    0
                }
            }
        });
    }
    assert_eq!(calls.join_all().await.into_iter().sum::<u32>(), 1);
}

async fn an_undo_of_nothing_keeps_the_action_out(store: &Arc<dyn Store>) {
    let barrier = open(store, "empty/").await;
    is_nothing(&barrier.enter(&mark(Direction::Undo, 1)).await);
    is_late(barrier.enter(&mark(Direction::Action, 1)).await);
    let barrier = open(store, "empty/").await;
    is_late(barrier.enter(&mark(Direction::Action, 2)).await);
    is_nothing(&barrier.enter(&mark(Direction::Undo, 2)).await);
    is_nothing(&barrier.enter(&mark(Direction::Probe, 2)).await);
}

async fn what_was_done_is_undone_once(store: &Arc<dyn Store>) {
    let barrier = open(store, "undone/").await;
    done(pass(barrier.enter(&mark(Direction::Action, 1)).await), "done").await;
    pass(barrier.enter(&mark(Direction::Undo, 1)).await).failed().await.expect("nothing to write");
    // An undo that failed goes on where it was; no action comes between.
    is_late(barrier.enter(&mark(Direction::Action, 2)).await);
    done(unknown(barrier.enter(&mark(Direction::Undo, 2)).await), "undone").await;
    let barrier = open(store, "undone/").await;
    assert_eq!(answer(barrier.enter(&mark(Direction::Undo, 3)).await), "undone");
    is_late(barrier.enter(&mark(Direction::Action, 3)).await);
}

async fn what_began_and_did_not_end_is_unknown(store: &Arc<dyn Store>) {
    let barrier = open(store, "unknown/").await;
    drop(pass(barrier.enter(&mark(Direction::Action, 1)).await));
    drop(unknown(barrier.enter(&mark(Direction::Action, 2)).await));
    let barrier = open(store, "unknown/").await;
    unknown(barrier.enter(&mark(Direction::Probe, 2)).await).failed().await.expect("the store takes it");
    is_late(barrier.enter(&mark(Direction::Action, 2)).await);
    drop(pass(barrier.enter(&mark(Direction::Action, 3)).await));
    done(unknown(barrier.enter(&mark(Direction::Undo, 1)).await), "undone").await;
    is_late(barrier.enter(&mark(Direction::Action, 4)).await);
}

async fn failures_and_probes_stand(store: &Arc<dyn Store>) {
    let barrier = open(store, "failed/").await;
    pass(barrier.enter(&mark(Direction::Action, 1)).await).failed().await.expect("the store takes it");
    let barrier = open(store, "failed/").await;
    is_late(barrier.enter(&mark(Direction::Action, 1)).await);
    is_nothing(&barrier.enter(&mark(Direction::Probe, 4)).await);
    let barrier = open(store, "failed/").await;
    is_late(barrier.enter(&mark(Direction::Action, 4)).await);
    done(pass(barrier.enter(&mark(Direction::Action, 5)).await), "done").await;
    let older = Mark { epoch: 6, ..mark(Direction::Action, 9) };
    assert_eq!(barrier.enter(&older).await.expect_err("refused").reason(), Reason::StaleEpoch);
}

async fn effects_of_the_same_store_are_one_with_their_row(store: &Arc<dyn Store>) {
    let effect = |key: &str, compares| {
        let put = Op::Put { key: key.to_owned(), value: Bytes::from_static(b"1"), lease: None };
        Txn { compares, ops: vec![put] }
    };
    let there =
        async |key: &str| !store.read(Range::Key(key.to_owned())).await.expect("the store answers").entries.is_empty();
    let barrier = open(store, "joint/rows/").await;
    let act = mark(Direction::Action, 1);
    drop(pass(barrier.enter_with(&act).await));
    let unmet = effect("joint/entry", vec![Compare::Version("joint/entry".into(), 4)]);
    let lost = pass(barrier.enter_with(&act).await).done_with(Bytes::new(), unmet).await;
    assert!(matches!(lost, Ok(Commit::Lost(_))) && !there("joint/entry").await, "{lost:?}");
    // Two processes at once, which should not be: the row decides, and one effect is there.
    let (one, two) = (open(store, "joint/rows/").await, open(store, "joint/rows/").await);
    let (first, second) = (pass(one.enter_with(&act).await), pass(two.enter_with(&act).await));
    let first = first.done_with(Bytes::from_static(b"first"), effect("joint/entry", vec![])).await;
    let second = second.done_with(Bytes::from_static(b"second"), effect("joint/another", vec![])).await;
    assert!(matches!(first, Ok(Commit::Done(_))) && matches!(second, Ok(Commit::Lost(_))), "{first:?}, {second:?}");
    assert!(there("joint/entry").await && !there("joint/another").await);
    assert_eq!(answer(two.enter_with(&act).await), "first");
}

/// Leases of the store end rows, whatever their process does.
async fn rows_end_by_themselves(store: &Arc<dyn Store>) {
    let barrier = opened(store, "ending/", Limits { retention: Duration::from_secs(1), ..Limits::default() }).await;
    done(pass(barrier.enter(&mark(Direction::Action, 1)).await), "done").await;
    drop(barrier);
    let rows = async || store.read(Range::Prefix("ending/".into())).await.expect("the store answers").entries.len();
    assert_eq!(rows().await, 1);
    until("the end of a row", async || rows().await == 0).await.expect("its lease ends");
}
