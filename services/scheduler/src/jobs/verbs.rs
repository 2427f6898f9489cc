//! What callers and operators do with a job that there is.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use weft_journal::{JobId, Record};
use weft_proto::weft::jobs::v1::{CancelJobRequest, ResolveJobRequest, SignalJobRequest, Verb as Asked};
use weft_saga::{Event, Verb};
use weft_types::{Deadline, Error, Reason, Result, SystemClock};

use super::error::{journal_failed, set_aside};
use super::forward::unowned;
use super::table::{Command, Handle};
use super::{Program, Shared, check};

/// A job that there is.
pub(super) enum Found {
    Open(Handle),
    /// With what shows it, where that can still be had.
    Ended(Arc<Record>, Option<Arc<Program>>),
}

impl Found {
    pub(super) fn program(&self) -> Option<&Arc<Program>> {
        match self {
            Self::Open(handle) => handle.program.as_ref(),
            Self::Ended(_, program) => program.as_ref(),
        }
    }

    /// The job as it is in the log.
    pub(super) fn record(&self) -> Result<Arc<Record>> {
        match self {
            Self::Open(handle) => handle.record().ok_or_else(missing),
            Self::Ended(record, _) => Ok(Arc::clone(record)),
        }
    }
}

fn missing() -> Error {
    Error::new(Reason::NotFound, "id: no such job")
}

impl Shared {
    /// A job of a shard that is this scheduler's, or one that has ended.
    pub(super) async fn find(&self, id: &JobId) -> Result<Found> {
        // Asked before the table: a job that is not there now may only have come later, or ended.
        let recovering = self.table.is_recovering(id.shard());
        let found = self.table.get(id);
        let holds = self.table.shard(id.shard()).is_some_and(|shard| shard.holds(SystemClock::now()));
        let begins = match found {
            Some(handle) if holds && handle.record().is_some() && handle.is_kept() => return Ok(Found::Open(handle)),
            handle => handle.is_some(),
        };
        if let Some(record) = self.journal.ended(id).await.map_err(|error| journal_failed(&error))? {
            // Without its definition it has no names of its steps, and is shown all the same.
            let program = self.programs.load(&self.journal, &record.definition).await.ok();
            return Ok(Found::Ended(record, program));
        }
        Err(match () {
            () if !holds => unowned("the job's shard may be another scheduler's"),
            () if self.journal.is_set_aside(id) => set_aside(),
            () if recovering => unowned("the job is being taken over"),
            () if begins => unowned("the job is being written, or moves to another scheduler"),
            () => missing(),
        })
    }

    /// Undoes a job.
    pub(super) async fn cancel(
        &self,
        id: &JobId,
        request: &CancelJobRequest,
        by: Deadline,
    ) -> Result<(Arc<Record>, Found)> {
        let reason = match check::reason(&request.reason) {
            none if none.is_empty() => "cancelled by its caller".to_owned(),
            reason => reason,
        };
        self.tell(id, by, |_| Ok(Event::Cancel { reason })).await
    }

    /// Gives a waiting step its signal.
    pub(super) async fn signal(
        &self,
        id: &JobId,
        request: SignalJobRequest,
        by: Deadline,
    ) -> Result<(Arc<Record>, Found)> {
        let value = super::json::bytes("value", request.value)?;
        let inline = match self.find(id).await? {
            Found::Open(handle) => handle.record().map_or(0, |record| record.inline_bytes()),
            Found::Ended(..) => 0,
        };
        let value = self.journal.store_within(value, inline).await.map_err(|error| journal_failed(&error))?;
        self.tell(id, by, |_| Ok(Event::Signal { name: request.name, value })).await
    }

    /// Does what an operator wants.
    pub(super) async fn resolve(
        &self,
        id: &JobId,
        request: &ResolveJobRequest,
        by: Deadline,
    ) -> Result<(Arc<Record>, Found)> {
        self.tell(id, by, |program| Ok(Event::Resolve(verb(request, program)?))).await
    }

