//! From a job to its bytes.

use prost::Message as _;
use weft_proto::weft::state::v1 as state;
use weft_saga::job::{Attempt, Direction, Ending, Fault, Item, JobState, Node, Place, StepState};
use weft_saga::{Hold, Payload};

use super::{Durability, FORMAT, Record};

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.message().encode_to_vec()
    }

    /// As [`Self::encode`], without what only people read where it is longer than `limit` otherwise.
    pub(crate) fn encode_within(&self, limit: usize) -> Vec<u8> {
        let mut message = self.message();
        if message.encoded_len() <= limit {
            return message.encode_to_vec();
        }
        message.steps.iter_mut().flat_map(|step| &mut step.items).for_each(|item| item.history.clear());
        message.encode_to_vec()
    }

    fn message(&self) -> state::Job {
        let job = &self.job;
        let signal =
            |(name, value): &(String, Payload)| state::JobSignal { name: name.clone(), value: Some(payload(value)) };
        state::Job {
            format: FORMAT,
            id: self.id.to_string(),
            tenant: self.tenant.clone(),
            key: self.key.clone(),
            request_hash: self.request_hash.to_vec(),
            definition: self.definition.to_vec(),
            definition_name: self.definition_name.clone(),
            durability: durability(self.durability).into(),
            input: Some(payload(&self.input)),
            output: self.output.as_ref().map(payload),
            trace_id: self.trace_id.to_vec(),
            span: self.span,
            sampled: self.sampled,
            state: status(job.state).into(),
            revision: job.revision,
            paused: job.paused,
            stuck: job.stuck.clone(),
            failure: job.failure.as_ref().map(fault),
            decided: job.decided,
            created_at: job.created_at,
            deadline: job.deadline,
            undo_since: job.undo_since,
            ended_at: job.ended_at,
            takeovers: job.takeovers,
            steps: job.steps.iter().map(step).collect(),
            signals: job.signals.iter().map(signal).collect(),
        }
    }
}

fn step(node: &Node) -> state::JobStep {
    state::JobStep { ruled: node.ruled, items: node.items.iter().map(item).collect() }
}

fn item(item: &Item) -> state::JobItem {
    state::JobItem {
        state: item_state(item.state).into(),
        attempts: item.attempts,
        undo_attempts: item.undo_attempts,
        failures: item.failures,
        unknown: item.unknown,
        not_before: item.not_before,
        until: item.until,
        output: item.output.as_ref().map(payload),
        place: item.place.as_ref().map(place),
        holds: item.holds.iter().map(hold).collect(),
        history: item.history.iter().map(attempt).collect(),
    }
}

fn attempt(attempt: &Attempt) -> state::JobAttempt {
    let direction = match attempt.direction {
        Direction::Action => state::JobDirection::Action,
        Direction::Undo => state::JobDirection::Undo,
        Direction::Probe => state::JobDirection::Probe,
    };
    let ending = match attempt.outcome {
        None => state::JobEnding::Unspecified,
        Some(Ending::Done) => state::JobEnding::Done,
        Some(Ending::FailedClean) => state::JobEnding::FailedClean,
        Some(Ending::Unknown) => state::JobEnding::Unknown,
    };
    state::JobAttempt {
        number: attempt.number,
        direction: direction.into(),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        budget: attempt.budget,
        outcome: ending.into(),
        fault: attempt.fault.as_ref().map(fault),
        place: attempt.place.as_ref().map(place),
        span: attempt.span,
    }
}

fn place(place: &Place) -> state::JobPlace {
    state::JobPlace { name: place.name.clone(), epoch: place.epoch }
}

fn hold(hold: &Hold) -> state::JobHold {
    let Hold { pool, worker, number, confirmed } = hold.clone();
    state::JobHold { pool, worker, number, confirmed }
}

fn fault(fault: &Fault) -> state::JobFault {
    state::JobFault { code: fault.code.clone(), message: fault.message.clone() }
}

fn payload(payload: &Payload) -> state::JobPayload {
    use state::job_payload::Place;
    let place = match payload {
        Payload::Inline(text) => Place::Inline(text.clone()),
        Payload::Stored { sha256, len } => Place::Stored(state::StoredPayload { sha256: sha256.to_vec(), len: *len }),
    };
    state::JobPayload { place: Some(place) }
}

const fn durability(durability: Durability) -> state::JobDurability {
    match durability {
        Durability::None => state::JobDurability::None,
        Durability::Lease => state::JobDurability::Lease,
        Durability::Journaled => state::JobDurability::Journaled,
    }
}

const fn status(job: JobState) -> state::JobStatus {
    match job {
        JobState::Running => state::JobStatus::Running,
        JobState::Compensating => state::JobStatus::Compensating,
        JobState::Completed => state::JobStatus::Completed,
        JobState::Compensated => state::JobStatus::Compensated,
        JobState::Abandoned => state::JobStatus::Abandoned,
    }
}

const fn item_state(step: StepState) -> state::JobItemState {
    match step {
        StepState::Idle => state::JobItemState::Idle,
        StepState::Started => state::JobItemState::Started,
        StepState::Probing => state::JobItemState::Probing,
        StepState::Done => state::JobItemState::Done,
        StepState::FailedClean => state::JobItemState::FailedClean,
        StepState::Unknown => state::JobItemState::Unknown,
        StepState::Skipped => state::JobItemState::Skipped,
        StepState::Undoing => state::JobItemState::Undoing,
        StepState::Undone => state::JobItemState::Undone,
        StepState::Stuck => state::JobItemState::Stuck,
    }
}
