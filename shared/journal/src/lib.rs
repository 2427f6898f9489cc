//! The log of jobs: what every scheduler knows of a job is what stands here.
//!
//! - [`journal`]: [`Journal`], through which everything is asked.
//! - [`shard`]: [`Shard`], one of the 256 parts of the log that this scheduler owns; [`Shard::commit`] writes a transition.
//! - [`record`] and [`id`]: what is kept of a job, and what it is called.
//!
//! A transition's path: [`Shard::commit`] hands it to the shard's `writer`, whose `queue` joins what belongs to one job; `change` makes it
//! the difference of two records, `batch` packs differences into one transaction that compares the owner's fence and the shard's
//! sequence, and tells from the store what became of it when its answer was lost.
//! Ownership: `directory` follows who is there, `rendezvous` says who shall own what, `tenure` wins and gives up, `serve` reads a shard and
//! begins its writer. `slots` proposes free slots; `payloads` and `definitions` keep contents by their hashes; `retained`, `quota`,
//! `upkeep` and `collect` keep the log small.
//!
//! What it never does: decide what a job does next, or write for a shard that it does not own.

mod batch;
mod change;
mod collect;
mod definitions;
mod directory;
mod error;
pub mod id;
pub mod journal;
mod keys;
mod options;
mod outage;
mod payloads;
mod quota;
pub mod record;
mod rendezvous;
mod retained;
mod serve;
pub mod shard;
mod slots;
mod tenure;
mod upkeep;
mod writer;

pub use directory::Owner;
pub use error::{CommitError, Error, Missing};
pub use id::{InvalidId, JobId};
pub use journal::{Journal, Owned};
pub use keys::Keys;
pub use options::{Options, Wiring};
pub use payloads::{MAX_INLINE, MAX_PAYLOAD, Misplaced, Payloads};
pub use record::{Durability, Hash, Record, Unreadable};
pub use shard::Shard;
