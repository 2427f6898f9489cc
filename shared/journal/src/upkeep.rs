//! What keeps the log small: ended jobs are forgotten, slots that no job has are freed, and what no job refers to is removed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::collect::collect;
use crate::id::JobId;
use crate::journal::{Shared, pause};
use crate::retained::Bounds;
use crate::writer::Request;

/// Jobs that one shard forgets in one transaction.
const MAX_FORGOTTEN: usize = 32;
/// Jobs that it is asked to forget at a time.
const LOT: usize = 4 * MAX_FORGOTTEN;

/// The scheduler that owns it looks for what no job of any shard refers to.
const COLLECTOR: u8 = 0;
/// How long that may take. What is removed until then stays removed.
const COLLECTED_IN: Duration = Duration::from_secs(600);

/// The loop.
pub(crate) struct Upkeep {
    shared: Arc<Shared>,
    /// When it was last looked for what no job refers to, whatever came of it.
    collected: Option<Instant>,
    /// One such look at a time.
    collecting: Arc<Semaphore>,
}

impl Upkeep {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, collected: None, collecting: Arc::new(Semaphore::new(1)) }
    }

    /// Runs until cancelled. Nothing is half done then: each step is one transaction or one file.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let (shared, swept) = (Arc::clone(&self.shared), Notify::new());
        let sweeps = async {
            while pause(shared.options.sweep, &cancel).await {
                cancel.run_until_cancelled(self.sweep()).await;
                swept.notify_one();
            }
        };
        tokio::join!(sweeps, cancel.run_until_cancelled(forget(&shared, &swept)));
    }

    async fn sweep(&mut self) {
        self.measure().await;
        self.reconcile();
        let now = self.shared.clock.now();
        let is_due =
            self.collected.is_none_or(|last| now.saturating_duration_since(last) >= self.shared.options.collect);
        if is_due && self.shared.shards().contains_key(&COLLECTOR) {
            self.begin_to_collect(now);
        }
    }

    /// Beside everything else: a place of values that hangs holds up nothing but this.
    fn begin_to_collect(&mut self, now: Instant) {
        let Ok(permit) = Arc::clone(&self.collecting).try_acquire_owned() else { return };
        self.collected = Some(now);
        let (shared, stopping) = (Arc::clone(&self.shared), self.shared.tasks.stopping());
        self.shared.tasks.spawn("job collection", async move {
            let _permit = permit;
            let collected = tokio::time::timeout(COLLECTED_IN, collect(&shared));
            match stopping.run_until_cancelled(collected).await {
                Some(Ok(Ok(()))) | None => {}
                Some(Ok(Err(error))) => tracing::warn!(%error, "what no job refers to could not be removed"),
                Some(Err(_)) => tracing::warn!("what no job refers to could not be removed in time"),
            }
        });
    }

    /// Members that do not answer say nothing, and the last size stands.
    async fn measure(&self) {
        let members = self.shared.maintenance.members().await;
        let sizes = members.iter().filter(|member| member.error.is_none()).map(|member| member.used_bytes);
        if let Some(used) = sizes.max() {
            self.shared.quota.observe(used);
        }
    }

    /// Shows each shard the slots that stand for its jobs.
    fn reconcile(&self) {
        let shards = self.shared.shards().clone();
        let mut slots = self.shared.slots.by_shard(&self.shared.keys);
        for (number, shard) in shards {
            let slots = slots.remove(&number).unwrap_or_default();
            drop(shard.state.requests.try_send(Request::Reconcile { slots }));
        }
    }
}

/// Has shards forget what has ended long ago, or is too much: after each sweep, and one lot after the other while there is more. Never ends.
async fn forget(shared: &Shared, swept: &Notify) {
    let mut lots = FuturesUnordered::new();
    loop {
        lots.extend(next_lots(shared));
        tokio::select! {
            () = swept.notified() => {}
            Some(shard) = lots.next() => if shared.retained().keep(shard) > 0 {
                // What could not be forgotten is not asked for again at once.
                swept.notified().await;
            }
        }
    }
}

/// Gives each shard that has something to forget its next lot; each ends when that is done, or will not be.
fn next_lots(shared: &Shared) -> Vec<impl Future<Output = u8> + use<>> {
    let shards = shared.shards().clone();
    let options = &shared.options;
    // Every scheduler bounds its own shards to their part of the whole.
    let part = |all: usize| all.saturating_mul(shards.len()) / 256;
    let retain = u64::try_from(options.retain.as_millis()).unwrap_or(u64::MAX);
    let since = shared.wall().saturating_sub(retain);
    let bounds = Bounds { since, records: part(options.retain_records), bytes: part(options.retain_bytes) };
    let expired = shared.retained().expired(bounds, LOT, |number| shards.contains_key(&number));
    let ask = |(number, jobs): (u8, Vec<JobId>)| {
        let (done, mut all_done) = mpsc::channel::<Infallible>(1);
        for some in jobs.chunks(MAX_FORGOTTEN) {
            let request = Request::Forget { jobs: some.to_vec(), done: done.clone() };
            // One that is busy does it later.
            drop(shards.get(&number).map(|shard| shard.state.requests.try_send(request)));
        }
        async move {
            // Nothing is ever sent: it ends when the last one has gone.
            all_done.recv().await;
            number
        }
    };
    expired.into_iter().map(ask).collect()
}
