//! Jobs as their callers see them: definitions in few words, and a client that follows jobs over losses of schedulers.

use anyhow::{Context as _, Result, bail};
use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};
use serde_json::Value as Json;
use tonic::{Code, Status};
use weft_client::Channel;
use weft_proto::weft::jobs::v1::action::Kind;
use weft_proto::weft::jobs::v1::jobs_client::JobsClient;
use weft_proto::weft::jobs::v1::*;

use crate::calls::{Caller, until};
use crate::ledger;

/// JSON as a message holds it.
pub fn value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => ValueKind::NullValue(0),
        Json::Bool(value) => ValueKind::BoolValue(*value),
        Json::Number(value) => ValueKind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => ValueKind::StringValue(value.clone()),
        Json::Array(values) => ValueKind::ListValue(ListValue { values: values.iter().map(value).collect() }),
        Json::Object(_) => ValueKind::StructValue(object(json)),
    };
    Value { kind: Some(kind) }
}

/// A JSON object as a message holds it; anything else is an empty one.
pub fn object(json: &Json) -> Struct {
    let fields = json.as_object().into_iter().flatten();
    Struct { fields: fields.map(|(name, field)| (name.clone(), value(field))).collect() }
}

fn action(kind: Kind) -> Option<Action> {
    Some(Action { kind: Some(kind) })
}

/// A step that does nothing yet.
pub fn step(name: &str, needs: &[&str]) -> Step {
    let needs = needs.iter().map(|name| (*name).to_owned()).collect();
    Step { name: name.to_owned(), needs, ..Step::default() }
}

/// A step that makes a value.
pub fn compute(name: &str, needs: &[&str], template: &Json) -> Step {
    Step { action: action(Kind::Compute(Compute { value: Some(value(template)) })), ..step(name, needs) }
}

/// A step that waits for a signal of this name.
pub fn wait(name: &str, needs: &[&str], signal: &str) -> Step {
    Step { action: action(Kind::Wait(WaitForSignal { name: signal.to_owned() })), ..step(name, needs) }
}

/// A step that calls a model with one tensor.
pub fn infer(name: &str, needs: &[&str], model: &str, input: (&str, &Json)) -> Step {
    let inputs = [(input.0.to_owned(), value(input.1))].into();
    let infer = Infer { model: model.to_owned(), inputs, ..Infer::default() };
    Step { action: action(Kind::Infer(infer)), ..step(name, needs) }
}

/// A step that takes slots of a pool.
pub fn reserve(name: &str, needs: &[&str], pool: &str, slots: u32) -> Step {
    let reserve = Reserve { pools: vec![PoolSlots { pool: pool.to_owned(), slots }] };
    Step { effect: Effect::Reserve.into(), action: action(Kind::Reserve(reserve)), ..step(name, needs) }
}

/// A step that publishes in the ledger at `target`, and can be asked about and undone.
pub fn publish(name: &str, needs: &[&str], target: &str, text: &Json) -> Step {
    let call = |method: &str, request: Struct| {
        let method = format!("{}/{method}", ledger::NAME);
        action(Kind::Call(Call { target: target.to_owned(), method, request: Some(request), ..Call::default() }))
    };
    Step {
        effect: Effect::External.into(),
        action: call("Publish", object(&serde_json::json!({"text": text}))),
        undo: call("Retract", Struct::default()),
        probe: call("Probe", Struct::default()),
        ..step(name, needs)
    }
}

/// A definition of these steps.
pub fn definition(name: &str, steps: Vec<Step>) -> JobDefinition {
    JobDefinition { name: name.to_owned(), steps, ..JobDefinition::default() }
}

/// A request for a job of this definition.
pub fn request(definition: JobDefinition, key: &str) -> SubmitJobRequest {
    SubmitJobRequest { definition: Some(definition), key: key.to_owned(), ..SubmitJobRequest::default() }
}

/// Whether another try may succeed: nobody answers for the job at the moment.
pub fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// A caller of jobs.
#[derive(Clone)]
pub struct Client {
    /// For calls that are made once.
    pub jobs: JobsClient<Channel>,
}

impl Client {
    /// It connects with its first call.
    pub fn new(address: &str) -> Result<Self> {
        Ok(Self { jobs: JobsClient::new(Caller::new(address)?.channel) })
    }

    /// Submits until it is answered. Only with a key this begins one job.
    pub async fn submit(&self, request: &SubmitJobRequest) -> Result<Job> {
        let mut answer = None;
        until("a job to be submitted", async || {
            answer = match self.jobs.clone().submit_job(request.clone()).await {
                Ok(answer) => Some(Ok(answer.into_inner())),
                Err(status) if is_passing(&status) => None,
                Err(status) => Some(Err(status)),
            };
            answer.is_some()
        })
        .await?;
        answer.context("it was answered")??.job.context("an answer has its job")
    }

    /// The job as it is now.
    pub async fn get(&self, id: &str) -> Result<Job> {
        let mut answer = None;
        until("a job to be told", async || {
            let request = GetJobRequest { id: id.to_owned(), ..GetJobRequest::default() };
            answer = match self.jobs.clone().get_job(request).await {
                Ok(answer) => Some(Ok(answer.into_inner())),
                Err(status) if is_passing(&status) => None,
                Err(status) => Some(Err(status)),
            };
            answer.is_some()
        })
        .await?;
        answer.context("it was answered")??.job.context("an answer has its job")
    }

    /// Watches a job until this holds of it, resuming where a watch is cut off. What was told stands in `seen`.
    pub async fn watch(&self, id: &str, seen: &mut Vec<Job>, mut holds: impl FnMut(&Job) -> bool) -> Result<Job> {
        let mut found = None;
        until("a job to come so far", async || {
            let after_revision = seen.last().map_or(0, |job| job.revision);
            let request = WatchJobRequest { id: id.to_owned(), after_revision };
            let Ok(answers) = self.jobs.clone().watch_job(request).await else { return false };
            let mut answers = answers.into_inner();
            while let Ok(Some(answer)) = answers.message().await {
                let Some(job) = answer.job else { return false };
                seen.push(job.clone());
                if holds(&job) {
                    found = Some(job);
                    return true;
                }
            }
            // A watch that was begun after what is waited for has nothing to tell.
            found = seen.last().filter(|job| holds(job)).cloned();
            found.is_some()
        })
        .await?;
        found.context("it came so far")
    }

    /// The job once it has ended.
    pub async fn ended(&self, id: &str) -> Result<Job> {
        self.watch(id, &mut Vec::new(), has_ended).await
    }
}

/// Whether nothing will happen to a job any more.
pub fn has_ended(job: &Job) -> bool {
    matches!(job.state(), JobState::Completed | JobState::Compensated | JobState::Abandoned)
}

/// A step's status.
pub fn status<'a>(job: &'a Job, step: &str) -> Result<&'a StepStatus> {
    match job.steps.iter().find(|status| status.name == step) {
        Some(status) => Ok(status),
        None => bail!("no step '{step}' in {job:?}"),
    }
}
