//! The words every part of Weft shares: deadlines, the clock, names and the closed error set.
//!
//! Nothing here does IO and nothing here depends on another Weft crate.

mod backoff;
mod clock;
mod deadline;
mod error;
mod name;
mod rate_limit;
pub mod timeout;

pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SystemClock};
pub use deadline::{Deadline, MIN_RESERVE};
pub use error::{Error, Reason, Result, Retry};
pub use name::{InvalidName, ModelName, Version, WorkerId};
pub use rate_limit::RateLimit;

/// The build's version, as reported by `weft version`, `ServerMetadata` and every membership record.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
