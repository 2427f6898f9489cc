use std::cell::Cell;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use proptest::prelude::*;
use weft_types::{Reason, SystemClock};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn message(length: usize) -> Message {
    Message::of(Bytes::from(vec![7; length]))
}

fn key(number: u64) -> Key {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

/// What is there at once: the answer's length, or nothing.
fn now_there(answers: &Answers, key: &Key, now: Instant) -> Option<usize> {
    match answers.find(key, &|| now).now_or_never() {
        Some(Found::Kept(outcome) | Found::Waited(outcome)) => Some(outcome.expect("an answer").len()),
        Some(Found::Nothing(_)) | None => None,
    }
}

fn lead<'a>(answers: &'a Answers, key: &Key, now: Instant) -> Lead<'a> {
    match answers.find(key, &|| now).now_or_never() {
        Some(Found::Nothing(lead)) => lead,
        _ => panic!("something is there"),
    }
}

#[test]
fn an_answer_holds_for_its_time() {
    let (answers, start) = (Answers::new(1 << 20), SystemClock::now());
    lead(&answers, &key(1), start).settle(Ok(message(10)), Some(SECOND), start);
    let almost = start + SECOND - Duration::from_nanos(1);
    assert_eq!((now_there(&answers, &key(1), start), now_there(&answers, &key(1), almost)), (Some(15), Some(15)));
    assert_eq!(now_there(&answers, &key(2), start), None);
    assert_eq!(now_there(&answers, &key(1), start + SECOND), None);
    assert_eq!(answers.bytes(), 0);
    // A refusal is kept as well as an answer.
    let refused = Error::new(Reason::InvalidRequest, "why");
    lead(&answers, &key(1), start).settle(Err(refused.clone()), Some(SECOND), start);
    let Some(Found::Kept(outcome)) = answers.find(&key(1), &|| start).now_or_never() else { panic!("it is there") };
    assert_eq!(outcome.err(), Some(refused));
}

/// One of equal calls is sent. The others have its answer, though it comes too late, is too long or is not to be kept at all.
#[tokio::test]
async fn those_who_wait_have_the_answer_in_any_case() {
    let (answers, start) = (Answers::new(1 << 20), SystemClock::now());
    let later = start + 10 * SECOND;
    for (length, life) in [(10, Some(SECOND)), (10, None), (100_000, Some(SECOND))] {
        let first = lead(&answers, &key(1), start);
        // They look at the clock again when the answer is long out of date.
        let clock = Cell::new(start);
        let (read, one) = (|| clock.get(), key(1));
        let mut waiting = Box::pin(join_all((0..100).map(|_| answers.find(&one, &read))));
        assert!(waiting.as_mut().now_or_never().is_none());
        clock.set(later);
        first.settle(Ok(message(length)), life, start);
        for found in waiting.await {
            let Found::Waited(Ok(found)) = found else { panic!("they have waited") };
            assert_eq!(found.len(), length + 5);
        }
        let is_kept = length == 10 && life.is_some();
        assert_eq!(now_there(&answers, &key(1), start).is_some(), is_kept, "{length} for {life:?}");
        assert_eq!(answers.bytes() > 0, is_kept);
        assert_eq!(now_there(&answers, &key(1), later), None);
    }
}

#[tokio::test]
async fn who_leaves_hands_over_to_one_who_waits() {
    let (answers, now) = (Answers::new(1 << 20), SystemClock::now());
    let (clock, one) = (|| now, key(1));
    let first = lead(&answers, &one, now);
    let mut gone = Box::pin(answers.find(&one, &clock));
    let mut second = Box::pin(answers.find(&one, &clock));
    let mut third = Box::pin(answers.find(&one, &clock));
    for waiting in [&mut gone, &mut second, &mut third] {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    drop(gone);
    drop(first);
    let (found, other) = match (second.as_mut().now_or_never(), third.as_mut().now_or_never()) {
        (Some(found), None) => (found, third),
        (None, Some(found)) => (found, second),
        _ => panic!("exactly one takes over"),
    };
    let Found::Nothing(lead) = found else { panic!("there is no answer yet") };
    lead.settle(Ok(message(1)), None, now);
    assert!(matches!(other.await, Found::Waited(Ok(_))));
}

/// A small answer does not hold the buffer that it was read into.
#[test]
fn small_answers_are_copied() {
    let (answers, now) = (Answers::new(64 << 20), SystemClock::now());
    let holds = |length: usize| {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let part = Message::of(buffer.slice(..length));
        lead(&answers, &key(length as u64), now).settle(Ok(part), Some(SECOND), now);
        !buffer.is_unique()
    };
    assert!(!holds(10) && !holds(SMALL - 5) && holds(SMALL + 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// However long answers are, and in whatever order they come, they take no more than their room.
    #[test]
    fn the_room_is_bounded(lengths in prop::collection::vec(0usize..100_000, 1..400)) {
        let bytes = 1 << 20;
        let (answers, now) = (Answers::new(bytes), SystemClock::now());
        let mut taken = 0;
        for (number, length) in lengths.iter().enumerate() {
            lead(&answers, &key(number as u64), now).settle(Ok(message(*length)), Some(SECOND), now);
            prop_assert!(answers.bytes() <= bytes);
            let there = (0..=number as u64).filter_map(|one| now_there(&answers, &key(one), now));
            taken = there.map(|length| length as u64 + OVERHEAD).sum();
            prop_assert!(taken <= bytes);
            prop_assert!(*length < 65_536 || now_there(&answers, &key(number as u64), now).is_none());
        }
        prop_assert_eq!(taken, answers.bytes());
    }
}
