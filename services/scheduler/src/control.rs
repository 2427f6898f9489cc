//! What operators do: desired state in, what became of it out.
//!
//! Any scheduler answers, not only the leader: desired state is a record in the store, and who sees it change acts on it.
//! What was written is visible in the snapshot before the writer is answered, so it also reads its own writes.

mod check;
mod cordon;
mod holds;
mod members;
mod rollouts;
mod view;
mod wake;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use weft_client::Snapshot;
use weft_policy::place::{Unplaced, place};
use weft_proto::weft::control::v1::{Model, ModelView, Route, WorkerView};
use weft_proto::weft::scheduler::v1::GetStatusResponse;
use weft_store::{Commit, Compare, Op, Range, Txn};
use weft_types::{Deadline, Error, ModelName, Reason, Result, SystemClock, Version};

use crate::Inner;
use crate::error::store_failed;
use crate::observe::world;
pub(crate) use cordon::Wish;
pub(crate) use holds::Hold;
use view::{View, lacks};
pub(crate) use wake::ToLeader;

/// How often a removal is tried while others change the record.
const REMOVALS: usize = 3;

impl Inner {
    /// Creates or replaces a model's desired state.
    pub(crate) async fn apply_model(&self, model: Option<Model>, deadline: Deadline) -> Result<ModelView> {
        let name = check::model(model.as_ref())?;
        // What is applied is the operator's, also where a job had asked for it before.
        let model = Model { jobs: None, ..model.unwrap_or_default() };
        self.save(self.keys.model(&name), &model, deadline).await?;
        // Another caller may have deleted it again by now; then there is no more to tell than its name.
        Ok(self.view()?.model(&name).unwrap_or_default())
    }

    pub(crate) fn get_model(&self, name: &str) -> Result<ModelView> {
        let name = check::name("name", name)?;
        self.view()?.model(&name).ok_or_else(|| unknown("model", &name))
    }

    pub(crate) fn list_models(&self) -> Result<Vec<ModelView>> {
        Ok(self.view()?.models())
    }

    /// Forgets a model's desired state.
    pub(crate) async fn delete_model(&self, name: &str, deadline: Deadline) -> Result<()> {
        let name = check::name("name", name)?;
        self.remove(self.keys.model(&name), deadline, || unknown("desired state of model", &name)).await
    }

    /// Creates or replaces a route.
    pub(crate) async fn apply_route(&self, route: Option<Route>, deadline: Deadline) -> Result<Route> {
        let view = self.view()?;
        let name = check::route(route.as_ref(), |model| view.knows(model))?;
        let route = route.unwrap_or_default();
        self.save(self.keys.route(&name), &route, deadline).await?;
        Ok(route)
    }

    pub(crate) fn get_route(&self, name: &str) -> Result<Route> {
        let name = check::name("name", name)?;
        let snapshot = self.snapshot()?;
        snapshot.routes.get(&name).map(|record| record.value.clone()).ok_or_else(|| unknown("route", &name))
    }

    pub(crate) fn list_routes(&self) -> Result<Vec<Route>> {
        Ok(self.snapshot()?.routes.values().map(|record| record.value.clone()).collect())
    }

    /// Removes a route.
    pub(crate) async fn delete_route(&self, name: &str, deadline: Deadline) -> Result<()> {
        let name = check::name("name", name)?;
        self.remove(self.keys.route(&name), deadline, || unknown("route", &name)).await
    }

    pub(crate) fn list_workers(&self) -> Result<Vec<WorkerView>> {
        Ok(self.view()?.workers())
    }

    /// The state of this scheduler.
    pub(crate) async fn status(&self) -> Result<GetStatusResponse> {
        let members = self.store_members().await;
        let epoch = self.epoch();
        let view = self.view()?;
        Ok(GetStatusResponse {
            id: self.options.id.clone(),
            leader: epoch.is_some(),
            epoch: epoch.unwrap_or(0),
            revision: self.mesh.snapshot().revision,
            moves_written: self.moves_written.load(Ordering::Relaxed),
            unplaced: view.unplaced(),
            store_members: members::told(members),
        })
    }

    /// The newest snapshot, unless the store was never reached: an empty mesh must not be mistaken for an answer.
    fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let snapshot = self.mesh.snapshot();
        let unseen = || Error::new(Reason::StoreUnavailable, "the state store was not reached yet");
        snapshot.confirmed.map(|_| Arc::clone(&snapshot)).ok_or_else(unseen)
    }

    /// Why replicas of a version have no place, where there are some and this one leads.
    pub(crate) fn unplaced(&self, model: &ModelName, version: Version) -> Option<String> {
        let is_it = |one: &&Unplaced| one.model == *model && one.version == Some(version);
        let found: Vec<Unplaced> = self.unplaced.borrow().iter().filter(is_it).cloned().collect();
        lacks(&found, &self.failures()).remove(model)?.pop().map(|lack| lack.reason)
    }

    fn view(&self) -> Result<View> {
        let (now, snapshot) = (SystemClock::now(), self.snapshot()?);
        let blocked = self.note_failures(&snapshot, now);
        let mut world = world(&snapshot, &self.keys, self.options.model_control, blocked);
        self.scaling.mark(&mut world, now);
        // The leader waits for the failures, too: they are not to be held while this is decided.
        let plan = place(&world);
        let lacks = lacks(&plan.unplaced, &self.failures());
        Ok(View::new(snapshot, self.options.model_control, &world, lacks))
    }

    async fn save(&self, key: String, value: &impl Message, deadline: Deadline) -> Result<()> {
        let value = Bytes::from(value.encode_to_vec());
        let txn = Txn { compares: Vec::new(), ops: vec![Op::Put { key, value, lease: None }] };
        let mut changes = self.mesh.changes();
        match self.commit(txn).await? {
            Commit::Done(revision) | Commit::Lost(revision) => self.seen(&mut changes, revision, deadline).await,
        }
    }

    /// Removes a record that must be there, as it was last seen: a removal that removes nothing has no revision to wait for.
    async fn remove(&self, key: String, deadline: Deadline, missing: impl Fn() -> Error + Send) -> Result<()> {
        let mut changes = self.mesh.changes();
        for _ in 0..REMOVALS {
            let listing = self.store.read(Range::Key(key.clone())).await.map_err(|error| store_failed(&error))?;
            let Some(entry) = listing.entries.first() else { return Err(missing()) };
            let as_seen = Compare::ModRevision(key.clone(), entry.mod_revision);
            let txn = Txn { compares: vec![as_seen], ops: vec![Op::Delete(key.clone())] };
            if let Commit::Done(revision) = self.commit(txn).await? {
                return self.seen(&mut changes, revision, deadline).await;
            }
        }
        Err(Error::new(Reason::Conflict, "the record keeps changing"))
    }

    async fn commit(&self, txn: Txn) -> Result<Commit> {
        self.store.commit(txn).await.map_err(|error| store_failed(&error))
    }

    /// Waits until this process sees `revision`.
    async fn seen(&self, changes: &mut watch::Receiver<i64>, revision: i64, deadline: Deadline) -> Result<()> {
        let seen = changes.wait_for(|_| self.mesh.snapshot().revision >= revision);
        match tokio::time::timeout_at(deadline.instant().into(), seen).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::new(Reason::Draining, "the change is stored, but the scheduler is shutting down")),
            Err(_) => Err(Error::new(Reason::DeadlineRunning, "the change is stored, but was not seen in time")),
        }
    }
}

fn unknown(kind: &str, name: &ModelName) -> Error {
    Error::new(Reason::NotFound, format!("name: no {kind} '{name}'"))
}
