//! One job's transitions, without the task that runs it.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use weft_runtime::CallExt as _;
use weft_saga::{Direction, Outcome, Payload, Place};

use super::*;
use crate::jobs::Jobs;
use crate::jobs::tests::{asked, options};
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
    let ended = Event::Ended { step: 0, item: 0, direction: Direction::Action, attempt: 1, outcome: lost, place: None };
    let news = vec![News { event: signal, reply: Some(reply) }, ended.into()];
    assert!(runner.take(news).await.is_ok());
    let refused = answer.await.expect("an answer").expect_err("there is no room for it");
    assert_eq!(refused.reason(), Reason::PreconditionFailed);
    assert!(runner.record.job.steps[0].items[0].unknown, "that it may have had its effect is forgotten");
    assert!(runner.record.job.signals.is_empty());
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
    let ended = Event::Ended { step: 0, item: 0, direction: Direction::Action, attempt: 1, outcome: lost, place };
    assert!(matches!(runner.take(vec![ended.into()]).await, Err(Stop::Defect)));
    running.finish(PATIENCE).await;
}
