//! Owning shards: level-triggered. Whenever something has changed it compares what it owns with what it shall own.
//!
//! All of a scheduler's shards hang on the lease of its `member/<id>`, which an election keeps. A shard is won by creating its key, and
//! that it was won is read from the store: so a write whose answer was lost needs no case of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_proto::weft::state::v1 as state;
use weft_store::{Commit, Compare, Fence, Op, Range, Revision, Txn};

use crate::journal::Shared;
use crate::outage::Trouble;
use crate::serve::{self, Won};
use crate::shard::{Shard, Term};
use crate::writer::End;

/// It looks this often in any case: a watch is a hint.
const TICK: Duration = Duration::from_secs(1);

/// Shards that are won in one transaction.
const WON_TOGETHER: usize = 64;

/// Shards that move to others at a time, so that the mesh's jobs do not all pause at once.
const MAX_LEAVING: usize = 32;

/// How long a drain may take when the process ends.
const DRAIN: Duration = Duration::from_secs(3);

/// A shard that is owned.
struct Held {
    shard: Shard,
    closing: CancellationToken,
    lost: CancellationToken,
}

/// The end of a shard's task.
pub(crate) struct Over {
    number: u8,
    epoch: Revision,
    end: End,
}

/// Wins shards and gives them up.
pub(crate) struct Tenure {
    shared: Arc<Shared>,
    term: Option<Term>,
    held: HashMap<u8, Held>,
    /// Shards that are over under these fences, although their keys may still stand.
    over: HashSet<(u8, Revision)>,
    ended: mpsc::Receiver<Over>,
    endings: mpsc::Sender<Over>,
}

