mod bounds;
mod preempted;
mod tenants;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::mpsc;
use weft_engine::{Batch, DataType, Error as EngineError, Model, Outputs, Signature};
use weft_policy::Latency;
use weft_policy::batch::Settings;
use weft_proto::inference::{ModelConfig, ModelDynamicBatching};
use weft_runtime::Tasks;
use weft_telemetry::Scope;
use weft_types::{Reason, Version};

use super::*;
use crate::admit::{self, admit};
use crate::error::Failure;
use crate::fake::{Handle, fake, signature};
use crate::replica::{Identity, Plan, Replica};

const LONG: Duration = Duration::from_secs(60);

fn replica(model: Arc<dyn Model>, limit: usize) -> Arc<Replica> {
    let plan = plan(&*model, limit);
    planned(model, plan)
}

fn plan(model: &dyn Model, limit: usize) -> Plan {
    Plan {
        batching: Settings { max_batch_rows: model.signature().max_batch_size, ..Settings::default() },
        default_band: 2,
        bands: Bands::default(),
        ordered: false,
        predictable: true,
        limits: Limits { requests: limit, bytes: 1 << 20 },
    }
}

fn planned(model: Arc<dyn Model>, plan: Plan) -> Arc<Replica> {
    let name = "m".parse().expect("a name");
    let version = Version::new(1).expect("a version");
    let metrics = Scope::disabled().metrics().model(&name, version);
    let replica =
        Arc::new(Replica::new(Identity { name, version, config: ModelConfig::default() }, plan, model, metrics));
    crate::batch::start(&replica, &Tasks::new());
    replica
}

fn driven(max_batch_size: usize, concurrency: usize, limit: usize) -> (Arc<Replica>, Handle) {
    let (engine, handle) = fake(signature(max_batch_size, concurrency));
    (replica(engine.model(), limit), handle)
}

fn input(mark: u8, shape: &[usize]) -> Tensor {
    let data = Bytes::from(vec![mark; shape.iter().product()]);
    Tensor { name: "INPUT".into(), datatype: DataType::Uint8, shape: shape.to_vec(), data }
}

fn send(replica: &Arc<Replica>, mark: u8, priority: u64, timeout: Duration) -> Result<Ticket, Error> {
    send_shaped(replica, input(mark, &[1, 1]), priority, timeout)
}

fn send_shaped(replica: &Arc<Replica>, input: Tensor, priority: u64, timeout: Duration) -> Result<Ticket, Error> {
    send_for(replica, input, (0, priority), timeout)
}

fn send_for(
    replica: &Arc<Replica>,
    input: Tensor,
    (tenant, priority): (u64, u64),
    timeout: Duration,
) -> Result<Ticket, Error> {
    let now = SystemClock::now();
    let deadline = Deadline::after(now, timeout);
    admit(replica, admit::Request { inputs: vec![input], priority, deadline, tenant, on_stream: false }, now)
}

