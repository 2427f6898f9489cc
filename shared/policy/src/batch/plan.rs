//! How the queue would drain, for each size that the next batch could have: the one that keeps the most deadlines is taken.

use std::time::Instant;

use super::Waiting;
use crate::Latency;

/// A request as the plan sees it.
#[derive(Clone, Copy)]
struct Request {
    rows: usize,
    /// Seconds until its deadline.
    remaining: f64,
}

/// A queue whose drain can be estimated.
pub(super) struct Plan<'a> {
    requests: Vec<Request>,
    rows: usize,
    /// Requests and rows of the most urgent band, which come first.
    urgent: (usize, usize),
    /// The longest that any of them has left, in seconds.
    longest: f64,
    max_rows: usize,
    latency: &'a Latency,
    executors: f64,
    now: Instant,
}

/// What the next batch should be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Best {
    /// How many requests from the front.
    pub(super) count: usize,
    /// Requests among them that do not make it.
    pub(super) given_up: Vec<usize>,
    /// Whether all that waits is sure to make it, without a second batch.
    pub(super) safe: bool,
}

/// How a drain would go.
#[derive(Clone, Copy, Default)]
struct Drain {
    /// Deadlines of the most urgent band that would be kept.
    urgent: f64,
    /// Deadlines that would be kept, of all bands.
    kept: f64,
    /// Seconds until the last batch has run.
    end: f64,
    /// Seconds of executors that it takes.
    work: f64,
    /// Requests in the first batch.
    first: usize,
    /// Whether one of those might not make it.
    risky: bool,
    batches: usize,
    /// How many are passed over for the first batch.
    given_up: usize,
    /// What it was made for: the rows of the first batch, and whether that was `strict`.
    of: (usize, bool),
}

impl<'a> Plan<'a> {
    /// `None` before it is known how long the model takes.
    pub(super) fn new(
        max_rows: usize,
        waiting: impl Iterator<Item = Waiting>,
        latency: &'a Latency,
        (executors, now): (usize, Instant),
    ) -> Option<Self> {
        latency.expect(1, now)?;
        let max_rows = max_rows.max(1);
        let mut plan = Self {
            requests: Vec::with_capacity(waiting.size_hint().0),
            rows: 0,
            urgent: (0, 0),
            longest: 0.0,
            max_rows,
            latency,
            executors: executors.max(1) as f64,
            now,
        };
        let mut band = None;
        for waiting in waiting {
            let (rows, remaining) = (waiting.rows.max(1), waiting.deadline.remaining(now).as_secs_f64());
            plan.rows = plan.rows.saturating_add(rows);
            if *band.get_or_insert(waiting.band) == waiting.band {
                plan.urgent = (plan.requests.len() + 1, plan.rows);
            }
            plan.longest = plan.longest.max(remaining);
            plan.requests.push(Request { rows, remaining });
        }
        Some(plan)
    }

    /// The best of these: as many rows as fit; the same without those that might not make it, where others would take their
    /// places; the most urgent band alone; the powers of two below; and the first `preferred` requests, which win where they
    /// are as good.
    pub(super) fn best(&self, preferred: Option<usize>) -> Best {
        let first = self.requests.first().map_or(1, |request| request.rows);
        let all = self.max_rows.max(first).min(self.rows);
        let full = self.drain(all, false);
        if preferred.is_none() && full.kept >= self.requests.len() as f64 {
            return self.told(full, full.batches == 1);
        }
        let urgent = Some(self.urgent.1).filter(|rows| *rows < all);
        let smaller = std::iter::successors(Some(1usize), |rows| rows.checked_mul(2)).take_while(|rows| *rows < all);
        let strict = full.risky.then(|| self.drain(all, true));
        let drains = smaller.chain(urgent).map(|rows| self.drain(rows, false)).chain(strict);
        let better =
            |best: Drain, other: Drain| if self.worth(&other, &full) > self.worth(&best, &full) { other } else { best };
        let best = drains.fold(full, better);
        let preferred = preferred.map(|count| self.requests.iter().take(count).map(|request| request.rows).sum());
        let preferred = preferred.map(|rows| self.drain(rows, false)).filter(|drain| drain.kept >= best.kept);
        self.told(preferred.unwrap_or(best), false)
    }

