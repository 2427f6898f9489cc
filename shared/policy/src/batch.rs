//! Dynamic batching for one replica: which waiting requests run together, and when.

use std::time::{Duration, Instant};

use weft_types::{Deadline, MIN_RESERVE};

use crate::Latency;

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
    /// By when its caller must have the answer.
    pub deadline: Deadline,
    /// When it came.
    pub queued_at: Instant,
}

/// What to do with the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Execute the first so many requests together.
    Run(usize),
    /// The request at this index has expired: answer it, remove it and ask again.
    Expired(usize),
    /// Ask again at this instant, or when a request arrives.
    WaitUntil(Instant),
    /// Ask again when a request arrives or an executor becomes free.
    Idle,
}

/// The front of the queue that would fit into one execution.
struct Front {
    count: usize,
    rows: usize,
    /// Whether it cannot grow: at the limit, or the next request does not fit.
    full: bool,
}

/// Decides over `waiting`, in order of priority band and then deadline.
///
/// A batch is always the front of the queue, so no request is passed over for one with a later deadline; the first
/// request runs alone if it has more rows than the limit. Never waits when that cannot help: when the batch cannot grow,
/// has a preferred size, would miss its next deadline, or before it is known how long the model takes.
pub fn decide(
    settings: &Settings,
    waiting: impl Iterator<Item = Waiting> + Clone,
    latency: &Latency,
    idle: bool,
    now: Instant,
) -> Decision {
    let front = front(settings.max_batch_rows, waiting.clone());
    let batch = waiting.take(front.count);
    if let Some(index) = batch.clone().position(|request| request.deadline.expired(now)) {
        return Decision::Expired(index);
    }
    if front.count == 0 || !idle {
        return Decision::Idle;
    }
    if let Some(count) = preferred_count(settings, &front, batch.clone()) {
        return Decision::Run(count);
    }
    let wait = if front.full { None } else { latest_start(settings, batch.clone(), latency, now) };
    match wait {
        Some(start) if start > now => Decision::WaitUntil(start),
        _ => Decision::Run(best_count(front.count, &batch, latency, now)),
    }
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
fn preferred_count(settings: &Settings, front: &Front, batch: impl Iterator<Item = Waiting>) -> Option<usize> {
    if front.rows >= settings.max_batch_rows {
        return None;
    }
    let sizes = batch.scan(0usize, |rows, request| {
        *rows = rows.saturating_add(request.rows.max(1));
        Some(*rows)
    });
    let fitting = sizes.zip(1..).filter(|(rows, _)| settings.preferred.contains(rows));
    fitting.last().map(|(_, count)| count)
}

/// The instant at which waiting for company must end: the first delay used up, or the last moment at which a full batch
/// would still meet the next deadline. `None` when waiting is off or its price is not known yet.
fn latest_start(
    settings: &Settings,
    batch: impl Iterator<Item = Waiting>,
    latency: &Latency,
    now: Instant,
) -> Option<Instant> {
    if settings.max_queue_delay.is_zero() {
        return None;
    }
    // The reserve covers the timer, which may fire late.
    let needed = latency.expect(settings.max_batch_rows, now)?.saturating_add(MIN_RESERVE);
    let starts = batch.map(|request| {
        let start = request.deadline.instant().checked_sub(needed).unwrap_or(now);
        request.queued_at.checked_add(settings.max_queue_delay).map_or(start, |delayed| delayed.min(start))
    });
    starts.min()
}

/// How many requests from the front to run so that the most of them meet their deadlines, those left for the next batch
/// included; of equals the most. Tries the powers of two and all, so a long queue costs little.
fn best_count(all: usize, batch: &(impl Iterator<Item = Waiting> + Clone), latency: &Latency, now: Instant) -> usize {
    let sizes = std::iter::successors(Some(1usize), |count| count.checked_mul(2)).take_while(|count| *count < all);
    let kept = |count: usize| Some((kept(count, batch.clone(), latency, now)?, count));
    sizes.chain([all]).filter_map(kept).max().map_or(all, |(_, count)| count)
}

/// How many of the batch meet their deadlines when the first `count` run now and the others right after them.
fn kept(count: usize, batch: impl Iterator<Item = Waiting> + Clone, latency: &Latency, now: Instant) -> Option<usize> {
    let rows = |part: &mut dyn Iterator<Item = Waiting>| part.map(|request| request.rows.max(1)).sum::<usize>();
    let first = latency.expect(rows(&mut batch.clone().take(count)), now)?;
    let second = first.saturating_add(latency.expect(rows(&mut batch.clone().skip(count)), now)?);
    let needed =
        batch.zip(0usize..).map(|(request, index)| (request.deadline, if index < count { first } else { second }));
    Some(needed.filter(|(deadline, needed)| deadline.remaining(now) >= *needed).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_types::SystemClock;

    const MS: Duration = Duration::from_millis(1);

    /// A linear model: 10 ms and 1 ms for each row.
    fn latency(now: Instant) -> Latency {
        let mut latency = Latency::default();
        for rows in [1usize, 2, 4, 8, 16, 32, 64] {
            latency.observe(rows, 10 * MS + MS * u32::try_from(rows).expect("small"), now);
        }
        latency
    }

    fn settings(max_batch_rows: usize, preferred: &[usize], delay: u32) -> Settings {
        Settings { max_batch_rows, preferred: preferred.to_vec(), max_queue_delay: MS * delay }
    }

    /// Rows, deadline in ms from now, queued ms ago.
    type Given = (usize, u32, u32);

    fn queue(now: Instant, requests: &[Given]) -> Vec<Waiting> {
        let waiting = |(rows, deadline, ago): &Given| Waiting {
            rows: *rows,
            deadline: Deadline::after(now, MS * *deadline),
            queued_at: now - MS * *ago,
        };
        requests.iter().map(waiting).collect()
    }

    #[test]
    fn decides_as_the_table_says() {
        // Far enough from the clock's origin that instants before it exist.
        let now = SystemClock::now() + Duration::from_secs(60);
        let (long, none) = (10_000, Latency::default());
        type Case<'a> = (&'a str, Settings, &'a [Given], Decision);
        let table: &[Case<'_>] = &[
            ("nothing waits", settings(8, &[], 5), &[], Decision::Idle),
            ("not batched", settings(0, &[], 5), &[(3, long, 0), (1, long, 0)], Decision::Run(1)),
            ("no delay", settings(8, &[], 0), &[(1, long, 0), (1, long, 0)], Decision::Run(2)),
            ("delay", settings(8, &[], 5), &[(1, long, 2), (1, long, 3)], Decision::WaitUntil(now + 2 * MS)),
            ("delay used up", settings(8, &[], 5), &[(1, long, 0), (1, long, 5)], Decision::Run(2)),
            ("full", settings(4, &[], 5), &[(2, long, 0), (2, long, 0), (1, long, 0)], Decision::Run(2)),
            ("the next does not fit", settings(4, &[], 5), &[(3, long, 0), (2, long, 0)], Decision::Run(1)),
            ("larger than the limit", settings(4, &[], 5), &[(9, long, 0), (1, long, 0)], Decision::Run(1)),
            ("preferred", settings(8, &[2, 4], 5), &[(2, long, 0), (2, long, 0), (1, long, 0)], Decision::Run(2)),
            ("deadline before delay", settings(8, &[], 50), &[(1, 40, 0)], Decision::WaitUntil(now + 21 * MS)),
            ("deadline too near to wait", settings(8, &[], 50), &[(1, 19, 0)], Decision::Run(1)),
            ("expired", settings(8, &[], 5), &[(1, 9, 0), (1, 0, 0)], Decision::Expired(1)),
            ("empty requests", settings(2, &[], 5), &[(0, long, 0), (0, long, 0), (0, long, 0)], Decision::Run(2)),
        ];
        for (name, settings, requests, expected) in table {
            let queue = queue(now, requests);
            assert_eq!(decide(settings, queue.iter().copied(), &latency(now), true, now), *expected, "{name}");
            if let Decision::WaitUntil(_) = expected {
                assert_eq!(
                    decide(settings, queue.iter().copied(), &none, true, now),
                    Decision::Run(queue.len()),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn a_busy_executor_only_sorts_out_what_expired() {
        let now = SystemClock::now() + Duration::from_secs(60);
        let busy =
            |requests: &[_]| decide(&settings(8, &[], 0), queue(now, requests).into_iter(), &latency(now), false, now);
        assert_eq!(busy(&[(1, 5, 0)]), Decision::Idle);
        assert_eq!(busy(&[(1, 0, 0)]), Decision::Expired(0));
    }

    /// Eight rows together take 18 ms, which is too long for the first two; those alone take 12 ms, and the rest 16 ms.
    #[test]
    fn a_smaller_batch_keeps_more_deadlines() {
        let now = SystemClock::now() + Duration::from_secs(60);
        let mut requests = vec![(1, 13, 0); 2];
        requests.extend([(1, 100, 0); 6]);
        let decision = decide(&settings(8, &[], 5), queue(now, &requests).into_iter(), &latency(now), true, now);
        assert_eq!(decision, Decision::Run(2));
    }

    proptest! {
        #[test]
        fn a_batch_fits_and_waiting_ends(
            requests in proptest::collection::vec((0usize..12, 0u32..60, 0u32..20), 0..40),
            max in 0usize..16,
            preferred in proptest::collection::vec(1usize..16, 0..3),
            delay in 0u32..30,
            known: bool,
        ) {
            let now = SystemClock::now() + Duration::from_secs(60);
            let mut queue = queue(now, &requests);
            queue.sort_by_key(|request| request.deadline);
            let (settings, latency) = (settings(max, &preferred, delay), if known { latency(now) } else { Latency::default() });
            let mut at = now;
            // Driven to its end, the queue empties: no decision repeats itself without progress.
            for _ in 0..3 * requests.len() + 1 {
                match decide(&settings, queue.iter().copied(), &latency, true, at) {
                    Decision::Run(count) => {
                        let rows: usize = queue[..count].iter().map(|request| request.rows.max(1)).sum();
                        prop_assert!(count >= 1 && (rows <= max || count == 1));
                        prop_assert!(queue[..count].iter().all(|request| !request.deadline.expired(at)));
                        queue.drain(..count);
                    }
                    Decision::Expired(index) => {
                        prop_assert!(queue[index].deadline.expired(at));
                        queue.remove(index);
                    }
                    Decision::WaitUntil(start) => {
                        prop_assert!(start > at);
                        prop_assert!(queue.iter().take(1).all(|head| start <= head.queued_at + MS * delay));
                        let needed = latency.expect(max, at).unwrap_or_default();
                        prop_assert!(queue.first().is_none_or(|head| start + needed <= head.deadline.instant()));
                        at = start;
                    }
                    Decision::Idle => prop_assert!(queue.is_empty()),
                }
            }
            prop_assert!(queue.is_empty());
        }
    }
}
