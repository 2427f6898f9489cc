//! What no job refers to is removed: payloads and definitions.

use std::collections::HashSet;
use std::sync::Arc;

use weft_saga::Payload;
use weft_store::{Commit, Compare, Entry, Op, Range, Txn};

use crate::definitions;
use crate::error::Error;
use crate::journal::Shared;
use crate::payloads;
use crate::record::{Hash, Record};

/// Removes payloads and definitions that no job refers to and that nobody has kept for a while. Whoever is about to refer to one
/// has kept it a moment ago.
pub(crate) async fn collect(shared: &Shared) -> Result<(), Error> {
    let Some(needed) = needed(shared).await? else { return Ok(()) };
    let needed = Arc::new(needed);
    collect_definitions(shared, &needed).await?;
    let before = payloads::before(shared.clock.wall(), shared.options.keep_unused);
    let is_needed = move |hash: &Hash| needed.contains(hash);
    let removed = shared.payloads.sweep(before, Arc::new(is_needed)).await?;
    tracing::debug!(removed, "payloads that no job refers to were removed");
    Ok(())
}

/// Every hash that a record refers to; `None` while some record cannot be read, since it may refer to anything.
async fn needed(shared: &Shared) -> Result<Option<HashSet<Hash>>, Error> {
    let mut needed = HashSet::new();
    for prefix in [shared.keys.all_jobs(), shared.keys.all_ended()] {
        for entry in shared.store.read(Range::Prefix(prefix)).await?.entries {
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

async fn collect_definitions(shared: &Shared, needed: &HashSet<Hash>) -> Result<(), Error> {
    let keep = u64::try_from(shared.options.keep_unused.as_millis()).unwrap_or(u64::MAX);
    let since = shared.wall().saturating_sub(keep);
    let needed: HashSet<String> = needed.iter().map(|hash| shared.keys.definition(hash)).collect();
    let listing = shared.store.read(Range::Prefix(shared.keys.definitions())).await?;
    let is_unused =
        |entry: &Entry| !needed.contains(&entry.key) && definitions::used_at(entry).is_some_and(|at| at < since);
    for entry in listing.entries.into_iter().filter(is_unused) {
        let compares = vec![Compare::ModRevision(entry.key.clone(), entry.mod_revision)];
        let txn = Txn { compares, ops: vec![Op::Delete(entry.key.clone())] };
        if let Commit::Done(_) = shared.store.commit(txn).await? {
            tracing::debug!(key = entry.key, "a definition that no job uses was removed");
        }
    }
    Ok(())
}

fn stored(payload: &Payload) -> Option<Hash> {
    match payload {
        Payload::Inline(_) => None,
        Payload::Stored { sha256, .. } => Some(*sha256),
    }
}