fn reason(answer: &Answer) -> Reason {
    match &answer.outcome {
        Err(Failure::Weft(error)) => error.reason(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn the_most_urgent_goes_first() {
    let (replica, mut handle) = driven(0, 1, 16);
    let first = send(&replica, 0, 0, LONG).expect("taken");
    let running = handle.next().await;
    let tickets: Vec<Ticket> = [(1, 3, 1), (2, 0, 3), (3, 0, 2), (4, 1, 4)]
        .map(|(mark, priority, minutes)| send(&replica, mark, priority, LONG * minutes).expect("taken"))
        .into();
    assert_eq!(replica.queue.len(), 4);
    running.echo();
    let mut order = Vec::new();
    for _ in 0..4 {
        let execution = handle.next().await;
        order.extend(execution.marks());
        execution.echo();
    }
    assert_eq!(order, [4, 3, 2, 1], "by band, then by deadline");
    assert!(first.answer().await.outcome.is_ok());
    for ticket in tickets {
        assert!(ticket.answer().await.outcome.is_ok());
    }
}

#[tokio::test]
async fn what_waits_goes_together_and_each_gets_its_own() {
    let (replica, mut handle) = driven(8, 1, 16);
    let first = send(&replica, 0, 0, LONG).expect("taken");
    let running = handle.next().await;
    let tickets: Vec<Ticket> = (1..=5).map(|mark| send(&replica, mark, 0, LONG).expect("taken")).collect();
    running.echo();
    assert!(first.answer().await.outcome.is_ok());
    let together = handle.next().await;
    assert_eq!(together.marks(), [1, 2, 3, 4, 5]);
    together.echo();
    for (mark, ticket) in (1u8..).zip(tickets) {
        let answer = ticket.answer().await;
        assert_eq!(answer.timing.rows, 5);
        assert_eq!(answer.outcome.expect("answered")[0].data[..], [mark]);
    }
}

#[tokio::test]
async fn different_shapes_do_not_go_together() {
    let (replica, mut handle) = driven(8, 1, 16);
    let _first = send(&replica, 0, 0, LONG).expect("taken");
    let running = handle.next().await;
    let shapes: [&[usize]; 4] = [&[1, 2], &[1, 3], &[2, 2], &[1, 3]];
    let _tickets: Vec<Ticket> = (1u8..)
        .zip(shapes)
        .map(|(mark, shape)| send_shaped(&replica, input(mark, shape), 0, LONG).expect("taken"))
        .collect();
    running.echo();
    let one = handle.next().await;
    assert_eq!(one.marks(), [1, 3]);
    one.echo();
    assert_eq!(handle.next().await.marks(), [2, 4]);
}

/// Of three that wait the policy gives up the second, then the first: each is answered at once, and the third is run.
#[tokio::test]
async fn what_is_given_up_is_answered_and_the_rest_is_run() {
    let queue = Arc::new(Queue::new(Limits { requests: 8, bytes: 1 << 20 }, false));
    let now = SystemClock::now();
    let push = |mark: u8| {
        let (inputs, deadline) =
            (vec![input(mark, &[1, 1])], Deadline::after(now, LONG + Duration::from_secs(mark.into())));
        let urgency = Urgency { band: 1, deadline, tenant: 0 };
        let request =
            Request { inputs, rows: 1, urgency, suspect: None, on_stream: false, rule: Bands::default().rule(1) };
        queue.push(request, now).expect("taken")
    };
    let [first, second, _third] = [1, 2, 3].map(push);
    let mut seen = Vec::new();
    let next = queue.next(8, |waiting, _| {
        seen.push(waiting.len());
        match waiting.len() {
            3 => Decision::GiveUp(vec![1]),
            2 => Decision::GiveUp(vec![0]),
            _ => Decision::Run(1),
        }
    });
    assert_eq!(seen, [3, 2, 1]);
    let Next::Run(work) = next else { panic!("expected work") };
    assert_eq!(work.iter().map(|work| work.inputs[0].data[0]).collect::<Vec<_>>(), [3]);
    for ticket in [first, second] {
        assert_eq!(reason(&ticket.answer().await), Reason::DeadlineInQueue);
    }
}

/// Two executors, of which one is at work: a suspect waits until both are free, and nothing begins beside it.
#[tokio::test]
async fn a_suspect_runs_with_nothing_beside_it() {
    let (replica, mut handle) = driven(0, 2, 16);
    replica.quarantine.blame(Digest::of(&[input(7, &[1, 1])]), SystemClock::now());
    let mut tickets = vec![send(&replica, 1, 0, LONG).expect("taken")];
    let running = handle.next().await;
    tickets.extend([(7, 1), (2, 2)].map(|(mark, priority)| send(&replica, mark, priority, LONG).expect("taken")));
    // The loop has taken the suspect, and has its turn to begin it.
    while replica.queue.len() > 1 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(replica.running(), 1);
    running.echo();
    for mark in [7, 2] {
        let execution = handle.next().await;
        assert_eq!((execution.marks(), replica.running()), (vec![mark], 1));
        execution.echo();
    }
    for ticket in tickets {
        assert!(ticket.answer().await.outcome.is_ok());
    }
}

#[test]
fn a_priority_beyond_the_levels_is_the_default() {
    let levels = ModelDynamicBatching { priority_levels: 3, ..ModelDynamicBatching::default() };
    let plan = Plan { bands: Bands::of(&levels), ..plan(&Chaos { signature: signature(0, 1) }, 1) };
    assert_eq!([0, 1, 3, 4].map(|priority| plan.band(priority)), [2, 1, 3, 2]);
    let plan = Plan { bands: Bands::default(), ..plan };
    assert_eq!([0, 1, 1000].map(|priority| plan.band(priority)), [2, 1, 255]);
}

#[tokio::test]
async fn what_cannot_be_met_is_not_queued() {
    let (replica, mut handle) = driven(0, 1, 16);
    let late = |timeout| send(&replica, 0, 0, timeout).err().expect("refused").reason();
    assert_eq!(late(Duration::ZERO), Reason::DeadlineInfeasible);
    replica.learned().latency.observe(1, LONG, SystemClock::now());
    let ticket = send(&replica, 1, 0, LONG * 2).expect("taken");
    let running = handle.next().await;
    assert_eq!(late(LONG / 2), Reason::DeadlineInfeasible);
    assert_eq!(replica.queue.len(), 0);
    running.echo();
    assert!(ticket.answer().await.outcome.is_ok());
}

/// An estimate that is too high is corrected by the call that finds nothing else to be done.
#[tokio::test]
async fn what_finds_the_executor_idle_is_tried_whatever_it_is_thought_to_take() {
    let (replica, mut handle) = driven(8, 1, 16);
    replica.learned().latency.observe(1, 2 * LONG, SystemClock::now());
    let ticket = send(&replica, 1, 0, LONG).expect("taken");
    handle.next().await.echo();
    assert!(ticket.answer().await.outcome.is_ok());
    assert!(replica.expected() < Some(2 * LONG));
}

#[tokio::test]
async fn what_is_stopped_or_fails_in_part_is_not_taken_for_the_time_of_an_execution() {
    let (replica, mut handle) = driven(0, 1, 16);
    let ticket = send(&replica, 1, 0, LONG).expect("taken");
    handle.next().await.refuse();
    assert_eq!(reason(&ticket.answer().await), Reason::ModelFailed);
    assert_eq!(replica.expected(), None);
    let ticket = send(&replica, 1, 0, Duration::from_millis(20)).expect("taken");
    handle.next().await.dropped().await;
    assert_eq!(reason(&ticket.answer().await), Reason::DeadlineRunning);
    replica.drain(LONG).await;
    assert!(replica.expected() > Some(Duration::from_millis(1)), "it takes longer than that");
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_says_where() {
    let (replica, mut handle) = driven(0, 1, 16);
    let running = send(&replica, 0, 0, Duration::from_millis(50)).expect("taken");
    let execution = handle.next().await;
    let queued = send(&replica, 1, 0, Duration::from_millis(20)).expect("taken");
    let (running, queued) = tokio::join!(running.answer(), queued.answer());
    assert_eq!((reason(&running), reason(&queued)), (Reason::DeadlineRunning, Reason::DeadlineInQueue));
    assert_eq!((running.timing.rows, queued.timing.rows), (1, 0));
    execution.dropped().await;
    assert_eq!(replica.queue.len(), 0);
}

/// The execution and its caller both watch the deadline: whichever notices first, the caller hears of the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_is_the_reason_whoever_notices_it_first() {
    let model = Chaos { signature: signature(0, 64) };
    // Else it would soon be known that there is no time for any.
    let plan = Plan { predictable: false, ..plan(&model, 64) };
    let replica = planned(Arc::new(model), plan);
    for _ in 0..100 {
        // Mark 3 never answers.
        let tickets = (0..16).map(|_| send(&replica, 3, 0, Duration::from_millis(3)).expect("taken"));
        let answers = futures_util::future::join_all(tickets.map(Ticket::answer).collect::<Vec<_>>()).await;
        for answer in &answers {
            let reason = reason(answer);
            assert!(matches!(reason, Reason::DeadlineRunning | Reason::DeadlineInQueue), "{reason:?}");
        }
    }
}

#[tokio::test]
async fn leaving_the_queue_takes_the_request_out() {
    let (replica, mut handle) = driven(0, 1, 16);
    let first = send(&replica, 0, 0, LONG).expect("taken");
    let running = handle.next().await;
    let tickets = [1, 2, 3].map(|mark| send(&replica, mark, 0, LONG).expect("taken"));
    let [one, two, three] = tickets;
    drop(two);
    assert_eq!(replica.queue.len(), 2);
    running.echo();
    for (mark, ticket) in [(0, first), (1, one), (3, three)] {
        if mark != 0 {
            let execution = handle.next().await;
            assert_eq!(execution.marks(), [mark]);
            execution.echo();
        }
        assert!(ticket.answer().await.outcome.is_ok());
    }
}

#[tokio::test]
async fn an_execution_stops_when_the_last_caller_leaves_and_not_before() {
    let (replica, mut handle) = driven(8, 1, 16);
    let _first = send(&replica, 0, 0, LONG).expect("taken");
    let running = handle.next().await;
    let [one, two] = [1, 2].map(|mark| send(&replica, mark, 0, LONG).expect("taken"));
    running.echo();
    let together = handle.next().await;
    assert_eq!(together.marks(), [1, 2]);
    drop(one);
    tokio::task::yield_now().await;
    assert_eq!(replica.running(), 1);
    drop(two);
    together.dropped().await;
    // The executor is free again.
    let next = send(&replica, 3, 0, LONG).expect("taken");
    handle.next().await.echo();
    assert!(next.answer().await.outcome.is_ok());
}

#[tokio::test]
async fn a_panic_fails_its_batch_only() {
    let (replica, mut handle) = driven(0, 1, 16);
    let hit = send(&replica, 0, 0, LONG).expect("taken");
    handle.next().await.panic();
    let answer = hit.answer().await;
    assert_eq!(reason(&answer), Reason::ModelFailed);
    assert!(!format!("{:?}", answer.outcome).contains("planted"), "the panic's text stays inside");
    let failed = send(&replica, 1, 0, LONG).expect("taken");
    handle.next().await.fail();
    assert_eq!(reason(&failed.answer().await), Reason::ModelFailed);
    let next = send(&replica, 2, 0, LONG).expect("taken");
    handle.next().await.echo();
    assert!(next.answer().await.outcome.is_ok());
}

#[tokio::test]
async fn a_drain_serves_what_has_come_and_refuses_the_rest() {
    let (replica, mut handle) = driven(0, 1, 16);
    let [one, two] = [1, 2].map(|mark| send(&replica, mark, 0, LONG).expect("taken"));
    let running = handle.next().await;
    let served = async {
        tokio::task::yield_now().await;
        assert_eq!(send(&replica, 3, 0, LONG).err().expect("refused").reason(), Reason::Draining);
        running.echo();
        handle.next().await.echo();
        (one.answer().await, two.answer().await)
    };
    let ((), (one, two)) = tokio::join!(replica.drain(LONG), served);
    assert!(one.outcome.is_ok() && two.outcome.is_ok());
    drop(replica);
    assert_eq!(handle.models(), 0, "the model is gone with its last handle");
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let (replica, mut handle) = driven(0, 1, 16);
    let [one, two] = [1, 2].map(|mark| send(&replica, mark, 0, LONG).expect("taken"));
    let stuck = handle.next().await;
    replica.drain(Duration::ZERO).await;
    assert_eq!(reason(&one.answer().await), Reason::Draining);
    assert_eq!(reason(&two.answer().await), Reason::Draining);
    stuck.dropped().await;
}

/// Does as each request's first byte says, without a driver.
struct Chaos {
    signature: Signature,
}

#[tonic::async_trait]
impl Model for Chaos {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn size_bytes(&self) -> u64 {
        0
    }

    async fn warm(&self) -> Result<(), EngineError> {
        Ok(())
    }

    async fn execute(&self, batch: Batch) -> Result<Vec<Result<Outputs, EngineError>>, EngineError> {
        tokio::task::yield_now().await;
        let marks: Vec<u8> = batch.requests.iter().map(|inputs| inputs[0].data[0]).collect();
        if marks.contains(&3) {
            std::future::pending::<()>().await;
        }
        assert!(!marks.contains(&2), "planted");
        Ok(batch
            .requests
            .into_iter()
            .map(|inputs| if inputs[0].data[0] == 1 { Err(EngineError::Run("planted".into())) } else { Ok(inputs) })
            .collect())
    }
}

/// One caller of the property below.
#[derive(Clone, Debug)]
struct Behaviour {
    mark: u8,
    band: u64,
    timeout_ms: u64,
    /// Leaves after so many turns of the scheduler, if at all.
    leaves_after: Option<usize>,
}

fn caller() -> impl Strategy<Value = Behaviour> {
    let timeout = prop_oneof![Just(0u64), 1u64..15];
    (0u8..4, 0u64..4, timeout, proptest::option::of(0usize..6))
        .prop_map(|(mark, band, timeout_ms, leaves_after)| Behaviour { mark, band, timeout_ms, leaves_after })
}

async fn call(replica: Arc<Replica>, plan: Behaviour, done: mpsc::Sender<()>) {
    if let Ok(ticket) = send(&replica, plan.mark, plan.band, Duration::from_millis(plan.timeout_ms)) {
        let leave = async {
            match plan.leaves_after {
                Some(turns) => {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ticket.answer() => {}
            () = leave => {}
        }
    }
    drop(done);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever mix of success, error, panic, expiry and departure: in the end nothing is queued, nothing runs, every permit
    /// is back, and the model is unloaded.
    #[test]
    fn nothing_leaks(
        callers in proptest::collection::vec(caller(), 1..40),
        max_batch_size in 0usize..5,
        concurrency in 1usize..4,
        limit in 1usize..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let model = Arc::new(Chaos { signature: signature(max_batch_size, concurrency) });
            let replica = replica(Arc::clone(&model) as Arc<dyn Model>, limit);
            let (done, mut all) = mpsc::channel(1);
            let calls: Vec<_> = callers.into_iter().map(|plan| call(Arc::clone(&replica), plan, done.clone())).collect();
            drop(done);
            futures_util::future::join_all(calls).await;
            assert!(all.recv().await.is_none());
            assert_eq!(replica.queue.len(), 0);
            // Ends only when every permit is back; the grace is never needed.
            replica.drain(Duration::from_secs(60)).await;
            assert_eq!(replica.running(), 0);
            let (bytes, rows) = {
                let state = replica.queue.lock();
                (state.bytes, state.rows)
            };
            assert_eq!((bytes, rows), (0, 0));
            drop(replica);
            tokio::task::yield_now().await;
            assert_eq!(Arc::strong_count(&model), 1);
        });
    }
}
