//! What can be set about a scheduler.

use std::time::Duration;

/// Which models are served without anybody asking for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelControl {
    /// Every model that a worker offers gets one replica, unless its desired state was applied.
    #[default]
    Auto,
    /// Only models whose desired state was applied.
    Explicit,
}

/// The scheduler's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its identity among the schedulers.
    pub id: String,
    /// host:port of its gRPC server, as routers shall dial it.
    pub address: String,
    /// Which models are served without anybody asking for them.
    pub model_control: ModelControl,
    /// How long the leadership outlives a leader that vanished; whole seconds. Shorter finds a successor sooner, and
    /// makes more leaders step down for a slow store.
    pub election_ttl: Duration,
    /// How long after its last look the leader looks again although nothing has changed: failed loads become due by time
    /// alone.
    pub resync: Duration,
    /// How long a version is kept away from a worker where it failed to load once; doubles with each further failure.
    pub failure_backoff: Duration,
    /// The longest that it is kept away.
    pub failure_backoff_cap: Duration,
    /// How long a failure is remembered.
    pub failure_memory: Duration,
    /// How long the store's history is kept before the leader compacts it; zero keeps it for ever. Whoever was cut off for
    /// longer lists everything again.
    pub history: Duration,
    /// Of jobs.
    pub jobs: crate::jobs::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: "scheduler".to_owned(),
            address: String::new(),
            model_control: ModelControl::default(),
            election_ttl: Duration::from_secs(5),
            resync: Duration::from_secs(2),
            failure_backoff: Duration::from_secs(10),
            failure_backoff_cap: Duration::from_secs(300),
            failure_memory: Duration::from_secs(900),
            history: Duration::from_secs(300),
            jobs: crate::jobs::Options::default(),
        }
    }
}
