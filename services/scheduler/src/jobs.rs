//! Jobs: sagas over models and outside services (`weft.jobs.v1`).
//!
//! - `grpc`: the methods; `check` looks at their fields, and `forward` passes on what is another scheduler's.
//! - `definition`, `template`: what a job is made of, checked and ready to be run; `plans` keeps it.
//! - `submit`, `verbs`, `watch`, `list`, `view`: what callers do and see.
//! - `shards`: which jobs are this scheduler's; `table` holds them, and `run` runs each.
//! - `act`: what a step does; `room` bounds how much is done at once.
//!
//! Each job belongs to a shard, each shard to one scheduler, which alone writes its records (crate `weft-journal`). What is answered
//! is in the log.

mod check;
mod forward;
mod grpc;
mod list;
mod plans;
mod room;
mod run;
mod shards;
mod submit;
mod table;
mod verbs;
mod view;
mod watch;

use std::sync::Arc;

use tokio::sync::Semaphore;
use weft_client::{Keys, Mesh};
use weft_journal::Journal;
use weft_runtime::Tasks;
use weft_saga::Millis;
use weft_store::{Maintain, Store};
use weft_telemetry::{JobMetrics, Scope};
use weft_types::SystemClock;

pub use grpc::Jobs;
