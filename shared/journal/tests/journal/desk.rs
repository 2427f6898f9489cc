//! A scheduler as far as the log is concerned: it takes shards and jobs over, and says what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{Semaphore, watch};
use weft_journal::{CommitError, Durability, JobId, Journal, Keys, Options, Owned, Payloads, Record, Shard, Wiring};
use weft_proto::weft::state::v1 as state;
use weft_runtime::{Running, Tasks};
use weft_saga::job::{Item, JobState, Node};
use weft_saga::{Hold, Job, Payload};
use weft_store::{Maintain, Op, Store, Txn};
use weft_telemetry::Scope;
use weft_types::SystemClock;

pub(crate) const ROOT: &str = "/weft/v1/test/";

/// What a desk has.
#[derive(Clone, Default)]
pub(crate) struct Held {
    pub(crate) shards: BTreeMap<u8, Shard>,
    /// What was found in shards when they were won.
    pub(crate) found: BTreeMap<JobId, Arc<Record>>,
    /// Shards that were lost, each time that one was.
    pub(crate) lost: Vec<u8>,
}

/// A running journal and what it has won.
pub(crate) struct Desk {
    pub(crate) journal: Journal,
    pub(crate) held: watch::Receiver<Held>,
    pub(crate) tasks: Tasks,
    _reader: Running,
}

/// A maintenance that tells a size.
pub(crate) struct Sized(pub(crate) watch::Receiver<u64>);

#[async_trait::async_trait]
impl Maintain for Sized {
    async fn compact(&self, _: i64) -> Result<(), weft_store::Error> {
        Ok(())
    }

    async fn members(&self) -> Vec<weft_store::Member> {
        vec![weft_store::Member { used_bytes: *self.0.borrow(), ..weft_store::Member::default() }]
    }
}

/// A maintenance that lets sweeps happen one by one: each begins with a look at the store's members. Clones share it.
#[derive(Clone)]
pub(crate) struct Steps {
    allowed: Arc<Semaphore>,
    begun: watch::Sender<usize>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { allowed: Arc::new(Semaphore::new(0)), begun: watch::Sender::new(0) }
    }

    /// Lets one sweep happen, and waits for its end: until the next one has begun.
    pub(crate) async fn sweep(&self) {
        let mut begun = self.begun.subscribe();
        let at = *begun.wait_for(|begun| *begun > 0).await.expect("it is here");
        self.allowed.add_permits(1);
        begun.wait_for(|begun| *begun > at).await.expect("it is here");
    }
}

#[async_trait::async_trait]
impl Maintain for Steps {
    async fn compact(&self, _: i64) -> Result<(), weft_store::Error> {
        Ok(())
    }

    async fn members(&self) -> Vec<weft_store::Member> {
        self.begun.send_modify(|begun| *begun += 1);
        self.allowed.acquire().await.expect("it is never closed").forget();
        Vec::new()
    }
}

/// Settings under which nothing takes long.
pub(crate) fn options(id: &str) -> Options {
    Options {
        lease_ttl: Duration::from_secs(2),
        sweep: Duration::from_millis(50),
        ..Options::new(id, format!("{id}:1"))
    }
}

impl Desk {
    pub(crate) fn start(store: Arc<dyn Store>, options: Options) -> Self {
        let (_, size) = watch::channel(0);
        Self::swept(store, options, Arc::new(Sized(size)))
    }

    pub(crate) fn swept(store: Arc<dyn Store>, options: Options, maintenance: Arc<dyn Maintain>) -> Self {
        let tasks = Tasks::new();
        let wiring = Wiring {
            store,
            maintenance,
            keys: Keys::new(ROOT),
            payloads: Payloads::memory(),
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            metrics: Scope::disabled().metrics().journal(),
        };
        let (journal, mut owned) = Journal::start(options, wiring);
        let (told, held) = watch::channel(Held::default());
        let reader = tasks.attach(async move {
            while let Some(owned) = owned.recv().await {
                told.send_modify(|held| match owned {
                    Owned::Acquired(shard, records) => {
                        held.shards.insert(shard.number(), shard);
                        held.found.extend(records.into_iter().map(|record| (record.id.clone(), record)));
                    }
                    Owned::Lost(shard) => {
                        held.shards.remove(&shard);
                        held.found.retain(|id, _| id.shard() != shard);
                        held.lost.push(shard);
                    }
                });
            }
        });
        Self { journal, held, tasks, _reader: reader }
    }

    /// A desk that has every shard.
    pub(crate) async fn alone(store: &Arc<dyn Store>, id: &str) -> Self {
        let desk = Self::start(Arc::clone(store), options(id));
        desk.owns(256).await;
        desk
    }

    /// Waits until it has so many shards.
    pub(crate) async fn owns(&self, shards: usize) {
        self.until(|held| held.shards.len() == shards).await;
    }

    pub(crate) async fn until(&self, holds: impl FnMut(&Held) -> bool) -> Held {
        self.held.clone().wait_for(holds).await.expect("the desk runs").clone()
    }

    pub(crate) fn shard(&self, number: u8) -> Shard {
        self.held.borrow().shards.get(&number).expect("the shard is held").clone()
    }

