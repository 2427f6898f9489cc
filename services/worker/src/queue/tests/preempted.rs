//! Executions that make way for more urgent requests.

use std::pin::pin;

use futures_util::FutureExt as _;
use weft_proto::inference::ModelQueuePolicy;

use super::*;

/// The band of what may be stopped.
const BATCH: u64 = 3;

/// A replica whose calls take a minute in the batch band, and a millisecond in the most urgent one.
fn sleeping() -> (Arc<Replica>, Handle) {
    sleeping_with(1, Bands::default())
}

fn sleeping_with(executors: usize, bands: Bands) -> (Arc<Replica>, Handle) {
    let (engine, handle) = fake(signature(0, executors));
    let model = engine.model();
    let plan = Plan { predictable: false, bands, ..plan(&*model, 16) };
    let replica = planned(model, plan);
    let now = SystemClock::now();
    replica.learned().bands.entry(BATCH).or_default().observe(1, LONG, now);
    replica.learned().bands.entry(1).or_default().observe(1, Duration::from_millis(1), now);
    (replica, handle)
}

async fn answered(ticket: Ticket, mark: u8) {
    assert_eq!(ticket.answer().await.outcome.expect("answered")[0].data[..], [mark]);
}

#[tokio::test]
async fn the_urgent_one_runs_at_once_and_the_stopped_one_again() {
    let (replica, mut handle) = sleeping();
    let batch = send(&replica, 7, BATCH, 3 * LONG).expect("taken");
    let running = handle.next().await;
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    running.dropped().await;
    for mark in [1, 7] {
        let execution = handle.next().await;
        assert_eq!((execution.marks(), replica.running()), (vec![mark], 1));
        execution.echo();
    }
    answered(urgent, 1).await;
    answered(batch, 7).await;
    assert_eq!(replica.queue.len(), 0);
}

#[tokio::test]
async fn its_place_is_free_when_it_has_stopped_and_not_before() {
    let (replica, mut handle) = sleeping();
    let batch = send(&replica, 7, BATCH, 3 * LONG).expect("taken");
    let mut running = handle.next().await;
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    running.left().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((replica.running(), replica.queue.len()), (1, 1), "it computes still");
    assert!(handle.next().now_or_never().is_none(), "nothing begins beside it");
    drop(running);
    for mark in [1, 7] {
        let execution = handle.next().await;
        assert_eq!(execution.marks(), [mark]);
        execution.echo();
    }
    answered(urgent, 1).await;
    answered(batch, 7).await;
}

/// Begun again it would end after its deadline: so it runs to its end.
#[tokio::test]
async fn what_could_not_be_in_time_any_more_is_left_alone() {
    let (replica, mut handle) = sleeping();
    let mut batch = Box::pin(send(&replica, 7, BATCH, LONG + LONG / 60_000).expect("taken").answer());
    let running = handle.next().await;
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((replica.running(), replica.queue.len()), (1, 1));
    running.echo();
    let answer = tokio::select! {
        biased;
        answer = &mut batch => answer,
        again = handle.next() => {
            assert_eq!(again.marks(), [1], "it was stopped");
            again.echo();
            batch.await
        }
    };
    assert!(answer.outcome.is_ok());
    if replica.queue.len() + replica.running() > 0 {
        handle.next().await.echo();
    }
    answered(urgent, 1).await;
}

#[tokio::test]
async fn one_band_stops_nothing_of_its_own() {
    let (replica, mut handle) = sleeping();
    let first = send(&replica, 7, BATCH, 3 * LONG).expect("taken");
    let running = handle.next().await;
    let second = send(&replica, 8, BATCH, 2 * LONG).expect("taken");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    running.echo();
    answered(first, 7).await;
    handle.next().await.echo();
    answered(second, 8).await;
}

#[tokio::test]
async fn who_leaves_while_it_is_stopped_is_not_run_again() {
    let (replica, mut handle) = sleeping();
    let batch = send(&replica, 7, BATCH, 3 * LONG).expect("taken");
    let mut running = handle.next().await;
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    running.left().await;
    drop(batch);
    drop(running);
    handle.next().await.echo();
    answered(urgent, 1).await;
    assert_eq!(replica.queue.len(), 0);
    let next = send(&replica, 9, BATCH, 3 * LONG).expect("taken");
    let execution = handle.next().await;
    assert_eq!(execution.marks(), [9]);
    execution.echo();
    answered(next, 9).await;
}

/// The queue was closed meanwhile: what comes back is served before the drain ends.
#[tokio::test]
async fn a_drain_waits_for_what_was_stopped() {
    let (replica, mut handle) = sleeping();
    let batch = send(&replica, 7, BATCH, 3 * LONG).expect("taken");
    let mut running = handle.next().await;
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    running.left().await;
    let served = async {
        while replica.queue.push(nothing(), SystemClock::now()).is_ok() {
            tokio::task::yield_now().await;
        }
        drop(running);
        for mark in [1, 7] {
            let execution = handle.next().await;
            assert_eq!(execution.marks(), [mark]);
            execution.echo();
        }
        tokio::join!(answered(urgent, 1), answered(batch, 7));
    };
    tokio::join!(replica.drain(LONG), served);
    assert_eq!(replica.running(), 0);
}

