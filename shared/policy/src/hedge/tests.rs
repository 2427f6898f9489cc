use proptest::prelude::*;
use weft_types::{Reason, SystemClock};

use super::*;
use crate::retry::{Budget, BudgetSettings};

const MS: Duration = Duration::from_millis(1);

fn error(reason: Reason) -> Error {
    Error::new(reason, "why")
}

#[test]
fn the_delay_is_fixed_or_learned() {
    let now = SystemClock::now();
    let mut known = Latencies::new(now);
    let (fixed, learned) = (Delay::Fixed(7 * MS), Delay::Quantile(0.95));
    assert_eq!((fixed.given(&mut known, now), learned.given(&mut known, now)), (Some(7 * MS), None));
    (0..200).for_each(|_| known.observe(20 * MS, now));
    let delay = learned.given(&mut known, now).expect("it is known");
    assert!((16 * MS..24 * MS).contains(&delay), "{delay:?}");
    assert_eq!(Delay::Fixed(Duration::ZERO).given(&mut known, now), Some(MIN_DELAY));
}

#[test]
fn a_failure_ends_the_call_or_makes_the_next_due_as_the_error_table_says() {
    let now = SystemClock::now();
    let deadline = Deadline::after(now, 1_000 * MS);
    for reason in Reason::ALL {
        let after = |pushback| {
            let mut attempts = Attempts::begin(3, Some(100 * MS), None, now);
            let verdict = attempts.failed(&error(reason), pushback, now + 10 * MS);
            (verdict, attempts.due(deadline).map(|due| due - now))
        };
        let plain = match reason.retry() {
            Retry::Never => {
                assert_eq!(after(Pushback::After(MS)).0, Verdict::Fatal, "{reason:?}");
                assert_eq!(after(Pushback::None).0, Verdict::Fatal, "{reason:?}");
                continue;
            }
            Retry::Elsewhere => Some(10 * MS),
            Retry::AfterPushback => None,
        };
        assert_eq!(after(Pushback::None), (Verdict::GoOn, plain), "{reason:?}");
        assert_eq!(after(Pushback::After(50 * MS)), (Verdict::GoOn, Some(60 * MS)), "{reason:?}");
        assert_eq!(after(Pushback::Never), (Verdict::GoOn, None), "{reason:?}");
    }
}

#[test]
fn what_was_not_begun_is_replaced_at_once_and_does_not_count() {
    let now = SystemClock::now();
    let deadline = Deadline::after(now, 1_000 * MS);
    let mut attempts = Attempts::begin(2, None, None, now);
    assert_eq!(attempts.due(deadline), None);
    attempts.undone(now + MS);
    assert_eq!((attempts.due(deadline), attempts.made()), (Some(now + MS), 0));
    attempts.sent(now + MS);
    assert_eq!((attempts.due(deadline), attempts.made()), (None, 1));
}

#[test]
fn none_is_sent_that_could_not_end_in_time() {
    let now = SystemClock::now();
    let deadline = Deadline::after(now, 100 * MS);
    let due = |delay, median| Attempts::begin(2, Some(delay), Some(median), now).due(deadline);
    assert_eq!(due(40 * MS, 50 * MS), Some(now + 40 * MS));
    assert_eq!(due(60 * MS, 50 * MS), None);
    assert_eq!(due(100 * MS, Duration::ZERO), None);
}

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
enum Event {
    Wait(u64),
    Fail(Reason, Pushback),
    Undone,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let pushback = prop_oneof![
        Just(Pushback::None),
        (0u64..200).prop_map(|wait| Pushback::After(MS * wait as u32)),
        Just(Pushback::Never)
    ];
    let event = prop_oneof![
        (0u64..100).prop_map(Event::Wait),
        (prop::sample::select(Reason::ALL.to_vec()), pushback)
            .prop_map(|(reason, pushback)| Event::Fail(reason, pushback)),
        Just(Event::Undone),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    /// Whatever becomes of its attempts, a call has no more of them than allowed, none that begins too late, none after a fatal failure or
    /// a server's wish, and none that is not paid for.
    #[test]
    fn never_more_than_allowed(
        events in events(),
        max in 0u32..9,
        delay in prop::option::of(0u64..50),
        limit in 0u64..500,
        median in 0u64..50,
        saved in 0u32..4,
    ) {
        let start = SystemClock::now();
        let deadline = Deadline::after(start, Duration::from_millis(limit));
        let settings = BudgetSettings { percent: 0, per_second: saved, cap: saved };
        let mut budget = Budget::new(settings, start);
        let median = Duration::from_millis(median);
        let mut attempts = Attempts::begin(max, delay.map(Duration::from_millis), Some(median), start);
        let (mut now, mut undone, mut sent, mut paid, mut over) = (start, 0, 1, 0, false);
        for event in events {
            match event {
                Event::Wait(millis) => now += Duration::from_millis(millis),
                Event::Undone => {
                    attempts.undone(now);
                    undone += 1;
                }
                Event::Fail(reason, pushback) => {
                    let before = attempts.due(deadline);
                    if attempts.failed(&error(reason), pushback, now) == Verdict::Fatal {
                        prop_assert_eq!(reason.retry(), Retry::Never);
                        break;
                    }
                    over |= pushback == Pushback::Never;
                    if let (Pushback::After(wait), Some(due)) = (pushback, attempts.due(deadline)) {
                        prop_assert!(due >= now + wait, "{before:?}");
                    }
                }
            }
            if let Some(due) = attempts.due(deadline).filter(|due| *due <= now) {
                prop_assert!(!over, "a server has said that there are to be no more");
                prop_assert!(deadline.remaining(due) >= median);
                if !budget.withdraw(now) {
                    attempts.stop();
                    over = true;
                    continue;
                }
                attempts.sent(now);
                (sent, paid) = (sent + 1, paid + 1);
            }
        }
        prop_assert!(sent <= max.clamp(1, MAX_ATTEMPTS) + undone, "{sent} of {max}, {undone} undone");
        let earned = f64::from(saved) * (1.0 + now.duration_since(start).as_secs_f64());
        prop_assert!(f64::from(paid) <= earned + 1e-6);
    }
}
