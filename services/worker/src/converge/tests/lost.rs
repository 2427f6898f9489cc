//! Replicas whose process ends, and the inputs that end it.

use std::sync::Arc;

use bytes::Bytes;
use weft_engine::{DataType, Tensor};
use weft_proto::weft::state::v1::{FailureKind, Replica as Record, ReplicaState};
use weft_types::{Deadline, Error, Reason, SystemClock};

use super::{PATIENCE, stored};
use crate::admit::{self, admit};
use crate::error::Failure;
use crate::fake::{Execution, Handle, World};
use crate::queue::{Answer, Ticket};
use crate::replica::Replica;

fn replica(world: &World) -> Arc<Replica> {
    world.worker.shared.find("", "identity", "").expect("ready")
}

fn send(world: &World, mark: u8) -> Result<Ticket, Error> {
    let now = SystemClock::now();
    let data = Bytes::from(vec![mark]);
    let input = Tensor { name: "INPUT".into(), datatype: DataType::Uint8, shape: vec![1, 1], data };
    let deadline = Deadline::after(now, PATIENCE);
    let request = admit::Request { inputs: vec![input], priority: 0, deadline, tenant: 0, on_stream: false };
    admit(&replica(world), request, now)
}

fn reason(answer: &Answer) -> Reason {
    match &answer.outcome {
        Err(Failure::Weft(error)) => error.reason(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

async fn placed(max_batch_size: usize) -> (World, Handle) {
    // The fake engine reads none of the files.
    let (world, handle, _) = stored(max_batch_size, &[]).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    (world, handle)
}

/// The execution ends the process; waits until the model is back, and returns what was told in between and then.
async fn lose(world: &World, handle: &Handle, execution: Execution) -> (Record, Record) {
    execution.lose();
    handle.lose();
    let failed = world.told("identity", ReplicaState::Failed).await;
    (failed, world.told("identity", ReplicaState::Ready).await)
}

#[tokio::test]
async fn a_lost_process_is_shown_at_once_and_the_model_comes_back() {
    let (world, mut handle) = placed(0).await;
    let before = Arc::downgrade(&replica(&world));
    let [running, waiting] = [1, 2].map(|mark| send(&world, mark).expect("taken"));
    let execution = handle.next().await;
    // The converger hears of it first, and leaves what is running to the engine's own word.
    handle.lose();
    let failed = world.told("identity", ReplicaState::Failed).await;
    assert_eq!((failed.reason.as_str(), failed.losses), ("its process was lost: planted", 1));
    assert_eq!(failed.failure(), FailureKind::Lost);
    let found = world.worker.shared.find("", "identity", "").err().expect("gone");
    assert_eq!(found.reason(), Reason::NoReadyReplica);
    assert_eq!(reason(&waiting.answer().await), Reason::NoReadyReplica, "it was not executed: others can take it");
    execution.lose();
    assert_eq!(reason(&running.answer().await), Reason::ModelFailed, "it may be what ended the process");
    let back = world.told("identity", ReplicaState::Ready).await;
    assert_eq!((back.losses, back.loss.as_str(), back.quarantined_inputs), (1, "planted", 0));
    assert!(back.lost_at.is_some() && back.lost_at == failed.lost_at, "{back:?}");
    let ticket = send(&world, 3).expect("taken");
    handle.next().await.echo();
    assert!(ticket.answer().await.outcome.is_ok());
    assert!(before.upgrade().is_none(), "the lost replica is still held");
    assert_eq!(handle.models(), 1);
}

#[tokio::test]
async fn an_input_that_ends_the_process_three_times_is_refused() {
    let (world, mut handle) = placed(0).await;
    for losses in 1..=3 {
        let ticket = send(&world, 7).expect("taken");
        let execution = handle.next().await;
        let (_, back) = lose(&world, &handle, execution).await;
        assert_eq!(reason(&ticket.answer().await), Reason::ModelFailed);
        assert_eq!((back.losses, back.quarantined_inputs), (losses, u32::from(losses == 3)));
    }
    assert_eq!(send(&world, 7).err().expect("refused").reason(), Reason::ModelFailed);
    let other = send(&world, 8).expect("taken");
    let execution = handle.next().await;
    assert_eq!(execution.marks(), [8]);
    execution.echo();
    assert!(other.answer().await.outcome.is_ok());
}

#[tokio::test]
async fn suspects_run_alone_and_the_innocent_are_cleared() {
    let (world, mut handle) = placed(8).await;
    let together = async |handle: &mut Handle, marks: &[u8]| {
        let first = send(&world, 0).expect("taken");
        let running = handle.next().await;
        let tickets: Vec<Ticket> = marks.iter().map(|mark| send(&world, *mark).expect("taken")).collect();
        running.echo();
        assert!(first.answer().await.outcome.is_ok());
        tickets
    };
    let tickets = together(&mut handle, &[1, 2]).await;
    let execution = handle.next().await;
    assert_eq!(execution.marks(), [1, 2]);
    lose(&world, &handle, execution).await;
    drop(tickets);
    let mut batches = async |marks: &[u8], expected: &[&[u8]]| {
        let tickets = together(&mut handle, marks).await;
        for expected in expected {
            let execution = handle.next().await;
            assert_eq!(execution.marks(), *expected);
            execution.echo();
        }
        for ticket in tickets {
            assert!(ticket.answer().await.outcome.is_ok());
        }
    };
    batches(&[3, 1, 4, 2, 5], &[&[3, 4, 5], &[1], &[2]]).await;
    batches(&[1, 2, 3], &[&[1, 2, 3]]).await;
}

#[tokio::test]
async fn what_nobody_waited_for_any_more_is_a_suspect_too() {
    let (world, mut handle) = placed(0).await;
    for _ in 0..3 {
        let (replica, ticket) = (replica(&world), send(&world, 9).expect("taken"));
        let mut execution = handle.next().await;
        drop(ticket);
        // The engine is told to stop and does not: the process is ended.
        execution.left().await;
        handle.lose();
        world.told("identity", ReplicaState::Failed).await;
        assert_eq!(replica.running(), 1, "its place was given away before it had stopped");
        drop(execution);
        while replica.running() > 0 {
            tokio::task::yield_now().await;
        }
        drop(replica);
        world.told("identity", ReplicaState::Ready).await;
    }
    assert_eq!(send(&world, 9).err().expect("refused").reason(), Reason::ModelFailed);
}
