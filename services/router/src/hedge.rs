//! Attempts beside each other: a call that takes long goes to another replica as well, and the first good answer ends the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tonic::{Response, Status};
use weft_policy::hedge::{Attempts, Delay, Pushback, Settings, Verdict};
use weft_proto::message::Message;
use weft_proto::{error_of, forbids_retry, status_of};
use weft_runtime::Call;
use weft_telemetry::ModelMetrics;
use weft_types::{Error, SystemClock};

use crate::Inner;
use crate::dispatch::{self, Answered, Chosen, acquire, attempt, draw, is_unprocessed};
use crate::endpoint::Endpoint;
use crate::identify::Wanted;
use crate::latencies::Learned;

/// Attempts at a call as its route hedges them. Dropping the future ends them all, and so does its first good answer: each gives
/// back its place and tells its worker.
pub(crate) async fn hedged(
    router: &Inner,
    call: &Call,
    wanted: &Wanted<'_>,
    message: &Message,
    settings: Settings,
) -> Result<Answered, Status> {
    let mut tried = Vec::new();
    let first = acquire(router, wanted, &mut tried).await.map_err(|error| status_of(&error))?;
    let now = SystemClock::now();
    let sample = Sample::begin(router, &first, settings.delay, now);
    let (delay, median) = sample.expect(settings.delay, now);
    let mut race = Race {
        router,
        call,
        wanted,
        message,
        attempts: Attempts::begin(settings.max_attempts, delay, median, now),
        running: FuturesUnordered::new(),
        over: Arc::default(),
        tried,
        unpaid: 0,
        hedges: Hedges { metrics: first.metrics.clone(), sent: 0 },
        sample,
        last: None,
    };
    race.send(first, 0);
    race.run().await
}

/// The attempts of one call.
struct Race<'a> {
    router: &'a Inner,
    call: &'a Call,
    wanted: &'a Wanted<'a>,
    message: &'a Message,
    attempts: Attempts,
    running: FuturesUnordered<BoxFuture<'a, Ended>>,
    /// Set before those that are still under way are given up.
    over: Arc<AtomicBool>,
    tried: Vec<Arc<Endpoint>>,
    /// Attempts that nothing came of: those that take their places cost nothing.
    unpaid: u32,
    hedges: Hedges,
    sample: Sample,
    last: Option<Status>,
}

/// An attempt that has ended.
struct Ended {
    chosen: Chosen,
    /// Attempts that were made before it.
    before: u32,
    outcome: Result<Response<Message>, Status>,
}

impl<'a> Race<'a> {
    fn send(&mut self, mut chosen: Chosen, before: u32) {
        self.tried.push(Arc::clone(chosen.permit.endpoint()));
        chosen.permit.race(&self.over);
        let (router, call, wanted, message) = (self.router, self.call, self.wanted, self.message.clone());
        self.running.push(Box::pin(async move {
            let outcome = attempt(router, call, wanted, &chosen, (message, before)).await;
            Ended { chosen, before, outcome }
        }));
    }

    async fn run(mut self) -> Result<Answered, Status> {
        loop {
            let due = self.attempts.due(self.wanted.deadline);
            let timer = async { tokio::time::sleep_until(due.unwrap_or_else(SystemClock::now).into()).await };
            // An answer that is there goes before an attempt that is due.
            tokio::select! {
                biased;
                Some(ended) = self.running.next() => {
                    if let Some(outcome) = self.settle(ended) {
                        self.over.store(true, Ordering::Relaxed);
                        return outcome;
                    }
                }
                () = timer, if due.is_some() => self.next().await?,
                // The last failure is the call's (gRFC A6). There is one, or an attempt would be under way.
                else => return Err(self.last.take().unwrap_or_else(|| Status::internal("no attempt was made"))),
            }
        }
    }

