//! Whole schedulers over the embedded store: what is answered and begun is in the log before, and every scheduler answers for every job.

mod answers;
mod bounds;
mod faults;
mod handover;
mod moves;
mod peers;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status, async_trait};
use weft_journal::Record;
use weft_proto::error_of;
use weft_proto::weft::control::v1::models_server::{Models, ModelsServer};
use weft_proto::weft::control::v1::{
    ApplyModelRequest, ApplyModelResponse, DeleteModelRequest, DeleteModelResponse, GetModelRequest, GetModelResponse,
    ListModelsRequest, ListModelsResponse,
};
use weft_proto::weft::jobs::v1::jobs_server::Jobs as _;
use weft_proto::weft::jobs::v1::*;
use weft_runtime::{Api, Health, Server, ServerOptions, Tasks};
use weft_saga::StepState as Step;
use weft_store::{Commit, LeaseId, Listing, MemoryStore, Op, Range, Revision, Store, Txn, Watch};
use weft_telemetry::Scope;
use weft_types::SystemClock;

use super::definition::tests::message;
use super::{Jobs, Targets};
use crate::tests::{Cluster, PATIENCE, request};
use crate::{JobOptions, Options};

/// How much longer than it says a [`Gate`] keeps a lease: who is in doubt about it shall stop by itself.
const LONGER: u32 = 8;

/// What becomes of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Normal,
    /// The store says that it will never take it.
    Refused,
    /// Whoever writes it panics.
    Panic,
}

/// A store that does as a test wants.
pub(super) struct Gate {
    inner: MemoryStore,
    /// Whether jobs are written; until then their writes wait.
    open: watch::Sender<bool>,
    /// Told when a write of a job stands before the gate, or was refused.
    pub(super) arrived: Notify,
    /// Nothing is read, written or kept alive.
    cut: watch::Sender<bool>,
    /// Jobs on their way forward are not written.
    refusing: watch::Sender<bool>,
    /// Whether only jobs that end or turn back are written.
    pub(super) is_full: AtomicBool,
    /// Whether leases are prolonged; until then that waits.
    alive: watch::Sender<bool>,
    /// Whether definitions are read; until then that waits.
    readable: watch::Sender<bool>,
    fate: Mutex<fn(&Txn) -> Fate>,
    /// Nobody hears which slots are taken.
    hides_slots: AtomicBool,
    /// Transactions that change what models shall be held.
    of_models: Mutex<Vec<Txn>>,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        let inner = MemoryStore::new(Arc::new(SystemClock));
        Arc::new(Self {
            inner,
            open: watch::Sender::new(true),
            arrived: Notify::new(),
            cut: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            is_full: AtomicBool::new(false),
            alive: watch::Sender::new(true),
            readable: watch::Sender::new(true),
            fate: Mutex::new(|_| Fate::Normal),
            hides_slots: AtomicBool::new(false),
            of_models: Mutex::default(),
        })
    }

    fn reach(&self) -> Result<(), weft_store::Error> {
        if *self.cut.borrow() { Err(weft_store::Error::Unavailable("it is cut off".to_owned())) } else { Ok(()) }
    }

    pub(super) fn decide(&self, fate: fn(&Txn) -> Fate) {
        *self.fate.lock().expect("no test panics while it holds this") = fate;
    }

    fn hides(&self, range: &Range) -> bool {
        let Range::Prefix(prefix) = range else { return false };
        prefix.contains("/slot/") && self.hides_slots.load(Ordering::SeqCst)
    }

    /// The records of jobs, ended ones too.
    async fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for prefix in ["/weft/v1/test/saga/", "/weft/v1/test/done/"] {
            let listing = self.inner.read(Range::Prefix(prefix.to_owned())).await.expect("it is embedded");
            records.extend(listing.entries.iter().map(|entry| Record::decode(&entry.value).expect("a record")));
        }
        records
    }
}

