//! What jobs want of models: kept beside what operators have applied, so that what a job takes back is only its own.
//!
//! A hold is in the model's record, under the job's step. It is put there once, however often the step is repeated, and taken away once, also
//! by an undo whose action nobody knows the outcome of. Each change is conditional on the record as it was read.

use prost::Message as _;
use weft_client::Snapshot;
use weft_proto::weft::control::v1::{JobHold, JobHolds, Model};
use weft_proto::weft::scheduler::v1::WakeModelRequest;
use weft_proto::weft::state::v1::ReplicaState;
use weft_runtime::Call;
use weft_store::{Commit, Compare, Entry, Op, Range, Txn};
use weft_telemetry::TraceContext;
use weft_types::{Deadline, Error, ModelName, Reason, Result, SystemClock};

use super::unknown;
use crate::Inner;
use crate::error::store_failed;

/// Steps that hold one model. Beyond, what the oldest has asked for stays as if it had been applied.
const MAX_HOLDS: usize = 64;
/// How often a change is tried while others change the record.
const TRIES: usize = 8;

/// A step's wish.
pub(crate) struct Hold {
    pub(crate) model: ModelName,
    /// `<job>/<step>`, with the item where there is a list.
    pub(crate) step: String,
    /// What must hold for the change to be made.
    pub(crate) guards: Vec<Compare>,
    pub(crate) deadline: Deadline,
}

/// What becomes of a model's record.
enum Change {
    /// It stays as it is.
    Keep,
    Put(Model),
    Delete,
}

impl Inner {
    /// Sees to it that at least so many workers hold the model, and waits until they are ready. Where demand decides, one is enough.
    pub(crate) async fn hold_model(&self, hold: &Hold, replicas: u32, trace: &TraceContext) -> Result<()> {
        if !self.view()?.knows(&hold.model) {
            return Err(unknown("model", &hold.model));
        }
        self.change(hold, |found| Ok(held(found, hold, replicas))).await?;
        let snapshot = self.snapshot()?;
        let applied = snapshot.models.get(&hold.model);
        let follows_demand = applied.is_some_and(|record| record.value.autoscaling.is_some());
        if follows_demand {
            let request = WakeModelRequest { model: hold.model.to_string(), passed_on: false };
            let call = Call { deadline: hold.deadline, received: SystemClock::now(), trace: trace.clone() };
            self.wake_model(request, &call).await?;
        }
        let wanted = if follows_demand { 1 } else { replicas as usize };
        self.wait_for(hold, move |snapshot, model| ready(snapshot, model) >= wanted).await
    }

    /// Takes back what the step has asked for, if it has.
    pub(crate) async fn give_back_model(&self, hold: &Hold) -> Result<()> {
        self.change(hold, |found| Ok(given_back(found, &hold.step))).await
    }

    /// Wants no replica, whoever asked for one, and waits until none is ready.
    pub(crate) async fn unload_model(&self, hold: &Hold) -> Result<()> {
        if !self.view()?.knows(&hold.model) {
            return Ok(());
        }
        let name = hold.model.to_string();
        self.change(hold, |found| {
            let model = found.unwrap_or_else(|| Model { name: name.clone(), ..Model::default() });
            Ok(Change::Put(Model { replicas: 0, autoscaling: None, jobs: None, ..model }))
        })
        .await?;
        self.wait_for(hold, |snapshot, model| ready(snapshot, model) == 0).await
    }

    /// Changes the model's record as it was read, and waits until this process sees it.
    async fn change(&self, hold: &Hold, change: impl Fn(Option<Model>) -> Result<Change> + Send) -> Result<()> {
        let key = self.keys.model(&hold.model);
        let mut changes = self.mesh.changes();
        for _ in 0..TRIES {
            let listing = self.store.read(Range::Key(key.clone())).await.map_err(|error| store_failed(&error))?;
            let found = listing.entries.first();
            let op = match change(found.map(decode).transpose()?)? {
                Change::Keep => {
                    let revision = found.map_or(0, |entry| entry.mod_revision);
                    return self.seen(&mut changes, revision, hold.deadline).await;
                }
                Change::Put(model) => Op::Put { key: key.clone(), value: model.encode_to_vec().into(), lease: None },
                Change::Delete => Op::Delete(key.clone()),
            };
            let as_seen = Compare::ModRevision(key.clone(), found.map_or(0, |entry| entry.mod_revision));
            let compares = hold.guards.iter().cloned().chain([as_seen]).collect();
            if let Commit::Done(revision) = self.commit(Txn { compares, ops: vec![op] }).await? {
                // It is written: whatever keeps this process from seeing it, nobody may take it for not done.
                let seen = self.seen(&mut changes, revision, hold.deadline).await;
                return seen.map_err(|error| Error::new(Reason::Cancelled, error.message().to_owned()));
            }
        }
        Err(Error::new(Reason::StaleEpoch, "the model's record keeps changing, or the job is another scheduler's"))
    }

