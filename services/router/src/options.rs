//! What can be set about a router.

use std::time::Duration;

use weft_client::ChannelOptions;
use weft_policy::eject;
use weft_policy::retry::{BudgetSettings, Policy};

/// The router's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The zone that the router stands in; empty when there is none. Calls stay in it while its replicas have no more to do than others.
    pub zone: String,
    /// How to connect to workers.
    pub channel: ChannelOptions,
    /// The limits of one call's retries.
    pub retry: Policy,
    /// What all calls may spend on retries together.
    pub retry_budget: BudgetSettings,
    /// When a replica is ejected whose calls fail.
    pub replica_ejection: eject::Settings,
    /// When a worker is ejected that does not answer.
    pub worker_ejection: eject::Settings,
    /// Bytes that kept answers may take, of all routes together.
    pub cache_bytes: u64,
    /// Calls that may wait for their turn at once, over all models.
    pub queue_limit: usize,
    /// Bytes of their messages.
    pub queue_bytes: usize,
    /// How long calls may wait for their turn before some are shed, when none gets it sooner.
    pub target_wait: Duration,
    /// Calls that may wait at once for a replica to become ready; one more is refused.
    pub max_holds: usize,
    /// How long a held call waits before it looks again, when nothing has changed: connections recover by themselves.
    pub hold_poll: Duration,
    /// How long a request on a stream may wait for a replica: those behind it wait as well.
    pub stream_hold: Duration,
    /// Messages under way in each direction of a stream.
    pub stream_buffer: usize,
    /// Different models that one stream may call.
    pub max_stream_models: usize,
    /// Models that get a health name of their own.
    pub max_health_names: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            zone: String::new(),
            channel: ChannelOptions::default(),
            retry: Policy::default(),
            retry_budget: BudgetSettings::default(),
            replica_ejection: eject::Settings::default(),
            // Silence is no matter of statistics, so more may be ejected for it; and a health check ends it, so it may be tried early.
            worker_ejection: eject::Settings {
                base_ejection_time: Duration::from_secs(1),
                max_ejection_percent: 50,
                ..eject::Settings::default()
            },
            // A thousand answers of a picture's size, or some hundred thousand small ones.
            cache_bytes: 64 << 20,
            // Beyond, most would have to wait for seconds.
            queue_limit: 4_096,
            queue_bytes: 512 << 20,
            // Five times what the field takes inside a data centre: models take longer than services do.
            target_wait: Duration::from_millis(25),
            max_holds: 1_024,
            hold_poll: Duration::from_millis(100),
            stream_hold: Duration::from_secs(30),
            stream_buffer: 16,
            max_stream_models: 16,
            max_health_names: 64,
        }
    }
}
