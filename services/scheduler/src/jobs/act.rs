//! What steps do: one attempt at a time, with an outcome of three values.
//!
//! Until a request leaves, a failure is clean. From then on it is clean only where the other side proves that nothing was done
//! (`outcome`). An attempt ends when its future is dropped: the call that it waits for is cancelled with it.

mod call;
mod channels;
mod infer;
mod outcome;
mod reflection;
mod tensor;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Semaphore;
use tonic::async_trait;
use weft_journal::MAX_PAYLOAD;
use weft_saga::{Direction, Effect, Fault, Job, Outcome, Payload, Phase, Place, Ruling, Step};
use weft_store::Compare;
use weft_telemetry::TraceContext;
use weft_types::{Backoff, Deadline};

use super::definition::{Act, MAX_ITEMS, Plan, Targets};
use super::template::{self, Problem, Roots, Template, Values};
use crate::Inner;
use crate::control::Hold;
use channels::Channels;
use outcome::Failure;
use reflection::Schemas;
pub(super) use values::may_be_large;

/// How long the values of a condition or an output may take, where no deadline says it: the folder that they are kept in may hang.
const VALUES_IN: Duration = Duration::from_secs(10);
/// Attempts that have succeeded and wait for a place of values that is out of reach. Each holds a value of up to 4 MiB.
const MAX_WAITING: usize = 16;
/// The pauses before values that are out of reach are looked for, or kept, again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where values are kept that are too large for a job's record.
#[async_trait]
pub(crate) trait Payloads: Send + Sync {
    /// Reads one.
    async fn load(&self, payload: &Payload) -> Result<Bytes, Fault>;
    /// Keeps JSON text, in a record with so many bytes of values in it already, or beside it.
    async fn store(&self, text: Bytes, inline: usize) -> Result<Payload, Fault>;
}

/// A job as its actions see it.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Whose it is.
    pub(crate) tenant: &'a str,
    /// Its input.
    pub(crate) input: &'a Payload,
    /// The bytes of the values that stand in its record.
    pub(crate) inline: usize,
    /// Where it stands, as committed.
    pub(crate) job: &'a Job,
}

/// One attempt.
pub(crate) struct Attempt<'a> {
    /// What the job does.
    pub(crate) plan: &'a Plan,
    /// Where it stands.
    pub(crate) facts: Facts<'a>,
    /// The step.
    pub(crate) step: usize,
    /// Which of its items.
    pub(crate) item: usize,
    /// Which way.
    pub(crate) direction: Direction,
    /// The attempt's number, from 1.
    pub(crate) number: u32,
    /// The term of the scheduler that makes it.
    pub(crate) epoch: i64,
    /// When it has to end.
    pub(crate) deadline: Deadline,
    /// The span of the attempt.
    pub(crate) trace: &'a TraceContext,
    /// What must hold in the store for a record to be changed for the job: that this scheduler still owns it.
    pub(crate) guards: Vec<Compare>,
}

impl Attempt<'_> {
    /// The same for every attempt of the action, its undo and its probe: `<job>/<step>`, with the item where there is a list.
    fn key(&self) -> String {
        let name = self.plan.definition.steps.get(self.step).map_or("", |step| step.name.as_str());
        let listed = self.plan.steps.get(self.step).is_some_and(|planned| planned.list.is_some());
        match listed {
            true => format!("{}/{name}/{}", self.facts.id, self.item),
            false => format!("{}/{name}", self.facts.id),
        }
    }

    fn act(&self) -> Option<&Act> {
        self.plan.steps.get(self.step)?.act(self.direction)
    }
}

/// What an attempt came to, and who did it.
struct Made {
    /// An error where it was done, and what it brings is too large to be kept.
    value: Result<Option<Value>, Fault>,
    place: Option<Place>,
}

impl Made {
    /// What came of asking whoever is at this place.
    fn at(place: Place, told: Result<Result<Option<Value>, Fault>, Failure>) -> Result<Self, Failure> {
        match told {
            Ok(value) => Ok(Self { value, place: Some(place) }),
            Err(failure) => Err(Failure { place: Some(place), ..failure }),
        }
    }
}

impl From<Value> for Made {
    fn from(value: Value) -> Self {
        Self { value: Ok(Some(value)), place: None }
    }
}

/// Does what steps say. Clones share their connections and what they know of other services.
#[derive(Clone)]
pub(crate) struct Actor(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    payloads: Arc<dyn Payloads>,
    targets: Targets,
    routers: Channels,
    services: Channels,
    schemas: Schemas,
    values_in: Duration,
    /// Places of [`MAX_WAITING`].
    waiting: Semaphore,
}

impl Actor {
    pub(crate) fn new(inner: Arc<Inner>, payloads: Arc<dyn Payloads>, targets: Targets) -> Self {
        let (routers, services) = (Channels::of_mesh(inner.tasks.clone()), Channels::outside(inner.tasks.clone()));
        let (schemas, values_in, waiting) = (Schemas::default(), VALUES_IN, Semaphore::new(MAX_WAITING));
        Self(Arc::new(Shared { inner, payloads, targets, routers, services, schemas, values_in, waiting }))
    }

