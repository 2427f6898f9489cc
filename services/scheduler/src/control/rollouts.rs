//! What operators want of rollouts. Their records have two writers, operators and the leader: both write only over what they have read.

use bytes::Bytes;
use prost::Message as _;
use weft_client::Snapshot;
use weft_proto::weft::control::v1::{
    Rollout, RolloutIntent, RolloutPhase, RolloutStatus, RolloutStrategy, StartRolloutRequest,
};
use weft_proto::weft::state::v1::ReplicaState;
use weft_store::{Commit, Compare, Op, Range, Revision, Txn};
use weft_types::{Deadline, Error, ModelName, Reason, Result};

use super::{check, unknown};
use crate::Inner;
use crate::error::store_failed;
use crate::rollout::{answers, is_over, versions};

/// How often a change is tried while the leader changes the record, too.
const ATTEMPTS: usize = 8;

impl Inner {
    /// Begins a rollout from the expected version.
    pub(crate) async fn start_rollout(&self, request: StartRolloutRequest, deadline: Deadline) -> Result<Rollout> {
        let model = check::name("model", &request.model)?;
        let canary = check::version("version", request.version)?;
        let expected = check::version("expected_version", request.expected_version)?;
        if canary == expected {
            return Err(Error::invalid("version", "must not be the expected version"));
        }
        let strategy = check::strategy(request.strategy)?;
        if !self.view()?.knows(&model) {
            return Err(unknown("model", &model));
        }
        let snapshot = self.snapshot()?;
        let named = snapshot.models.get(&model).map_or(0, |record| record.value.versions.len());
        if named > 1 {
            let told = "model: several versions are served by their names; a rollout is from one to another";
            return Err(Error::new(Reason::PreconditionFailed, told));
        }
        let rollout = Rollout {
            model: model.to_string(),
            stable: expected.get(),
            canary: canary.get(),
            strategy: Some(strategy),
            status: Some(RolloutStatus::default()),
            ..Rollout::default()
        };
        let begin = |there: Option<&Rollout>, revision: Revision| {
            if let Some(there) = there.filter(|there| !is_over(there)) {
                let told = format!("model: a rollout to version {} is under way", there.canary);
                return Err(Error::new(Reason::PreconditionFailed, told));
            }
            let meant = there.filter(|there| !versions(there).is_empty());
            match meant.map(answers).or_else(|| latest(&snapshot, &model)) {
                Some(now) if now == expected.get() => Ok(Some(Rollout { begin_revision: revision, ..rollout.clone() })),
                Some(now) => {
                    let told = format!("version {now} answers now");
                    Err(Error::of_field(Reason::PreconditionFailed, "expected_version", told))
                }
                None => Err(Error::new(Reason::PreconditionFailed, "model: no version of it is ready")),
            }
        };
        self.change_rollout(&model, deadline, begin).await
    }

    pub(crate) fn get_rollout(&self, model: &str) -> Result<Rollout> {
        let model = check::name("model", model)?;
        let snapshot = self.snapshot()?;
        snapshot.rollouts.get(&model).map(|record| record.value.clone()).ok_or_else(|| unknown("rollout of", &model))
    }

    pub(crate) fn list_rollouts(&self) -> Result<Vec<Rollout>> {
        Ok(self.snapshot()?.rollouts.values().map(|record| record.value.clone()).collect())
    }

    /// Tells a rollout that is under way what is wanted of it.
    pub(crate) async fn steer_rollout(
        &self,
        model: &str,
        intent: RolloutIntent,
        deadline: Deadline,
    ) -> Result<Rollout> {
        let model = check::name("model", model)?;
        let steer = |there: Option<&Rollout>, revision: Revision| {
            let there = there.ok_or_else(|| unknown("rollout of", &model))?;
            steered(there, intent, revision).map(Some)
        };
        self.change_rollout(&model, deadline, steer).await
    }

    /// Leads a promoted rollout back.
    pub(crate) async fn undo_rollout(&self, model: &str, deadline: Deadline) -> Result<Rollout> {
        let model = check::name("model", model)?;
        let undo = |there: Option<&Rollout>, revision: Revision| {
            let there = there.ok_or_else(|| unknown("rollout of", &model))?;
            let phase = there.status.as_ref().map_or(RolloutPhase::Unspecified, RolloutStatus::phase);
            if phase != RolloutPhase::Promoted {
                let told = "model: only a promoted rollout can be undone; one that is under way can be aborted";
                return Err(Error::new(Reason::PreconditionFailed, told));
            }
            let kept = there.strategy.clone().unwrap_or_default();
            let strategy = RolloutStrategy { progress_deadline: kept.progress_deadline, ..RolloutStrategy::default() };
            let (stable, canary) = (there.canary, there.stable);
            Ok(Some(Rollout {
                model: there.model.clone(),
                stable,
                canary,
                strategy: Some(strategy),
                status: Some(RolloutStatus::default()),
                begin_revision: revision,
                ..Rollout::default()
            }))
        };
        self.change_rollout(&model, deadline, undo).await
    }

