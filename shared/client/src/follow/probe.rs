//! Asks workers whose registrations vanished whether they are still there.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weft_proto::health::HealthCheckRequest;
use weft_proto::health::health_check_response::ServingStatus;
use weft_proto::health::health_client::HealthClient;
use weft_runtime::Tasks;

use super::retain::Suspect;
use super::{Inner, lock};
use crate::channel::ConnectFailure;
use crate::{Channel, ChannelOptions};

/// How workers are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    /// The limit of one question, connecting included.
    pub(super) timeout: Duration,
    /// The longest time between two questions to a worker that answers; each is drawn from its upper half.
    pub(super) interval: Duration,
    /// The same after a question that was not answered.
    pub(super) retry: Duration,
    /// Questions under way at once.
    pub(super) at_once: usize,
}

impl Default for Probing {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(4),
            retry: Duration::from_millis(500),
            at_once: 64,
        }
    }
}

/// Unanswered questions in a row that end the keeping of a worker.
const MAX_UNANSWERED: u32 = 2;

/// What a worker said.
enum Answer {
    Serving,
    /// Nothing, in time, or not that it serves.
    None,
    /// Nobody listens at the address: the process has ended.
    Refused,
}

/// Asks every suspect until it is gone or registered again.
pub(super) async fn run(inner: &Inner, probing: Probing, tasks: &Tasks, end: CancellationToken) {
    let permits = Semaphore::new(probing.at_once);
    let mut asked = FuturesUnordered::new();
    loop {
        let suspects = std::mem::take(&mut *lock(&inner.suspects));
        asked.extend(suspects.into_iter().map(|suspect| watch(inner, suspect, &permits, (probing, tasks))));
        // Cancelling a branch loses nothing: a suspect stays listed, an asked one stays in the set.
        tokio::select! {
            () = inner.suspected.notified() => {}
            Some(gone) = asked.next(), if !asked.is_empty() => {
                // Many end at once, and each end copies a map.
                let mut gone = Vec::from_iter(gone);
                while let Some(Some(more)) = futures_util::FutureExt::now_or_never(asked.next()) {
                    gone.extend(more);
                }
                inner.end(&gone);
            }
            () = end.cancelled() => return,
        }
    }
}

/// Asks one worker until it is found gone; `None` when it is registered again.
async fn watch(
    inner: &Inner,
    suspect: Suspect,
    permits: &Semaphore,
    (probing, tasks): (Probing, &Tasks),
) -> Option<Suspect> {
    let mut unanswered = 0;
    loop {
        let answer = {
            // Never closed.
            let _permit = permits.acquire().await.ok()?;
            tokio::time::timeout(probing.timeout, ask(&suspect.address, tasks)).await.unwrap_or(Answer::None)
        };
        if !lock(&inner.writer).keeps(&suspect) {
            return None;
        }
        match answer {
            Answer::Serving => unanswered = 0,
            Answer::None => unanswered += 1,
            Answer::Refused => unanswered = MAX_UNANSWERED,
        }
        if unanswered >= MAX_UNANSWERED {
            return Some(suspect);
        }
        let wait = if unanswered == 0 { probing.interval } else { probing.retry };
        // Drawn from the upper half, so that those who vanished together are not asked together for ever.
        tokio::time::sleep(wait.mul_f64(1.0 - rand::random::<f64>() / 2.0)).await;
    }
}

/// One question, over a connection of its own: an old one could be alive in the system's buffers alone.
async fn ask(address: &str, tasks: &Tasks) -> Answer {
    let channel = match Channel::dial(address, ChannelOptions::default(), tasks).await {
        Ok(channel) => channel,
        Err(ConnectFailure::Refused | ConnectFailure::Address) => return Answer::Refused,
        Err(ConnectFailure::Other(_)) => return Answer::None,
    };
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await;
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => Answer::Serving,
        _ => Answer::None,
    }
}
