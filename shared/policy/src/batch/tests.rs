use super::*;
use proptest::prelude::*;
use weft_types::SystemClock;

const MS: Duration = Duration::from_millis(1);
const ONE: Beside = Beside { executors: 1, others: 0 };

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
        band: 1,
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
        ("deadline before delay", settings(8, &[], 50), &[(1, 25, 0)], Decision::WaitUntil(now + 6 * MS)),
        ("no longer than it saves", settings(8, &[], 50), &[(1, long, 0)], Decision::WaitUntil(now + 10 * MS)),
        ("saved already", settings(8, &[], 50), &[(1, long, 10)], Decision::Run(1)),
        ("cannot be met", settings(8, &[], 5), &[(1, 10, 0), (1, long, 0)], Decision::GiveUp(vec![0])),
        ("none can be met: one is tried", settings(8, &[], 5), &[(1, 9, 0), (1, 10, 0)], Decision::GiveUp(vec![0])),
        ("alone and cannot be met", settings(8, &[], 5), &[(1, 10, 0)], Decision::Run(1)),
        ("several at once", settings(8, &[], 5), &[(1, 5, 0), (8, 15, 0), (1, long, 0)], Decision::GiveUp(vec![0, 1])),
        ("can just be met", settings(8, &[], 5), &[(1, 11, 0)], Decision::Run(1)),
        ("deadline too near to wait", settings(8, &[], 50), &[(1, 19, 0)], Decision::Run(1)),
        ("expired", settings(8, &[], 5), &[(1, 9, 0), (1, 0, 0)], Decision::GiveUp(vec![1])),
        ("empty requests", settings(2, &[], 5), &[(0, long, 0), (0, long, 0), (0, long, 0)], Decision::Run(2)),
    ];
    for (name, settings, requests, expected) in table {
        let queue = queue(now, requests);
        assert_eq!(decide(settings, queue.iter().copied(), &latency(now), ONE, now), *expected, "{name}");
        if let Decision::WaitUntil(_) = expected {
            assert_eq!(decide(settings, queue.iter().copied(), &none, ONE, now), Decision::Run(queue.len()), "{name}");
        }
    }
}

/// Where requests of another shape wait, time is not spent on what is too late.
#[test]
fn what_is_too_late_is_given_up_for_what_it_cannot_run_with() {
    let now = SystemClock::now() + Duration::from_secs(60);
    let beside = Beside { others: 1, ..ONE };
    let decision = decide(&settings(8, &[], 5), queue(now, &[(1, 10, 0)]).into_iter(), &latency(now), beside, now);
    assert_eq!(decision, Decision::GiveUp(vec![0]));
}

/// Eight rows together take 18 ms, which is too long for the first two; those alone take 12 ms, and the rest 16 ms.
#[test]
fn a_smaller_batch_keeps_more_deadlines() {
    let now = SystemClock::now() + Duration::from_secs(60);
    let mut requests = vec![(1, 13, 0); 2];
    requests.extend([(1, 100, 0); 6]);
    let decision = decide(&settings(64, &[], 5), queue(now, &requests).into_iter(), &latency(now), ONE, now);
    assert_eq!(decision, Decision::Run(2));
}

/// A model for which a batch saves nothing: 10 ms a row.
#[test]
fn does_not_wait_where_company_saves_nothing() {
    let now = SystemClock::now() + Duration::from_secs(60);
    let mut proportional = Latency::default();
    for rows in [1usize, 2, 4, 8] {
        proportional.observe(rows, 10 * MS * u32::try_from(rows).expect("small"), now);
    }
    let decision = decide(&settings(8, &[], 5), queue(now, &[(1, 10_000, 0)]).into_iter(), &proportional, ONE, now);
    assert_eq!(decision, Decision::Run(1));
}

/// Two executions of eight and eight, or four and twelve, instead of one take 10 ms more: as long as six rows of a full batch.
#[test]
fn what_costs_more_deadlines_than_it_keeps_is_given_up() {
    let now = SystemClock::now() + Duration::from_secs(60);
    let run = |tight: &[Given], others: usize| {
        let requests: Vec<Given> = tight.iter().copied().chain(std::iter::repeat_n((1, 60, 0), others)).collect();
        decide(&settings(16, &[], 0), queue(now, &requests).into_iter(), &latency(now), ONE, now)
    };
    assert_eq!(run(&[(1, 20, 0); 8], 8), Decision::Run(8));
    assert_eq!(run(&[(1, 14, 0); 4], 12), Decision::GiveUp(vec![0]));
    // Half a batch that waits is no sign that others will come to harm.
    assert_eq!(run(&[(1, 14, 0); 4], 4), Decision::Run(4));
}

