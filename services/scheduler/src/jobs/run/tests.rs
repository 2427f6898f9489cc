//! One job's transitions, without the task that runs it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use weft_runtime::CallExt as _;
use weft_saga::{Direction, Outcome, Payload, Place, Verb};
use weft_types::Reason;

use super::*;
use crate::jobs::Jobs;
use crate::jobs::tests::{Fate, Gate, asked, options};
use crate::tests::{Cluster, PATIENCE, request};

/// The longest record of a job that has a way back, and of one that has none.
const LONGEST: usize = 256 << 10;
const LONGEST_BOUND: usize = 1 << 20;

/// A job whose first record is in the log and has so many bytes.
async fn runner(jobs: &Jobs, steps: &Value, bytes: usize) -> Runner {
    let shared = Arc::clone(&jobs.0);
    let shard = loop {
        if let Some(shard) = shared.journal.shard_for_new() {
            break shard;
        }
        tokio::task::yield_now().await;
    };
    let checked = shared.checked(&asked(steps, "")).expect("a definition");
    let draft = shared.draft(checked).await.expect("it is kept");
    let record = draft.record(shared.journal.new_id(&shard), &request(()).call());
    let mut runner = Runner {
        shared,
        shard,
        program: draft.program,
        record: Arc::new(filled(record, bytes)),
        newest: watch::channel(None).0,
        commands: mpsc::channel(1).1,
        flight: Flight::new(),
        spans: Spans::default(),
        collisions: 0,
        permit: None,
    };
    runner.submit().await.expect("it is in the log");
    runner
}

/// The record with a name that leaves no room in so many bytes.
fn filled(mut record: Record, bytes: usize) -> Record {
    let mut length = bytes;
    loop {
        record.definition_name = "x".repeat(length);
        let mut bare = record.clone();
        bare.job.steps.iter_mut().flat_map(|step| &mut step.items).for_each(|item| item.history.clear());
        match bare.encode().len().saturating_sub(bytes) {
            0 => return record,
            over => length -= over,
        }
    }
}

fn call() -> Value {
    json!({ "call": { "target": "127.0.0.1:1", "method": "weft.control.v1.Models/GetModel", "request": { "name": "m" } } })
}

#[tokio::test]
async fn a_signal_that_is_too_large_takes_nothing_along() {
    let (scheduler, running) = Cluster::new().scheduler("s1", options());
    let steps = json!([
        { "name": "x", "action": call(), "undo": call() },
        { "name": "w", "action": { "wait": { "name": "go" } } },
    ]);
    let mut runner = runner(&scheduler.jobs, &steps, LONGEST - 300).await;
    let (reply, answer) = oneshot::channel();
    let signal = Event::Signal { name: "go".into(), value: Payload::Inline(vec![b'1'; 4_000]) };
    let lost = Outcome::Unknown(Fault::new("UNAVAILABLE", "lost"));
    let news = vec![News { event: signal, reply: Some(reply) }, ended(lost, None)];
    assert!(runner.take(news).await.is_ok());
    let refused = answer.await.expect("an answer").expect_err("there is no room for it");
    assert_eq!(refused.reason(), Reason::PreconditionFailed);
    assert!(runner.record.job.steps[0].items[0].unknown, "that it may have had its effect is forgotten");
    assert!(runner.record.job.signals.is_empty());
    running.finish(PATIENCE).await;
}

fn ended(outcome: Outcome, place: Option<Place>) -> News {
    Event::Ended { step: 0, item: 0, direction: Direction::Action, attempt: 1, outcome, place }.into()
}