/// A request that nobody waits for.
fn nothing() -> Request {
    let deadline = Deadline::after(SystemClock::now(), LONG);
    let urgency = Urgency { band: 9, deadline, tenant: 0 };
    Request { inputs: Vec::new(), rows: 0, urgency, suspect: None, on_stream: false, rule: Rule::default() }
}

#[tokio::test]
async fn what_was_stopped_goes_elsewhere_when_the_replica_is_given_up() {
    let (replica, mut handle) = sleeping();
    let batch = send(&replica, 7, BATCH, 3 * LONG).expect("taken");
    let mut running = handle.next().await;
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    running.left().await;
    replica.abandon();
    for ticket in [batch, urgent] {
        assert_eq!(reason(&ticket.answer().await), Reason::Draining);
    }
    replica.drain(LONG).await;
    assert!(handle.next().now_or_never().is_none(), "it was begun again");
}

/// The queue is closed and empty, an executor is free, and what was stopped has not come back yet.
#[tokio::test]
async fn a_drain_does_not_end_before_what_is_being_stopped() {
    let (replica, mut handle) = sleeping_with(2, Bands::default());
    let [one, two] = [7, 8].map(|mark| send(&replica, mark, BATCH, 3 * LONG).expect("taken"));
    let (first, mut second) = (handle.next().await, handle.next().await);
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    second.left().await;
    drop(urgent);
    let mut drained = pin!(replica.drain(LONG));
    let served = async {
        while replica.queue.push(nothing(), SystemClock::now()).is_ok() {
            tokio::task::yield_now().await;
        }
        first.echo();
        answered(one, 7).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(second);
        let again = handle.next().await;
        assert_eq!(again.marks(), [8]);
        again.echo();
        answered(two, 8).await;
    };
    tokio::select! {
        biased;
        () = served => {}
        () = &mut drained => panic!("it has ended"),
    }
    drained.await;
}

/// Another model needs the room.
#[tokio::test]
async fn what_gives_way_stops_at_its_yield_point_and_sends_its_callers_elsewhere() {
    let (replica, mut handle) = sleeping();
    let [running, waiting] = [7, 8].map(|mark| send(&replica, mark, BATCH, 3 * LONG).expect("taken"));
    let mut execution = handle.next().await;
    replica.give_way();
    assert_eq!(reason(&waiting.answer().await), Reason::Draining);
    execution.left().await;
    let refused = send(&replica, 9, BATCH, LONG).err().expect("it goes");
    assert_eq!(refused.reason(), Reason::Draining);
    let mut drained = pin!(replica.drain(LONG));
    for _ in 0..100 {
        assert!(drained.as_mut().now_or_never().is_none(), "it computes still");
        tokio::task::yield_now().await;
    }
    drop(execution);
    drained.await;
    assert_eq!(reason(&running.answer().await), Reason::Draining);
}

/// Its turn had come, and its execution begins when the others have been told.
#[tokio::test]
async fn what_begins_while_its_model_gives_way_stops_as_well() {
    let (replica, mut handle) = sleeping();
    replica.executions.give_way();
    let ticket = send(&replica, 7, BATCH, 3 * LONG).expect("taken");
    handle.next().await.dropped().await;
    replica.abandon();
    assert_eq!(reason(&ticket.answer().await), Reason::Draining);
}

/// Nobody would send it elsewhere: the stream would break. The same holds of what is suspected to end processes.
#[tokio::test]
async fn what_came_on_a_stream_is_answered_before_its_model_gives_way() {
    let (replica, mut handle) = sleeping();
    let on_stream = |mark| {
        let (now, inputs) = (SystemClock::now(), vec![input(mark, &[1, 1])]);
        let deadline = Deadline::after(now, 3 * LONG);
        admit(&replica, admit::Request { inputs, priority: BATCH, deadline, tenant: 0, on_stream: true }, now)
    };
    let [running, waiting] = [7, 8].map(|mark| on_stream(mark).expect("taken"));
    let call = send(&replica, 9, BATCH, 3 * LONG).expect("taken");
    let execution = handle.next().await;
    assert!(replica.give_way(), "no stream is open");
    let _stream = replica.stream();
    assert!(!replica.give_way(), "the stream's router has to know before it ends");
    assert_eq!(reason(&call.answer().await), Reason::Draining);
    let late = on_stream(10).expect("the router does not know yet");
    assert_eq!(send(&replica, 9, BATCH, LONG).err().map(|error| error.reason()), Some(Reason::Draining));
    execution.echo();
    answered(running, 7).await;
    for (ticket, mark) in [(waiting, 8), (late, 10)] {
        let execution = handle.next().await;
        assert_eq!(execution.marks(), [mark]);
        execution.echo();
        answered(ticket, mark).await;
    }
    replica.drain(LONG).await;
}

