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

/// Steps that hold one model. Beyond, what the oldest one of a job that has ended has asked for stays as if it had been applied.
const MAX_HOLDS: usize = 64;
/// How often a change is tried while others change the record.
const TRIES: usize = 8;
/// How long to wait for a job to end that holds a model.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

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
        let over = self.over(hold).await?;
        self.change(hold, |found| held(found, hold, replicas, over.as_deref())).await?;
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

    /// Where as many steps hold the model as may: the first one whose job has ended. It has no use for it any more, and stays ended.
    async fn over(&self, hold: &Hold) -> Result<Option<String>> {
        let read = async |key: String| {
            let listing = self.store.read(Range::Key(key)).await.map_err(|error| store_failed(&error))?;
            Ok::<_, Error>(listing.entries.into_iter().next())
        };
        let found = read(self.keys.model(&hold.model)).await?;
        let holds = found.as_ref().map(decode).transpose()?.and_then(|model| model.jobs).unwrap_or_default().holds;
        if holds.len() < MAX_HOLDS || holds.iter().any(|known| known.step == hold.step) {
            return Ok(None);
        }
        let jobs = weft_journal::Keys::new(self.keys.root());
        for JobHold { step, .. } in holds {
            let job = step.split('/').next().and_then(|id| id.parse().ok());
            let is_open = match job {
                Some(id) => read(jobs.job(&id)).await?.is_some(),
                None => false,
            };
            if !is_open {
                return Ok(Some(step));
            }
        }
        Ok(None)
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

/// The record with the step's hold. Where there are too many, `over` is the one that makes room.
fn held(found: Option<Model>, hold: &Hold, replicas: u32, over: Option<&str>) -> Result<Change> {
    let created = found.is_none();
    let mut model = found.unwrap_or_else(|| Model { name: hold.model.to_string(), ..Model::default() });
    if model.autoscaling.is_some() {
        return Ok(Change::Keep);
    }
    let applied_replicas = model.replicas;
    let jobs = model.jobs.get_or_insert_with(|| JobHolds { holds: vec![], applied_replicas, created });
    if jobs.holds.iter().any(|known| known.step == hold.step) {
        return Ok(Change::Keep);
    }
    if jobs.holds.len() >= MAX_HOLDS {
        let Some(at) = over.and_then(|over| jobs.holds.iter().position(|known| known.step == over)) else {
            let told = format!("{MAX_HOLDS} steps of jobs that have not ended hold the model already");
            return Err(Error::new(Reason::Overloaded, told).retry_after(RETRY));
        };
        let ended = jobs.holds.remove(at);
        jobs.applied_replicas = jobs.applied_replicas.max(ended.replicas);
        jobs.created = false;
    }
    jobs.holds.push(JobHold { step: hold.step.clone(), replicas });
    model.replicas = wanted(jobs);
    Ok(Change::Put(model))
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
    use std::sync::Arc;

    use super::*;
    use crate::Options;
    use crate::fixture::worker;
    use crate::tests::{Cluster, PATIENCE};

    fn hold(step: &str) -> Hold {
        let deadline = Deadline::after(SystemClock::now(), std::time::Duration::ZERO);
        Hold { model: "m".parse().expect("a name"), step: step.to_owned(), guards: vec![], deadline }
    }

    fn taken(found: Option<Model>, step: &str, replicas: u32) -> Model {
        put(held(found, &hold(step), replicas, None).expect("there is room"))
    }

    fn put(change: Change) -> Model {
        match change {
            Change::Put(model) => model,
            Change::Keep | Change::Delete => panic!("the record was to be changed"),
        }
    }

    #[test]
    fn what_two_jobs_made_goes_with_the_second() {
        let one = taken(None, "a/load", 2);
        assert_eq!(one.replicas, 2);
        assert!(matches!(held(Some(one.clone()), &hold("a/load"), 2, None), Ok(Change::Keep)), "repeated");
        let two = taken(Some(one), "b/load", 3);
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
        let more = taken(Some(applied.clone()), "a/load", 5);
        assert_eq!(more.replicas, 5);
        assert_eq!(put(given_back(Some(more), "a/load")), applied);
        let fewer = taken(Some(applied.clone()), "a/load", 1);
        assert_eq!(fewer.replicas, 2);
        assert_eq!(put(given_back(Some(fewer), "a/load")), applied);
        assert!(matches!(given_back(Some(applied), "a/load"), Change::Keep), "applied over what a job asked for");
    }

    /// What an open job holds has to be gone when it is undone.
    #[test]
    fn of_too_many_holds_one_of_an_ended_job_becomes_permanent() {
        let mut model = None;
        for number in 0..MAX_HOLDS {
            model = Some(taken(model, &format!("{number}/load"), if number == 3 { 7 } else { 1 }));
        }
        let refused = held(model.clone(), &hold("64/load"), 1, None);
        assert_eq!(refused.err().map(|error| error.reason()), Some(Reason::Overloaded));
        let changed = held(model.clone(), &hold("64/load"), 1, Some("gone/load"));
        assert!(changed.is_err(), "what was to make room has gone: it is looked for anew");
        let mut model = put(held(model, &hold("64/load"), 1, Some("3/load")).expect("there is room"));
        for number in 0..=MAX_HOLDS {
            model = match given_back(Some(model.clone()), &format!("{number}/load")) {
                Change::Put(model) => model,
                Change::Keep | Change::Delete => model,
            };
        }
        assert_eq!((model.replicas, model.jobs), (7, None));
    }

    /// Whether a job is open, the log tells.
    #[tokio::test]
    async fn a_hold_too_many_waits_for_a_job_to_end() {
        let cluster = Cluster::new();
        cluster.join(&worker("w1", 1, &[("m", 1)])).await;
        let (scheduler, tasks) = cluster.scheduler("s1", Options::default());
        let inner = Arc::clone(&scheduler.inner);
        inner
            .mesh
            .changes()
            .wait_for(|_| inner.view().is_ok_and(|view| view.knows(&hold("").model)))
            .await
            .expect("it");
        let ids: Vec<_> = (0..=MAX_HOLDS).map(|number| weft_journal::JobId::new(7, 1, number as u128)).collect();
        let jobs = weft_journal::Keys::new(cluster.keys.root());
        let mut model = None;
        for id in &ids[..MAX_HOLDS] {
            model = Some(taken(model, &format!("{id}/load"), 1));
            cluster.put(jobs.job(id), &Model::default()).await;
        }
        let key = cluster.keys.model(&hold("").model);
        cluster.put(key.clone(), &model.expect("some")).await;
        let mut one = hold(&format!("{}/load", ids[MAX_HOLDS]));
        one.deadline = Deadline::after(SystemClock::now(), PATIENCE);
        let trace = TraceContext::new([1; 16], [1; 8], false).expect("not zero");
        let refused = inner.hold_model(&one, 1, &trace).await.expect_err("all of them are open");
        assert_eq!(refused.reason(), Reason::Overloaded, "{refused}");
        cluster.write(Op::Delete(jobs.job(&ids[5]))).await;
        assert_eq!(inner.over(&one).await.expect("the store answers"), Some(format!("{}/load", ids[5])));
        tasks.finish(PATIENCE).await;
    }
}
