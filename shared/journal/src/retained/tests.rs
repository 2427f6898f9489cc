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

/// What is over the bounds, and stays all the same.
fn over(retained: &mut Retained, bounds: Bounds, limit: usize) -> Vec<JobId> {
    let expired = retained.expired(bounds, limit, |_| true).remove(&7).unwrap_or_default();
    assert_eq!(retained.keep(7), expired.len());
    expired
}

#[test]
fn the_oldest_go_first() {
    let mut retained = kept(5);
    let ids: Vec<JobId> = (0..5).map(|number| record(number).id).collect();
    let mut over = |bounds, limit| over(&mut retained, bounds, limit);
    assert!(over(ENDLESS, 9).is_empty());
    assert_eq!(over(Bounds { since: 102, ..ENDLESS }, 9), ids[..2]);
    assert_eq!(over(Bounds { records: 3, ..ENDLESS }, 9), ids[..2]);
    assert_eq!(over(Bounds { records: 0, ..ENDLESS }, 3), ids[..3]);
    let each = ended(0, 100).encode().len() + 256;
    assert_eq!(over(Bounds { bytes: each * 2, ..ENDLESS }, 9), ids[..3]);
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
    assert_eq!(over(&mut retained, bounds, 9).len(), 2, "the others have to go for it");
}

/// Jobs of two shards in turn: the first one of both is the oldest.
fn of_two(count: u128) -> (Retained, Vec<JobId>) {
    let (mut retained, mut ids) = (Retained::default(), Vec::new());
    for number in 0..count {
        let shard = if number % 2 == 0 { 7 } else { 8 };
        let at = 100 + u64::try_from(number).expect("small");
        let mut one = (*ended(number, at)).clone();
        one.id = JobId::new(shard, at, number);
        ids.push(one.id.clone());
        retained.insert(&Arc::new(one), &Keys::new("/"));
    }
    (retained, ids)
}

/// However much there is, a shard has one lot at a time, and nobody's newer jobs go for its older ones.
#[test]
fn much_goes_in_several_lots() {
    let (mut retained, ids) = of_two(10);
    let lot = |retained: &mut Retained, bounds| -> Vec<JobId> {
        let mut lot: Vec<JobId> = retained.expired(bounds, 2, |_| true).into_values().flatten().collect();
        lot.sort_by_key(|id| ids.iter().position(|known| known == id));
        lot
    };
    let (none, two) = (Bounds { records: 0, ..ENDLESS }, Bounds { records: 2, ..ENDLESS });
    assert_eq!(lot(&mut retained, none), ids[..4]);
    assert!(lot(&mut retained, none).is_empty(), "the last lot is not done");
    retained.forget(&[ids[0].clone(), ids[2].clone()]);
    assert_eq!(retained.keep(7), 0);
    assert!(!lot(&mut retained, two).is_empty(), "one of them is done");
    retained.leave(8);
    assert_eq!(retained.keep(7), 1, "it goes no further than what the other has to forget");
    retained.leave(7);
    assert_eq!((retained.records, retained.bytes), (0, 0));
}

#[test]
fn what_is_not_forgotten_is_asked_for_again() {
    let (mut retained, ids) = of_two(4);
    let old = Bounds { since: 200, ..ENDLESS };
    let of_seven = |retained: &mut Retained| retained.expired(old, 9, |shard| shard == 7);
    assert_eq!(of_seven(&mut retained), BTreeMap::from([(7, vec![ids[0].clone(), ids[2].clone()])]));
    retained.forget(&ids[..1]);
    assert_eq!((retained.keep(7), retained.keep(7)), (1, 0));
    assert_eq!(of_seven(&mut retained), BTreeMap::from([(7, vec![ids[2].clone()])]));
    retained.forget(&ids);
    assert_eq!((retained.records, retained.bytes), (0, 0));
}

/// Its key may stand for the next job by then.
#[test]
fn of_a_job_that_has_been_forgotten_nothing_is_deleted() {
    let keys = Keys::new("/");
    let mut retained = kept(2);
    let (first, second) = (record(0).id, record(1).id);
    let of = |number: u128, id: &JobId| {
        [keys.ended(id), keys.idempotency("default", &format!("key-{number}"))].map(Op::Delete)
    };
    let both = [first.clone(), second.clone()];
    assert_eq!(retained.deletions(&both, &keys), [of(0, &first), of(1, &second)].concat());
    retained.forget(&[first]);
    assert_eq!(retained.deletions(&both, &keys), of(1, &second));
}

#[test]
fn what_is_forgotten_frees_its_bytes() {
    let mut retained = kept(3);
    retained.insert(&ended(1, 500), &Keys::new("/"));
    assert_eq!(retained.records, 3);
    retained.forget(&[record(0).id, record(0).id, record(77).id]);
    retained.leave(8);
    assert_eq!(retained.records, 2);
    retained.leave(7);
    assert_eq!((retained.shards.len(), retained.records, retained.bytes), (0, 0, 0));
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