    /// Has a job take an event, and waits for the commit.
    async fn tell(
        &self,
        id: &JobId,
        by: Deadline,
        event: impl FnOnce(Option<&Program>) -> Result<Event>,
    ) -> Result<(Arc<Record>, Found)> {
        let found = self.find(id).await?;
        let Found::Open(handle) = &found else {
            return Err(Error::new(Reason::PreconditionFailed, "the job has ended"));
        };
        let (reply, answer) = oneshot::channel();
        let event = event(handle.program.as_deref())?;
        handle.commands.try_send(Command { event, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::new(Reason::Overloaded, "too many calls wait for this job"),
            mpsc::error::TrySendError::Closed(_) => unowned("the job has just ended or moved"),
        })?;
        match tokio::time::timeout_at(by.instant().into(), answer).await {
            Ok(Ok(outcome)) => Ok((outcome?, found)),
            Ok(Err(_)) => Err(unowned("the job has just ended or moved: look what became of it")),
            Err(_) => Err(Error::new(Reason::DeadlineRunning, "the deadline passed before it was in the log")),
        }
    }
}

/// The verb, with the index of the step that it names.
fn verb(request: &ResolveJobRequest, program: Option<&Program>) -> Result<Verb> {
    let step = |name: &str| {
        let unrun = || Error::new(Reason::PreconditionFailed, "this build of the scheduler cannot run the job");
        let program = program.ok_or_else(unrun)?;
        let found = program.definition.steps.iter().position(|step| step.name == name);
        found.ok_or_else(|| Error::invalid("step", "is none of the job"))
    };
    let reason = || match check::reason(&request.reason) {
        none if none.trim().is_empty() => Err(Error::invalid("reason", "must say why")),
        reason => Ok(reason),
    };
    match Asked::try_from(request.verb) {
        Ok(Asked::Pause) => Ok(Verb::Pause),
        Ok(Asked::Resume) => Ok(Verb::Resume),
        Ok(Asked::Retry) if request.step.is_empty() => Ok(Verb::Retry(None)),
        Ok(Asked::Retry) => Ok(Verb::Retry(Some(step(&request.step)?))),
        Ok(Asked::Skip) => {
            let item = usize::try_from(request.item).unwrap_or(usize::MAX);
            Ok(Verb::Skip { step: step(&request.step)?, item, reason: reason()? })
        }
        Ok(Asked::Abandon) => Ok(Verb::Abandon { reason: reason()? }),
        Ok(Asked::Unspecified) | Err(_) => {
            Err(Error::invalid("verb", "must be one of PAUSE, RESUME, RETRY, SKIP and ABANDON"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::definition::tests::message;
    use super::super::definition::{Submitted, compile};
    use super::super::programs::Programs;
    use super::*;

    #[test]
    fn a_verb_is_about_the_step_that_it_names() {
        let step = |name: &str| json!({ "name": name, "action": { "compute": { "value": 1 } } });
        let message = message(json!({ "name": "j", "steps": [step("a"), step("b")] }));
        let plan = compile(&message).expect("a definition");
        let submitted = Submitted { plan, message, encoded: bytes::Bytes::new() };
        let program = Programs::default().admit([0; 32], submitted, usize::MAX).expect("there is room");
        let asked = |verb: Asked, step: &str| {
            let (step, reason) = (step.to_owned(), "why".to_owned());
            let request =
                ResolveJobRequest { verb: verb.into(), step, item: 3, reason, ..ResolveJobRequest::default() };
            super::verb(&request, Some(&program)).map_err(|error| error.field().map(str::to_owned))
        };
        let reason = || "why".to_owned();
        assert_eq!(asked(Asked::Retry, "b"), Ok(Verb::Retry(Some(1))));
        assert_eq!(asked(Asked::Retry, ""), Ok(Verb::Retry(None)));
        assert_eq!(asked(Asked::Skip, "b"), Ok(Verb::Skip { step: 1, item: 3, reason: reason() }));
        assert_eq!(asked(Asked::Abandon, ""), Ok(Verb::Abandon { reason: reason() }));
        assert_eq!(asked(Asked::Skip, "c"), Err(Some("step".to_owned())));
    }
}