    /// Waits until the mesh is as wanted. The wish stands when the time is over, so that has an outcome that nobody knows.
    async fn wait_for(&self, hold: &Hold, is_so: impl Fn(&Snapshot, &ModelName) -> bool) -> Result<()> {
        let mut changes = self.mesh.changes();
        let so = changes.wait_for(|_| is_so(&self.mesh.snapshot(), &hold.model));
        match tokio::time::timeout_at(hold.deadline.instant().into(), so).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::new(Reason::Cancelled, "the scheduler is shutting down")),
            Err(_) => {
                let why = self.view().ok().and_then(|view| view.model(&hold.model)).map(|view| view.unplaced_reason);
                let why = why.filter(|why| !why.is_empty()).map_or_else(String::new, |why| format!(": {why}"));
                Err(Error::new(Reason::DeadlineRunning, format!("the model is not as wanted in time{why}")))
            }
        }
    }
}

fn decode(entry: &Entry) -> Result<Model> {
    let unreadable = |_| Error::new(Reason::PreconditionFailed, "the model's record cannot be read");
    Model::decode(entry.value.clone()).map_err(unreadable)
}

/// Workers on which a version of the model is ready.
fn ready(snapshot: &Snapshot, model: &ModelName) -> usize {
    let ready = snapshot.replicas.iter().filter(|(key, record)| {
        key.model == *model && record.value.state() == ReplicaState::Ready && snapshot.placements.contains_key(*key)
    });
    ready.map(|(key, _)| &key.worker).collect::<std::collections::BTreeSet<_>>().len()
}

/// The record with the step's hold.
fn held(found: Option<Model>, hold: &Hold, replicas: u32) -> Change {
    let created = found.is_none();
    let mut model = found.unwrap_or_else(|| Model { name: hold.model.to_string(), ..Model::default() });
    if model.autoscaling.is_some() {
        return Change::Keep;
    }
    let applied_replicas = model.replicas;
    let jobs = model.jobs.get_or_insert_with(|| JobHolds { holds: vec![], applied_replicas, created });
    if jobs.holds.iter().any(|known| known.step == hold.step) {
        return Change::Keep;
    }
    if jobs.holds.len() >= MAX_HOLDS {
        let oldest = jobs.holds.remove(0);
        jobs.applied_replicas = jobs.applied_replicas.max(oldest.replicas);
        jobs.created = false;
    }
    jobs.holds.push(JobHold { step: hold.step.clone(), replicas });
    model.replicas = wanted(jobs);
    Change::Put(model)
}

/// The record without the step's hold.
fn given_back(found: Option<Model>, step: &str) -> Change {
    let Some(mut model) = found else { return Change::Keep };
    let Some(jobs) = model.jobs.as_mut().filter(|jobs| jobs.holds.iter().any(|hold| hold.step == step)) else {
        return Change::Keep;
    };
    jobs.holds.retain(|hold| hold.step != step);
    model.replicas = wanted(jobs);
    if jobs.holds.is_empty() {
        if jobs.created {
            return Change::Delete;
        }
        model.jobs = None;
    }
    Change::Put(model)
}

fn wanted(jobs: &JobHolds) -> u32 {
    jobs.holds.iter().map(|hold| hold.replicas).fold(jobs.applied_replicas, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(step: &str) -> Hold {
        let deadline = Deadline::after(SystemClock::now(), std::time::Duration::ZERO);
        Hold { model: "m".parse().expect("a name"), step: step.to_owned(), guards: vec![], deadline }
    }

    fn put(change: Change) -> Model {
        match change {
            Change::Put(model) => model,
            Change::Keep | Change::Delete => panic!("the record was to be changed"),
        }
    }

    #[test]
    fn what_two_jobs_made_goes_with_the_second() {
        let one = put(held(None, &hold("a/load"), 2));
        assert_eq!(one.replicas, 2);
        assert!(matches!(held(Some(one.clone()), &hold("a/load"), 2), Change::Keep), "repeated");
        let two = put(held(Some(one), &hold("b/load"), 3));
        assert_eq!(two.replicas, 3);
        assert!(matches!(given_back(Some(two.clone()), "c/load"), Change::Keep), "never asked");
        let left = put(given_back(Some(two), "b/load"));
        assert_eq!(left.replicas, 2);
        assert!(matches!(given_back(Some(left), "a/load"), Change::Delete));
        assert!(matches!(given_back(None, "a/load"), Change::Keep));
    }

    #[test]
    fn what_an_operator_applied_is_as_it_was() {
        let applied = Model { name: "m".to_owned(), replicas: 2, ..Model::default() };
        let more = put(held(Some(applied.clone()), &hold("a/load"), 5));
        assert_eq!(more.replicas, 5);
        assert_eq!(put(given_back(Some(more), "a/load")), applied);
        let fewer = put(held(Some(applied.clone()), &hold("a/load"), 1));
        assert_eq!(fewer.replicas, 2);
        assert_eq!(put(given_back(Some(fewer), "a/load")), applied);
        assert!(matches!(given_back(Some(applied), "a/load"), Change::Keep), "applied over what a job asked for");
    }

    #[test]
    fn of_too_many_holds_the_oldest_becomes_permanent() {
        let mut model = put(held(None, &hold("0/load"), 7));
        for number in 1..=MAX_HOLDS {
            model = put(held(Some(model), &hold(&format!("{number}/load")), 1));
        }
        for number in 1..=MAX_HOLDS {
            model = put(given_back(Some(model), &format!("{number}/load")));
        }
        assert_eq!((model.replicas, model.jobs), (7, None));
    }
}
