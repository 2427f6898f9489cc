use weft_saga::Payload;
use weft_saga::job::{Attempt, Direction, Item, JobState};

use super::*;
use crate::record::Durability;
use crate::record::tests::record;

fn holding(slots: &[(u32, bool)]) -> Record {
    let mut record = record(1);
    let hold = |(number, confirmed): &(u32, bool)| Hold {
        pool: "gpu".into(),
        worker: "w".into(),
        number: *number,
        confirmed: *confirmed,
    };
    record.job.steps[0].items[0].holds = slots.iter().map(hold).collect();
    record
}

fn change(before: Option<&Record>, after: &Record) -> Result<Change, CommitError> {
    let transition = Transition { before: None, after: Arc::new(after.clone()), is_bound: false };
    Frame { keys: &Keys::new("/"), lease: LeaseId(5) }.change(before, &transition)
}

/// `+key` for a put, `-key` for a deletion; with `!` when it hangs on the lease.
fn shown(ops: &[Op]) -> Vec<String> {
    let show = |op: &Op| match op {
        Op::Put { key, lease: None, .. } => format!("+{key}"),
        Op::Put { key, lease: Some(_), .. } => format!("!{key}"),
        Op::Delete(key) => format!("-{key}"),
    };
    ops.iter().map(show).collect()
}

#[test]
fn slots_are_taken_kept_confirmed_and_given_back() {
    let job = format!("+/saga/07/{}", record(1).id);
    let (before, after) =
        (holding(&[(0, false), (1, false), (2, false)]), holding(&[(1, true), (2, false), (3, false)]));
    let change = change(Some(&before), &after).expect("it fits");
    assert_eq!(change.compares, [Compare::CreateRevision("/slot/gpu/w/3".into(), 0)]);
    assert_eq!(shown(&change.ops), [&job, "+/slot/gpu/w/3", "-/slot/gpu/w/0", "+/slot/gpu/w/1"]);
    assert!(change.later.is_empty());
}

#[test]
fn a_new_job_takes_its_key() {
    let mut after = record(1);
    after.key = "order-1".into();
    let key = Keys::new("/").idempotency("default", "order-1");
    let first = change(None, &after).expect("it fits");
    assert_eq!(first.compares, [Compare::CreateRevision(key.clone(), 0)]);
    assert_eq!(shown(&first.ops), [format!("+/saga/07/{}", after.id), format!("+{key}")]);
    let next = change(Some(&after), &after).expect("it fits");
    assert!(next.compares.is_empty());
}

#[test]
fn a_job_that_ends_moves() {
    let before = holding(&[(0, true)]);
    let mut after = record(1);
    after.job.state = JobState::Completed;
    let change = change(Some(&before), &after).expect("it fits");
    let id = &after.id;
    assert_eq!(shown(&change.ops), [format!("-/saga/07/{id}"), format!("+/done/07/{id}"), "-/slot/gpu/w/0".into()]);
}

/// What does not survive the scheduler hangs on its lease, and the record is not written at all.
#[test]
fn a_job_that_is_not_journaled_leaves_only_what_it_holds() {
    for durability in [Durability::None, Durability::Lease] {
        let mut after = holding(&[(0, false)]);
        (after.durability, after.key) = (durability, "k".into());
        let key = Keys::new("/").idempotency("default", "k");
        let taken = change(None, &after).expect("it fits");
        assert_eq!(shown(&taken.ops), [format!("!{key}"), "!/slot/gpu/w/0".into()]);
        let mut plain = record(1);
        plain.durability = durability;
        assert!(change(None, &plain).expect("it fits").ops.is_empty());
    }
}

/// Two steps of one job are no better than two jobs.
#[test]
fn no_job_has_a_slot_twice() {
    let twice = holding(&[(0, false), (0, false)]);
    assert_eq!(change(None, &twice), Err(CommitError::SlotsTaken));
    assert_eq!(change(Some(&holding(&[(0, false)])), &twice), Err(CommitError::SlotsTaken));
}

#[test]
fn too_many_slots_at_once_are_refused_and_given_back_in_parts() {
    let all: Vec<(u32, bool)> = (0..65).map(|number| (number, false)).collect();
    assert!(matches!(change(None, &holding(&all)), Err(CommitError::TooLarge(_))));
    assert!(change(None, &holding(&all[..64])).is_ok());
    let freed = change(Some(&holding(&all)), &holding(&[])).expect("giving back always fits");
    assert_eq!((freed.ops.len(), freed.later.len()), (1 + MAX_TOUCHED, 65 - MAX_TOUCHED));
}

#[test]
fn names_cannot_leave_their_place() {
    for name in ["", "a/b", "x".repeat(129).as_str()] {
        let mut after = holding(&[(0, false)]);
        after.job.steps[0].items[0].holds[0].pool = name.into();
        assert!(matches!(change(None, &after), Err(CommitError::Invalid(_))), "{name:?}");
    }
}

#[test]
fn a_long_record_is_refused_unless_the_job_ends() {
    let mut after = record(1);
    after.job.steps[0].items = vec![Item { output: Some(Payload::Inline(vec![b'x'; 4096])), ..Item::default() }; 65];
    assert!(matches!(change(None, &after), Err(CommitError::TooLarge(_))));
    after.job.state = JobState::Compensating;
    assert!(change(None, &after).is_ok());
    after.job.state = JobState::Running;
    let bound = Transition { before: None, after: Arc::new(after.clone()), is_bound: true };
    assert!(Frame { keys: &Keys::new("/"), lease: LeaseId(5) }.change(None, &bound).is_ok(), "it has no way back");
    after.job.state = JobState::Compensating;
    after.job.steps[0].items = vec![Item { output: Some(Payload::Inline(vec![b'x'; 4096])), ..Item::default() }; 255];
    after.definition_name = "x".repeat(1024 * 1024 + 16 - after.encode().len());
    assert!(matches!(change(None, &after), Err(CommitError::TooLarge(_))));
    after.job.state = JobState::Abandoned;
    assert!(change(None, &after).is_ok(), "an operator can end any job");
    after.job.steps[0].items = vec![Item { output: Some(Payload::Inline(vec![b'x'; 4096])), ..Item::default() }; 300];
    assert!(matches!(change(None, &after), Err(CommitError::TooLarge(_))));
}

/// What only people read goes first.
#[test]
fn a_long_history_is_dropped_before_a_job_fails() {
    let attempt = Attempt {
        number: 1,
        direction: Direction::Action,
        started_at: 1,
        ended_at: None,
        budget: 1,
        outcome: None,
        fault: Some(weft_saga::Fault { code: "UNKNOWN".into(), message: "x".repeat(256) }),
        place: None,
        span: 1,
    };
    let mut after = record(1);
    after.job.steps[0].items = vec![Item { history: vec![attempt; 8], ..Item::default() }; 200];
    let change = change(None, &after).expect("it fits without its history");
    assert!(change.bytes() < MAX_RECORD / 8);
}
