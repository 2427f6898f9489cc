//! A job's transitions on their way into the log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::RngExt as _;
use weft_journal::{CommitError, Record};
use weft_saga::{Changed, Event, Fault, JobState, Refused};
use weft_types::{Backoff, Error, Reason, SystemClock};

use super::super::millis;
use super::super::table::Command;
use super::{COMMANDS, MAX_EVENTS, News, Runner, Stop, attempt};

/// The pauses before what could not be written is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a transition is not in the log.
enum Unwritten {
    Log(CommitError),
    /// The job would end, and the values that its output is made of are out of reach.
    Output(Fault),
}

/// What became of each event.
type Outcomes = Vec<Result<(), Refused>>;

impl Runner {
    /// Has the first record of a new job committed. Nobody has seen the job before, so it is given up when that fails.
    pub(super) async fn submit(&mut self) -> Result<Arc<Record>, CommitError> {
        self.begin_spans();
        self.shard.commit(None, Arc::clone(&self.record)).await?;
        self.newest.send_replace(Some(Arc::clone(&self.record)));
        self.shared.metrics.record_transition();
        Ok(Arc::clone(&self.record))
    }

    pub(super) async fn write(&self, after: &Arc<Record>) -> Result<(), CommitError> {
        let (before, after) = (Arc::clone(&self.record), Arc::clone(after));
        if after.job.is_deciding(&self.program.definition) {
            self.shard.commit_bound(before, after).await
        } else {
            self.shard.commit(Some(before), after).await
        }
    }

    fn begin_spans(&mut self) {
        let mut record = Record::clone(&self.record);
        self.spans.begin(&self.shared.scope, &self.program, &mut record);
        self.record = Arc::new(record);
    }

    /// Applies what happened to a copy, has the copy committed and goes on from it. Who waits is answered after that, with what is in
    /// the log. An error means that the shard is lost.
    pub(super) async fn take(&mut self, mut news: Vec<News>) -> Result<(), Stop> {
        let outcomes = loop {
            match self.transit(&mut news).await {
                // Whatever has joined them meanwhile.
                Err(CommitError::TooLarge(_)) if is_mixed(&news) => return self.take_apart(news).await,
                Err(CommitError::TooLarge(why)) if self.leave_outputs(&mut news, &why) => {}
                outcomes => break outcomes,
            }
        };
        match outcomes {
            Ok(outcomes) => self.answer(news, outcomes),
            // The event has not happened: other slots are looked for.
            Err(CommitError::SlotsTaken) => self.collisions += 1,
            Err(CommitError::Fenced) => return Err(Stop::Fenced),
            Err(CommitError::TooLarge(why)) if news.iter().any(News::is_asked) => refuse(news, &why),
            // A job on its way back has more room, and needs less.
            Err(CommitError::TooLarge(why)) if !self.record.job.decided && self.record.job.undo_since.is_none() => {
                return self.turn_back(&why).await;
            }
            Err(failed) => {
                tracing::error!(job = %self.record.id, %failed, "a transition cannot be written");
                return Err(Stop::Defect);
            }
        }
        Ok(())
    }

    /// Leaves what was brought out of events that are too large for the log with it; false where they bring nothing.
    fn leave_outputs(&self, news: &mut [News], why: &str) -> bool {
        let definition = &self.program.definition;
        let left = news
            .iter_mut()
            .map(|one| attempt::leave_output(&mut one.event, why, definition))
            .filter(|left| *left)
            .count();
        if left > 0 {
            tracing::warn!(job = %self.record.id, why, "a transition is too large for the log: it goes without what it brings");
        }
        left > 0
    }

    /// Has the job undone, for it has become too large to go on. What it has under way is undone with it, whatever came of that.
    async fn turn_back(&mut self, why: &str) -> Result<(), Stop> {
        let reason = format!("it has become too large for the log: {why}");
        let mut turn = vec![Event::Cancel { reason }.into()];
        loop {
            match self.transit(&mut turn).await {
                Ok(outcomes) => {
                    // What joined it may have been refused, and says nothing of it.
                    let has_turned = outcomes.first().is_some_and(Result::is_ok);
                    self.answer(turn, outcomes);
                    return if has_turned { Ok(()) } else { Err(Stop::Defect) };
                }
                Err(CommitError::Fenced) => return Err(Stop::Fenced),
                Err(CommitError::TooLarge(why)) if turn.len() > 1 => refuse(turn.split_off(1), &why),
                // What has happened cannot be written down, and must not be forgotten.
                Err(_) => return Err(Stop::Defect),
            }
        }
    }

