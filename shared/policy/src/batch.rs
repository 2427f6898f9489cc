//! Dynamic batching for one replica: which waiting requests run together, and when.

mod plan;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use weft_types::{Deadline, MIN_RESERVE};

use crate::Latency;
use plan::Plan;

/// How a model is batched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The most rows of one execution; 0 when each request is executed alone.
    pub max_batch_rows: usize,
    /// Sizes at which the model runs best, in any order: a batch of such a size does not wait to grow.
    pub preferred: Vec<usize>,
    /// The longest that a request waits for others while an executor is idle; zero never waits.
    pub max_queue_delay: Duration,
}

/// A request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its rows along the batch axis.
    pub rows: usize,
    /// Its priority band: the lowest number is served first.
    pub band: u64,
    /// By when its caller must have the answer.
    pub deadline: Deadline,
    /// When it came.
    pub queued_at: Instant,
}

/// What to do with the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Execute the first so many requests together.
    Run(usize),
    /// The requests at these indices, in rising order, have expired or cannot be answered in time any more: answer them,
    /// remove them and ask again.
    GiveUp(Vec<usize>),
    /// Ask again at this instant, or when a request arrives.
    WaitUntil(Instant),
    /// Ask again when a request arrives.
    Idle,
}

/// What a decision has to know beside the requests that it is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// How many executions run at once; 0 counts as 1.
    pub executors: usize,
    /// Requests that wait as well: what these do not use, others do.
    pub others: usize,
}

/// Decides what an idle executor does with `waiting`, in order of priority band and then deadline.
///
/// The more of the queue it is shown, the further ahead it looks; it reads each request a few times, so a long queue costs
/// little. A batch is the front of the queue, less those that no longer make it: these are answered at once, so that what
/// is executed is not executed in vain. No request is given up for one of a lower band, and the last one that waits is given up
/// for nothing but its deadline: an estimate that is too high is corrected by trying only.
///
/// Never waits when that cannot help: when the batch cannot grow or has a preferred size, when another row would cost as much
/// as its own execution, when a deadline would be at risk, or before it is known how long the model takes.
pub fn decide(
    settings: &Settings,
    waiting: impl Iterator<Item = Waiting> + Clone,
    latency: &Latency,
    beside: Beside,
    now: Instant,
) -> Decision {
    let late = late(waiting.clone(), latency, beside.others, now);
    if !late.is_empty() {
        return Decision::GiveUp(late);
    }
    let front = front(settings.max_batch_rows, waiting.clone());
    if front.count == 0 {
        return Decision::Idle;
    }
    let preferred = preferred_count(settings, &front, waiting.clone());
    let Some(plan) = Plan::new(settings.max_batch_rows, waiting.clone(), latency, (beside.executors, now)) else {
        return Decision::Run(preferred.unwrap_or(front.count));
    };
    let best = plan.best(preferred);
    if beside.others == 0 && waiting.clone().nth(1).is_none() && !best.given_up.is_empty() {
        return Decision::Run(1);
    }
    if !best.given_up.is_empty() {
        return Decision::GiveUp(best.given_up);
    }
    let may_wait = best.safe && best.count == front.count && !front.full && preferred.is_none();
    match may_wait.then(|| latest_start(settings, waiting, latency, (front.rows, now))).flatten() {
        Some(start) if start > now => Decision::WaitUntil(start),
        _ => Decision::Run(best.count),
    }
}

/// Those that have expired, or else those that no decision can save, except one where nothing else waits.
fn late(waiting: impl Iterator<Item = Waiting> + Clone, latency: &Latency, others: usize, now: Instant) -> Vec<usize> {
    let least = latency.at_least(1, now).unwrap_or_default();
    // What ends sooner than a row takes is late for certain. One look tells that of nearly every queue that none does.
    let soonest = now.checked_add(least).unwrap_or(now);
    if !waiting.clone().any(|request| request.deadline.instant() <= soonest || request.rows > 1) {
        return Vec::new();
    }
    let indices = |is_late: &dyn Fn(&Waiting) -> bool| -> Vec<usize> {
        waiting.clone().enumerate().filter(|(_, request)| is_late(request)).map(|(index, _)| index).collect()
    };
    let expired = indices(&|request| request.deadline.expired(now));
    if !expired.is_empty() {
        return expired;
    }
    let mut hopeless = indices(&|request| latency.at_least(request.rows, now) > Some(request.deadline.remaining(now)));
    if others == 0 && hopeless.len() == waiting.clone().count() {
        let longest = waiting.enumerate().max_by_key(|(_, request)| request.deadline).map(|(index, _)| index);
        hopeless.retain(|index| Some(*index) != longest);
    }
    hopeless
}

/// The front of the queue that would fit into one execution.
struct Front {
    count: usize,
    rows: usize,
    /// Whether it cannot grow: at the limit, or the next request does not fit.
    full: bool,
}

fn front(max_rows: usize, waiting: impl Iterator<Item = Waiting>) -> Front {
    let mut front = Front { count: 0, rows: 0, full: false };
    for request in waiting {
        // An empty request still takes a place, or any number of them would count as one batch.
        let rows = front.rows.saturating_add(request.rows.max(1));
        if front.count > 0 && rows > max_rows {
            front.full = true;
            break;
        }
        front = Front { count: front.count + 1, rows, full: rows >= max_rows };
        if front.full {
            break;
        }
    }
    front
}

/// The longest part of the front that has a preferred size; a front at the very limit is taken as it is.
fn preferred_count(settings: &Settings, front: &Front, waiting: impl Iterator<Item = Waiting>) -> Option<usize> {
    if front.rows >= settings.max_batch_rows {
        return None;
    }
    let sizes = waiting.take(front.count).scan(0usize, |rows, request| {
        *rows = rows.saturating_add(request.rows.max(1));
        Some(*rows)
    });
    let fitting = sizes.zip(1..).filter(|(rows, _)| settings.preferred.contains(rows));
    fitting.last().map(|(_, count)| count)
}

/// The instant at which waiting for company must end. `None` when waiting is off or its price is not known yet.
///
/// A request that joins saves the time of an execution of its own, less what its row adds to this one. Waiting longer than
/// that would cost more than it can bring: who stops there never pays more than twice what was best (ski rental; Karlin et
/// al., "Competitive Snoopy Caching", 1988). It ends before any deadline is at risk even from a full batch.
fn latest_start(
    settings: &Settings,
    batch: impl Iterator<Item = Waiting>,
    latency: &Latency,
    (rows, now): (usize, Instant),
) -> Option<Instant> {
    if settings.max_queue_delay.is_zero() {
        return None;
    }
    let expect = |rows| latency.expect(rows, now);
    let saved = expect(rows)?.saturating_add(expect(1)?).saturating_sub(expect(rows.saturating_add(1))?);
    let delay = settings.max_queue_delay.min(saved);
    // The reserve covers the timer, which may fire late.
    let needed = latency.at_most(settings.max_batch_rows, now)?.saturating_add(MIN_RESERVE);
    let starts = batch.map(|request| {
        let start = request.deadline.instant().checked_sub(needed).unwrap_or(now);
        request.queued_at.checked_add(delay).map_or(start, |delayed| delayed.min(start))
    });
    starts.min()
}
