//! The task that asks ejected workers whether they are back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use weft_client::{Channel, ChannelOptions};
use weft_proto::health::HealthCheckRequest;
use weft_proto::health::health_client::HealthClient;
use weft_types::SystemClock;

use crate::endpoint::Endpoint;
use crate::{Inner, Router};

/// Time between two questions to a worker, and the limit of each.
const INTERVAL: Duration = Duration::from_secs(1);
/// Questions under way at once.
const AT_ONCE: usize = 64;

impl Router {
    /// Lets ejected workers return when they answer, until the process ends.
    pub(crate) async fn probe(self) {
        let inner = &*self.inner;
        let finishing = inner.tasks.finishing();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = finishing.cancelled() => return,
            }
            // A process that ends breaks its questions off.
            tokio::select! {
                () = round(inner) => {}
                () = finishing.cancelled() => return,
            }
        }
    }
}

/// Asks every worker once whose ejection has lasted long enough.
async fn round(inner: &Inner) {
    let now = SystemClock::now();
    let hosts = inner.table.load();
    let is_due = |endpoint: &&Arc<Endpoint>| endpoint.record.is_over(&inner.outliers.workers, now);
    let due: Vec<Arc<Endpoint>> = hosts.hosts.values().map(|host| &host.endpoint).filter(is_due).cloned().collect();
    drop(hosts);
    let asked =
        futures_util::stream::iter(due).map(async |endpoint| answers(inner, &endpoint).await.then_some(endpoint));
    let mut back = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
    while let Some(answered) = back.next().await {
        if let Some(endpoint) = answered {
            restore(inner, &endpoint, SystemClock::now());
        }
    }
}

/// Whether a worker answers, whatever it says: it was ejected for saying nothing, and which of its replicas are ready is told elsewhere. It
/// is asked over a connection of its own: an old one could be alive in the system's buffers alone.
async fn answers(inner: &Inner, endpoint: &Endpoint) -> bool {
    let options = ChannelOptions { connections: 1, ..inner.options.channel.clone() };
    let Ok(channel) = Channel::new(endpoint.channel.address(), options, &inner.tasks) else { return false };
    let mut health = HealthClient::new(channel);
    let answer = tokio::time::timeout(INTERVAL, health.check(HealthCheckRequest { service: String::new() })).await;
    answer.is_ok_and(|answer| answer.is_ok())
}

/// Lets calls go to a worker again, slowly at first.
fn restore(inner: &Inner, endpoint: &Arc<Endpoint>, now: Instant) {
    endpoint.record.end();
    let table = inner.table.load();
    let ready = table.models().flat_map(|(_, model)| model.ready.values());
    let replicas = ready.flat_map(|ready| &ready.replicas).filter(|one| Arc::ptr_eq(&one.endpoint, endpoint));
    replicas.for_each(|replica| replica.pace.start_slowly(now));
    tracing::info!(worker = %endpoint.worker, "an ejected worker answers again");
}