impl Tenure {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (endings, ended) = mpsc::channel(256);
        Self { shared, term: None, held: HashMap::new(), over: HashSet::new(), ended, endings }
    }

    /// Runs until `stopping`, then gives every shard up; `resign` ends the lease after that.
    pub(crate) async fn run(mut self, stopping: CancellationToken, resign: CancellationToken) {
        let mut fence = self.shared.fence.clone();
        let mut directory = self.shared.directory.subscribe();
        loop {
            // What one of them tells is still there in the next round.
            tokio::select! {
                () = stopping.cancelled() => break,
                changed = fence.changed() => if changed.is_err() { break },
                _ = directory.changed() => {}
                Some(over) = self.ended.recv() => self.settle(over).await,
                () = tokio::time::sleep(TICK) => {}
            }
            let newest = fence.borrow_and_update().clone();
            directory.mark_unchanged();
            stopping.run_until_cancelled(self.converge(newest)).await;
        }
        self.leave().await;
        resign.cancel();
    }

    async fn converge(&mut self, fence: Option<Fence>) {
        if let Err(error) = self.follow(fence).await {
            tracing::warn!(%error, "the owner of shards is behind");
            return;
        }
        let Some(term) = self.term else { return };
        self.drop_lost(term);
        // Keys of shards that could not be given up when they were over: nobody else can win them while they stand.
        for (number, epoch) in self.over.clone() {
            self.give_up(number, epoch).await;
        }
        self.start_won(term);
        self.move_away();
        if let Err(error) = self.win(term).await {
            tracing::warn!(%error, "shards cannot be won");
        }
    }

    /// Finds out whether the membership is still the same one. While it is only late, everything stays as it is: the shard's own fence
    /// keeps what must not be written from being written.
    async fn follow(&mut self, fence: Option<Fence>) -> Result<(), weft_store::Error> {
        let Some(fence) = fence else { return Ok(()) };
        if self.term.is_some_and(|term| term.revision == fence.create_revision) {
            return Ok(());
        }
        // They stay here until they are over: a shard that is won anew is begun with only when nothing of the last term speaks for it.
        self.held.values().for_each(|held| held.lost.cancel());
        self.term = None;
        let listing = self.shared.store.read(Range::Key(fence.key.clone())).await?;
        let entry = listing.entries.into_iter().find(|entry| entry.create_revision == fence.create_revision);
        let lease = entry.and_then(|entry| entry.lease);
        self.term = lease.map(|lease| Term { revision: fence.create_revision, lease });
        Ok(())
    }

    /// Ends what the store says is another's.
    fn drop_lost(&mut self, term: Term) {
        let directory = self.shared.directory.borrow();
        if !directory.is_whole() {
            return;
        }
        let ours: HashMap<u8, Revision> = directory.owned_under(term.lease).collect();
        self.over.retain(|(number, epoch)| ours.get(number) == Some(epoch));
        for (number, held) in &self.held {
            if ours.get(number) != Some(&held.shard.epoch()) {
                held.lost.cancel();
            }
        }
    }

    /// Begins with what was won.
    fn start_won(&mut self, term: Term) {
        let won: Vec<(u8, Revision)> = self.shared.directory.borrow().owned_under(term.lease).collect();
        for (number, epoch) in won {
            if self.held.contains_key(&number) || self.over.contains(&(number, epoch)) {
                continue;
            }
            let (closing, lost) = (CancellationToken::new(), CancellationToken::new());
            let won = Won { number, epoch, term, closing: closing.clone(), lost: lost.clone() };
            let (shard, requests) = serve::open(&self.shared, &won);
            self.held.insert(number, Held { shard: shard.clone(), closing, lost });
            let (shared, endings) = (Arc::clone(&self.shared), self.endings.clone());
            self.shared.tasks.spawn("job shard", async move {
                let end = serve::serve(shared, shard, requests, &won).await;
                // Nobody listens any more when the process ends.
                drop(endings.send(Over { number, epoch, end }).await);
            });
        }
    }

    /// Lets go what another scheduler shall own, some at a time.
    fn move_away(&mut self) {
        let directory = self.shared.directory.borrow();
        let me = self.shared.options.id.as_str();
        let mut leaving = self.held.values().filter(|held| held.closing.is_cancelled()).count();
        for (number, held) in &self.held {
            let state = &held.shard.state;
            let is_leaving = directory.desired(*number).is_some_and(|desired| desired != me);
            state.is_leaving.store(is_leaving, Ordering::Release);
            // Jobs that are only in this process end here.
            let can_leave = is_leaving && !held.closing.is_cancelled() && state.volatile.load(Ordering::Acquire) == 0;
            if can_leave && leaving < MAX_LEAVING {
                held.closing.cancel();
                leaving += 1;
            }
        }
    }

    /// Creates the keys of vacant shards.
    async fn win(&self, term: Term) -> Result<(), weft_store::Error> {
        let vacant = {
            let directory = self.shared.directory.borrow();
            if directory.is_whole() { directory.vacant_for(&self.shared.options.id) } else { Vec::new() }
        };
        for shards in vacant.chunks(WON_TOGETHER) {
            if matches!(self.create(term, shards).await?, Commit::Lost(_)) {
                // Somebody was faster with one of them.
                for shard in shards {
                    self.create(term, std::slice::from_ref(shard)).await?;
                }
            }
        }
        Ok(())
    }

    async fn create(&self, term: Term, shards: &[u8]) -> Result<Commit, weft_store::Error> {
        let options = &self.shared.options;
        let value = state::JobOwner { id: options.id.clone(), address: options.address.clone() }.encode_to_vec();
        let keys: Vec<String> = shards.iter().map(|shard| self.shared.keys.owner(*shard)).collect();
        let put = |key: &String| Op::Put { key: key.clone(), value: value.clone().into(), lease: Some(term.lease) };
        let compares = keys.iter().map(|key| Compare::CreateRevision(key.clone(), 0)).collect();
        self.shared.store.commit(Txn { compares, ops: keys.iter().map(put).collect() }).await
    }

    /// A shard is over: its key goes, unless it is another's already.
    async fn settle(&mut self, over: Over) {
        let Over { number, epoch, end } = over;
        if self.held.get(&number).is_some_and(|held| held.shard.epoch() == epoch) {
            self.held.remove(&number);
        }
        self.over.insert((number, epoch));
        tracing::debug!(shard = number, epoch, ?end, "a shard of the job log is over");
        self.give_up(number, epoch).await;
    }

    async fn give_up(&self, number: u8, epoch: Revision) {
        let key = self.shared.keys.owner(number);
        let compares = vec![Compare::CreateRevision(key.clone(), epoch)];
        if let Err(error) = self.shared.store.commit(Txn { compares, ops: vec![Op::Delete(key)] }).await {
            self.shared.outage.tell(Trouble::Release, number, &error, self.shared.clock.now());
        }
    }

    /// Finishes what is under way in every shard. The keys go with the lease.
    async fn leave(&mut self) {
        self.held.values().for_each(|held| held.closing.cancel());
        let drained = async {
            while !self.held.is_empty()
                && let Some(over) = self.ended.recv().await
            {
                self.held.remove(&over.number);
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("shards did not drain in time and are given up as they are");
        }
        self.held.drain().for_each(|(_, held)| held.lost.cancel());
    }
}
