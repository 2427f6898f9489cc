//! How a job begins: checked, its definition and its input put where they can be found again, and answered when it is in the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use weft_journal::{CommitError, Durability, JobId, Record};
use weft_proto::weft::jobs::v1::SubmitJobRequest;
use weft_runtime::Call;
use weft_saga::{Event, Job};
use weft_types::{Error, Reason, Result};

use super::definition::{Submitted, definition_of};
use super::error::{full, journal_failed};
use super::forward::unowned;
use super::run::{self, First};
use super::{Program, Shared, check, json, millis};

const MAX_INPUT_BYTES: usize = 256 << 10;
/// How long to wait for room among the open jobs, or for the store.
const RETRY: Duration = Duration::from_secs(1);
/// How often a job goes to another shard because its own went away before the first record was in the log.
const TRIES: usize = 3;

/// What became of a submission.
pub(super) enum Begun {
    /// It is a job of this scheduler.
    Here(Arc<Record>, Arc<Program>),
    /// The same request was submitted before; the job may be another scheduler's.
    Before(JobId),
    /// This scheduler has no shard: another one shall begin it.
    Elsewhere(String),
}

/// A request that has been checked. Nothing of it is kept yet.
pub(super) struct Checked {
    tenant: String,
    key: String,
    request_hash: weft_journal::Hash,
    submitted: Submitted,
    definition_hash: weft_journal::Hash,
    durability: Durability,
    input: Bytes,
    timeout: u64,
}

/// A job before it has an id.
pub(super) struct Draft {
    tenant: String,
    key: String,
    request_hash: weft_journal::Hash,
    pub(super) program: Arc<Program>,
    definition_hash: weft_journal::Hash,
    durability: Durability,
    input: weft_saga::Payload,
    timeout: u64,
}

impl Shared {
    /// Begins a job, unless its key stands for one.
    pub(super) async fn submit(
        self: &Arc<Self>,
        request: &SubmitJobRequest,
        call: &Call,
        is_forwarded: bool,
    ) -> Result<Begun> {
        let Some(mut shard) = self.journal.shard_for_new() else { return self.elsewhere(is_forwarded) };
        let checked = self.checked(request)?;
        if let Some(known) = self.known(&checked).await? {
            return Ok(known);
        }
        if self.table.open() >= self.options.max_open {
            return Err(crowded("the scheduler runs as many jobs as it may"));
        }
        let draft = self.draft(checked).await?;
        for _ in 0..TRIES {
            let id = self.journal.new_id(&shard);
            let record = Arc::new(draft.record(id, call));
            let (reply, committed) = oneshot::channel();
            let is_open = run::open(self, &shard, &draft.program, record, First::Submitted(reply));
            match committed.await {
                Ok(Ok(record)) => return Ok(Begun::Here(record, draft.program)),
                Ok(Err(CommitError::KeyTaken { id, same: true })) => return Ok(Begun::Before(id)),
                Ok(Err(CommitError::KeyTaken { id, same: false })) => return Err(conflict(&id)),
                // Its shard went to another scheduler, which may find the job there all the same. The key, or that nothing was sent,
                // makes sure that there is one.
                Ok(Err(CommitError::Fenced)) | Err(_) if !is_open || !draft.key.is_empty() => {}
                Ok(Err(CommitError::Fenced)) | Err(_) => {
                    return Err(unowned(
                        "whether the job was begun is not known: with a key it could be asked for again",
                    ));
                }
                Ok(Err(failed)) => return Err(refused(failed)),
            }
            let Some(next) = self.journal.shard_for_new() else { return self.elsewhere(is_forwarded) };
            shard = next;
        }
        Err(unowned("shards move between schedulers at the moment"))
    }

    fn elsewhere(&self, is_forwarded: bool) -> Result<Begun> {
        let others = self.others();
        match others.len() {
            0 => Err(unowned("no scheduler runs jobs at the moment")),
            _ if is_forwarded => Err(unowned("this scheduler runs no jobs at the moment")),
            count => Ok(Begun::Elsewhere(others[rand::rng().random_range(0..count)].clone())),
        }
    }

