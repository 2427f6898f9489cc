//! Keys, leases and revisions: pure, given `now`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::FIRST_CHANGE;
use super::history::History;
use crate::limits::whole_seconds;
use crate::port::{Change, Commit, Compare, Entry, Error, LeaseId, Listing, Op, Range, Revision, Txn};

/// Everything the store holds.
pub(super) struct State {
    store: u64,
    revision: Revision,
    entries: BTreeMap<String, Entry>,
    leases: HashMap<LeaseId, Lease>,
    // The same leases by their end, soonest first.
    expiries: BTreeSet<(Instant, LeaseId)>,
    last_lease: LeaseId,
    pub(super) history: History,
}

struct Lease {
    ttl: Duration,
    expires: Instant,
    keys: BTreeSet<String>,
}

impl State {
    /// An empty store that calls itself `store`.
    pub(super) fn new(store: u64, max_history: usize) -> Self {
        Self {
            store,
            revision: FIRST_CHANGE - 1,
            entries: BTreeMap::new(),
            leases: HashMap::new(),
            expiries: BTreeSet::new(),
            last_lease: LeaseId(0),
            history: History::new(FIRST_CHANGE, max_history),
        }
    }

    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    /// The bytes of keys and values held, those of the history included.
    pub(super) fn bytes(&self) -> usize {
        self.history.bytes() + self.entries.values().map(|entry| entry.key.len() + entry.value.len()).sum::<usize>()
    }

    pub(super) fn read(&self, range: &Range) -> Listing {
        let entries = match range {
            Range::Key(key) => self.entries.get(key).cloned().into_iter().collect(),
            Range::Prefix(prefix) => {
                let from = self.entries.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
                from.map(|(_, entry)| entry).take_while(|entry| range.contains(&entry.key)).cloned().collect()
            }
        };
        Listing { entries, revision: self.revision, store: self.store }
    }

    /// Nothing is changed before everything is checked.
    pub(super) fn commit(&mut self, txn: &Txn) -> Result<Commit, Error> {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Commit::Lost(self.revision));
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(Error::LeaseLost(*lease));
            }
        }
        let next = self.revision + 1;
        let changes = txn.ops.iter().filter_map(|op| self.apply(op, next)).collect();
        self.publish(changes);
        Ok(Commit::Done(self.revision))
    }

    /// A lease of whole seconds, at least one.
    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        let ttl = Duration::from_secs(whole_seconds(ttl));
        let id = LeaseId(self.last_lease.0 + 1);
        self.last_lease = id;
        let expires = now + ttl;
        self.leases.insert(id, Lease { ttl, expires, keys: BTreeSet::new() });
        self.expiries.insert((expires, id));
        id
    }

    pub(super) fn renew(&mut self, id: LeaseId, now: Instant) -> Result<Duration, Error> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseLost(id))?;
        self.expiries.remove(&(lease.expires, id));
        lease.expires = now + lease.ttl;
        self.expiries.insert((lease.expires, id));
        Ok(lease.ttl)
    }

    /// Removes the lease and, at one revision, its keys.
    pub(super) fn end(&mut self, id: LeaseId) -> Result<(), Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseLost(id))?;
        self.expiries.remove(&(lease.expires, id));
        let next = self.revision + 1;
        let changes = lease.keys.iter().filter_map(|key| self.delete(key, next)).collect();
        self.publish(changes);
        Ok(())
    }

    /// Ends every lease that is over at `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(expires, id)) = self.expiries.first() {
            if expires > now || self.end(id).is_err() {
                break;
            }
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let field = |key: &str, of: fn(&Entry) -> i64| self.entries.get(key).map_or(0, of);
        match compare {
            Compare::CreateRevision(key, revision) => field(key, |entry| entry.create_revision) == *revision,
            Compare::ModRevision(key, revision) => field(key, |entry| entry.mod_revision) == *revision,
            Compare::Version(key, version) => field(key, |entry| entry.version) == *version,
        }
    }

    fn apply(&mut self, op: &Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Put { key, value, lease } => Some(self.put(key, value, *lease, revision)),
            Op::Delete(key) => self.delete(key, revision),
        }
    }

    fn put(&mut self, key: &str, value: &Bytes, lease: Option<LeaseId>, revision: Revision) -> Change {
        let before = self.entries.get(key);
        let entry = Entry {
            key: key.to_owned(),
            value: value.clone(),
            create_revision: before.map_or(revision, |entry| entry.create_revision),
            mod_revision: revision,
            version: before.map_or(0, |entry| entry.version) + 1,
            lease,
        };
        self.detach(key);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.insert(key.to_owned());
        }
        self.entries.insert(key.to_owned(), entry.clone());
        Change::Put(entry)
    }

    fn delete(&mut self, key: &str, revision: Revision) -> Option<Change> {
        self.detach(key);
        let entry = self.entries.remove(key)?;
        Some(Change::Delete { key: entry.key, mod_revision: revision })
    }

    /// A key hangs on the lease of its last put only.
    fn detach(&mut self, key: &str) {
        let lease = self.entries.get(key).and_then(|entry| entry.lease);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
    }

    /// The revision grows only if something changed.
    fn publish(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.revision += 1;
            self.history.push(changes);
        }
    }
}