/// Not even one that comes while a transition that was too large before waits for the store.
#[tokio::test]
async fn a_signal_that_joins_what_waits_takes_nothing_along() {
    let store = Gate::new();
    let (scheduler, running) = Cluster::over(Arc::clone(&store) as _).scheduler("s1", options());
    let steps = json!([
        { "name": "x", "action": call(), "undo": call() },
        { "name": "w", "action": { "wait": { "name": "go" } } },
    ]);
    let mut runner = runner(&scheduler.jobs, &steps, LONGEST - 600).await;
    let (commands, receiver) = mpsc::channel(1);
    runner.commands = receiver;
    let (reply, answer) = oneshot::channel();
    let event = Event::Signal { name: "go".into(), value: Payload::Inline(vec![b'1'; 4_000]) };
    store.is_full.store(true, Ordering::SeqCst);
    let joins = async {
        store.arrived.notified().await;
        assert!(commands.try_send(Command { event, reply }).is_ok());
        store.is_full.store(false, Ordering::SeqCst);
    };
    let brought = ended(Outcome::Done(Some(Payload::Inline(vec![b'1'; 4_000]))), None);
    let (taken, ()) = tokio::join!(runner.take(vec![brought]), joins);
    assert!(taken.is_ok());
    let refused = answer.await.expect("an answer").expect_err("there is no room for it");
    assert_eq!(refused.reason(), Reason::PreconditionFailed);
    assert!(runner.record.job.steps[0].items[0].unknown, "that it was done is forgotten");
    assert!(runner.record.job.signals.is_empty());
    running.finish(PATIENCE).await;
}

/// It is in the log: the job does not stand still for what somebody else has asked for.
#[tokio::test]
async fn a_verb_that_joins_a_job_s_turn_says_nothing_of_it() {
    let store = Gate::new();
    let (scheduler, running) = Cluster::over(Arc::clone(&store) as _).scheduler("s1", options());
    let mut runner =
        runner(&scheduler.jobs, &json!([{ "name": "x", "action": call(), "undo": call() }]), LONGEST).await;
    let (commands, receiver) = mpsc::channel(1);
    runner.commands = receiver;
    let (reply, answer) = oneshot::channel();
    store.decide(|txn| match txn.ops.iter().any(|op| op.key().contains("/saga/")) {
        true => Fate::Refused,
        false => Fate::Normal,
    });
    let joins = async {
        store.arrived.notified().await;
        assert!(commands.try_send(Command { event: Event::Resolve(Verb::Retry(None)), reply }).is_ok());
        store.decide(|_| Fate::Normal);
    };
    let lost = Outcome::Unknown(Fault::new("UNAVAILABLE", "lost"));
    let place = Some(Place { name: "x".repeat(200), epoch: 1 });
    let (taken, ()) = tokio::join!(runner.take(vec![ended(lost, place)]), joins);
    assert!(taken.is_ok(), "it stands still");
    let refused = answer.await.expect("an answer").expect_err("nothing is stuck");
    assert_eq!(refused.reason(), Reason::PreconditionFailed);
    assert_eq!(runner.record.job.state, JobState::Compensating);
    running.finish(PATIENCE).await;
}

#[tokio::test]
async fn what_becomes_of_a_pivot_finds_room() {
    let (scheduler, running) = Cluster::new().scheduler("s1", options());
    let steps = json!([{ "name": "p", "phase": "PHASE_PIVOT", "action": call() }]);
    let mut runner = runner(&scheduler.jobs, &steps, LONGEST).await;
    assert!(runner.take(vec![Event::TakenOver.into()]).await.is_ok());
    assert_eq!(runner.record.job.takeovers, 1, "a take-over was forgotten");

    running.finish(PATIENCE).await;
}

/// Where there is no room at all, the job stands still.
#[tokio::test]
async fn what_becomes_of_a_pivot_is_not_forgotten() {
    let (scheduler, running) = Cluster::new().scheduler("s1", options());
    let steps = json!([{ "name": "p", "phase": "PHASE_PIVOT", "action": call() }]);
    let mut runner = runner(&scheduler.jobs, &steps, LONGEST).await;
    let next = Arc::new(filled(Record::clone(&runner.record), LONGEST_BOUND));
    runner.write(&next).await.expect("it has no way back");
    runner.record = next;
    let lost = Outcome::Unknown(Fault::new("UNAVAILABLE", "lost"));
    let place = Some(Place { name: "x".repeat(200), epoch: 1 });
    assert!(matches!(runner.take(vec![ended(lost, place)]).await, Err(Stop::Defect)));
    running.finish(PATIENCE).await;
}

/// A job that waits for a moment which a clock that ran ahead has named looks at the time before.
#[test]
fn time_is_looked_at_every_minute() {
    assert_eq!(until(0), MIN_PAUSE);
    assert_eq!(until(Millis::MAX), MAX_PAUSE);
}