    pub(super) fn checked(&self, request: &SubmitJobRequest) -> Result<Checked> {
        if request.input.as_ref().is_some_and(|input| input.encoded_len() > MAX_INPUT_BYTES) {
            return Err(Error::invalid("input", format_args!("must be at most {MAX_INPUT_BYTES} bytes")));
        }
        let tenant = check::tenant(&request.tenant)?;
        check::key(&request.key)?;
        let timeout = check::timeout(request)?;
        let submitted = definition_of(request, &self.options.targets)?;
        let durability = durability(submitted.message.durability);
        if durability != Durability::Journaled {
            check::unjournaled(timeout)?;
        }
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let definition_hash = Sha256::digest(&submitted.encoded).into();
        let input = json::object("input", &request.input.clone().unwrap_or_default())?;
        let request_hash = Sha256::new()
            .chain_update(definition_hash)
            .chain_update(timeout.to_be_bytes())
            .chain_update(&input)
            .finalize()
            .into();
        let key = request.key.clone();
        Ok(Checked { tenant, key, request_hash, submitted, definition_hash, durability, input, timeout })
    }

    /// Keeps what a job's record refers to. Only now: whoever is refused leaves nothing behind.
    pub(super) async fn draft(&self, checked: Checked) -> Result<Draft> {
        let Checked { tenant, key, request_hash, submitted, definition_hash, durability, input, timeout } = checked;
        let encoded = submitted.encoded.clone();
        let program = self.programs.admit(definition_hash, submitted, self.options.max_definition_bytes);
        let program =
            program.ok_or_else(|| crowded("the scheduler's jobs have as many different definitions as they may"))?;
        // Of another job no other scheduler will ever look for it.
        if durability == Durability::Journaled {
            self.journal.put_definition(encoded).await.map_err(|error| journal_failed(&error))?;
        }
        let input = self.journal.store(input).await.map_err(|error| journal_failed(&error))?;
        Ok(Draft { tenant, key, request_hash, program, definition_hash, durability, input, timeout })
    }

    /// The job that the key stands for, if it does.
    async fn known(&self, checked: &Checked) -> Result<Option<Begun>> {
        if checked.key.is_empty() {
            return Ok(None);
        }
        match self.journal.by_key(&checked.tenant, &checked.key).await.map_err(|error| journal_failed(&error))? {
            Some((id, hash)) if hash == checked.request_hash => Ok(Some(Begun::Before(id))),
            Some((id, _)) => Err(conflict(&id)),
            None => Ok(None),
        }
    }
}

impl Draft {
    pub(super) fn record(&self, id: JobId, call: &Call) -> Record {
        let now = millis();
        let definition = &self.program.definition;
        let mut job = Job::new(definition, now, now.saturating_add(self.timeout));
        // What is due at once is in the first record, so that it waits for one commit. A new job takes it.
        let _ = job.apply(definition, &Event::Tick, now, rand::rng().random());
        let trace = &call.trace;
        Record {
            id,
            tenant: self.tenant.clone(),
            key: self.key.clone(),
            request_hash: self.request_hash,
            definition: self.definition_hash,
            definition_name: self.program.message.name.clone(),
            durability: self.durability,
            input: self.input.clone(),
            output: None,
            trace_id: u128::from_str_radix(&trace.trace_id(), 16).unwrap_or_default().to_be_bytes(),
            span: u64::from_str_radix(&trace.span_id(), 16).unwrap_or_default(),
            sampled: trace.sampled(),
            job,
        }
    }
}

const fn durability(asked: i32) -> Durability {
    match asked {
        1 => Durability::None,
        2 => Durability::Lease,
        // The definition has been checked.
        _ => Durability::Journaled,
    }
}

fn crowded(why: &'static str) -> Error {
    Error::new(Reason::Overloaded, why).retry_after(RETRY)
}

fn conflict(id: &JobId) -> Error {
    Error::of_field(Reason::Conflict, "key", format_args!("stands for another request: job {id}"))
}

fn refused(failed: CommitError) -> Error {
    match failed {
        CommitError::TooLarge(why) => {
            Error::invalid("definition", format_args!("the job is too large for the log: {why}"))
        }
        CommitError::Full => full(),
        failed @ (CommitError::Refused(_)
        | CommitError::Invalid(_)
        | CommitError::Stale
        | CommitError::SlotsTaken
        | CommitError::KeyTaken { .. }
        | CommitError::Fenced) => {
            tracing::error!(%failed, "a new job was not written");
            Error::new(Reason::Internal, "the log refused the job")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_does_not_take_is_told_apart() {
        let full = refused(CommitError::Full);
        assert_eq!((full.reason(), full.pushback()), (Reason::Overloaded, Some(Duration::from_secs(30))));
        let long = refused(CommitError::TooLarge("why".to_owned()));
        assert_eq!((long.reason(), long.field()), (Reason::InvalidRequest, Some("definition")));
        assert_eq!(refused(CommitError::Stale).reason(), Reason::Internal);
    }
}
