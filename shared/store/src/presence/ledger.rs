//! What is known to be in the store, and the writes that make it what it shall be.
//!
//! Every write compares the key's last revision. So a write whose answer was lost, and which the store carries out late,
//! cannot undo a newer one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::limits::{MAX_OPS, MAX_TXN_BYTES, size};
use crate::port::{Commit, Compare, Error, LeaseId, Op, Range, Revision, Store, Txn};

/// What is known of the keys under one lease.
#[derive(Default)]
pub(super) struct Ledger {
    known: BTreeMap<String, Known>,
    // Written with an answer that did not come: read before anything else is done with them.
    doubtful: BTreeSet<String>,
}

#[derive(Clone)]
struct Known {
    mod_revision: Revision,
    // `None` when the key is absent or hangs on another lease.
    ours: Option<Bytes>,
}

impl Ledger {
    /// Writes what differs from `desired`, in as few transactions as the limits allow.
    pub(super) async fn write(
        &mut self,
        store: &dyn Store,
        lease: LeaseId,
        desired: &BTreeMap<String, Bytes>,
    ) -> Result<(), Error> {
        self.learn(store, lease, desired).await?;
        for ops in chunks(self.plan(lease, desired)) {
            self.commit(store, ops).await?;
        }
        Ok(())
    }

    /// Takes nothing for granted any more: every key is read before the next write.
    pub(super) fn doubt(&mut self) {
        self.doubtful.extend(self.known.keys().cloned());
    }

    /// Reads every key whose state is not known: at first, whatever a predecessor with our name left behind.
    async fn learn(
        &mut self,
        store: &dyn Store,
        lease: LeaseId,
        desired: &BTreeMap<String, Bytes>,
    ) -> Result<(), Error> {
        let unknown = desired.keys().filter(|key| !self.known.contains_key(*key));
        let keys: BTreeSet<String> = unknown.chain(&self.doubtful).cloned().collect();
        for key in keys {
            let listing = store.read(Range::Key(key.clone())).await?;
            let known = match listing.entries.into_iter().next() {
                Some(entry) => Known {
                    mod_revision: entry.mod_revision,
                    ours: (entry.lease == Some(lease)).then_some(entry.value),
                },
                None => Known { mod_revision: 0, ours: None },
            };
            self.doubtful.remove(&key);
            self.known.insert(key, known);
        }
        // Neither wanted nor ours: no concern of ours.
        self.known.retain(|key, known| known.ours.is_some() || desired.contains_key(key));
        Ok(())
    }

    fn plan(&self, lease: LeaseId, desired: &BTreeMap<String, Bytes>) -> Vec<Op> {
        let missing = desired
            .iter()
            .filter(|(key, value)| self.known.get(*key).is_none_or(|known| known.ours.as_ref() != Some(*value)));
        let puts = missing.map(|(key, value)| Op::Put { key: key.clone(), value: value.clone(), lease: Some(lease) });
        let surplus = self.known.iter().filter(|(key, known)| known.ours.is_some() && !desired.contains_key(*key));
        puts.chain(surplus.map(|(key, _)| Op::Delete(key.clone()))).collect()
    }

    async fn commit(&mut self, store: &dyn Store, ops: Vec<Op>) -> Result<(), Error> {
        let compares = ops.iter().map(|op| {
            let revision = self.known.get(op.key()).map_or(0, |known| known.mod_revision);
            Compare::ModRevision(op.key().to_owned(), revision)
        });
        let txn = Txn { compares: compares.collect(), ops: ops.clone() };
        // In doubt until the answer says otherwise, also if this future is dropped.
        self.doubtful.extend(ops.iter().map(|op| op.key().to_owned()));
        match store.commit(txn).await? {
            Commit::Done(revision) => {
                for op in ops {
                    self.done(op, revision);
                }
                Ok(())
            }
            Commit::Lost(_) => Err(Error::Unavailable("a key was changed by someone else".into())),
        }
    }

    fn done(&mut self, op: Op, revision: Revision) {
        self.doubtful.remove(op.key());
        match op {
            Op::Put { key, value, .. } => {
                self.known.insert(key, Known { mod_revision: revision, ours: Some(value) });
            }
            Op::Delete(key) => {
                self.known.remove(&key);
            }
        }
    }
}

/// Splits operations so that each part fits one transaction.
fn chunks(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut chunks: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for op in ops {
        let size = size(&op);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < MAX_OPS && bytes + size <= MAX_TXN_BYTES => {
                bytes += size;
                chunk.push(op);
            }
            _ => {
                bytes = size;
                chunks.push(vec![op]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use proptest::prelude::*;

    fn value_bytes() -> impl Strategy<Value = usize> {
        prop_oneof![3 => 0usize..2000, 1 => 0..=limits::MAX_VALUE_BYTES]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is to be written, every part is a transaction that the store takes, and nothing is left out.
        #[test]
        fn every_chunk_fits(sizes in proptest::collection::vec(value_bytes(), 0..300)) {
            let ops: Vec<Op> = sizes
                .iter()
                .enumerate()
                .map(|(index, size)| Op::Put { key: format!("k{index}"), value: vec![0; *size].into(), lease: None })
                .collect();
            let chunks = chunks(ops.clone());
            for chunk in &chunks {
                let fits = limits::check(&Txn { compares: vec![], ops: chunk.clone() });
                prop_assert!(fits.is_ok());
            }
            prop_assert_eq!(chunks.concat(), ops);
        }
    }
}