#[async_trait]
impl Store for Gate {
    async fn read(&self, range: Range) -> Result<Listing, weft_store::Error> {
        self.reach()?;
        let hides = self.hides(&range);
        if matches!(&range, Range::Key(key) if key.contains("/def/")) {
            self.readable.subscribe().wait_for(|readable| *readable).await.expect("the gate is there");
        }
        let listing = self.inner.read(range).await?;
        Ok(if hides { Listing { entries: Vec::new(), ..listing } } else { listing })
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, weft_store::Error> {
        if self.hides(&range) { Ok(Box::pin(stream::pending())) } else { self.inner.watch(range, from).await }
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, weft_store::Error> {
        self.reach()?;
        let fate = (self.fate.lock().expect("no test panics while it holds this"))(&txn);
        match fate {
            Fate::Normal => {}
            Fate::Refused => {
                self.arrived.notify_one();
                return Err(weft_store::Error::Refused("planted".into()));
            }
            Fate::Panic => panic!("as a test wants it"),
        }
        if txn.ops.iter().any(|op| op.key().contains("/models/")) {
            self.of_models.lock().expect("no test panics while it holds this").push(txn.clone());
        }
        let goes_forward = |op: &Op| match op {
            Op::Put { key, value, .. } if key.contains("/saga/") => {
                Record::decode(value).is_ok_and(|record| record.job.state == weft_saga::JobState::Running)
            }
            _ => false,
        };
        if *self.refusing.borrow() && txn.ops.iter().any(goes_forward) {
            return Err(weft_store::Error::Refused("it is full".to_owned()));
        }
        let of_job = |op: &Op| matches!(op, Op::Put { key, .. } if key.contains("/saga/") || key.contains("/done/"));
        let goes_on = |op: &Op| match op {
            Op::Put { key, value, .. } if key.contains("/saga/") => {
                let job = Record::decode(value).expect("a record").job;
                job.state == weft_saga::JobState::Running && !job.decided
            }
            _ => false,
        };
        if self.is_full.load(Ordering::SeqCst) && txn.ops.iter().any(goes_on) {
            self.arrived.notify_one();
            return Err(weft_store::Error::Refused("it is nearly full".to_owned()));
        }
        if txn.ops.iter().any(of_job) && !*self.open.borrow() {
            self.arrived.notify_one();
            self.open.subscribe().wait_for(|open| *open).await.expect("the gate is there");
        }
        self.inner.commit(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, weft_store::Error> {
        self.inner.grant(ttl * LONGER).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, weft_store::Error> {
        self.reach()?;
        self.alive.subscribe().wait_for(|alive| *alive).await.expect("the gate is there");
        Ok(self.inner.keep_alive(lease).await? / LONGER)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), weft_store::Error> {
        self.inner.revoke(lease).await
    }
}

/// A service that jobs call. It looks into the log with each call.
#[derive(Clone)]
struct Witness {
    store: Arc<Gate>,
    calls: Arc<AtomicUsize>,
    /// Calls whose attempt was not in the log.
    unrecorded: Arc<AtomicUsize>,
    headers: Arc<Mutex<Vec<MetadataMap>>>,
    /// Calls for what is named "slow" wait for this.
    released: watch::Sender<bool>,
    /// How many of those were given up.
    left: watch::Sender<usize>,
}

/// A call that waits.
struct Waiting(watch::Sender<usize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|left| *left += 1);
    }
}

impl Witness {
    async fn serve(store: &Arc<Gate>, tasks: &Tasks) -> (Self, String) {
        let witness = Self {
            store: Arc::clone(store),
            calls: Arc::default(),
            unrecorded: Arc::default(),
            headers: Arc::default(),
            released: watch::Sender::new(false),
            left: watch::Sender::new(0),
        };
        let server = Server::bind(ServerOptions::default()).await.expect("a free port");
        let address = server.address().to_string();
        let api = Api::new(&Health::default()).with(ModelsServer::new(witness.clone()));
        server.serve(api, Scope::disabled(), tasks).expect("descriptors");
        (witness, address)
    }

    /// One header of each call, in the order in which they came.
    fn heard(&self, name: &str) -> Vec<String> {
        let headers = self.headers.lock().expect("no test panics while it holds this");
        let value = |of: &MetadataMap| of.get(name).map(|value| value.to_str().expect("text").to_owned());
        headers.iter().map(|of| value(of).unwrap_or_default()).collect()
    }

    async fn called(&self, calls: usize) {
        eventually("calls", async || self.calls.load(Ordering::SeqCst) >= calls).await;
    }
}

#[async_trait]
impl Models for Witness {
    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        let key = request.metadata().get("weft-idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
        let job = key.split('/').next().unwrap_or_default();
        let records = self.store.records().await;
        let is_begun = |record: &Record| {
            let mut items = record.job.steps.iter().flat_map(|step| &step.items);
            record.id.as_str() == job && items.any(|item| item.state == Step::Started)
        };
        self.unrecorded.fetch_add(usize::from(!records.iter().any(is_begun)), Ordering::SeqCst);
        self.headers.lock().expect("no test panics while it holds this").push(request.metadata().clone());
        self.calls.fetch_add(1, Ordering::SeqCst);
        if request.get_ref().name == "slow" {
            let waiting = Waiting(self.left.clone());
            self.released.subscribe().wait_for(|released| *released).await.expect("the witness is there");
            std::mem::forget(waiting);
        }
        Ok(Response::new(GetModelResponse::default()))
    }

    async fn apply_model(&self, _: Request<ApplyModelRequest>) -> Result<Response<ApplyModelResponse>, Status> {
        Err(Status::unimplemented("nothing asks for it"))
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        Err(Status::unimplemented("nothing asks for it"))
    }

    async fn delete_model(&self, _: Request<DeleteModelRequest>) -> Result<Response<DeleteModelResponse>, Status> {
        Err(Status::unimplemented("nothing asks for it"))
    }
}

pub(super) fn options() -> Options {
    Options { jobs: JobOptions { targets: Targets::loopback(), ..JobOptions::default() }, ..Options::default() }
}

pub(super) fn asked(steps: &Value, key: &str) -> SubmitJobRequest {
    let definition = Some(message(json!({ "name": "j", "steps": steps })));
    SubmitJobRequest { definition, key: key.to_owned(), ..SubmitJobRequest::default() }
}

fn waiting() -> Value {
    json!([{ "name": "wait", "action": { "wait": { "name": "go" } } }])
}

/// An action that calls a witness.
fn call(address: &str, name: &str) -> Value {
    let request = json!({ "name": name });
    json!({ "call": { "target": address, "method": "weft.control.v1.Models/GetModel", "request": request } })
}

/// Asks until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asking = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !holds().await {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

async fn signal(jobs: &Jobs, id: &str) -> Result<Job, Status> {
    let signal = SignalJobRequest { id: id.to_owned(), name: "go".into(), value: None };
    Ok(jobs.signal_job(request(signal)).await?.into_inner().job.expect("a job"))
}

async fn cancel(jobs: &Jobs, id: &str) -> Result<Job, Status> {
    let cancel = CancelJobRequest { id: id.to_owned(), reason: "enough".into() };
    Ok(jobs.cancel_job(request(cancel)).await?.into_inner().job.expect("a job"))
}

/// Waits until the scheduler has every shard: before, a listing would lack some.
async fn whole(jobs: &Jobs) {
    eventually("every shard", async || jobs.0.table.shards() == 256).await;
}

/// The job at its end.
async fn end(jobs: &Jobs, id: &str) -> Job {
    told(jobs, id, 0).await.pop().expect("something").expect("its end")
}

/// Submits until the scheduler has shards.
async fn submit(jobs: &Jobs, asked: &SubmitJobRequest) -> Job {
    let submitted = async {
        loop {
            match jobs.submit_job(request(asked.clone())).await {
                Ok(answer) => return answer.into_inner().job.expect("a job"),
                Err(status) if status.code() == Code::Unavailable => tokio::task::yield_now().await,
                Err(status) => panic!("{status}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, submitted).await.expect("the scheduler gets shards")
}

async fn get(jobs: &Jobs, id: &str) -> Result<Job, Status> {
    let asked = GetJobRequest { id: id.to_owned(), ..GetJobRequest::default() };
    Ok(jobs.get_job(request(asked)).await?.into_inner().job.expect("a job"))
}

/// The job, as soon as somebody has its shard.
async fn known(jobs: &Jobs, id: &str) -> Job {
    let asking = async {
        loop {
            match get(jobs, id).await {
                Ok(job) => return job,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("somebody has it")
}

/// What a watch tells until it ends.
async fn told(jobs: &Jobs, id: &str, after_revision: u64) -> Vec<Result<Job, Status>> {
    let asked = WatchJobRequest { id: id.to_owned(), after_revision };
    let answers = jobs.watch_job(request(asked)).await.expect("a watch").into_inner();
    let told = answers.map(|answer| answer.map(|answer| answer.job.expect("a job"))).collect();
    tokio::time::timeout(PATIENCE, told).await.expect("it ends")
}

/// Gives everything that is ready its turn, many times over.
async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_answered_or_begun_before_it_is_in_the_log() {
    let (store, tasks) = (Gate::new(), Tasks::new());
    let (witness, address) = Witness::serve(&store, &tasks).await;
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    submit(&jobs, &asked(&waiting(), "")).await;
    let call = json!({ "target": address, "method": "weft.control.v1.Models/GetModel", "request": { "name": "m" } });
    let steps = json!([
        { "name": "first", "effect": "EFFECT_PURE", "action": { "call": call } },
        { "name": "second", "effect": "EFFECT_PURE", "needs": ["first"], "action": { "call": call } },
    ]);
    store.open.send_replace(false);
    let asked = asked(&steps, "key");
    let submitting = jobs.submit_job(request(asked));
    tokio::pin!(submitting);
    tokio::select! {
        answer = &mut submitting => panic!("answered before the commit: {answer:?}"),
        () = store.arrived.notified() => {}
    }
    tokio::select! {
        biased;
        answer = &mut submitting => panic!("answered before the commit: {answer:?}"),
        () = settle() => {}
    }
    assert_eq!(witness.calls.load(Ordering::SeqCst), 0, "begun before the commit");
    let listed = jobs.list_jobs(request(ListJobsRequest::default())).await.expect("a listing").into_inner().jobs;
    assert_eq!(listed.len(), 1, "a job that is not in the log is shown: {listed:?}");
    store.open.send_replace(true);
    let job = submitting.await.expect("answered").into_inner().job.expect("a job");
    assert!(store.records().await.iter().any(|record| record.id.as_str() == job.id), "answered before the commit");
    let told = told(&jobs, &job.id, 0).await;
    let last = told.last().expect("something").as_ref().expect("its end");
    assert_eq!(last.state(), JobState::Completed, "{last:?}");
    let ended = store.records().await.into_iter().find(|record| record.id.as_str() == job.id).expect("it is kept");
    assert!(ended.job.state.has_ended(), "its end is told before it is in the log");
    assert_eq!((witness.calls.load(Ordering::SeqCst), witness.unrecorded.load(Ordering::SeqCst)), (2, 0));
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// What is not begun leaves nothing in the store: it is known by its key, or there are too many jobs.
#[tokio::test]
async fn who_is_refused_leaves_nothing_behind() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let one = Options { jobs: JobOptions { max_open: 1, ..options().jobs }, ..options() };
    let (scheduler, running) = cluster.scheduler("s1", one);
    let jobs = scheduler.jobs.clone();
    let job = submit(&jobs, &asked(&waiting(), "one")).await;
    let definitions = async || {
        let prefix = Range::Prefix("/weft/v1/test/def/".to_owned());
        store.inner.read(prefix).await.expect("it is embedded").entries.len()
    };
    assert_eq!(definitions().await, 1);
    let other = json!([{ "name": "other", "action": { "wait": { "name": "go" } } }]);
    let long = json!({ "text": "x".repeat(5_000) });
    for (key, code) in [("one", Code::AlreadyExists), ("two", Code::ResourceExhausted), ("", Code::ResourceExhausted)] {
        let input = super::json::value(long.to_string().as_bytes());
        let Some(prost_types::value::Kind::StructValue(input)) = input.and_then(|input| input.kind) else {
            panic!("an object");
        };
        let asked = SubmitJobRequest { input: Some(input), ..asked(&other, key) };
        let refused = jobs.submit_job(request(asked)).await.expect_err("it is refused");
        assert_eq!(refused.code(), code, "{refused}");
        assert_eq!(definitions().await, 1, "a definition of a job that is not begun");
    }
    assert_eq!(submit(&jobs, &asked(&waiting(), "one")).await.id, job.id, "what is known costs nothing");
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn a_watch_that_is_read_late_tells_the_end_and_only_what_is_newer() {
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let job = submit(&jobs, &asked(&waiting(), "")).await;
    let watch = |after_revision| request(WatchJobRequest { id: job.id.clone(), after_revision });
    let unread = jobs.watch_job(watch(0)).await.expect("a watch").into_inner();
    let mut read = jobs.watch_job(watch(job.revision)).await.expect("a watch").into_inner();
    let signal = SignalJobRequest { id: job.id.clone(), name: "go".into(), value: None };
    let signalled = jobs.signal_job(request(signal.clone())).await.expect("taken").into_inner().job.expect("a job");
    let mut newer = job.revision;
    while let Some(answer) = read.next().await {
        let told = answer.expect("no failure").job.expect("a job");
        assert!(told.revision > newer, "{told:?}");
        newer = told.revision;
    }
    assert!(newer >= signalled.revision, "a transition was not told");
    let late: Vec<_> = unread.collect().await;
    let last = late.last().expect("something").as_ref().expect("no failure").job.clone().expect("a job");
    assert_eq!((late.len(), last.state()), (1, JobState::Completed), "{late:?}");
    assert_eq!(told(&jobs, &job.id, last.revision).await.len(), 0, "nothing is newer than the end");
    let refused = jobs.signal_job(request(signal)).await.expect_err("it has ended");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// Two schedulers, each with shards of its own; whoever is asked knows who answers, and a call is passed on once.
#[tokio::test(flavor = "multi_thread")]
async fn calls_go_to_the_owner_once() {
    let (cluster, serving) = (Cluster::new(), Tasks::new());
    let (first, running) = cluster.serving("s1", options(), &serving).await;
    let own = submit(&first.jobs, &asked(&waiting(), "one")).await;
    let (second, others) = cluster.serving("s2", options(), &serving).await;
    let other = loop {
        // It has none until the first one gives some up.
        let job = submit(&second.jobs, &asked(&waiting(), "")).await;
        if job.scheduler == "s2" {
            break job;
        }
    };
    assert_eq!(known(&first.jobs, &other.id).await.scheduler, "s2");
    assert_eq!(known(&first.jobs, &own.id).await.id, own.id);
    let again = submit(&second.jobs, &asked(&waiting(), "one")).await;
    assert_eq!(again.id, own.id, "a key stands for one job, whoever is asked");

    let mut marked = request(GetJobRequest { id: other.id.clone(), ..GetJobRequest::default() });
    marked.metadata_mut().insert("weft-forwarded", MetadataValue::from_static("1"));
    let refused = first.jobs.get_job(marked).await.expect_err("it was passed on before");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(error_of(&refused).pushback().is_some(), "{refused}");

    let listed = loop {
        match first.jobs.list_jobs(request(ListJobsRequest::default())).await {
            Ok(listed) => break listed.into_inner().jobs,
            // A shard is on its way.
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        tokio::task::yield_now().await;
    };
    assert!([&own.id, &other.id].iter().all(|id| listed.iter().any(|job| job.id == **id)), "{listed:?}");
    let answers = async {
        let watch = WatchJobRequest { id: other.id.clone(), after_revision: other.revision };
        let mut answers = first.jobs.watch_job(request(watch)).await.expect("passed on").into_inner();
        let signal = SignalJobRequest { id: other.id.clone(), name: "go".into(), value: None };
        first.jobs.signal_job(request(signal)).await.expect("passed on");
        let mut last = None;
        while let Some(answer) = answers.next().await {
            last = answer.expect("no failure").job;
        }
        assert_eq!(last.expect("told").state(), JobState::Completed);
    };
    tokio::time::timeout(PATIENCE, answers).await.expect("it ends");
    for tasks in [running, others] {
        tasks.finish(PATIENCE).await;
        assert!(!tasks.failed());
    }
}

/// The next scheduler goes on from the records alone.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_on_at_the_next_scheduler() {
    let (cluster, serving) = (Cluster::new(), Tasks::new());
    let (first, running) = cluster.serving("s1", options(), &serving).await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(submit(&first.jobs, &asked(&waiting(), &format!("key-{number}"))).await.id);
    }
    let (second, others) = cluster.serving("s2", options(), &serving).await;
    running.finish(PATIENCE).await;
    for id in &ids {
        // Who still asks the first one is passed on, or told to come back.
        let refused = get(&first.jobs, id).await.err();
        assert!(refused.as_ref().is_none_or(|status| status.code() == Code::Unavailable), "{refused:?}");
    }
    for (number, id) in ids.iter().enumerate() {
        let signal = SignalJobRequest { id: id.clone(), name: "go".into(), value: None };
        let taken = async {
            while let Err(status) = second.jobs.signal_job(request(signal.clone())).await {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.expect("somebody runs it");
        let told = told(&second.jobs, id, 0).await;
        assert_eq!(told.last().expect("something").as_ref().expect("its end").state(), JobState::Completed);
        let again = submit(&second.jobs, &asked(&waiting(), &format!("key-{number}"))).await;
        assert_eq!((&again.id, again.state()), (id, JobState::Completed));
    }
    others.finish(PATIENCE).await;
    assert!(!others.failed());
}
