//! One open job: a task that takes what happens to it in turn, has each transition committed, and only then acts on it.
//!
//! The record is the job's only state. What is under way is compared with what the engine wants after every commit, so a job that was
//! taken over goes on as it would have gone on at its first scheduler. Jobs wait for the log side by side: the journal writes what has
//! gathered in one transaction.

mod attempt;
mod commit;
mod flight;
pub(super) mod parked;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rand::RngExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use weft_journal::{CommitError, Record, Shard};
use weft_saga::{Event, Fault, JobState, Millis, Wants};
use weft_types::SystemClock;

use super::table::{Command, Entry, Handle, Reply};
use super::{Program, Shared, millis};
use attempt::Spans;
use flight::{Flight, Work};
use parked::Parked;

/// Verbs that wait for one job; one more is refused.
const COMMANDS: usize = 16;
/// How many events go into one transition.
const MAX_EVENTS: usize = 32;
/// How often slots are chosen anew when others were faster, before the step waits for its backoff.
const MAX_COLLISIONS: u32 = 3;
/// How soon a scheduler that may not act looks again whether it may.
const FENCED_LOOK: Duration = Duration::from_millis(100);
/// The shortest pause before time is looked at again.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// The longest: the clock by which a moment was written may have run ahead.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How a job comes here.
pub(super) enum First {
    /// It is new: told when its first record is in the log.
    Submitted(oneshot::Sender<Result<Arc<Record>, CommitError>>),
    /// Another scheduler ran it. The permit is held until the take-over is in the log, or waits for room there: jobs behind it may make some.
    TakenOver(OwnedSemaphorePermit),
}

/// One event, and who waits for its commit.
struct News {
    event: Event,
    reply: Option<Reply>,
}

impl News {
    /// Whether somebody waits for it.
    const fn is_asked(&self) -> bool {
        self.reply.is_some()
    }
}

/// Why a job is not run here any more.
enum Stop {
    /// The shard is another scheduler's: whatever happens now is not for this one to say.
    Fenced,
    /// The log will never take what comes next.
    Defect,
}

impl From<Event> for News {
    fn from(event: Event) -> Self {
        Self { event, reply: None }
    }
}

/// Runs one job.
pub(super) struct Runner {
    shared: Arc<Shared>,
    shard: Shard,
    program: Arc<Program>,
    /// As it is in the log; as it shall be, until the first commit.
    record: Arc<Record>,
    newest: watch::Sender<Option<Arc<Record>>>,
    commands: mpsc::Receiver<Command>,
    flight: Flight,
    spans: Spans,
    collisions: u32,
    /// While it is taken over.
    permit: Option<OwnedSemaphorePermit>,
}

/// Puts a job into the table and runs it; false where its shard is not this scheduler's any more.
pub(super) fn open(
    shared: &Arc<Shared>,
    shard: &Shard,
    program: &Arc<Program>,
    record: Arc<Record>,
    first: First,
) -> bool {
    let (id, epoch) = (record.id.clone(), shard.epoch());
    shared.table.insert(&id, epoch, || {
        let (newest, seen) = watch::channel(None);
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let runner = Runner {
            shared: Arc::clone(shared),
            shard: shard.clone(),
            program: Arc::clone(program),
            record,
            newest,
            commands: receiver,
            flight: Flight::new(),
            spans: Spans::default(),
            collisions: 0,
            permit: None,
        };
        let task = shared.tasks.attach(runner.run(first));
        let handle = Handle { shard: shard.clone(), program: Some(Arc::clone(program)), commands, newest: seen };
        Entry { handle, _task: task }
    })
}

impl Runner {
    /// Runs the job to its end. A panic is its own: the job then waits for an operator, or for its next scheduler, and others go on.
    async fn run(mut self, first: First) {
        match AssertUnwindSafe(self.live(first)).catch_unwind().await {
            Ok(Ok(())) => {}
            // The job is somebody else's now, but not unknown: its entry stays until the shard goes.
            Ok(Err(Stop::Fenced)) => return,
            Ok(Err(Stop::Defect)) => return self.park().await,
            Err(_) => {
                tracing::error!(job = %self.record.id, "the code that runs a job panicked");
                return self.park().await;
            }
        }
        let (shared, id, epoch) = (Arc::clone(&self.shared), self.record.id.clone(), self.shard.epoch());
        drop(self);
        shared.table.remove(&id, epoch);
    }

    /// Lets the job stand still until its shard goes, or an operator ends it.
    async fn park(mut self) {
        (self.flight, self.permit) = (Flight::new(), None);
        let Self { shared, shard, record, newest, mut commands, .. } = self;
        if newest.borrow().is_none() {
            // It was never in the log.
            commands.close();
            while commands.recv().await.is_some() {}
            return shared.table.remove(&record.id, shard.epoch());
        }
        Parked { shared, shard, record, newest, commands }.stand("a defect of its scheduler stopped it").await;
    }