    /// Forgets a rollout that has ended.
    pub(crate) async fn delete_rollout(&self, model: &str, deadline: Deadline) -> Result<()> {
        let model = check::name("model", model)?;
        let delete = |there: Option<&Rollout>, _| match there {
            None => Err(unknown("rollout of", &model)),
            Some(there) if is_over(there) => Ok(None),
            Some(_) => Err(Error::new(Reason::PreconditionFailed, "model: its rollout is under way: abort it first")),
        };
        self.change_rollout(&model, deadline, delete).await.map(drop)
    }

    /// Changes a record by what it is in the store now and the store's revision then, as often as somebody else comes first; to `None`
    /// removes it.
    async fn change_rollout(
        &self,
        model: &ModelName,
        deadline: Deadline,
        change: impl Fn(Option<&Rollout>, Revision) -> Result<Option<Rollout>> + Send,
    ) -> Result<Rollout> {
        let key = self.keys.rollout(model);
        let mut changes = self.mesh.changes();
        for _ in 0..ATTEMPTS {
            let listing = self.store.read(Range::Key(key.clone())).await.map_err(|error| store_failed(&error))?;
            let entry = listing.entries.first();
            let unreadable = |_| Error::new(Reason::Internal, "the record cannot be read");
            let there = entry.map(|entry| Rollout::decode(entry.value.clone()).map_err(unreadable)).transpose()?;
            let changed = change(there.as_ref(), listing.revision)?;
            let as_read = match entry {
                Some(entry) => Compare::ModRevision(key.clone(), entry.mod_revision),
                None => Compare::CreateRevision(key.clone(), 0),
            };
            let op = match &changed {
                Some(rollout) => Op::Put { key: key.clone(), value: Bytes::from(rollout.encode_to_vec()), lease: None },
                None => Op::Delete(key.clone()),
            };
            if let Commit::Done(revision) = self.commit(Txn { compares: vec![as_read], ops: vec![op] }).await? {
                self.seen(&mut changes, revision, deadline).await?;
                return Ok(changed.unwrap_or_default());
            }
        }
        Err(Error::new(Reason::Conflict, "the record keeps changing"))
    }
}

/// A rollout of which this is wanted. What was told to end ends, whatever somebody else asks for before the leader has seen to it.
fn steered(there: &Rollout, intent: RolloutIntent, revision: Revision) -> Result<Rollout> {
    let failed = |told| Err(Error::new(Reason::PreconditionFailed, told));
    if is_over(there) {
        return failed("model: its rollout has ended");
    }
    if there.intent() == RolloutIntent::Abort && intent != RolloutIntent::Abort {
        return failed("model: its rollout is being aborted");
    }
    Ok(Rollout { intent: intent.into(), intent_revision: revision, ..there.clone() })
}

/// The version that routers send calls to which name none, of a model without a rollout.
fn latest(snapshot: &Snapshot, model: &ModelName) -> Option<u64> {
    let ready = snapshot.replicas.iter().filter(|(key, record)| {
        key.model == *model && record.value.state() == ReplicaState::Ready && snapshot.workers.contains_key(&key.worker)
    });
    ready.map(|(key, _)| key.version.get()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_to_end_ends() {
        use RolloutIntent::{Abort, Pause, Promote, Unspecified};
        let meant =
            |intent: RolloutIntent| Rollout { stable: 1, canary: 2, intent: intent.into(), ..Rollout::default() };
        let steered =
            |there: &Rollout, intent| steered(there, intent, 7).map(|told| (told.intent(), told.intent_revision));
        for intent in [Unspecified, Pause, Promote] {
            let error = steered(&meant(Abort), intent).expect_err("it goes on");
            assert_eq!(error.reason(), Reason::PreconditionFailed);
            assert_eq!(steered(&meant(intent), Abort).expect("under way"), (Abort, 7));
        }
        assert_eq!(steered(&meant(Abort), Abort).expect("under way"), (Abort, 7), "it may be asked for again");
        assert_eq!(steered(&meant(Promote), Pause).expect("under way"), (Pause, 7), "one that waits for replicas");
    }
}