/// After eight rows in 18 ms, the other eight end after 36 ms, or where four executors share the queue after 22.5 ms.
#[test]
fn several_executors_share_the_queue() {
    let now = SystemClock::now() + Duration::from_secs(60);
    let requests: Vec<Given> = [[(1, 20, 0); 8], [(1, 30, 0); 8]].concat();
    let run = |executors| {
        let beside = Beside { executors, ..ONE };
        decide(&settings(16, &[], 0), queue(now, &requests).into_iter(), &latency(now), beside, now)
    };
    assert_eq!(run(1), Decision::GiveUp(vec![0]));
    assert_eq!(run(4), Decision::Run(8));
}

/// An execution that took between 9 and 11 ms of late may do so again.
#[test]
fn what_might_still_be_met_is_given_up_for_company_only() {
    let now = SystemClock::now() + Duration::from_secs(60);
    let mut scattered = Latency::default();
    for micros in [10_000, 9_000, 11_000, 9_000, 11_000] {
        (1..=2).for_each(|rows| scattered.observe(rows, Duration::from_micros(micros), now));
    }
    let (least, most) = (scattered.at_least(1, now).expect("known"), scattered.at_most(1, now).expect("known"));
    let middle = u32::try_from((least + most).as_millis() / 2).expect("small");
    assert!(least < MS * middle && MS * middle < most);
    let run = |requests: &[Given]| decide(&settings(2, &[], 0), queue(now, requests).into_iter(), &scattered, ONE, now);
    assert_eq!(run(&[(1, middle, 0)]), Decision::Run(1), "nothing is lost by trying");
    assert_eq!(run(&[(1, middle, 0), (1, 14, 0)]), Decision::Run(2), "nor where there is room");
    assert_eq!(run(&[(1, middle, 0), (1, 14, 0), (1, 14, 0)]), Decision::GiveUp(vec![0]), "its place serves another");
}

proptest! {
    #[test]
    fn what_is_alone_and_feasible_is_run(
        rows in 1usize..40,
        max in 0usize..40,
        slack in 0u32..50,
        samples in proptest::collection::vec((1usize..40, 1u32..50), 1..40),
    ) {
        let now = SystemClock::now() + Duration::from_secs(60);
        let mut latency = Latency::default();
        samples.iter().for_each(|(rows, ms)| latency.observe(*rows, MS * *ms, now));
        let needed = latency.expect(rows, now).expect("samples were given");
        let alone = Waiting { rows, band: 1, deadline: Deadline::after(now, needed + MS * slack), queued_at: now };
        let decision = decide(&settings(max, &[], 0), std::iter::once(alone), &latency, ONE, now);
        prop_assert_eq!(decision, Decision::Run(1));
    }

    /// The urgent ones fit into one batch and would make it in that: whatever waits behind them, they do.
    #[test]
    fn no_band_costs_a_more_urgent_one_its_deadlines(
        urgent in proptest::collection::vec(0u32..30, 1..8),
        others in proptest::collection::vec((1usize..4, 11u32..80, 0u64..3), 0..40),
    ) {
        let now = SystemClock::now() + Duration::from_secs(60);
        let latency = latency(now);
        let needed = 10 + u32::try_from(urgent.len()).expect("few");
        let mut queue: Vec<Waiting> = queue(now, &urgent.iter().map(|slack| (1, needed + slack, 0)).collect::<Vec<_>>());
        for (rows, deadline, band) in others {
            queue.push(Waiting { rows, band: 2 + band, deadline: Deadline::after(now, MS * deadline), queued_at: now });
        }
        queue.sort_by_key(|request| (request.band, request.deadline));
        let mut at = now;
        let mut met = 0;
        while queue.first().is_some_and(|first| first.band == 1) {
            match decide(&settings(8, &[], 0), queue.iter().copied(), &latency, ONE, at) {
                Decision::Run(count) => {
                    let run: Vec<Waiting> = queue.drain(..count).collect();
                    at += latency.expect(run.iter().map(|request| request.rows).sum(), at).expect("known");
                    met += run.iter().filter(|request| request.band == 1 && request.deadline.instant() >= at).count();
                }
                Decision::GiveUp(indices) => {
                    for index in indices.into_iter().rev() {
                        prop_assert!(queue.remove(index).band > 1);
                    }
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert_eq!(met, urgent.len());
    }

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
            match decide(&settings, queue.iter().copied(), &latency, ONE, at) {
                Decision::Run(count) => {
                    let rows: usize = queue[..count].iter().map(|request| request.rows.max(1)).sum();
                    prop_assert!(count >= 1 && (rows <= max || count == 1));
                    prop_assert!(queue[..count].iter().all(|request| !request.deadline.expired(at)));
                    queue.drain(..count);
                }
                Decision::GiveUp(indices) => {
                    prop_assert!(!indices.is_empty() && indices.is_sorted());
                    for index in indices.into_iter().rev() {
                        prop_assert!(queue.remove(index).deadline.expired(at) || known);
                    }
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
