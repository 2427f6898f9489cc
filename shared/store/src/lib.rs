//! The state store: where the services keep the slow facts they share.
//!
//! - [`port`]: the [`Store`] trait in etcd's terms: read at a revision, watch from one, leases, compare-and-commit.
//! - [`memory`]: [`MemoryStore`], embedded, for `weft dev` and tests.
//! - [`etcd`]: [`EtcdStore`], over real etcd; [`etcd::Maintenance`] looks after its members.
//! - [`mirror`]: [`Mirror`] keeps a range listed and watched for ever and tells only differences.
//! - [`presence`]: [`Presence`] keeps a set of keys written under one lease, whatever happens to the store.
//! - [`election`]: [`Election`] campaigns for a key and hands its holder a [`Fence`].
//!
//! Both adapters pass one conformance suite (`tests/tests/store.rs`), the second over real etcd processes. Nothing here
//! spawns a task: what must run is a future that the caller spawns and that ends when its token is cancelled.

pub mod election;
pub mod etcd;
mod limits;
pub mod memory;
pub mod mirror;
pub mod port;
pub mod presence;

#[cfg(test)]
mod faults;

pub use election::{Candidacy, Election, Fence};
pub use etcd::EtcdStore;
pub use limits::{MAX_OPS, MAX_TXN_BYTES, MAX_VALUE_BYTES};
pub use memory::MemoryStore;
pub use mirror::{Mirror, MirrorEvent};
pub use port::{
    Change, Changes, Commit, Compare, Entry, Error, LeaseId, Listing, Maintain, Member, Op, Range, Revision, Store,
    Txn, Watch,
};
pub use presence::{Presence, PresenceDriver, Stopped};
/// What every `run` here takes.
pub use tokio_util::sync::CancellationToken;
