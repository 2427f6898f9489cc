//! Operators keep new replicas away from a worker, or everything.
//!
//! What they want stands in a record of its own, not in the worker's: the worker writes that one anew with each start, and it goes with
//! the worker's lease. The last wish counts.

use weft_proto::weft::control::v1::WorkerView;
use weft_proto::weft::state::v1::{Cordon, Worker};
use weft_types::{Deadline, Error, Reason, Result, SystemClock, WorkerId};

use super::check;
use crate::Inner;

/// What an operator wants of a worker.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) id: String,
    pub(crate) reason: String,
    pub(crate) by: String,
    /// Whether what it holds shall go, too.
    pub(crate) drain: bool,
}

impl Inner {
    /// Keeps new replicas away from a worker that is registered, or that has a cordon from when it was.
    pub(crate) async fn cordon(&self, wish: Wish, deadline: Deadline) -> Result<WorkerView> {
        let id = check::worker("id", &wish.id)?;
        check::remark("reason", &wish.reason, check::MAX_REASON_BYTES)?;
        check::remark("by", &wish.by, check::MAX_BY_BYTES)?;
        let snapshot = self.snapshot()?;
        if !snapshot.workers.contains_key(&id) && !snapshot.cordons.contains_key(&id) {
            return Err(unknown(&id));
        }
        let at = Some(weft_proto::timestamp(SystemClock::wall()));
        let Wish { reason, by, drain, .. } = wish;
        let cordon = Cordon { drain, reason, by, at, absent_since: None };
        self.save(self.keys.cordon(&id), &cordon, deadline).await?;
        // It may be away, as during a restart: then there is no more to tell than what is wanted of it.
        let absent = || WorkerView {
            worker: Some(Worker { id: id.to_string(), ..Worker::default() }),
            cordoned: true,
            draining: drain,
            cordon: Some(cordon.clone()),
            ..WorkerView::default()
        };
        Ok(self.view()?.worker(&id).unwrap_or_else(absent))
    }

    /// Lets a worker take replicas again; `None` when it is not registered at the moment. One that is not cordoned stays so.
    pub(crate) async fn uncordon(&self, id: &str, deadline: Deadline) -> Result<Option<WorkerView>> {
        let id = check::worker("id", id)?;
        let is_registered = self.snapshot()?.workers.contains_key(&id);
        match self.remove(self.keys.cordon(&id), deadline, || unknown(&id)).await {
            Err(error) if error.reason() == Reason::NotFound && is_registered => {}
            outcome => outcome?,
        }
        Ok(self.view()?.worker(&id))
    }
}

fn unknown(id: &WorkerId) -> Error {
    Error::new(Reason::NotFound, format!("id: no worker '{id}'"))
}