    /// What has happened, and then what a caller wants: what cannot be taken of the one says nothing of the other.
    fn take_apart(&mut self, news: Vec<News>) -> BoxFuture<'_, Result<(), Stop>> {
        let (asked, happened): (Vec<News>, Vec<News>) = news.into_iter().partition(News::is_asked);
        Box::pin(async move {
            self.take(happened).await?;
            self.take(asked).await
        })
    }

    /// One transition, however long it cannot be written. What happens meanwhile goes into it, and it is decided anew each time: when the
    /// job's deadline passes or somebody cancels it, it becomes one that turns the job back, for which a full store has room.
    async fn transit(&mut self, news: &mut Vec<News>) -> Result<Outcomes, CommitError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let (after, outcomes, is_later) = self.decide(news);
            if after.job.revision == self.record.job.revision {
                if is_later {
                    self.record = Arc::new(after);
                    self.collisions = 0;
                }
                return Ok(outcomes);
            }
            match self.commit(after).await {
                Ok(()) => {
                    self.collisions = 0;
                    return Ok(outcomes);
                }
                Err(Unwritten::Log(error @ (CommitError::Full | CommitError::Refused(_)))) => {
                    tracing::debug!(job = %self.record.id, %error, "a transition waits");
                    // Other jobs that are taken over may be on their way back, and find room.
                    self.permit = None;
                }
                Err(Unwritten::Log(error)) => return Err(error),
                Err(Unwritten::Output(fault)) if self.shared.waits.allows(SystemClock::now()) => {
                    tracing::warn!(job = %self.record.id, why = fault.message, "a job waits for what its output is made of");
                }
                Err(Unwritten::Output(fault)) => {
                    tracing::debug!(job = %self.record.id, why = fault.message, "a job waits for what its output is made of");
                }
            }
            self.linger(news, backoff.next(rand::random())).await;
        }
    }

    /// The record after these events, and whether no more of it has changed than when it is looked at again.
    fn decide(&self, news: &[News]) -> (Record, Outcomes, bool) {
        let (mut after, mut is_later) = (Record::clone(&self.record), false);
        let apply = |News { event, .. }: &News| {
            let outcome = after.job.apply(&self.program.definition, event, millis(), rand::rng().random());
            if let Err(refused) = &outcome {
                tracing::debug!(job = %self.record.id, ?event, %refused, "an event changed nothing");
            }
            is_later |= outcome == Ok(Changed::Later);
            outcome.map(drop)
        };
        let outcomes = news.iter().map(apply).collect();
        (after, outcomes, is_later)
    }

    /// Waits for a while, for something more to happen, or for the job's deadline. What is under way goes on.
    async fn linger(&mut self, news: &mut Vec<News>, pause: Duration) {
        // Slots that were free then are looked for again.
        news.retain(|news| !matches!(news.event, Event::Reserved { .. }));
        let left = self.record.job.deadline.saturating_sub(millis());
        let pause = if left > 0 { pause.min(Duration::from_millis(left)) } else { pause };
        tokio::select! {
            biased;
            event = self.flight.next(), if news.len() < MAX_EVENTS => news.extend(event.map(News::from)),
            command = self.commands.recv(), if news.len() < MAX_EVENTS + COMMANDS => match command {
                Some(Command { event, reply }) => news.push(News { event, reply: Some(reply) }),
                // The entry has gone, and this task is about to.
                None => std::future::pending().await,
            },
            () = tokio::time::sleep(pause) => {}
        }
        if news.is_empty() {
            news.push(Event::Tick.into());
        }
    }

    fn answer(&self, news: Vec<News>, outcomes: Outcomes) {
        for (reply, outcome) in
            news.into_iter().zip(outcomes).filter_map(|(news, outcome)| Some((news.reply?, outcome)))
        {
            let answer = outcome.map(|()| Arc::clone(&self.record));
            // Who asked may have gone.
            let _ = reply.send(answer.map_err(|refused| Error::new(Reason::PreconditionFailed, refused.to_string())));
        }
    }

    /// Has a transition committed and goes on from it.
    async fn commit(&mut self, mut after: Record) -> Result<(), Unwritten> {
        self.spans.begin(&self.shared.scope, &self.program, &mut after);
        if after.job.state == JobState::Completed {
            match self.shared.actor.output(&self.program, attempt::facts(&after)).await {
                Ok(output) => after.output = output,
                Err(fault) if fault.is_unavailable() => return Err(Unwritten::Output(fault)),
                // The work is done and cannot be undone any more: the job has ended, without an output.
                Err(fault) => after.job.failure = Some(fault),
            }
        }
        let after = Arc::new(after);
        self.write(&after).await.map_err(Unwritten::Log)?;
        if after.job.stuck.is_some() && self.record.job.stuck.is_none() {
            let why = after.job.stuck.as_deref().unwrap_or_default();
            tracing::warn!(job = %after.id, definition = after.definition_name, why, "a job waits for an operator");
        }
        self.record = after;
        self.newest.send_replace(Some(Arc::clone(&self.record)));
        self.shared.metrics.record_transition();
        Ok(())
    }
}

/// Whether a caller's wish stands beside what has happened.
fn is_mixed(news: &[News]) -> bool {
    news.iter().any(News::is_asked) && !news.iter().all(News::is_asked)
}

/// What callers bring is not taken, and the job is as it was.
fn refuse(news: Vec<News>, why: &str) {
    for reply in news.into_iter().filter_map(|news| news.reply) {
        // Who asked may have gone.
        let _ = reply.send(Err(Error::new(Reason::PreconditionFailed, format!("the job has no room for it: {why}"))));
    }
}