#[tokio::test]
async fn what_may_not_be_stopped_is_answered_before_its_model_gives_way() {
    let (engine, mut handle) = fake(signature(0, 1));
    let model = engine.model();
    let plan = Plan { ordered: true, ..plan(&*model, 16) };
    let replica = planned(model, plan);
    let ticket = send(&replica, 7, BATCH, LONG).expect("taken");
    let execution = handle.next().await;
    replica.give_way();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    execution.echo();
    answered(ticket, 7).await;
    replica.drain(LONG).await;
}

/// The configuration's patience is for what has not been executed; another one that comes later, and never is, shows that it is over.
#[tokio::test]
async fn what_was_stopped_may_wait_for_longer_than_what_never_ran() {
    let policy = ModelQueuePolicy { default_timeout_microseconds: 1_000, ..ModelQueuePolicy::default() };
    let levels =
        ModelDynamicBatching { priority_queue_policy: [(BATCH, policy)].into(), ..ModelDynamicBatching::default() };
    let (replica, mut handle) = sleeping_with(1, Bands::of(&levels));
    let mut batch = pin!(send(&replica, 7, BATCH, 3 * LONG).expect("taken").answer());
    let running = handle.next().await;
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    running.dropped().await;
    let executed = handle.next().await;
    let other = send(&replica, 8, BATCH, 3 * LONG).expect("taken");
    tokio::select! {
        biased;
        _ = &mut batch => panic!("it was given up"),
        answer = other.answer() => assert_eq!(reason(&answer), Reason::DeadlineInQueue),
    }
    assert!((&mut batch).now_or_never().is_none(), "it was given up");
    executed.echo();
    answered(urgent, 1).await;
    let again = handle.next().await;
    assert_eq!(again.marks(), [7]);
    again.echo();
    assert_eq!(batch.await.outcome.expect("answered")[0].data[..], [7]);
}

/// The second urgent one needs so long that only the other execution could be stopped for it: it has the place of the first, or nothing.
#[tokio::test]
async fn nothing_else_is_stopped_before_the_first_has() {
    let (replica, mut handle) = sleeping_with(2, Bands::default());
    let now = SystemClock::now();
    replica.learned().bands.entry(2).or_default().observe(1, Duration::from_millis(1), now);
    replica.learned().bands.insert(1, Latency::default());
    replica.learned().bands.entry(1).or_default().observe(1, LONG / 6, now);
    let _batch = [(7, 10 * LONG), (8, LONG + LONG / 12)].map(|(mark, left)| send(&replica, mark, BATCH, left).ok());
    let (mut other, mut stopped) = (handle.next().await, handle.next().await);
    let _urgent = send(&replica, 1, 2, LONG / 6).expect("taken");
    stopped.left().await;
    let _more = send(&replica, 2, 1, LONG / 2).expect("taken");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(other.left().now_or_never().is_none(), "two were stopped at once");
    assert_eq!((replica.running(), replica.queue.len()), (2, 2));
    drop(stopped);
    assert_eq!(handle.next().await.marks(), [2]);
    replica.abandon();
}

/// The estimate alone says that it would be late; that something makes way is what lets it in.
#[tokio::test]
async fn admission_knows_who_makes_way() {
    let (replica, mut handle) = driven(8, 1, 16);
    let now = SystemClock::now();
    replica.learned().latency.observe(1, Duration::from_millis(1), now);
    replica.learned().latency.observe(8, LONG, now);
    let batch = send_shaped(&replica, input(7, &[8, 1]), BATCH, 3 * LONG).expect("taken");
    let running = handle.next().await;
    let refused = send(&replica, 2, BATCH, LONG / 6).err().map(|error| error.reason());
    assert_eq!(refused, Some(Reason::DeadlineInfeasible));
    let urgent = send(&replica, 1, 1, LONG / 6).expect("taken");
    running.dropped().await;
    for mark in [1, 7] {
        let execution = handle.next().await;
        assert_eq!(execution.marks(), [mark]);
        execution.echo();
    }
    answered(urgent, 1).await;
    assert!(batch.answer().await.outcome.is_ok());
}

/// As many urgent requests as come, at any moment: every caller gets his own answer, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_however_often_it_is_stopped() {
    let model = Chaos { signature: signature(0, 4) };
    let plan = Plan { predictable: false, ..plan(&model, 512) };
    let replica = planned(Arc::new(model), plan);
    let now = SystemClock::now();
    replica.learned().bands.entry(BATCH).or_default().observe(1, LONG, now);
    replica.learned().bands.entry(1).or_default().observe(1, Duration::from_micros(1), now);
    // Mark 0 answers at some time; see the model.
    let all = (0..400u64).map(|at| {
        let replica = Arc::clone(&replica);
        async move {
            let band = if at % 4 == 0 { 1 } else { BATCH };
            let timeout = if band == 1 { LONG / 6 } else { 10 * LONG };
            let ticket = send(&replica, 0, band, timeout).expect("taken");
            answered(ticket, 0).await;
        }
    });
    futures_util::future::join_all(all).await;
    assert_eq!((replica.queue.backlog(), replica.queue.len()), ((0, 0), 0));
    replica.drain(LONG).await;
    assert_eq!(replica.running(), 0);
}