    /// Whether and how often a step runs; an error where that cannot be looked at for the moment.
    pub(crate) async fn rule(&self, plan: &Plan, facts: Facts<'_>, step: usize) -> Result<Ruling, Fault> {
        match self.in_time(self.ruling(plan, facts, step)).await {
            Err(fault) if !fault.is_unavailable() => Ok(Ruling::Invalid(fault)),
            ruled => ruled,
        }
    }

    async fn ruling(&self, plan: &Plan, facts: Facts<'_>, step: usize) -> Result<Ruling, Fault> {
        let Some(planned) = plan.steps.get(step) else { return Ok(Ruling::Run(1)) };
        if let Some(when) = &planned.when {
            let mut roots = Roots::new();
            when.roots(&mut roots);
            let values = self.values(plan, facts, &roots).await?;
            if !when.holds(&values).map_err(|problem| unfit(&problem))? {
                return Ok(Ruling::Skip);
            }
        }
        match &planned.list {
            None => Ok(Ruling::Run(1)),
            Some(_) => self
                .list(plan, facts, step)
                .await
                .map(|list| Ruling::Run(u32::try_from(list.len()).unwrap_or(u32::MAX))),
        }
    }

    /// What a step runs for.
    async fn list(&self, plan: &Plan, facts: Facts<'_>, step: usize) -> Result<Vec<Value>, Fault> {
        let Some(list) = plan.steps.get(step).and_then(|planned| planned.list.as_ref()) else { return Ok(Vec::new()) };
        let mut roots = Roots::new();
        list.roots(&mut roots);
        let values = self.values(plan, facts, &roots).await?;
        match list.render(&values).map_err(|problem| unfit(&problem))? {
            Value::Array(items) if items.len() <= MAX_ITEMS => Ok(items),
            Value::Array(_) => Err(Fault::new("INVALID_ARGUMENT", format!("for_each has more than {MAX_ITEMS} items"))),
            _ => Err(Fault::new("INVALID_ARGUMENT", "for_each is no list")),
        }
    }

    /// The job's output.
    pub(crate) async fn output(&self, plan: &Plan, facts: Facts<'_>) -> Result<Option<Payload>, Fault> {
        let Some(output) = &plan.output else { return Ok(None) };
        self.in_time(self.rendered(plan, facts, output)).await
    }