    fn told(&self, drain: Drain, safe: bool) -> Best {
        // A first batch that is not filled would be a smaller one without the first of those: then the rest may make it.
        let count = if drain.batches > 1 { drain.given_up } else { drain.given_up.min(1) };
        let (rows, strict) = drain.of;
        let bounds = self.bounds(self.seconds(rows));
        let is_passed_over = |request: &Request| passes_over(chance(request.remaining, bounds), strict);
        let passed = self.requests.iter().enumerate().filter(|(_, request)| is_passed_over(request));
        Best { count: drain.first, given_up: passed.map(|(index, _)| index).take(count).collect(), safe }
    }

    /// Between what times something is over that is expected after `seconds`.
    fn bounds(&self, seconds: f64) -> (f64, f64) {
        let (low, high) = self.latency.scatter();
        (seconds * low, seconds * high)
    }

    /// What a drain is worth beside that of full batches: where several bands wait, the deadlines of the most urgent one before
    /// all else; then those of all, less those of later requests, which find the executors busy for longer. For each moment
    /// these are the rows that a full batch would have served in it, once there are as many as fit into one.
    fn worth(&self, drain: &Drain, full: &Drain) -> (f64, f64, usize) {
        // In eighths, since a hair's breadth more for one band does not outweigh the others.
        let urgent = if self.urgent.1 < self.rows { (drain.urgent * 8.0).round() } else { 0.0 };
        let busy = (self.rows as f64 / self.max_rows as f64).min(1.0);
        let pace = self.max_rows as f64 / self.seconds(self.max_rows).max(f64::MIN_POSITIVE);
        let worth = drain.kept - (drain.work - full.work) * pace * busy;
        // Of equals the larger batch: rounded, or the last bits of the sums would decide.
        (urgent, (worth * 1e6).round(), drain.first)
    }

    fn seconds(&self, rows: usize) -> f64 {
        self.latency.expect(rows, self.now).unwrap_or_default().as_secs_f64()
    }

    /// The drain by a first batch of so many rows and then full ones. What would be too late is passed over; with `strict` also
    /// what might be, from the first batch.
    fn drain(&self, rows: usize, strict: bool) -> Drain {
        let full = self.seconds(self.max_rows);
        let begin = self.seconds(rows);
        let mut drain = Drain { end: begin, work: begin, batches: 1, of: (rows, strict), ..Drain::default() };
        let (mut left, mut room, mut empty) = (self.rows, rows, true);
        let mut bounds = self.bounds(drain.end);
        for (index, request) in self.requests.iter().enumerate() {
            if request.rows > room && !empty {
                let step = if left < self.max_rows { self.seconds(left) } else { full };
                drain.end += step / self.executors;
                drain.work += step;
                drain.batches += 1;
                (room, empty) = (self.max_rows, true);
                bounds = self.bounds(drain.end);
                if bounds.0 > self.longest {
                    break;
                }
            }
            left = left.saturating_sub(request.rows);
            let chance = chance(request.remaining, bounds);
            let first = drain.batches == 1;
            if passes_over(chance, strict && first) {
                drain.given_up += usize::from(first);
                continue;
            }
            if first {
                drain.first += 1;
                drain.risky |= chance < 1.0;
            }
            drain.kept += chance;
            if index < self.urgent.0 {
                drain.urgent = drain.kept;
            }
            (room, empty) = (room.saturating_sub(request.rows), false);
        }
        drain
    }
}

/// Whether a request is left out of a batch: it will be too late, or with `strict` it might be.
fn passes_over(chance: f64, strict: bool) -> bool {
    chance <= 0.0 || (strict && chance < 1.0)
}

/// How likely what ends between the bounds ends within `remaining`.
fn chance(remaining: f64, (least, most): (f64, f64)) -> f64 {
    if remaining >= most {
        1.0
    } else if remaining <= least {
        0.0
    } else {
        (remaining - least) / (most - least)
    }
}
