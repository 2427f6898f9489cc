//! The journal, for whoever runs jobs.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use rand::seq::IndexedRandom as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use weft_proto::weft::state::v1 as state;
use weft_runtime::Tasks;
use weft_saga::{Hold, Millis, Payload};
use weft_store::{Candidacy, Election, Fence, Maintain, Mirror, MirrorEvent, Range, Store};
use weft_telemetry::JournalMetrics;
use weft_types::Clock;

use crate::definitions;
use crate::directory::{self, Directory, Owner};
use crate::error::{Error, Missing};
use crate::id::JobId;
use crate::keys::Keys;
use crate::options::{Options, Wiring};
use crate::outage::Outage;
use crate::payloads::{MAX_INLINE, Payloads};
use crate::quota::Quota;
use crate::record::{Hash, Record};
use crate::retained::Retained;
use crate::shard::Shard;
use crate::slots::Slots;
use crate::tenure::Tenure;
use crate::upkeep::Upkeep;

/// New jobs go to so few of a scheduler's shards, so that their transitions meet in one transaction.
const SPREAD: usize = 8;

/// The most bytes of values that stand in one record; the next ones are stored apart however short they are.
const MAX_INLINE_TOTAL: usize = 32 * 1024;

/// Shorter values are never stored apart: the reference would be as long.
const MIN_STORED: usize = 64;

/// How long the place of long values may take to answer when the journal starts.
const CHECKED_IN: Duration = Duration::from_secs(30);

/// What was won or lost. A shard that is lost was won before, and can be won again.
pub enum Owned {
    /// The shard, with the jobs in it that have not ended.
    Acquired(Shard, Vec<Arc<Record>>),
    /// The shard's number: whatever its jobs have under way ends, without a word to the journal.
    Lost(u8),
}

/// The log of jobs. Clones share it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) maintenance: Arc<dyn Maintain>,
    pub(crate) keys: Keys,
    pub(crate) payloads: Payloads,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: JournalMetrics,
    /// `Some` while this scheduler is surely a member.
    pub(crate) fence: watch::Receiver<Option<Fence>>,
    pub(crate) directory: watch::Sender<Directory>,
    pub(crate) owned: mpsc::Sender<Owned>,
    pub(crate) flushes: Semaphore,
    pub(crate) slots: Slots,
    pub(crate) quota: Quota,
    pub(crate) outage: Outage,
    // Each is held for a lookup or a change, never across an await.
    shards: Mutex<BTreeMap<u8, Shard>>,
    retained: Mutex<Retained>,
    quarantined: Mutex<BTreeMap<String, String>>,
}

impl Journal {
    /// A journal that wins shards until the tasks stop; then it gives them up, so that others go on at once. What it wins and loses
    /// comes through the receiver, which has to be read: a shard is given up only after its loss was told.
    pub fn start(options: Options, wiring: Wiring) -> (Self, mpsc::Receiver<Owned>) {
        let Wiring { store, maintenance, keys, payloads, tasks, clock, metrics } = wiring;
        let member = state::JobOwner { id: options.id.clone(), address: options.address.clone() };
        let candidacy =
            Candidacy { key: keys.member(&options.id), value: member.encode_to_vec().into(), ttl: options.lease_ttl };
        let (election, fence) = Election::new(Arc::clone(&store), Arc::clone(&clock), candidacy);
        let (owned, told) = mpsc::channel(256);
        let shared = Arc::new(Shared {
            flushes: Semaphore::new(options.flushes.max(1)),
            quota: Quota::new(options.quota),
            outage: Outage::new(),
            options,
            store,
            maintenance,
            keys,
            payloads,
            tasks: tasks.clone(),
            clock,
            metrics,
            fence,
            directory: watch::Sender::default(),
            owned,
            slots: Slots::default(),
            shards: Mutex::default(),
            retained: Mutex::default(),
            quarantined: Mutex::default(),
        });
        let resign = CancellationToken::new();
        tasks.spawn("job membership", election.run(resign.clone()));
        tasks.spawn("job ownership", Tenure::new(Arc::clone(&shared)).run(tasks.stopping(), resign));
        tasks.spawn("job values", check_values(Arc::clone(&shared)));
        tasks.spawn("job upkeep", Upkeep::new(Arc::clone(&shared)).run(tasks.stopping()));
        follow(&shared);
        (Self { shared }, told)
    }

