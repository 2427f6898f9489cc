use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use prost::Message as _;
use weft_proto::weft::state::v1 as state;
use weft_saga::job::{Attempt, Direction, Ending, Fault, Item, Job, JobState, Node, Place, StepState};

use super::*;

/// A small running job.
pub(crate) fn record(number: u128) -> Record {
    let job = Job {
        state: JobState::Running,
        revision: 1,
        paused: false,
        stuck: None,
        failure: None,
        decided: false,
        created_at: 1000,
        deadline: 2000,
        undo_since: None,
        ended_at: None,
        takeovers: 0,
        steps: vec![Node { ruled: true, items: vec![Item::default()] }],
        signals: Vec::new(),
    };
    Record {
        id: JobId::new(7, 1000, number),
        tenant: "default".into(),
        key: String::new(),
        request_hash: [1; 32],
        definition: [2; 32],
        definition_name: "example".into(),
        durability: Durability::Journaled,
        input: Payload::Inline(b"{}".to_vec()),
        output: None,
        trace_id: [3; 16],
        span: 4,
        sampled: true,
        job,
    }
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(Payload::Inline),
        (any::<[u8; 32]>(), any::<u64>()).prop_map(|(sha256, len)| Payload::Stored { sha256, len }),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    ("[a-z]{0,5}", any::<u64>()).prop_map(|(name, epoch)| Place { name, epoch })
}

fn fault() -> impl Strategy<Value = Fault> {
    ("[A-Z]{0,5}", ".{0,10}").prop_map(|(code, message)| Fault { code, message })
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let direction = proptest::sample::select(vec![Direction::Action, Direction::Undo, Direction::Probe]);
    let ending = proptest::sample::select(vec![Ending::Done, Ending::FailedClean, Ending::Unknown]);
    let numbers = (any::<u32>(), any::<u64>(), of(any::<u64>()), any::<u64>(), any::<u64>());
    (numbers, direction, of(ending), of(fault()), of(place())).prop_map(
        |(numbers, direction, outcome, fault, place)| {
            let (number, started_at, ended_at, budget, span) = numbers;
            Attempt { number, direction, started_at, ended_at, budget, outcome, fault, place, span }
        },
    )
}

fn hold() -> impl Strategy<Value = Hold> {
    ("[a-z]{1,3}", "[a-z]{1,3}", any::<u32>(), any::<bool>()).prop_map(|(pool, worker, number, confirmed)| Hold {
        pool,
        worker,
        number,
        confirmed,
    })
}

fn item() -> impl Strategy<Value = Item> {
    let states = vec![
        StepState::Idle,
        StepState::Started,
        StepState::Probing,
        StepState::Done,
        StepState::FailedClean,
        StepState::Unknown,
        StepState::Skipped,
        StepState::Undoing,
        StepState::Undone,
        StepState::Stuck,
    ];
    let numbers = (any::<[u32; 3]>(), any::<bool>(), any::<u64>(), any::<u64>());
    let rest = (of(payload()), of(place()), vec(hold(), 0..3), vec(attempt(), 0..3));
    (proptest::sample::select(states), numbers, rest).prop_map(|(state, numbers, (output, place, holds, history))| {
        let ([attempts, undo_attempts, failures], unknown, not_before, until) = numbers;
        let item = Item { state, attempts, undo_attempts, failures, unknown, not_before, until, ..Item::default() };
        Item { output, place, holds, history, ..item }
    })
}

fn job() -> impl Strategy<Value = Job> {
    let states = vec![
        JobState::Running,
        JobState::Compensating,
        JobState::Completed,
        JobState::Compensated,
        JobState::Abandoned,
    ];
    let node = (any::<bool>(), vec(item(), 0..3)).prop_map(|(ruled, items)| Node { ruled, items });
    let times = (any::<u64>(), any::<u64>(), of(any::<u64>()), of(any::<u64>()));
    let flags = (any::<u64>(), any::<bool>(), any::<bool>(), any::<u32>());
    let texts = (of(".{0,10}"), of(fault()));
    let lists = (vec(node, 0..3), vec(("[a-z]{1,3}", payload()), 0..3));
    (proptest::sample::select(states), times, flags, texts, lists).prop_map(|(state, times, flags, texts, lists)| {
        let (created_at, deadline, undo_since, ended_at) = times;
        let (revision, paused, decided, takeovers) = flags;
        let ((stuck, failure), (steps, signals)) = (texts, lists);
        Job {
            state,
            revision,
            paused,
            stuck,
            failure,
            decided,
            created_at,
            deadline,
            undo_since,
            ended_at,
            takeovers,
            steps,
            signals,
        }
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    let durability = proptest::sample::select(vec![Durability::None, Durability::Lease, Durability::Journaled]);
    let texts = (".{0,10}", ".{0,10}", "[a-z]{0,10}");
    let hashes = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 16]>(), any::<u64>(), any::<bool>());
    let id = (any::<u8>(), 0u64..1 << 48, any::<u128>());
    (id, texts, hashes, (durability, payload(), of(payload())), job()).prop_map(|(id, texts, hashes, rest, job)| {
        let (tenant, key, definition_name) = texts;
        let (request_hash, definition, trace_id, span, sampled) = hashes;
        let (durability, input, output) = rest;
        let id = JobId::new(id.0, id.1, id.2);
        let named = Record { id, tenant, key, definition_name, ..record(0) };
        Record { request_hash, definition, durability, input, output, trace_id, span, sampled, job, ..named }
    })
}

proptest! {
    /// Every record that can be is the same after it was written and read.
    #[test]
    fn records_read_back(record in any_record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    /// Whatever stands there, reading it ends, and what is read is what it says.
    #[test]
    fn rubbish_is_an_error_or_a_record(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    /// A record with one byte changed or cut off does not pass for another job's.
    #[test]
    fn damage_is_an_error_or_a_record(record in any_record(), at: prop::sample::Index, byte: u8, cut: bool) {
        let mut bytes = record.encode();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }
}

/// What an older build must not guess at.
#[test]
fn what_is_not_known_is_refused_by_name() {
    let good = state::Job::decode(record(1).encode().as_slice()).expect("just encoded");
    let refusal = |change: fn(&mut state::Job)| {
        let mut message = good.clone();
        change(&mut message);
        Record::decode(&message.encode_to_vec()).expect_err("it is refused")
    };
    assert_eq!(refusal(|job| job.format = 2), Unreadable::Newer(2));
    assert_eq!(refusal(|job| job.format = 0), Unreadable::Newer(0));
    assert_eq!(refusal(|job| job.id = "x".into()), Unreadable::Field("id"));
    assert_eq!(refusal(|job| job.state = 77), Unreadable::Field("state"));
    assert_eq!(refusal(|job| job.durability = 77), Unreadable::Field("durability"));
    assert_eq!(refusal(|job| job.input = None), Unreadable::Field("input"));
    assert_eq!(refusal(|job| job.definition = vec![1]), Unreadable::Field("definition"));
    assert_eq!(refusal(|job| job.steps[0].items[0].state = 99), Unreadable::Field("items.state"));
    assert!(matches!(Record::decode(b"\xff"), Err(Unreadable::Broken(_))));
}
