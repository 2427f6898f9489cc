//! What keeps the log small: ended jobs are forgotten, slots that no job has are freed, and what no job refers to is removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use weft_saga::Payload;
use weft_store::{Commit, Compare, Entry, Op, Range, Txn};

use crate::definitions;
use crate::error::Error;
use crate::journal::{Shared, pause};
use crate::payloads;
use crate::record::{Hash, Record};
use crate::retained::Bounds;
use crate::writer::Request;

/// Jobs that one shard forgets in one transaction.
const MAX_FORGOTTEN: usize = 32;
/// Such transactions of one shard in one round.
const MAX_ROUNDS: usize = 32;

/// The scheduler that owns it looks for what no job of any shard refers to.
const COLLECTOR: u8 = 0;

/// The loop.
pub(crate) struct Upkeep {
    shared: Arc<Shared>,
    collected: Option<Instant>,
}

impl Upkeep {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, collected: None }
    }

    /// Runs until cancelled. Nothing is half done then: each step is one transaction or one file.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        while pause(self.shared.options.sweep, &cancel).await {
            cancel.run_until_cancelled(self.sweep()).await;
        }
    }

    async fn sweep(&mut self) {
        self.measure().await;
        self.forget();
        self.reconcile();
        let now = self.shared.clock.now();
        let is_due =
            self.collected.is_none_or(|last| now.saturating_duration_since(last) >= self.shared.options.collect);
        let is_collector = self.shared.shards().contains_key(&COLLECTOR);
        if is_due && is_collector {
            match self.collect().await {
                Ok(()) => self.collected = Some(now),
                Err(error) => tracing::warn!(%error, "what no job refers to could not be removed"),
            }
        }
    }

    /// Members that do not answer say nothing, and the last size stands.
    async fn measure(&self) {
        let members = self.shared.maintenance.members().await;
        let sizes = members.iter().filter(|member| member.error.is_none()).map(|member| member.used_bytes);
        if let Some(used) = sizes.max() {
            self.shared.quota.observe(used);
        }
    }

    /// Has shards forget what has ended long ago, or is too much.
    fn forget(&self) {
        let shards = self.shared.shards().clone();
        let options = &self.shared.options;
        // Every scheduler bounds its own shards to their part of the whole.
        let part = |all: usize| all.saturating_mul(shards.len()) / 256;
        let retain = u64::try_from(options.retain.as_millis()).unwrap_or(u64::MAX);
        let since = self.shared.wall().saturating_sub(retain);
        let bounds = Bounds { since, records: part(options.retain_records), bytes: part(options.retain_bytes) };
        let expired = self.shared.retained().expired(bounds, MAX_FORGOTTEN, MAX_ROUNDS);
        for (number, expired) in expired {
            if let Some(shard) = shards.get(&number) {
                for some in expired {
                    // One that is busy does it in the next round.
                    drop(shard.state.requests.try_send(Request::Forget { jobs: some.jobs, keys: some.keys }));
                }
            }
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

    /// Removes payloads and definitions that no job refers to and that nobody has kept for a while. Whoever is about to refer to one
    /// has kept it a moment ago.
    async fn collect(&self) -> Result<(), Error> {
        let Some(needed) = self.needed().await? else { return Ok(()) };
        let needed = Arc::new(needed);
        self.collect_definitions(&needed).await?;
        let before = payloads::before(self.shared.clock.wall(), self.shared.options.keep_unused);
        let is_needed = move |hash: &Hash| needed.contains(hash);
        let removed = self.shared.payloads.sweep(before, Arc::new(is_needed)).await?;
        tracing::debug!(removed, "payloads that no job refers to were removed");
        Ok(())
    }

    /// Every hash that a record refers to; `None` while some record cannot be read, since it may refer to anything.
    async fn needed(&self) -> Result<Option<HashSet<Hash>>, Error> {
        let mut needed = HashSet::new();
        for prefix in [self.shared.keys.all_jobs(), self.shared.keys.all_ended()] {
            for entry in self.shared.store.read(Range::Prefix(prefix)).await?.entries {
                let Ok(record) = Record::decode(&entry.value) else {
                    tracing::warn!(key = entry.key, "nothing is removed while a job's record cannot be read");
                    return Ok(None);
                };
                needed.insert(record.definition);
                needed.extend(record.payloads().filter_map(stored));
            }
        }
        Ok(Some(needed))
    }

    async fn collect_definitions(&self, needed: &HashSet<Hash>) -> Result<(), Error> {
        let keep = u64::try_from(self.shared.options.keep_unused.as_millis()).unwrap_or(u64::MAX);
        let since = self.shared.wall().saturating_sub(keep);
        let needed: HashSet<String> = needed.iter().map(|hash| self.shared.keys.definition(hash)).collect();
        let listing = self.shared.store.read(Range::Prefix(self.shared.keys.definitions())).await?;
        let is_unused =
            |entry: &Entry| !needed.contains(&entry.key) && definitions::used_at(entry).is_some_and(|at| at < since);
        for entry in listing.entries.into_iter().filter(is_unused) {
            let compares = vec![Compare::ModRevision(entry.key.clone(), entry.mod_revision)];
            let txn = Txn { compares, ops: vec![Op::Delete(entry.key.clone())] };
            if let Commit::Done(_) = self.shared.store.commit(txn).await? {
                tracing::debug!(key = entry.key, "a definition that no job uses was removed");
            }
        }
        Ok(())
    }
}

fn stored(payload: &Payload) -> Option<Hash> {
    match payload {
        Payload::Inline(_) => None,
        Payload::Stored { sha256, .. } => Some(*sha256),
    }
}