    /// A shard for a new job; `None` while this scheduler has none.
    pub fn shard_for_new(&self) -> Option<Shard> {
        let now = self.shared.clock.now();
        let shards = self.shared.shards();
        let staying = |shard: &&Shard| !shard.state.is_leaving.load(Ordering::Acquire) && shard.holds(now);
        let spread = if self.shared.options.batch > 1 { SPREAD } else { usize::MAX };
        let open: Vec<&Shard> = shards.values().filter(staying).take(spread).collect();
        open.choose(&mut rand::rng()).map(|shard| (*shard).clone())
    }

    /// A name for a new job of a shard.
    pub fn new_id(&self, shard: &Shard) -> JobId {
        JobId::new(shard.number(), self.shared.wall(), rand::random())
    }

    /// Who owns a shard, as far as is known; `None` while nobody does.
    pub fn owner(&self, shard: u8) -> Option<Owner> {
        self.shared.directory.borrow().owner(shard).cloned()
    }

    /// This scheduler's shard of that number, if it has it.
    pub fn shard(&self, number: u8) -> Option<Shard> {
        self.shared.shards().get(&number).cloned()
    }

    /// The job that was submitted with a key, and the hash of the request.
    pub async fn by_key(&self, tenant: &str, key: &str) -> Result<Option<(JobId, Hash)>, Error> {
        let listing = self.shared.store.read(Range::Key(self.shared.keys.idempotency(tenant, key))).await?;
        Ok(listing.entries.first().and_then(|entry| key_holder(&entry.value)))
    }

    /// The record of a job that has ended and is still remembered.
    pub async fn ended(&self, id: &JobId) -> Result<Option<Arc<Record>>, Error> {
        if let Some(record) = self.shared.retained().volatile(id) {
            return Ok(Some(record));
        }
        let listing = self.shared.store.read(Range::Key(self.shared.keys.ended(id))).await?;
        let record = listing.entries.first().map(|entry| Record::decode(&entry.value)).transpose()?;
        Ok(record.map(Arc::new))
    }

    /// Ended jobs of a shard that fit, the newest first, at most `limit`. What cannot be read is left out.
    pub async fn list_ended(
        &self,
        shard: u8,
        fits: impl Fn(&Record) -> bool,
        limit: usize,
    ) -> Result<Vec<Arc<Record>>, Error> {
        let listing = self.shared.store.read(Range::Prefix(self.shared.keys.ended_of(shard))).await?;
        let mut records: Vec<Arc<Record>> = self.shared.retained().all_volatile(shard);
        records.retain(|record| fits(record));
        // By their keys the newest are the last, and only those that are kept stay decoded.
        let kept = listing.entries.iter().rev().filter_map(|entry| Record::decode(&entry.value).ok());
        records.extend(kept.filter(|record| fits(record)).take(limit).map(Arc::new));
        records.sort_by(|a, b| b.id.cmp(&a.id));
        records.truncate(limit);
        Ok(records)
    }

    /// Keeps a definition, at most 256 KiB, under its hash. To be called before each job that uses it, for what nobody uses is forgotten.
    pub async fn put_definition(&self, content: Bytes) -> Result<Hash, Error> {
        definitions::put(&self.shared, content).await
    }

    /// A definition.
    pub async fn definition(&self, hash: &Hash) -> Result<Bytes, Error> {
        definitions::get(&self.shared, hash).await
    }

    /// Makes a value that a record can refer to: itself if it is short, else its place in the object store, where it is by then.
    pub async fn store(&self, text: Bytes) -> Result<Payload, Error> {
        self.store_within(text, 0).await
    }

    /// As [`Self::store`], for a record with so many bytes of values in it already ([`Record::inline_bytes`]).
    pub async fn store_within(&self, text: Bytes, inline: usize) -> Result<Payload, Error> {
        let is_short = text.len() <= MAX_INLINE && inline.saturating_add(text.len()) <= MAX_INLINE_TOTAL;
        if is_short || text.len() <= MIN_STORED {
            return Ok(Payload::Inline(text.into()));
        }
        self.shared.payloads.put(text).await
    }

    /// The text of a value.
    pub async fn load(&self, payload: &Payload) -> Result<Bytes, Error> {
        self.shared.payloads.get(payload).await
    }