    /// What an attempt's end makes of the call; `None` while others may still answer it.
    fn settle(&mut self, Ended { chosen, before, outcome }: Ended) -> Option<Result<Answered, Status>> {
        let status = match outcome {
            Ok(response) => {
                self.sample.answered(before == 0);
                return Some(Ok(chosen.answered(response)));
            }
            Err(status) => status,
        };
        if before == 0 {
            self.sample.discard();
        }
        let (error, now) = (error_of(&status), SystemClock::now());
        if is_unprocessed(&error) {
            self.unpaid += 1;
            self.attempts.undone(now);
        } else if self.attempts.failed(&error, pushback(&status, &error), now) == Verdict::Fatal {
            return Some(Err(status));
        }
        self.last = Some(status);
        None
    }

    /// Sends the attempt that is due, if a replica is there for it and it is paid for.
    async fn next(&mut self) -> Result<(), Status> {
        let chosen = match draw(self.router, self.wanted, &self.tried).map_err(|error| status_of(&error))? {
            Some(chosen) => chosen,
            // Those under way may still answer, and if one fails the next is due again.
            None if !self.running.is_empty() => {
                self.attempts.postpone();
                return Ok(());
            }
            // Nothing is under way: it waits for a replica as any call does.
            None => acquire(self.router, self.wanted, &mut self.tried).await.map_err(|error| status_of(&error))?,
        };
        let now = SystemClock::now();
        match self.unpaid.checked_sub(1) {
            Some(rest) => self.unpaid = rest,
            None if dispatch::lock(self.router).withdraw(now) => self.hedges.sent += 1,
            None => {
                self.attempts.stop();
                return Ok(());
            }
        }
        let before = self.attempts.made();
        self.attempts.sent(now);
        self.send(chosen, before);
        Ok(())
    }
}

fn pushback(status: &Status, error: &Error) -> Pushback {
    if forbids_retry(status) {
        return Pushback::Never;
    }
    error.pushback().map_or(Pushback::None, Pushback::After)
}

/// Counts a call's hedges when it ends, however it ends.
struct Hedges {
    metrics: ModelMetrics,
    sent: u32,
}

impl Drop for Hedges {
    fn drop(&mut self) {
        if self.sent > 0 {
            self.metrics.record_hedges(self.sent);
        }
    }
}

/// What the first attempt tells of the time that calls take. The others are none of a fair sample: they are there because it was slow.
struct Sample {
    /// Gone with the replica, if that went meanwhile.
    latencies: Option<Arc<Learned>>,
    /// What counts as long.
    share: f32,
    began: Instant,
}

impl Sample {
    fn begin(router: &Inner, first: &Chosen, delay: Delay, now: Instant) -> Self {
        let table = router.table.load();
        let ready = table.model(&first.model).and_then(|model| model.ready.get(&first.version));
        let share = match delay {
            Delay::Fixed(_) => 0.5,
            Delay::Quantile(share) => share,
        };
        Self { latencies: ready.map(|ready| Arc::clone(&ready.latencies)), share, began: now }
    }

    /// The delay before a hedge, and what half of the calls take at most.
    fn expect(&self, delay: Delay, now: Instant) -> (Option<std::time::Duration>, Option<std::time::Duration>) {
        let mut known = self.latencies.as_ref().map(|known| known.lock());
        match (&mut known, delay) {
            (Some(known), _) => (delay.given(known, now), known.quantile(0.5, now)),
            (None, Delay::Fixed(delay)) => (Some(delay), None),
            (None, Delay::Quantile(_)) => (None, None),
        }
    }

    /// The call is answered, by its first attempt or by another.
    fn answered(&mut self, is_first: bool) {
        if is_first && let Some(latencies) = self.latencies.take() {
            let now = SystemClock::now();
            latencies.lock().observe(now.saturating_duration_since(self.began), now);
        }
    }

    /// The first attempt failed, which says nothing of what an answer takes.
    fn discard(&mut self) {
        self.latencies = None;
    }
}

impl Drop for Sample {
    /// The first attempt was beaten, or the call was given up: it would have taken longer.
    fn drop(&mut self) {
        if let Some(latencies) = &self.latencies {
            let now = SystemClock::now();
            latencies.lock().observe_longer(now.saturating_duration_since(self.began), self.share, now);
        }
    }
}
