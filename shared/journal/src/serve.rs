//! The life of one owned shard: read what is in it, hand it over, write for it until it is lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_store::{Entry, Range, Revision};
use weft_types::Backoff;

use crate::batch::Position;
use crate::id::JobId;
use crate::journal::{Owned, Shared};
use crate::outage::Trouble;
use crate::record::{Record, Unreadable};
use crate::shard::{Shard, State, Term};
use crate::writer::queue::{Live, Queue};
use crate::writer::{End, Request, Writer};

/// Requests that wait for the writer to look; more wait in their callers.
const REQUESTS: usize = 256;

/// A shard that has been won.
pub(crate) struct Won {
    pub(crate) number: u8,
    pub(crate) epoch: Revision,
    pub(crate) term: Term,
    /// It shall move to another scheduler: finish what is under way and end.
    pub(crate) closing: CancellationToken,
    /// It has another owner already.
    pub(crate) lost: CancellationToken,
}

/// Reads the shard, tells `owned`, and writes until it is over. Dropping this loses the shard without telling anybody.
pub(crate) async fn serve(shared: Arc<Shared>, shard: Shard, requests: mpsc::Receiver<Request>, won: &Won) -> End {
    let loaded = won.lost.run_until_cancelled(load_patiently(&shared, won)).await;
    let Some(Some((version, live))) = loaded else {
        shard.state.is_closed.store(true, Ordering::Release);
        return if won.closing.is_cancelled() { End::Drained } else { End::Fenced };
    };
    let records: Vec<Arc<Record>> = live.values().cloned().collect();
    let told = shared.owned.send(Owned::Acquired(shard.clone(), records));
    let mut end = End::Fenced;
    if won.lost.run_until_cancelled(told).await.is_some_and(|told| told.is_ok()) {
        shared.add(&shard);
        let mut writer = writer(&shared, &shard, requests, (version, live));
        let ended = shared.tasks.attach(load_ended(Arc::clone(&shared), shard.clone()));
        end = won.lost.run_until_cancelled(writer.run(&won.closing)).await.unwrap_or(End::Fenced);
        drop(ended);
        shared.remove(&shard);
    }
    shard.state.is_closed.store(true, Ordering::Release);
    shared.leave(won.number);
    // Whoever runs its jobs stops before anybody else can own it, unless that has happened already.
    drop(shared.owned.send(Owned::Lost(won.number)).await);
    end
}

/// A handle of the shard, and what is asked through it.
pub(crate) fn open(shared: &Shared, won: &Won) -> (Shard, mpsc::Receiver<Request>) {
    let (requests, asked) = mpsc::channel(REQUESTS);
    let state = State {
        number: won.number,
        term: won.term,
        epoch: won.epoch,
        fence: shared.fence.clone(),
        requests,
        is_closed: AtomicBool::new(false),
        is_leaving: AtomicBool::new(false),
        volatile: AtomicUsize::new(0),
    };
    (Shard { state: Arc::new(state) }, asked)
}

fn writer(
    shared: &Arc<Shared>,
    shard: &Shard,
    requests: mpsc::Receiver<Request>,
    (version, live): (i64, Live),
) -> Writer {
    let number = shard.number();
    let position = Position {
        owner: shared.keys.owner(number),
        fence: shard.epoch(),
        sequence: shared.keys.sequence(number),
        version,
    };
    Writer {
        shared: Arc::clone(shared),
        shard: Arc::clone(&shard.state),
        requests,
        position,
        live,
        queue: Queue::default(),
        suspects: HashSet::new(),
    }
}

/// Reads until it works; `None` when the shard is wanted elsewhere meanwhile.
async fn load_patiently(shared: &Shared, won: &Won) -> Option<(i64, Live)> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        match won.closing.run_until_cancelled(load(shared, won.number)).await? {
            Ok(loaded) => return Some(loaded),
            Err(error) => shared.outage.tell(Trouble::Load, won.number, &error, shared.clock.now()),
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// Where the log stands and the jobs in it. Whoever owned it before has lost the fence, so nothing changes any more.
async fn load(shared: &Shared, number: u8) -> Result<(i64, Live), weft_store::Error> {
    let sequence = shared.store.read(Range::Key(shared.keys.sequence(number))).await?;
    let version = sequence.entries.first().map_or(0, |entry| entry.version);
    let jobs = shared.store.read(Range::Prefix(shared.keys.jobs(number))).await?;
    let mut live = Live::new();
    for entry in jobs.entries {
        match read(&entry, number) {
            Ok(record) => drop(live.insert(record.id.clone(), Arc::new(record))),
            Err(error) => shared.quarantine(entry.key, error.to_string()),
        }
    }
    Ok((version, live))
}

/// A record, if it is what its key says.
fn read(entry: &Entry, shard: u8) -> Result<Record, Unreadable> {
    let record = Record::decode(&entry.value)?;
    let named: Option<JobId> = entry.key.rsplit('/').next().and_then(|id| id.parse().ok());
    let fits = named.as_ref() == Some(&record.id) && record.id.shard() == shard;
    if fits { Ok(record) } else { Err(Unreadable::Field("id")) }
}

/// Learns which ended jobs the shard remembers, so that they are forgotten in time. Nobody waits for it.
async fn load_ended(shared: Arc<Shared>, shard: Shard) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let entries = loop {
        match shared.store.read(Range::Prefix(shared.keys.ended_of(shard.number()))).await {
            Ok(listing) => break listing.entries,
            Err(error) => tracing::debug!(%error, "ended jobs cannot be listed yet"),
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    };
    for entry in entries {
        match read(&entry, shard.number()) {
            Ok(record) => shared.retained().insert(&Arc::new(record), &shared.keys),
            Err(error) => shared.quarantine(entry.key, error.to_string()),
        }
    }
}
