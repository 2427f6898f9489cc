use weft_saga::JobState;

use super::*;
use crate::record::Durability;
use crate::record::tests::record;

fn ended(number: u128, at: Millis) -> Arc<Record> {
    let mut record = record(number);
    (record.job.state, record.job.ended_at, record.key) = (JobState::Completed, Some(at), format!("key-{number}"));
    Arc::new(record)
}

fn kept(count: u128) -> Retained {
    let mut retained = Retained::default();
    for number in 0..count {
        retained.insert(&ended(number, 100 + u64::try_from(number).expect("small")), &Keys::new("/"));
    }
    retained
}

const ENDLESS: Bounds = Bounds { since: 0, records: usize::MAX, bytes: usize::MAX };

fn numbers(retained: &Retained, bounds: Bounds, limit: usize) -> Vec<JobId> {
    let mut expired = retained.expired(bounds, limit, 1).remove(&7).unwrap_or_default();
    expired.pop().unwrap_or_default().jobs
}

#[test]
fn the_oldest_go_first() {
    let retained = kept(5);
    let ids: Vec<JobId> = (0..5).map(|number| record(number).id).collect();
    assert!(numbers(&retained, ENDLESS, 9).is_empty());
    assert_eq!(numbers(&retained, Bounds { since: 102, ..ENDLESS }, 9), ids[..2]);
    assert_eq!(numbers(&retained, Bounds { records: 3, ..ENDLESS }, 9), ids[..2]);
    assert_eq!(numbers(&retained, Bounds { records: 0, ..ENDLESS }, 3), ids[..3]);
    let each = ended(0, 100).encode().len() + 256;
    assert_eq!(numbers(&retained, Bounds { bytes: each * 2, ..ENDLESS }, 9), ids[..3]);
    let expired = retained.expired(Bounds { records: 4, ..ENDLESS }, 9, 1).remove(&7).expect("one is over");
    assert_eq!(expired[0].keys, [Keys::new("/").idempotency("default", "key-0")]);
}

/// Not only its values.
#[test]
fn all_of_a_record_counts() {
    let mut retained = kept(2);
    let mut long = (*ended(9, 900)).clone();
    let item =
        weft_saga::Item { place: Some(weft_saga::Place { name: "x".repeat(200), epoch: 1 }), ..Default::default() };
    long.job.steps[0].items = vec![item; 100];
    let bounds = Bounds { bytes: long.encode().len() + 300, ..ENDLESS };
    retained.insert(&Arc::new(long), &Keys::new("/"));
    assert_eq!(numbers(&retained, bounds, 9).len(), 2, "the others have to go for it");
}

#[test]
fn much_goes_in_several_transactions() {
    let retained = kept(5);
    let none = Bounds { records: 0, ..ENDLESS };
    let sizes = |limit, rounds| -> Vec<usize> {
        retained.expired(none, limit, rounds)[&7].iter().map(|some| some.jobs.len()).collect()
    };
    assert_eq!((sizes(2, 9), sizes(2, 2), sizes(9, 1)), (vec![2, 2, 1], vec![2, 2], vec![5]));
}

#[test]
fn what_is_forgotten_frees_its_bytes() {
    let mut retained = kept(3);
    retained.insert(&ended(1, 500), &Keys::new("/"));
    assert_eq!(retained.kept.len(), 3);
    retained.forget(&[record(0).id, record(0).id, record(77).id]);
    retained.leave(8);
    assert_eq!(retained.kept.len(), 2);
    retained.leave(7);
    assert_eq!((retained.kept.len(), retained.ended_at.len(), retained.bytes), (0, 0, 0));
}

#[test]
fn only_what_the_log_never_had_is_kept_whole() {
    let mut retained = kept(1);
    let mut volatile = (*ended(9, 1)).clone();
    volatile.durability = Durability::None;
    let volatile = Arc::new(volatile);
    retained.insert(&volatile, &Keys::new("/"));
    assert_eq!(retained.volatile(&record(0).id), None);
    assert_eq!(retained.volatile(&volatile.id), Some(Arc::clone(&volatile)));
    assert_eq!(retained.all_volatile(7), [volatile]);
    assert!(retained.all_volatile(8).is_empty());
}