    /// What reads and keeps values without a deadline of its own.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let late = || Fault::new("UNAVAILABLE", "values could not be read or kept in time");
        tokio::time::timeout(self.0.values_in, work).await.unwrap_or_else(|_| Err(late()))
    }

    async fn rendered(&self, plan: &Plan, facts: Facts<'_>, output: &Template) -> Result<Option<Payload>, Fault> {
        let mut roots = Roots::new();
        output.roots(&mut roots);
        let values = self.values(plan, facts, &roots).await?;
        let value = output.render(&values).map_err(|problem| unfit(&problem))?;
        self.0.payloads.store(encode(&value)?, facts.inline).await.map(Some)
    }

    /// Makes one attempt; an error where a value that it needs cannot be read for the moment, and nothing was done. Dropping the future ends it.
    pub(crate) async fn attempt(&self, attempt: Attempt<'_>) -> Result<(Outcome, Option<Place>), Fault> {
        let Some(act) = attempt.act() else {
            let fault = Fault::new("INTERNAL", "the step has no such action");
            return Ok((Outcome::FailedClean(fault), None));
        };
        let late = || Fault::new("DEADLINE_EXCEEDED", "its time was over before it began");
        let values = tokio::time::timeout_at(attempt.deadline.instant().into(), self.values_for(&attempt, act)).await;
        let values = match values.unwrap_or_else(|_| Err(late())) {
            Err(fault) if fault.is_unavailable() => return Err(fault),
            Err(fault) => return Ok((Outcome::FailedClean(fault), None)),
            Ok(values) => values,
        };
        // It is as large as the largest of all actions.
        let made = Box::pin(self.run(&attempt, act, &values)).await;
        drop(values);
        Ok(match made {
            Ok(Made { value, place }) => {
                let outcome = self.outcome(&attempt, value).await;
                (outcome.unwrap_or_else(|fault| unkept(attempt.plan.definition.steps.get(attempt.step), fault)), place)
            }
            Err(Failure { fault, is_clean: true, place }) => (Outcome::FailedClean(fault), place),
            Err(Failure { fault, is_clean: false, place }) => (Outcome::Unknown(fault), place),
        })
    }

    async fn run(&self, attempt: &Attempt<'_>, act: &Act, values: &Values) -> Result<Made, Failure> {
        match act {
            Act::Compute(template) => Ok(template.render(values)?.into()),
            Act::Infer(infer) => self.infer(attempt, infer, values).await,
            Act::Call(call) => self.call(attempt, call, values).await,
            Act::Load { model, replicas } => {
                let hold = self.hold(attempt, model.clone());
                self.0.inner.hold_model(&hold, *replicas, attempt.trace).await?;
                Ok(serde_json::json!({ "model": model.as_str() }).into())
            }
            Act::GiveBack { model } => {
                self.0.inner.give_back_model(&self.hold(attempt, model.clone())).await?;
                Ok(Value::Null.into())
            }
            Act::Unload { model } => {
                self.0.inner.unload_model(&self.hold(attempt, model.clone())).await?;
                Ok(serde_json::json!({ "model": model.as_str() }).into())
            }
            Act::Reserve(_) | Act::Release(_) | Act::Wait(_) => {
                Err(Failure::clean("INTERNAL", "slots and signals are not for an attempt"))
            }
        }
    }

    fn hold(&self, attempt: &Attempt<'_>, model: weft_types::ModelName) -> Hold {
        Hold { model, step: attempt.key(), guards: attempt.guards.clone(), deadline: attempt.deadline }
    }

    /// The outcome of something that succeeded; an error where what it brings cannot be kept.
    async fn outcome(&self, attempt: &Attempt<'_>, value: Result<Option<Value>, Fault>) -> Result<Outcome, Fault> {
        if attempt.direction == Direction::Undo {
            // Nothing is kept of it.
            return Ok(Outcome::Done(None));
        }
        match done(attempt.direction, value?)? {
            Done::All(outcome) => Ok(outcome),
            Done::Output(text) => Ok(Outcome::Done(Some(self.keep_in_time(attempt, text).await?))),
        }
    }

    /// Keeps what it brought. Where the place of values is out of reach it tries again for as long as it has time, unless too many
    /// do so already.
    async fn keep_in_time(&self, attempt: &Attempt<'_>, text: Bytes) -> Result<Payload, Fault> {
        let store = || self.0.payloads.store(text.clone(), attempt.facts.inline);
        let keeping = async {
            let fault = match self.in_time(store()).await {
                Err(fault) if fault.is_unavailable() => fault,
                kept => return kept,
            };
            let _waiting = self.0.waiting.try_acquire().map_err(|_| fault)?;
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            loop {
                tokio::time::sleep(backoff.next(rand::random())).await;
                match store().await {
                    Err(fault) if fault.is_unavailable() => {
                        tracing::debug!(
                            job = attempt.facts.id,
                            why = fault.message,
                            "what a step brings cannot be kept yet"
                        );
                    }
                    kept => return kept,
                }
            }
        };
        let late = || Fault::new("UNAVAILABLE", "what it brings could not be kept in time");
        tokio::time::timeout_at(attempt.deadline.instant().into(), keeping).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The outcome of an action or a probe that succeeded.
enum Done {
    /// All of it.
    All(Outcome),
    /// Done, with an output that has to be kept.
    Output(Bytes),
}

/// What an action or a probe came to; an error where what it brings is too large.
fn done(direction: Direction, value: Option<Value>) -> Result<Done, Fault> {
    match (direction, value) {
        (Direction::Probe, told) => found(told.as_ref()),
        (_, None) => Ok(Done::All(Outcome::Done(None))),
        (_, Some(value)) => Ok(Done::Output(encode(&value)?)),
    }
}

/// What a probe found.
fn found(told: Option<&Value>) -> Result<Done, Fault> {
    let of = |name: &str| told.and_then(|told| told.get(name));
    Ok(match (of("done"), of("output")) {
        (Some(Value::Bool(false)), _) => Done::All(Outcome::Absent),
        (Some(Value::Bool(true)), None | Some(Value::Null)) => Done::All(Outcome::Done(None)),
        (Some(Value::Bool(true)), Some(output)) => Done::Output(encode(output)?),
        _ => {
            let fault = Fault::new("INTERNAL", "the probe's answer has no 'done' that is true or false");
            Done::All(Outcome::Unknown(fault))
        }
    })
}

/// A value as it is kept.
fn encode(value: &Value) -> Result<Bytes, Fault> {
    template::check_size(value).map_err(|problem| Fault::new("OUT_OF_RANGE", problem.to_string()))?;
    let mut text = Text(Vec::new());
    serde_json::to_writer(&mut text, value).map_err(|error| match error.is_io() {
        true => Fault::new("OUT_OF_RANGE", format!("the value is longer than {MAX_PAYLOAD} bytes")),
        false => Fault::new("INTERNAL", error.to_string()),
    })?;
    text.0.shrink_to_fit();
    Ok(text.0.into())
}

/// JSON text, no longer than what is kept.
struct Text(Vec<u8>);

impl std::io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PAYLOAD {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What became of a step whose action has succeeded, and whose output cannot be kept. To repeat it would bring the same output, unless the
/// place where outputs are kept is only out of reach. From the pivot on there is no way back: it is done, without an output.
pub(super) fn unkept(step: Option<&Step>, fault: Fault) -> Outcome {
    let Some(step) = step else { return Outcome::Unknown(fault) };
    match (step.effect, step.phase) {
        _ if fault.is_unavailable() => Outcome::Unknown(fault),
        (Effect::Pure, _) => Outcome::FailedClean(fault),
        (_, Phase::Pre) => Outcome::Unknown(fault),
        _ => Outcome::Done(None),
    }
}

fn unfit(problem: &Problem) -> Fault {
    Fault::new("INVALID_ARGUMENT", problem.to_string())
}
