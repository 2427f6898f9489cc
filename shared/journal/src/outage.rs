//! What every shard could say over and over while the store does not answer: said of one of them once in a while.

use std::time::{Duration, Instant};

use weft_types::RateLimit;

/// How often each is said at most; the rest is for those who look for it.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What does not work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// To read a shard that was won.
    Load,
    /// To learn what became of a write.
    Write,
    /// To give a shard up.
    Release,
}

/// What was said of it.
pub(crate) struct Outage {
    load: RateLimit,
    write: RateLimit,
    release: RateLimit,
}

impl Outage {
    pub(crate) fn new() -> Self {
        let limit = || RateLimit::new(SAID_EVERY);
        Self { load: limit(), write: limit(), release: limit() }
    }

    pub(crate) fn tell(&self, trouble: Trouble, shard: u8, error: &weft_store::Error, now: Instant) {
        let (limit, what) = match trouble {
            Trouble::Load => (&self.load, "a shard of the job log cannot be read yet"),
            Trouble::Write => (&self.write, "the fate of a write to the job log is not known yet"),
            Trouble::Release => (&self.release, "a shard was not given up yet"),
        };
        if limit.allows(now) {
            tracing::warn!(%error, shard, "{what}");
        } else {
            tracing::debug!(%error, shard, "{what}");
        }
    }
}
