//! From what the store tells to the records of a snapshot.

use std::sync::Arc;

use prost::Message;
use weft_proto::weft::state::v1::{Replica, Worker};
use weft_store::{Change, Entry};
use weft_types::WorkerId;

use super::{Record, Records, ReplicaKey, Snapshot};
use crate::keys::replica_key;

/// Unreadable records that are remembered: a writer gone wrong must not fill the memory of everybody else.
const MAX_UNDECODABLE: usize = 1_000;

/// What a change did to a snapshot.
#[derive(Clone, Debug)]
pub enum Applied {
    /// It is taken over, and nobody has to be told.
    Quietly,
    /// A worker is registered.
    Joined(WorkerId),
    /// A worker's registration is gone; this was it.
    Left(WorkerId, Arc<Record<Worker>>),
    /// A worker's replica is gone; this was its record.
    Dropped(ReplicaKey, Arc<Record<Replica>>),
    /// The key or the value cannot be read: the last good value stands.
    Unreadable,
}

impl Snapshot {
    /// Takes over one change of a record below `root`.
    pub fn apply(&mut self, root: &str, change: &Change) -> Applied {
        let Some((kind, rest)) = change.key().strip_prefix(root).and_then(|rest| rest.split_once('/')) else {
            return Applied::Quietly;
        };
        let entry = match change {
            Change::Put(entry) => Some(entry),
            Change::Delete { .. } => None,
        };
        let applied = self.apply_to(kind, rest, entry);
        self.note(change, applied.is_none());
        match applied {
            Some(applied) => applied,
            // What could not be read is gone: nothing is wrong any more.
            None if entry.is_none() => Applied::Quietly,
            None => Applied::Unreadable,
        }
    }

    /// `None` when the key or the value cannot be read.
    fn apply_to(&mut self, kind: &str, rest: &str, entry: Option<&Entry>) -> Option<Applied> {
        match kind {
            "workers" => {
                let id: WorkerId = rest.parse().ok()?;
                let was = set(&mut self.workers, id.clone(), entry)?;
                return Some(match (entry, was) {
                    (Some(_), _) => Applied::Joined(id),
                    (None, Some(was)) => Applied::Left(id, was),
                    (None, None) => Applied::Quietly,
                });
            }
            "replicas" => {
                let key = replica_key(rest)?;
                let was = set(&mut self.replicas, key.clone(), entry)?;
                return Some(
                    was.filter(|_| entry.is_none()).map_or(Applied::Quietly, |was| Applied::Dropped(key, was)),
                );
            }
            "cordons" => drop(set(&mut self.cordons, rest.parse().ok()?, entry)?),
            "models" => drop(set(&mut self.models, rest.parse().ok()?, entry)?),
            "routes" => drop(set(&mut self.routes, rest.parse().ok()?, entry)?),
            "scales" => drop(set(&mut self.scales, rest.parse().ok()?, entry)?),
            "rollouts" => drop(set(&mut self.rollouts, rest.parse().ok()?, entry)?),
            "placements" => drop(set(&mut self.placements, replica_key(rest)?, entry)?),
            "services" => {
                let (kind, id) = rest.split_once('/')?;
                drop(set(&mut self.services, (kind.to_owned(), id.to_owned()), entry)?);
            }
            "leader" => {
                self.leader = match entry {
                    None => None,
                    Some(entry) => Some(Arc::new(decode(entry)?)),
                };
            }
            // Not for the snapshot, or a later version's record: not ours to judge.
            _ => {}
        }
        Some(Applied::Quietly)
    }

    /// Remembers the key and revision of what cannot be read, and forgets it with the next good value or its end.
    fn note(&mut self, change: &Change, unreadable: bool) {
        match change {
            Change::Put(entry) if unreadable => {
                let known = self.undecodable.contains_key(&entry.key);
                if known || self.undecodable.len() < MAX_UNDECODABLE {
                    Arc::make_mut(&mut self.undecodable).insert(entry.key.clone(), entry.mod_revision);
                }
            }
            _ => {
                if self.undecodable.contains_key(change.key()) {
                    Arc::make_mut(&mut self.undecodable).remove(change.key());
                }
            }
        }
    }
}

/// Sets or removes a record and returns the one before; `None` when the value cannot be read.
fn set<K, T>(records: &mut Records<K, T>, key: K, entry: Option<&Entry>) -> Option<Option<Arc<Record<T>>>>
where
    K: Ord + Clone,
    T: Message + Default,
{
    Some(match entry {
        None => records.remove(&key),
        Some(entry) => {
            let record = decode(entry)?;
            records.insert(key, Arc::new(record))
        }
    })
}

fn decode<T: Message + Default>(entry: &Entry) -> Option<Record<T>> {
    let value = T::decode(entry.value.clone()).ok()?;
    Some(Record { value, create_revision: entry.create_revision, mod_revision: entry.mod_revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static [u8], revision: i64) -> Change {
        Change::Put(Entry {
            key: format!("/r/{key}"),
            value: bytes::Bytes::from_static(value),
            create_revision: 1,
            mod_revision: revision,
            version: 1,
            lease: None,
        })
    }

    fn gone(key: &str, mod_revision: i64) -> Change {
        Change::Delete { key: format!("/r/{key}"), mod_revision }
    }

    /// Field 1 of every record here is a text; this one claims more bytes than follow.
    const TORN: &[u8] = b"\x0a\x7fw";
    const GOOD: &[u8] = b"\x0a\x02w1";

    #[test]
    fn what_cannot_be_read_is_listed_until_it_can_be_or_is_gone() {
        let mut snapshot = Snapshot::default();
        let listed = |snapshot: &Snapshot| snapshot.undecodable.iter().map(|(key, at)| (key.clone(), *at)).collect();
        snapshot.apply("/r/", &put("workers/w1", GOOD, 1));
        for (change, want) in [
            (put("workers/w1", TORN, 2), vec![("/r/workers/w1".to_owned(), 2)]),
            (put("workers/w1", TORN, 3), vec![("/r/workers/w1".to_owned(), 3)]),
            (put("workers/w1", GOOD, 4), vec![]),
            (put("workers/..", GOOD, 5), vec![("/r/workers/..".to_owned(), 5)]),
            (gone("workers/..", 6), vec![]),
            (put("leader/scheduler", TORN, 7), vec![("/r/leader/scheduler".to_owned(), 7)]),
            (gone("leader/scheduler", 8), vec![]),
            (put("unheard-of/x", TORN, 9), vec![]),
            (put("cordons/w1", b"\x12\x7fw", 10), vec![("/r/cordons/w1".to_owned(), 10)]),
            (gone("cordons/w1", 11), vec![]),
        ] {
            snapshot.apply("/r/", &change);
            let found: Vec<(String, i64)> = listed(&snapshot);
            assert_eq!(found, want, "after {change:?}");
            assert_eq!(snapshot.workers.values().next().map(|record| record.value.id.as_str()), Some("w1"));
        }
    }

    #[test]
    fn a_flood_of_unreadable_records_is_bounded() {
        let mut snapshot = Snapshot::default();
        for number in 0..2 * MAX_UNDECODABLE {
            snapshot.apply("/r/", &put(&format!("workers/w{number}"), TORN, 1));
        }
        assert_eq!(snapshot.undecodable.len(), MAX_UNDECODABLE);
        snapshot.apply("/r/", &put("workers/w0", TORN, 2));
        assert_eq!(snapshot.undecodable.get("/r/workers/w0"), Some(&2), "a known one is still kept up to date");
    }
}
