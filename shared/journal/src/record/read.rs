//! From bytes to a job. What is not understood is an error that names the field: a guess could do a step twice.

use prost::Message as _;
use weft_proto::weft::state::v1 as state;
use weft_saga::job::{Attempt, Direction, Ending, Fault, Item, Job, JobState, Node, Place, StepState};
use weft_saga::{Hold, Payload};

use super::{Durability, FORMAT, Record};

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no record at all.
    #[error("it is not an encoded job: {0}")]
    Broken(String),
    /// A newer build wrote it in a way that this one must not touch.
    #[error("its format is {0}, and this build knows up to {FORMAT}")]
    Newer(u32),
    /// A field is missing, or holds what this build does not know.
    #[error("its field {0} is missing or not known")]
    Field(&'static str),
}

impl Record {
    /// Reads a record's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let message = state::Job::decode(bytes).map_err(|error| Unreadable::Broken(error.to_string()))?;
        if message.format != FORMAT {
            return Err(Unreadable::Newer(message.format));
        }
        let durability = match message.durability() {
            state::JobDurability::None => Durability::None,
            state::JobDurability::Lease => Durability::Lease,
            state::JobDurability::Journaled => Durability::Journaled,
            state::JobDurability::Unspecified => return Err(Unreadable::Field("durability")),
        };
        let job = job(&message)?;
        Ok(Self {
            id: message.id.parse().map_err(|_| Unreadable::Field("id"))?,
            tenant: message.tenant,
            key: message.key,
            request_hash: fixed(&message.request_hash, "request_hash")?,
            definition: fixed(&message.definition, "definition")?,
            definition_name: message.definition_name,
            durability,
            input: payload(message.input.ok_or(Unreadable::Field("input"))?)?,
            output: message.output.map(payload).transpose()?,
            trace_id: fixed(&message.trace_id, "trace_id")?,
            span: message.span,
            sampled: message.sampled,
            job,
        })
    }
}

fn fixed<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], Unreadable> {
    bytes.try_into().map_err(|_| Unreadable::Field(field))
}

fn job(message: &state::Job) -> Result<Job, Unreadable> {
    let signal = |signal: &state::JobSignal| {
        let value = signal.value.clone().ok_or(Unreadable::Field("signals.value"))?;
        Ok((signal.name.clone(), payload(value)?))
    };
    Ok(Job {
        state: status(message.state())?,
        revision: message.revision,
        paused: message.paused,
        stuck: message.stuck.clone(),
        failure: message.failure.clone().map(fault),
        decided: message.decided,
        created_at: message.created_at,
        deadline: message.deadline,
        undo_since: message.undo_since,
        ended_at: message.ended_at,
        takeovers: message.takeovers,
        steps: message.steps.iter().map(step).collect::<Result<_, _>>()?,
        signals: message.signals.iter().map(signal).collect::<Result<_, _>>()?,
    })
}

fn step(step: &state::JobStep) -> Result<Node, Unreadable> {
    Ok(Node { ruled: step.ruled, items: step.items.iter().map(item).collect::<Result<_, _>>()? })
}

fn item(message: &state::JobItem) -> Result<Item, Unreadable> {
    Ok(Item {
        state: item_state(message.state())?,
        attempts: message.attempts,
        undo_attempts: message.undo_attempts,
        failures: message.failures,
        unknown: message.unknown,
        not_before: message.not_before,
        until: message.until,
        output: message.output.clone().map(payload).transpose()?,
        place: message.place.clone().map(place),
        holds: message.holds.iter().cloned().map(hold).collect(),
        history: message.history.iter().map(attempt).collect::<Result<_, _>>()?,
    })
}

fn attempt(message: &state::JobAttempt) -> Result<Attempt, Unreadable> {
    let direction = match message.direction() {
        state::JobDirection::Action => Direction::Action,
        state::JobDirection::Undo => Direction::Undo,
        state::JobDirection::Probe => Direction::Probe,
        state::JobDirection::Unspecified => return Err(Unreadable::Field("history.direction")),
    };
    let outcome = match state::JobEnding::try_from(message.outcome) {
        Ok(state::JobEnding::Unspecified) => None,
        Ok(state::JobEnding::Done) => Some(Ending::Done),
        Ok(state::JobEnding::FailedClean) => Some(Ending::FailedClean),
        Ok(state::JobEnding::Unknown) => Some(Ending::Unknown),
        Err(_) => return Err(Unreadable::Field("history.outcome")),
    };
    Ok(Attempt {
        number: message.number,
        direction,
        started_at: message.started_at,
        ended_at: message.ended_at,
        budget: message.budget,
        outcome,
        fault: message.fault.clone().map(fault),
        place: message.place.clone().map(place),
        span: message.span,
    })
}

fn place(place: state::JobPlace) -> Place {
    Place { name: place.name, epoch: place.epoch }
}

fn hold(hold: state::JobHold) -> Hold {
    let state::JobHold { pool, worker, number, confirmed } = hold;
    Hold { pool, worker, number, confirmed }
}

fn fault(fault: state::JobFault) -> Fault {
    Fault { code: fault.code, message: fault.message }
}

fn payload(payload: state::JobPayload) -> Result<Payload, Unreadable> {
    use state::job_payload::Place;
    match payload.place {
        Some(Place::Inline(text)) => Ok(Payload::Inline(text)),
        Some(Place::Stored(stored)) => {
            Ok(Payload::Stored { sha256: fixed(&stored.sha256, "payload.sha256")?, len: stored.len })
        }
        None => Err(Unreadable::Field("payload")),
    }
}

const fn status(status: state::JobStatus) -> Result<JobState, Unreadable> {
    match status {
        state::JobStatus::Running => Ok(JobState::Running),
        state::JobStatus::Compensating => Ok(JobState::Compensating),
        state::JobStatus::Completed => Ok(JobState::Completed),
        state::JobStatus::Compensated => Ok(JobState::Compensated),
        state::JobStatus::Abandoned => Ok(JobState::Abandoned),
        state::JobStatus::Unspecified => Err(Unreadable::Field("state")),
    }
}

const fn item_state(item: state::JobItemState) -> Result<StepState, Unreadable> {
    match item {
        state::JobItemState::Idle => Ok(StepState::Idle),
        state::JobItemState::Started => Ok(StepState::Started),
        state::JobItemState::Probing => Ok(StepState::Probing),
        state::JobItemState::Done => Ok(StepState::Done),
        state::JobItemState::FailedClean => Ok(StepState::FailedClean),
        state::JobItemState::Unknown => Ok(StepState::Unknown),
        state::JobItemState::Skipped => Ok(StepState::Skipped),
        state::JobItemState::Undoing => Ok(StepState::Undoing),
        state::JobItemState::Undone => Ok(StepState::Undone),
        state::JobItemState::Stuck => Ok(StepState::Stuck),
        state::JobItemState::Unspecified => Err(Unreadable::Field("items.state")),
    }
}
