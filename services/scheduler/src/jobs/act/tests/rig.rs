//! A scheduler's actor with jobs that stand where a test puts them.

#![expect(clippy::needless_pass_by_value, reason = "values are written down where they are passed")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::async_trait;
use weft_saga::{Direction, Fault, Item, Job, Outcome, Payload, Place, StepState};
use weft_store::Compare;
use weft_telemetry::TraceContext;
use weft_types::{Deadline, SystemClock};

use super::super::{Actor, Attempt, Facts, Payloads};
use crate::jobs::definition::tests::message;
use crate::jobs::definition::{Plan, Targets, compile};
use crate::tests::{Cluster, PATIENCE};
use crate::{Options, Scheduler};
use weft_runtime::Tasks;

/// Values by their content.
#[derive(Default)]
pub(super) struct Memory {
    values: Mutex<BTreeMap<[u8; 32], bytes::Bytes>>,
    hangs: AtomicBool,
    is_away: AtomicBool,
}

impl Memory {
    pub(super) fn forget(&self) {
        self.values().clear();
    }

    /// Whether reading and keeping never end.
    pub(super) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Whether nothing is kept for the moment.
    pub(super) fn take_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], bytes::Bytes>> {
        self.values.lock().expect("no test panics while it holds this")
    }

    async fn answers(&self) {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Payloads for Memory {
    async fn load(&self, payload: &Payload) -> Result<bytes::Bytes, Fault> {
        let Payload::Stored { sha256, .. } = payload else { panic!("an inline value needs no loading") };
        self.answers().await;
        let kept = self.values().get(sha256).cloned();
        kept.ok_or_else(|| Fault::new("UNAVAILABLE", "it is gone"))
    }

    async fn store(&self, text: bytes::Bytes, inline: usize) -> Result<Payload, Fault> {
        if inline + text.len() <= 4_096 {
            return Ok(Payload::Inline(text.to_vec()));
        }
        self.answers().await;
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Fault::new("UNAVAILABLE", "it is away"));
        }
        let (sha256, len) = (Sha256::digest(&text).into(), text.len() as u64);
        self.values().insert(sha256, text);
        Ok(Payload::Stored { sha256, len })
    }
}

pub(super) struct Rig {
    pub(super) cluster: Cluster,
    pub(super) memory: Arc<Memory>,
    pub(super) actor: Actor,
    pub(super) tasks: Tasks,
    pub(super) scheduler: Scheduler,
    scheduler_tasks: Tasks,
    /// Of the attempts that follow.
    pub(super) guards: Vec<Compare>,
    pub(super) patience: Duration,
}

/// A job, and what it was given.
pub(super) struct Standing {
    pub(super) job: Job,
    input: Payload,
}

impl Rig {
    pub(super) fn new() -> Self {
        let cluster = Cluster::new();
        let (scheduler, scheduler_tasks) = cluster.scheduler("s1", Options::default());
        let memory = Arc::new(Memory::default());
        let kept: Arc<dyn Payloads> = Arc::clone(&memory) as _;
        let actor = Actor::new(Arc::clone(&scheduler.inner), kept, Targets::loopback());
        let (tasks, guards, patience) = (Tasks::new(), Vec::new(), PATIENCE);
        Self { cluster, memory, actor, tasks, scheduler, scheduler_tasks, guards, patience }
    }

    pub(super) fn plan(&self, steps: Value) -> Plan {
        compile(&message(json!({ "name": "j", "steps": steps }))).expect("a definition")
    }

    pub(super) fn job(&self, plan: &Plan, input: Value) -> Standing {
        let input = Payload::Inline(input.to_string().into_bytes());
        Standing { job: Job::new(&plan.definition, 1, 1_000_000), input }
    }

    pub(super) fn facts<'a>(&self, standing: &'a Standing) -> Facts<'a> {
        Facts { id: "job-1", tenant: "t", input: &standing.input, inline: 0, job: &standing.job }
    }

    pub(super) async fn act(
        &self,
        plan: &Plan,
        job: &Standing,
        step: usize,
        direction: Direction,
    ) -> (Outcome, Option<Place>) {
        self.act_on(plan, job, (step, 0), direction).await
    }

    pub(super) async fn act_on(
        &self,
        plan: &Plan,
        job: &Standing,
        (step, item): (usize, usize),
        direction: Direction,
    ) -> (Outcome, Option<Place>) {
        let trace = TraceContext::new([1; 16], [1; 8], false).expect("not zero");
        let attempt = Attempt {
            plan,
            facts: self.facts(job),
            step,
            item,
            direction,
            number: 2,
            epoch: 9,
            deadline: Deadline::after(SystemClock::now(), self.patience),
            trace: &trace,
            guards: self.guards.clone(),
        };
        self.actor.attempt(attempt).await.unwrap_or_else(|fault| (Outcome::FailedClean(fault), None))
    }

    pub(super) async fn value(&self, payload: &Payload) -> Value {
        let text = match payload {
            Payload::Inline(text) => text.clone(),
            stored @ Payload::Stored { .. } => self.memory.load(stored).await.expect("it is kept").to_vec(),
        };
        serde_json::from_slice(&text).expect("JSON")
    }

    pub(super) async fn keep(&self, value: &Value) -> Payload {
        self.memory.store(value.to_string().into(), 0).await.expect("it is kept")
    }

    pub(super) async fn end(self) {
        self.tasks.stop();
        self.scheduler_tasks.finish(PATIENCE).await;
        assert!(!self.scheduler_tasks.failed());
    }
}

/// A run that is done and made this.
pub(super) fn item(value: Value) -> Item {
    Item { state: StepState::Done, output: Some(Payload::Inline(value.to_string().into_bytes())), ..Item::default() }
}

/// The job after the step has made this.
pub(super) fn made(mut standing: Standing, step: usize, output: Payload) -> Standing {
    standing.job.steps[step].items = vec![Item { output: Some(output), ..item(Value::Null) }];
    standing
}

/// What an attempt made that succeeded.
pub(super) fn kept(outcome: Outcome) -> Payload {
    match outcome {
        Outcome::Done(Some(payload)) => payload,
        other => panic!("{other:?}"),
    }
}

pub(super) fn inline(payload: &Payload) -> Value {
    match payload {
        Payload::Inline(text) => serde_json::from_slice(text).expect("JSON"),
        Payload::Stored { .. } => panic!("it is not in the record"),
    }
}

/// The kind of a failure, and its code.
pub(super) fn code(outcome: &Outcome) -> (&str, &str) {
    match outcome {
        Outcome::Done(_) => ("done", ""),
        Outcome::Absent => ("absent", ""),
        Outcome::FailedClean(fault) => ("clean", &fault.code),
        Outcome::Unknown(fault) => ("unknown", &fault.code),
    }
}
