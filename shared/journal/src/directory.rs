//! Who is there and who owns what, as the store last told.

use std::collections::BTreeMap;

use prost::Message as _;
use tokio::sync::watch;
use weft_proto::weft::state::v1 as state;
use weft_store::{Change, LeaseId, MirrorEvent, Revision};

use crate::keys::Keys;
use crate::rendezvous;

/// The owner of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The scheduler's id.
    pub id: String,
    /// host:port of its gRPC server.
    pub address: String,
    /// The fence under which it owns the shard.
    pub epoch: Revision,
}

/// Schedulers and the shards that they own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    members: BTreeMap<String, String>,
    owners: BTreeMap<u8, (Owner, Option<LeaseId>)>,
    knows_members: bool,
    knows_owners: bool,
}

impl Directory {
    /// Whether everything has been listed once.
    pub(crate) const fn is_whole(&self) -> bool {
        self.knows_members && self.knows_owners
    }

    pub(crate) fn owner(&self, shard: u8) -> Option<&Owner> {
        self.owners.get(&shard).map(|(owner, _)| owner)
    }

    /// Every shard whose key hangs on `lease`, with its fence.
    pub(crate) fn owned_under(&self, lease: LeaseId) -> impl Iterator<Item = (u8, Revision)> + '_ {
        let under = self.owners.iter().filter(move |(_, (_, of))| *of == Some(lease));
        under.map(|(shard, (owner, _))| (*shard, owner.epoch))
    }

    /// Who shall own a shard.
    pub(crate) fn desired(&self, shard: u8) -> Option<&str> {
        rendezvous::desired(self.members.keys().map(String::as_str), shard)
    }

    /// Shards that nobody owns and that `member` shall.
    pub(crate) fn vacant_for(&self, member: &str) -> Vec<u8> {
        let is_vacant = |shard: &u8| !self.owners.contains_key(shard) && self.desired(*shard) == Some(member);
        (0..=u8::MAX).filter(is_vacant).collect()
    }

    fn tell_member(&mut self, prefix: &str, change: &Change) {
        let Some(id) = change.key().strip_prefix(prefix) else { return };
        match change {
            Change::Put(entry) => {
                let record = state::JobOwner::decode(entry.value.clone()).unwrap_or_default();
                self.members.insert(id.to_owned(), record.address);
            }
            Change::Delete { .. } => drop(self.members.remove(id)),
        }
    }

    fn tell_owner(&mut self, keys: &Keys, change: &Change) {
        let Some(shard) = keys.shard_of(change.key()) else { return };
        match change {
            Change::Put(entry) => {
                // Whoever it is, the shard is not vacant.
                let record = state::JobOwner::decode(entry.value.clone()).unwrap_or_default();
                let owner = Owner { id: record.id, address: record.address, epoch: entry.create_revision };
                self.owners.insert(shard, (owner, entry.lease));
            }
            Change::Delete { .. } => drop(self.owners.remove(&shard)),
        }
    }
}

/// Takes news of members.
pub(crate) fn tell_members(directory: &watch::Sender<Directory>, keys: &Keys, event: MirrorEvent) {
    let MirrorEvent::Changes { changes, .. } = event else { return };
    let prefix = keys.members();
    directory.send_modify(|directory| {
        changes.iter().for_each(|change| directory.tell_member(&prefix, change));
        directory.knows_members = true;
    });
}

/// Takes news of owners.
pub(crate) fn tell_owners(directory: &watch::Sender<Directory>, keys: &Keys, event: MirrorEvent) {
    let MirrorEvent::Changes { changes, .. } = event else { return };
    directory.send_modify(|directory| {
        changes.iter().for_each(|change| directory.tell_owner(keys, change));
        directory.knows_owners = true;
    });
}
