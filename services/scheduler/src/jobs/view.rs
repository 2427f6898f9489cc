//! A job as its callers see it.

use std::time::Duration;

use weft_journal::{JobId, Record};
use weft_proto::weft::jobs::v1::{Attempt, Direction, Job, JobState, StepState, StepStatus};
use weft_proto::{duration, timestamp};
use weft_saga::job::Ending;
use weft_saga::{Fault, Hold, Item, Millis, Payload};

use super::error::SET_ASIDE;
use super::{Program, Shared, json};

/// The job without its steps and its output.
pub(super) fn summary(record: &Record, scheduler: &str) -> Job {
    let job = &record.job;
    Job {
        id: record.id.to_string(),
        tenant: record.tenant.clone(),
        key: record.key.clone(),
        definition: record.definition_name.clone(),
        definition_hash: hex(&record.definition),
        state: job_state(job.state).into(),
        paused: job.paused,
        stuck: job.stuck.clone().unwrap_or_default(),
        failure: job.failure.as_ref().map(told).unwrap_or_default(),
        revision: job.revision,
        created_at: Some(moment(job.created_at)),
        ended_at: job.ended_at.map(moment),
        deadline: Some(moment(job.deadline)),
        output: None,
        trace_id: hex(&record.trace_id),
        scheduler: if job.state.has_ended() { String::new() } else { scheduler.to_owned() },
        steps: Vec::new(),
    }
}

/// A job whose record cannot be read.
pub(super) fn unread(id: &JobId, scheduler: &str) -> Job {
    let (id, scheduler) = (id.to_string(), scheduler.to_owned());
    Job { id, scheduler, stuck: SET_ASIDE.to_owned(), ..Job::default() }
}

/// All of the job.
pub(super) fn job(
    record: &Record,
    program: Option<&Program>,
    scheduler: &str,
    output: Option<prost_types::Value>,
) -> Job {
    let name = |at: usize| {
        let step = program.and_then(|program| program.definition.steps.get(at));
        step.map_or_else(|| format!("#{at}"), |step| step.name.clone())
    };
    let nodes = record.job.steps.iter().enumerate();
    let steps = nodes.flat_map(|(at, node)| {
        let name = name(at);
        // Nothing is there before it is decided how often the step runs.
        let waiting = node.items.is_empty().then(|| step(name.clone(), 0, &Item::default()));
        waiting.into_iter().chain(node.items.iter().enumerate().map(move |(item, run)| step(name.clone(), item, run)))
    });
    Job { steps: steps.collect(), output, ..summary(record, scheduler) }
}

/// The job's output, read from where it is kept; `None` where there is none, or it is kept no more.
pub(super) async fn output(shared: &Shared, record: &Record) -> Option<prost_types::Value> {
    match record.output.as_ref()? {
        inline @ Payload::Inline(_) => payload(inline),
        stored => match shared.journal.load(stored).await {
            Ok(bytes) => json::value(&bytes),
            Err(error) => {
                tracing::warn!(job = %record.id, %error, "the output of a job cannot be read");
                payload(stored)
            }
        },
    }
}

fn step(name: String, item: usize, run: &Item) -> StepStatus {
    StepStatus {
        name,
        item: u32::try_from(item).unwrap_or(u32::MAX),
        state: step_state(run).into(),
        attempts: run.history.iter().map(attempt).collect(),
        attempts_total: run.attempts,
        output: run.output.as_ref().and_then(payload),
        slots: run.holds.iter().map(|Hold { pool, worker, number, .. }| format!("{pool}/{worker}/{number}")).collect(),
    }
}

fn attempt(attempt: &weft_saga::Attempt) -> Attempt {
    let outcome = match attempt.outcome {
        None => "",
        Some(Ending::Done) => "DONE",
        Some(Ending::FailedClean) => "FAILED_CLEAN",
        Some(Ending::Unknown) => "UNKNOWN",
    };
    let (code, message) = attempt.fault.clone().map(|Fault { code, message }| (code, message)).unwrap_or_default();
    Attempt {
        number: attempt.number,
        direction: direction(attempt.direction).into(),
        started_at: Some(moment(attempt.started_at)),
        ended_at: attempt.ended_at.map(moment),
        outcome: outcome.to_owned(),
        code,
        message,
        place: attempt.place.as_ref().map(|place| place.name.clone()).unwrap_or_default(),
        budget: Some(duration(Duration::from_millis(attempt.budget))),
        span_id: if attempt.span == 0 { String::new() } else { format!("{:016x}", attempt.span) },
    }
}

pub(super) const fn job_state(state: weft_saga::JobState) -> JobState {
    match state {
        weft_saga::JobState::Running => JobState::Running,
        weft_saga::JobState::Compensating => JobState::Compensating,
        weft_saga::JobState::Completed => JobState::Completed,
        weft_saga::JobState::Compensated => JobState::Compensated,
        weft_saga::JobState::Abandoned => JobState::Abandoned,
    }
}

const fn direction(direction: weft_saga::Direction) -> Direction {
    match direction {
        weft_saga::Direction::Action => Direction::Action,
        weft_saga::Direction::Undo => Direction::Undo,
        weft_saga::Direction::Probe => Direction::Probe,
    }
}

const fn step_state(run: &Item) -> StepState {
    use weft_saga::StepState as State;
    match run.state {
        State::Idle if run.attempts > 0 => StepState::Backoff,
        State::Idle => StepState::Waiting,
        State::Started | State::Probing => StepState::Running,
        State::Done => StepState::Done,
        State::FailedClean => StepState::Failed,
        State::Unknown => StepState::Unknown,
        State::Skipped => StepState::Skipped,
        State::Undoing => StepState::Undoing,
        State::Undone => StepState::Undone,
        State::Stuck => StepState::Stuck,
    }
}

/// A value, or for one that stands elsewhere where and how long it is.
fn payload(payload: &Payload) -> Option<prost_types::Value> {
    match payload {
        Payload::Inline(text) => json::value(text),
        Payload::Stored { sha256, len } => {
            let text = format!("sha256:{} ({len} bytes)", hex(sha256));
            Some(prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text)) })
        }
    }
}

fn told(fault: &Fault) -> String {
    format!("{}: {}", fault.code, fault.message)
}

fn moment(at: Millis) -> prost_types::Timestamp {
    // Later than any clock tells, should a record say so.
    let at = Duration::from_millis(at).min(Duration::from_secs(1 << 37));
    timestamp(std::time::SystemTime::UNIX_EPOCH + at)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