    async fn live(&mut self, first: First) -> Result<(), Stop> {
        if !self.begin(first).await? {
            return Ok(());
        }
        while !self.record.job.state.has_ended() {
            let news = self.next().await;
            self.take(news).await?;
        }
        end(&self.shared, &self.record);
        Ok(())
    }

    /// Has the first record committed; false where that failed, and nobody has seen the job.
    async fn begin(&mut self, first: First) -> Result<bool, Stop> {
        match first {
            First::Submitted(reply) => {
                let outcome = self.submit().await;
                let begun = outcome.is_ok();
                // A caller that has gone away finds the job by its key.
                let _ = reply.send(outcome);
                Ok(begun)
            }
            First::TakenOver(permit) => {
                self.newest.send_replace(Some(Arc::clone(&self.record)));
                self.shared.metrics.record_takeover();
                self.permit = Some(permit);
                let begun = self.take(vec![Event::TakenOver.into()]).await;
                self.permit = None;
                begun.map(|()| true)
            }
        }
    }

    /// Waits for what happens next, while what is wanted is under way.
    async fn next(&mut self) -> Vec<News> {
        loop {
            let now = SystemClock::now();
            let wants = self.record.job.wants(&self.program.definition, millis());
            let may_act = self.shard.holds(now);
            if may_act {
                self.steer(&wants);
            }
            let pause = if may_act { wants.wake_at.map(until) } else { Some(FENCED_LOOK) };
            let news = tokio::select! {
                // Results first: a verb that comes at the same moment is judged by what is known. Then verbs, and slots when nothing else is there.
                biased;
                event = self.flight.next() => event.map(News::from),
                command = self.commands.recv() => match command {
                    Some(Command { event, reply }) => Some(News { event, reply: Some(reply) }),
                    // The entry has gone, and this task is about to.
                    None => std::future::pending().await,
                },
                // It goes alone: others may be faster, and then it has not happened.
                () = std::future::ready(()), if may_act && !wants.reservations.is_empty() => {
                    return self.reserve(&wants).map(News::from).into_iter().collect();
                }
                () = sleep(pause) => may_act.then(|| Event::Tick.into()),
            };
            if let Some(news) = news {
                return self.gather(news);
            }
        }
    }

    /// What has happened at the same time goes into the same transition.
    fn gather(&mut self, first: News) -> Vec<News> {
        let mut news = vec![first];
        while news.len() < MAX_EVENTS {
            let Some(event) = self.flight.ready() else { break };
            news.push(event.into());
        }
        news
    }

    /// Free slots for a step that reserves, where there is one. They are its own once the event is in the log.
    fn reserve(&mut self, wants: &Wants) -> Option<Event> {
        let (step, item) = *wants.reservations.first()?;
        let pools = self.program.pools(step);
        let chosen = self.shared.journal.free_slots(pools, self.record.holds(), rand::rng().random());
        Some(match chosen {
            Ok(holds) if self.collisions < MAX_COLLISIONS => Event::Reserved { step, item, holds },
            Ok(_) => Event::NoSlots { step, item, fault: Fault::new("RESOURCE_EXHAUSTED", "others took the slots") },
            Err(missing) => Event::NoSlots { step, item, fault: Fault::new("RESOURCE_EXHAUSTED", missing.to_string()) },
        })
    }

    fn steer(&mut self, wants: &Wants) {
        let Self { shared, shard, program, record, flight, spans, .. } = self;
        flight.steer(wants, |work, landing| {
            let context = attempt::Context {
                shared: Arc::clone(shared),
                shard: shard.clone(),
                program: Arc::clone(program),
                record: Arc::clone(record),
            };
            match &work {
                Work::Attempt(wanted) => {
                    let span = spans.take(&shared.scope, record, wanted);
                    shared.tasks.attach(attempt::attempt(context, *wanted, span, landing))
                }
                Work::Rule(step) => shared.tasks.attach(attempt::rule(context, *step, landing)),
            }
        });
    }
}

/// What remains to be told of an ended job. Its last record is the newest one that watchers see.
fn end(shared: &Shared, record: &Record) {
    let took = record.job.ended_at.unwrap_or(record.job.created_at).saturating_sub(record.job.created_at);
    shared.metrics.record_end(state_name(record.job.state), Duration::from_millis(took));
}

const fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Compensating => "compensating",
        JobState::Completed => "completed",
        JobState::Compensated => "compensated",
        JobState::Abandoned => "abandoned",
    }
}

/// How long it is until a moment of the wall clock.
fn until(at: Millis) -> Duration {
    Duration::from_millis(at.saturating_sub(millis())).clamp(MIN_PAUSE, MAX_PAUSE)
}

/// The same moment on the monotonic clock.
fn instant(at: Millis) -> Instant {
    let now = SystemClock::now();
    now.checked_add(Duration::from_millis(at.saturating_sub(millis()))).unwrap_or(now)
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