    /// A shard for a new job, and a small job of it that is not in the log yet.
    pub(crate) fn new_job(&self) -> (Shard, Record) {
        let shard = self.journal.shard_for_new().expect("there are shards");
        let record = record(self.journal.new_id(&shard));
        (shard, record)
    }

    /// Waits until a shard has done everything that it was asked to do: it has written a job that came after that.
    pub(crate) async fn settled(&self, shard: u8) {
        let job = Arc::new(record(JobId::new(shard, now(), rand::random())));
        self.shard(shard).commit(None, Arc::clone(&job)).await.expect("it is logged");
        self.shard(shard).commit(Some(Arc::clone(&job)), next(&job, |_| {})).await.expect("it moves on");
    }

    /// Begins a job.
    pub(crate) async fn begin(&self) -> (Shard, Arc<Record>) {
        let (shard, record) = self.new_job();
        let record = Arc::new(record);
        shard.commit(None, Arc::clone(&record)).await.expect("it is logged");
        (shard, record)
    }

    /// Ends the process in good order.
    pub(crate) async fn stop(self) {
        self.tasks.finish(Duration::from_secs(10)).await;
    }
}

/// A job with one step.
pub(crate) fn record(id: JobId) -> Record {
    let job = Job {
        state: JobState::Running,
        revision: 1,
        paused: false,
        stuck: None,
        failure: None,
        decided: false,
        created_at: 1,
        deadline: u64::MAX,
        undo_since: None,
        ended_at: None,
        takeovers: 0,
        steps: vec![Node { ruled: true, items: vec![Item::default()] }],
        signals: Vec::new(),
    };
    Record {
        id,
        tenant: "default".into(),
        key: String::new(),
        request_hash: [1; 32],
        definition: [2; 32],
        definition_name: "example".into(),
        durability: Durability::Journaled,
        input: Payload::Inline(b"{}".to_vec()),
        output: None,
        trace_id: [3; 16],
        span: 4,
        sampled: true,
        job,
    }
}

/// The next state of a job, changed in some way.
pub(crate) fn next(record: &Arc<Record>, change: impl FnOnce(&mut Record)) -> Arc<Record> {
    let mut next = (**record).clone();
    next.job.revision += 1;
    change(&mut next);
    Arc::new(next)
}

/// The same job at its end, with nothing in its hands.
pub(crate) fn ended(record: &Arc<Record>) -> Arc<Record> {
    next(record, |next| {
        (next.job.state, next.job.ended_at) = (JobState::Completed, Some(now()));
        next.job.steps.iter_mut().flat_map(|step| &mut step.items).for_each(|item| item.holds.clear());
    })
}

/// The same job with these slots.
pub(crate) fn holding(record: &Arc<Record>, holds: Vec<Hold>) -> Arc<Record> {
    next(record, |next| next.job.steps[0].items[0].holds = holds)
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemClock::wall().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("it fits")
}

/// Puts a record past the journal.
pub(crate) async fn put(store: &Arc<dyn Store>, key: String, value: Vec<u8>) {
    let op = Op::Put { key, value: value.into(), lease: None };
    store.commit(Txn { compares: vec![], ops: vec![op] }).await.expect("the store takes it");
}

/// Says that a worker offers slots.
pub(crate) async fn offer(store: &Arc<dyn Store>, worker: &str, pools: &[(&str, u32)]) {
    let slots = pools.iter().map(|(pool, count)| ((*pool).to_owned(), *count)).collect();
    let record = state::Worker { id: worker.into(), slots, ..state::Worker::default() };
    put(store, format!("{ROOT}workers/{worker}"), record.encode_to_vec()).await;
}

/// Reserves slots for a job, as often as it takes; `None` when there are not enough.
pub(crate) async fn reserve(
    desk: &Desk,
    shard: &Shard,
    job: &Arc<Record>,
    wanted: &[(String, u32)],
) -> Option<Arc<Record>> {
    loop {
        let holds = desk.journal.free_slots(wanted, job.holds(), rand::random()).ok()?;
        let after = holding(job, holds);
        match shard.commit(Some(Arc::clone(job)), Arc::clone(&after)).await {
            Ok(()) => return Some(after),
            // What is known of the slots is a moment old: the next proposal may be the same.
            Err(CommitError::SlotsTaken) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until the journal proposes so many slots of a pool.
pub(crate) async fn slots_known(desk: &Desk, pool: &str, count: u32) {
    let wanted = [(pool.to_owned(), count)];
    eventually(async || desk.journal.free_slots(&wanted, [], 1).is_ok()).await;
}

/// Asks until it holds.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while !holds().await {
        tick.tick().await;
    }
}

/// The keys below a prefix of the test's cluster.
pub(crate) async fn keys(store: &Arc<dyn Store>, below: &str) -> BTreeSet<String> {
    let prefix = format!("{ROOT}{below}");
    let listing = store.read(weft_store::Range::Prefix(prefix.clone())).await.expect("the store answers");
    listing.entries.into_iter().map(|entry| entry.key[ROOT.len()..].to_owned()).collect()
}
