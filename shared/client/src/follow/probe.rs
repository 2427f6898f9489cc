//! Asks workers whose registrations vanished whether they are still there.

use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weft_proto::health::HealthCheckRequest;
use weft_proto::health::health_check_response::ServingStatus;
use weft_proto::health::health_client::HealthClient;
use weft_runtime::Tasks;
use weft_types::SystemClock;

use super::retain::{Standing, Suspect};
use super::{Inner, lock};
use crate::channel::ConnectFailure;
use crate::{Channel, ChannelOptions};

/// How workers are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    /// The limit of one question, connecting included.
    pub(super) timeout: Duration,
    /// The longest time between two questions to a worker; each is drawn from its upper half.
    pub(super) interval: Duration,
    /// The same after a first question that was not answered.
    pub(super) retry: Duration,
    /// Questions under way at once to workers that calls may be sent to: those that vanished now, and those that answer.
    pub(super) at_once: usize,
    /// The same to workers that have fallen silent, apart, so that nobody else waits behind their timeouts.
    pub(super) silent_at_once: usize,
    /// How long one that has fallen silent is asked on.
    pub(super) patience: Duration,
}

impl Default for Probing {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            interval: Duration::from_secs(4),
            retry: Duration::from_millis(500),
            // 5,000 that are silent take up two rounds of five timeouts each.
            at_once: 1_024,
            silent_at_once: 256,
            patience: Duration::from_secs(300),
        }
    }
}

/// Unanswered questions in a row that make a worker silent, and refused ones that end it.
const MAX_UNANSWERED: u32 = 2;

/// What a worker said.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Serving,
    /// Nothing, in time, or not that it serves.
    None,
    /// Nobody listens at the address: the process has ended.
    Refused,
}

/// Who can ask at the same time.
struct Permits {
    attended: Semaphore,
    silent: Semaphore,
}

/// A suspect, and what it has said so far.
struct Asked {
    suspect: Suspect,
    standing: Standing,
    /// When it was last known to be there.
    served: Instant,
    unanswered: u32,
    refused: u32,
    /// Until the next question.
    wait: Duration,
}

impl Asked {
    fn new(suspect: Suspect, now: Instant) -> Self {
        Self { suspect, standing: Standing::Present, served: now, unanswered: 0, refused: 0, wait: Duration::ZERO }
    }

    fn take(&mut self, answer: Answer, probing: &Probing, now: Instant) {
        (self.unanswered, self.refused) = match answer {
            Answer::Serving => (0, 0),
            Answer::None => (self.unanswered + 1, 0),
            // Nobody can be served there at this moment, so it is silent at once.
            Answer::Refused => (MAX_UNANSWERED, self.refused + 1),
        };
        if self.unanswered == 0 {
            self.served = now;
        }
        let is_over = now.saturating_duration_since(self.served) >= probing.patience;
        self.standing = if self.unanswered < MAX_UNANSWERED {
            Standing::Present
        } else if self.refused >= MAX_UNANSWERED || is_over {
            Standing::Gone
        } else {
            Standing::Silent
        };
        // One more answer settles it.
        let unsure = self.refused > 0 || (1..MAX_UNANSWERED).contains(&self.unanswered);
        let wait = if unsure { probing.retry } else { probing.interval };
        // Drawn from the upper half, so that those who vanished together are not asked together for ever.
        self.wait = wait.mul_f64(1.0 - rand::random::<f64>() / 2.0);
    }
}

/// Asks every suspect until it is gone or registered again.
pub(super) async fn run(inner: &Inner, probing: Probing, tasks: &Tasks, end: CancellationToken) {
    let permits = Permits { attended: Semaphore::new(probing.at_once), silent: Semaphore::new(probing.silent_at_once) };
    let question = |asked| question(asked, &permits, &probing, tasks);
    let mut asking = FuturesUnordered::new();
    loop {
        let (suspects, now) = (std::mem::take(&mut *lock(&inner.suspects)), SystemClock::now());
        asking.extend(suspects.into_iter().map(|suspect| question(Asked::new(suspect, now))));
        // Cancelling a branch loses nothing: a suspect stays listed, an asked one stays in the set.
        tokio::select! {
            () = inner.suspected.notified() => {}
            Some(first) = asking.next(), if !asking.is_empty() => {
                // Many answer at once, and each judgement copies a map.
                let mut found = vec![first];
                while let Some(Some(more)) = asking.next().now_or_never() {
                    found.push(more);
                }
                asking.extend(judge(inner, found).into_iter().map(question));
            }
            () = end.cancelled() => return,
        }
    }
}

/// Takes over the answers, and returns whose next ones still matter.
fn judge(inner: &Inner, found: Vec<Asked>) -> Vec<Asked> {
    let standings: Vec<_> = found.iter().map(|asked| (&asked.suspect, asked.standing)).collect();
    inner.judge(&standings);
    let writer = lock(&inner.writer);
    found.into_iter().filter(|asked| writer.keeps(&asked.suspect)).collect()
}

/// Asks one worker once, when it is time.
async fn question(mut asked: Asked, permits: &Permits, probing: &Probing, tasks: &Tasks) -> Asked {
    tokio::time::sleep(asked.wait).await;
    let permits = if asked.standing == Standing::Silent { &permits.silent } else { &permits.attended };
    // Never closed, so the permit is there.
    let _permit = permits.acquire().await;
    let answer = tokio::time::timeout(probing.timeout, ask(&asked.suspect.address, tasks)).await;
    asked.take(answer.unwrap_or(Answer::None), probing, SystemClock::now());
    asked
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_decide_what_becomes_of_a_worker() {
        use Answer::{None as Silence, Refused, Serving};
        use Standing::{Gone, Present, Silent};
        // What it says, the seconds before it, and what it is then.
        let courses: &[&[(Answer, u64, Standing)]] = &[
            &[(Serving, 0, Present), (Silence, 4, Present), (Serving, 1, Present), (Silence, 4, Present)],
            &[(Silence, 0, Present), (Silence, 1, Silent), (Silence, 4, Silent), (Serving, 4, Present)],
            &[(Refused, 0, Silent), (Refused, 1, Gone)],
            &[(Refused, 0, Silent), (Serving, 1, Present), (Refused, 4, Silent), (Refused, 1, Gone)],
            &[(Refused, 0, Silent), (Silence, 1, Silent), (Refused, 4, Silent), (Refused, 1, Gone)],
            &[(Silence, 0, Present), (Refused, 1, Silent), (Refused, 1, Gone)],
            &[(Silence, 1, Present), (Silence, 298, Silent), (Silence, 1, Gone)],
            &[(Silence, 1, Present), (Silence, 298, Silent), (Serving, 1, Present), (Silence, 300, Present)],
        ];
        for course in courses {
            let mut now = SystemClock::now();
            let suspect = Suspect { worker: "w1".parse().expect("a name"), address: String::new(), revision: 1 };
            let mut asked = Asked::new(suspect, now);
            for (at, (answer, seconds, standing)) in course.iter().enumerate() {
                now += Duration::from_secs(*seconds);
                asked.take(*answer, &Probing::default(), now);
                assert_eq!(asked.standing, *standing, "after {} of {course:?}", at + 1);
            }
        }
    }
}