    /// Proposes free slots: so many of each pool, all or none. They are taken when the transition that holds them is committed, or
    /// [`crate::CommitError::SlotsTaken`] says that another job was faster. `own` is what the job has already: whether the store has told of
    /// that yet or not, it is not free.
    pub fn free_slots<'a>(
        &self,
        wanted: &[(String, u32)],
        own: impl IntoIterator<Item = &'a Hold>,
        random: u64,
    ) -> Result<Vec<Hold>, Missing> {
        let own = own.into_iter().map(|hold| (hold.pool.clone(), hold.worker.clone(), hold.number)).collect();
        self.shared.slots.propose(wanted, &own, random)
    }

    /// Whether the job has a record in this scheduler's shards that cannot be read.
    pub fn is_set_aside(&self, id: &JobId) -> bool {
        let quarantined = self.shared.quarantined();
        quarantined.contains_key(&self.shared.keys.job(id)) || quarantined.contains_key(&self.shared.keys.ended(id))
    }

    /// The jobs of this scheduler's shards whose records cannot be read, as far as their keys name any.
    pub fn set_aside(&self) -> Vec<JobId> {
        let quarantined = self.shared.quarantined();
        quarantined.keys().filter_map(|key| key.rsplit('/').next()?.parse().ok()).collect()
    }

    /// Records of jobs that cannot be read, by their keys, and why. They stay as they are: a newer build may understand them.
    pub fn quarantined(&self) -> BTreeMap<String, String> {
        self.shared.quarantined().clone()
    }
}

impl Shared {
    /// Milliseconds since 1970.
    pub(crate) fn wall(&self) -> Millis {
        let since = self.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn shards(&self) -> MutexGuard<'_, BTreeMap<u8, Shard>> {
        // One map operation at a time: a panic elsewhere cannot have left it half done.
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, shard: &Shard) {
        self.shards().insert(shard.number(), shard.clone());
    }

    pub(crate) fn remove(&self, shard: &Shard) {
        self.shards().remove(&shard.number());
    }

    pub(crate) fn retained(&self) -> MutexGuard<'_, Retained> {
        // Sums and maps may differ after a panic in between; the worst of it is a job that is remembered longer.
        self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn quarantined(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // As for shards.
        self.quarantined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is known of a shard that has another owner now.
    pub(crate) fn leave(&self, shard: u8) {
        self.retained().leave(shard);
        let prefixes = [self.keys.jobs(shard), self.keys.ended_of(shard)];
        self.quarantined().retain(|key, _| !prefixes.iter().any(|prefix| key.starts_with(prefix)));
    }

    /// Sets a record aside that cannot be read. All others go on.
    pub(crate) fn quarantine(&self, key: String, error: String) {
        tracing::error!(key, error, "a job's record cannot be read and is left alone");
        self.quarantined().insert(key, error);
    }
}

/// The job and the request of an idempotency key's record.
pub(crate) fn key_holder(value: &Bytes) -> Option<(JobId, Hash)> {
    let record = state::JobKey::decode(value.clone()).ok()?;
    Some((record.job.parse().ok()?, record.request_hash.as_slice().try_into().ok()?))
}

/// Asks once whether long values can be kept, so that a wrong setting is heard of before the first job needs it.
async fn check_values(shared: Arc<Shared>) {
    let checked = tokio::time::timeout(CHECKED_IN, shared.payloads.check());
    match shared.tasks.stopping().run_until_cancelled(checked).await {
        Some(Ok(Ok(()))) | None => {}
        Some(Ok(Err(error))) => tracing::warn!(
            %error,
            "the place of long values cannot be used, and jobs that need it wait: check --jobs-payloads, and of a bucket AWS_ENDPOINT_URL, AWS_REGION and the credentials"
        ),
        Some(Err(_)) => {
            tracing::warn!(
                "the place of long values does not answer, and jobs that need it wait: check --jobs-payloads"
            );
        }
    }
}

/// Follows what others write.
fn follow(shared: &Arc<Shared>) {
    type Sink = fn(&Shared, MirrorEvent);
    let members: Sink = |shared, event| directory::tell_members(&shared.directory, &shared.keys, event);
    let owners: Sink = |shared, event| directory::tell_owners(&shared.directory, &shared.keys, event);
    let workers: Sink = |shared, event| shared.slots.tell_workers(&shared.keys, event);
    let taken: Sink = |shared, event| shared.slots.tell_taken(&shared.keys, event);
    let keys = &shared.keys;
    for (prefix, sink) in
        [(keys.members(), members), (keys.owners(), owners), (keys.workers(), workers), (keys.slots(), taken)]
    {
        let mirror = Mirror::new(Arc::clone(&shared.store), Range::Prefix(prefix));
        let told = Arc::clone(shared);
        // Also while shards are given up: their owners are needed until the end.
        let cancel = shared.tasks.finishing();
        shared.tasks.spawn("job records", mirror.run(cancel, move |event| sink(&told, event)));
    }
}

/// A wait that ends early with the token.
pub(crate) async fn pause(time: Duration, cancel: &CancellationToken) -> bool {
    cancel.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
}
