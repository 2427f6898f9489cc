//! Jobs: several models and outside services under one deadline, undone when they cannot finish (`weft.jobs.v1`).
//!
//! - [`grpc`]: the methods; [`check`] looks at their fields, and [`forward`] passes on what is another scheduler's.
//! - [`submit`], [`verbs`], [`watch`], [`list`], [`view`]: what callers do and see.
//! - [`definition`] checks what is submitted and makes a plan of it, [`programs`] keeps it, [`template`] makes values of values.
//! - [`shards`]: which jobs are this scheduler's; [`table`] holds them, and [`run`] runs each.
//! - [`act`] does what steps say: it calls models and other services, and has models held; [`room`] bounds how much at once.
//!
//! Each job belongs to a shard, each shard to one scheduler, which alone writes its records (crate `weft-journal`). What is answered
//! is in the log.

pub(crate) mod act;
mod check;
pub(crate) mod definition;
mod error;
mod forward;
mod grpc;
mod json;
mod list;
mod options;
mod programs;
mod room;
mod run;
mod shards;
mod start;
mod submit;
mod table;
pub(crate) mod template;
#[cfg(test)]
mod tests;
mod verbs;
mod view;
mod watch;

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Semaphore;
use weft_journal::{Journal, Keys};
use weft_runtime::Tasks;
use weft_saga::Millis;
use weft_telemetry::{JobMetrics, Scope};
use weft_types::{RateLimit, SystemClock};

use act::Actor;
use forward::Peers;
use programs::{Program, Programs};
use room::Room;
use table::Table;

pub use definition::Targets;
pub(crate) use grpc::Jobs;
pub use options::Options;

/// Watches of jobs at once on one scheduler.
const MAX_WATCHES: usize = 10_000;

/// What all jobs of a scheduler share.
pub(crate) struct Shared {
    /// The scheduler's id.
    id: String,
    /// Its address, as other schedulers dial it.
    address: String,
    options: Options,
    journal: Journal,
    keys: Keys,
    actor: Actor,
    table: Table,
    programs: Programs,
    room: Room,
    peers: Peers,
    watchers: Arc<Semaphore>,
    reading: Semaphore,
    metrics: JobMetrics,
    scope: Scope,
    tasks: Tasks,
    /// Whether to say again that a job waits for values.
    waits: RateLimit,
}

fn millis() -> Millis {
    let since = SystemClock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
