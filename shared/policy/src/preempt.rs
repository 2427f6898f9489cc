//! Preemption of executions: whether one that runs is stopped in favour of a request that waits.
//!
//! An execution of a tensor model has no state worth keeping: what is stopped begins again, and its time so far is lost. So nothing is stopped
//! as long as the request can wait for an executor to become free by itself, and nothing whose own callers would be late for it. That is
//! preemption at the last moment, as limited-preemption scheduling has it (Bertogna & Baruah, "Limited Preemption EDF Scheduling of Sporadic Task
//! Systems", IEEE Transactions on Industrial Informatics, 2010), with the difference that bands come before deadlines. Sequences of language
//! models keep their state and change places at every step instead, and a step is stopped at once: [`crate::step`].

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use weft_types::Deadline;

/// A decision that waits for an execution to end is made again after so long at the earliest.
const LOOK: Duration = Duration::from_millis(1);

/// What was stopped so often is not stopped again: the time that is lost each time would be worth more than the answers it is lost for.
pub(crate) const STOPS: u32 = 8;

/// How long an execution takes from its beginning to its end, as far as the past tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takes {
    /// On average.
    pub expected: Duration,
    /// The longest of late.
    pub most: Duration,
}

/// One of those that wait while nothing is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgent {
    /// Its priority band: the lowest number goes first.
    pub band: u64,
    /// When it came.
    pub queued_at: Instant,
    /// By when its caller must have the answer.
    pub deadline: Deadline,
    /// What those before it take, once there is a place for the first of them.
    pub ahead: Duration,
    /// What it takes once it is begun; `None` where that is not known. Half of the time that its caller gave it is then set aside.
    pub takes: Option<Takes>,
}

/// An execution that may be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Tells it from the others.
    pub id: u64,
    /// The most urgent band of its requests.
    pub band: u64,
    /// When it began.
    pub began: Instant,
    /// The earliest deadline of its requests.
    pub deadline: Deadline,
    /// How often the one of its requests that was stopped most was.
    pub stops: u32,
    /// What it takes; `None` where that is not known. It is then thought to take as long again as it has.
    pub takes: Option<Takes>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Stop this one and put its requests back.
    Stop(u64),
    /// Ask again at this instant, or when something has changed.
    WaitUntil(Instant),
    /// Ask again when something has changed.
    Leave,
}

impl Urgent {
    /// What it needs at the least from when there is a place, and what is set aside for it: a tenth of its time more than it takes, for
    /// the way back and for timers that come late.
    fn needs(&self) -> (Duration, Duration) {
        let unknown = self.deadline.remaining(self.queued_at) / 2;
        let own =
            self.takes.map_or((Duration::ZERO, unknown), |takes| (takes.expected, takes.most.max(takes.expected)));
        let spare = self.deadline.remaining(self.queued_at) / 10;
        (self.ahead.saturating_add(own.0), self.ahead.saturating_add(own.1).saturating_add(spare))
    }

    /// The last moment at which something can be stopped for it; `None` where that would be in vain.
    fn last(&self, stop: Duration, now: Instant) -> Option<Instant> {
        let (remaining, (likely, aside)) = (self.deadline.remaining(now), self.needs());
        let spare = remaining.saturating_sub(aside).saturating_sub(stop);
        if remaining > stop.saturating_add(likely) { now.checked_add(spare) } else { None }
    }
}

impl Running {
    /// When it will have ended by itself. One that has outlived what was known of it goes on for as long again.
    fn ends(&self, now: Instant) -> Instant {
        let elapsed = now.saturating_duration_since(self.began);
        let left = match self.takes {
            Some(takes) if takes.most > elapsed => takes.most - elapsed,
            _ => elapsed,
        };
        now.checked_add(left).unwrap_or(now)
    }

    /// What it takes when it is begun again.
    fn again(&self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.began);
        self.takes.map_or(elapsed * 2, |takes| takes.most.max(elapsed))
    }
}

/// Decides whether one of `running` makes way for those that wait, of which the first decide over the others of their band: `waiting` is
/// in the order of service. `stop` is how long an execution goes on after it was told to stop.
///
/// The one that has the least time to spare counts, who is not always the first. Of those that may be stopped it is the one of the lowest band, of these the one that has run for the shortest time.
pub fn decide(
    waiting: impl Iterator<Item = Urgent> + Clone,
    running: impl Iterator<Item = Running> + Clone,
    stop: Duration,
    now: Instant,
) -> Decision {
    let Some(band) = waiting.clone().next().map(|first| first.band) else { return Decision::Leave };
    let lower = running.clone().filter(|one| one.band > band);
    let Some(free) = running.map(|one| one.ends(now)).min() else { return Decision::Leave };
    let alike = waiting.take_while(|one| one.band == band);
    let tightest = alike.filter_map(|one| Some((one.last(stop, now)?, one.needs().0))).min();
    let Some((last, likely)) = tightest.filter(|_| lower.clone().next().is_some()) else { return Decision::Leave };
    if free <= last && now < last {
        return Decision::WaitUntil(free.max(now + LOOK).min(last));
    }
    // What ends sooner than it would stop gains nothing.
    let away = stop.saturating_add(likely);
    let may = |one: &Running| {
        one.stops < STOPS
            && one.deadline.remaining(now) >= away.saturating_add(one.again(now))
            && one.ends(now) > now + stop
    };
    lower
        .filter(may)
        .min_by_key(|one| (Reverse(one.band), Reverse(one.began), one.id))
        .map_or(Decision::Leave, |one| Decision::Stop(one.id))
}

#[cfg(test)]
mod tests;
