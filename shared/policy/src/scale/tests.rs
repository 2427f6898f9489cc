//! Demand over hours of virtual time, and figures that cannot be.

use super::*;
use proptest::num::f64::ANY;
use proptest::prelude::*;
use weft_types::SystemClock;

const BOUNDS: Bounds = Bounds { min: 1, max: 40, utilization: 0.7, idle_after: Duration::from_secs(300) };
const WINDOW: Duration = Duration::from_secs(10);
/// How long a new replica takes to come.
const LOADING: u64 = 3;

fn demand(busy: f64) -> Demand {
    Demand { busy, concurrency: 1.0, service: 0.05, wait: 0.0, missed: 0.0 }
}

fn seen(busy: f64) -> Seen {
    Seen { demand: Some(demand(busy)), calls_known: true, window: WINDOW, placed: 1, ready: 1000 }
}

/// What came of a load: each second's offered executions, with as many done at most as there are replicas; figures are means over the
/// window, two seconds old.
struct Run {
    targets: Vec<u32>,
    /// Seconds in which more came than replicas could do.
    short: Vec<u64>,
}

impl Run {
    fn changes(&self) -> usize {
        self.targets.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    fn of(seconds: u64, bounds: &Bounds, offered: impl Fn(u64) -> f64) -> Self {
        let start = SystemClock::now();
        let mut scaler = Scaler::new(bounds.min, start, start);
        let (mut done, mut targets, mut short): (Vec<f64>, Vec<u32>, Vec<u64>) = Default::default();
        let mut misses = Vec::new();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            // Those that were wanted a while ago are there, unless they have gone since.
            let asked = targets.iter().rev().take(LOADING as usize).copied().chain([scaler.decision().target]).min();
            let ready = asked.unwrap_or(bounds.min);
            let offer = offered(second);
            let could = offer.min(f64::from(ready));
            if could + 1e-9 < offer {
                short.push(second);
            }
            done.push(could);
            misses.push(if offer > 0.0 { 1.0 - could / offer } else { 0.0 });
            let told = done.len().saturating_sub(2);
            let recent = &done[told.saturating_sub(10)..told];
            let missed = misses[told.saturating_sub(10)..told].iter().sum::<f64>() / recent.len().max(1) as f64;
            let busy = recent.iter().sum::<f64>() / recent.len().max(1) as f64;
            if busy > 0.0 {
                scaler.called(now);
            }
            let wait = if missed > 0.0 { 1.0 } else { 0.0 };
            let demand = Demand { missed, wait, ..demand(busy) };
            let seen = Seen { demand: Some(demand), ready, placed: ready, ..seen(0.0) };
            targets.push(scaler.decide(bounds, &seen, now).target);
        }
        Self { targets, short }
    }
}

/// Repeatable noise in `[0, 1)`.
fn noise(second: u64) -> f64 {
    let mut word = second.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    word ^= word >> 29;
    word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (word >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn a_steady_load_with_noise_settles_and_stays() {
    let run = Run::of(3_600, &BOUNDS, |second| 5.0 + noise(second));
    // 5.5 executions on average at 0.7 of a replica's time take eight, and nine are kept.
    assert!(run.targets[120..].iter().all(|target| (8..=10).contains(target)), "{:?}", &run.targets[..200]);
    assert!(run.changes() <= 12, "{} changes", run.changes());
    assert!(run.targets[600..].windows(2).filter(|pair| pair[0] != pair[1]).count() <= 2);
    assert!(run.short.iter().all(|second| *second < 60), "{:?}", run.short);
}

#[test]
fn a_day_is_followed_up_and_down() {
    let day = 86_400;
    let load = |second: u64| 10.0 - 9.0 * (second as f64 / day as f64 * std::f64::consts::TAU).cos();
    let run = Run::of(day, &BOUNDS, load);
    let most = run.targets.iter().max().copied().unwrap_or(0);
    assert!((27..=32).contains(&most), "{most}");
    assert!(run.targets[day as usize - 1] <= 3, "{}", run.targets[day as usize - 1]);
    assert!(run.short.iter().all(|second| *second < 10), "a slow rise is never too fast: {:?}", run.short);
    // Each number on the way is passed once up and once down.
    assert!(run.changes() <= 2 * most as usize + 4, "{} changes", run.changes());
}

#[test]
fn bursts_are_met_soon_and_kept_for_a_while() {
    // Every ten minutes, a minute of fifteen times the load.
    let load = |second: u64| if second % 600 < 60 { 15.0 } else { 1.0 };
    let run = Run::of(3_600, &BOUNDS, load);
    for burst in 0..6 {
        let of_burst = run.short.iter().filter(|second| **second / 600 == burst).count();
        assert!(of_burst <= 50, "{of_burst} of 60 seconds of burst {burst} were short");
    }
    assert!(run.short.iter().all(|second| second % 600 < 52), "{:?}", run.short);
    // Per burst some steps up, and steps down.
    assert!(run.changes() <= 6 * 16, "{} changes", run.changes());
}

#[test]
fn nothing_goes_before_the_window_is_over() {
    let start = SystemClock::now();
    let mut scaler = Scaler::new(1, start, start);
    let at = |second: u64| start + Duration::from_secs(second);
    assert_eq!(scaler.decide(&BOUNDS, &seen(3.4), at(1)), Decision { target: 5, why: Why::Demand });
    for second in 2..60 {
        assert_eq!(scaler.decide(&BOUNDS, &seen(0.1), at(second)).target, 5, "after {second} s");
    }
    assert_eq!(scaler.decide(&BOUNDS, &seen(0.1), at(62)), Decision { target: 1, why: Why::Surplus });
}

#[test]
fn growth_is_limited_for_a_while() {
    let start = SystemClock::now();
    let mut scaler = Scaler::new(1, start, start);
    let mut at = |second: u64| scaler.decide(&BOUNDS, &seen(1000.0), start + Duration::from_secs(second)).target;
    assert_eq!([at(1), at(2), at(14)], [5, 5, 5], "four more within fifteen seconds");
    assert_eq!(at(17), 10, "then twice as many");
    assert_eq!([at(33), at(50)], [20, 40]);
}

#[test]
fn calls_that_wait_get_more_once_the_last_change_has_shown() {
    let start = SystemClock::now();
    let mut scaler = Scaler::new(4, start, start);
    let late = |busy| Seen { demand: Some(Demand { missed: 0.05, wait: 1.0, ..demand(busy) }), ..seen(0.0) };
    let at = |second: u64| start + Duration::from_secs(second);
    assert_eq!(scaler.decide(&BOUNDS, &late(2.0), at(10)), Decision { target: 8, why: Why::Late });
    assert_eq!(scaler.decide(&BOUNDS, &late(4.0), at(19)).target, 8, "figures reach back before the last change");
    let loading = Seen { ready: 4, ..late(4.0) };
    assert_eq!(scaler.decide(&BOUNDS, &loading, at(25)).target, 8, "those that were asked for are still to come");
    assert_eq!(
        scaler.decide(&BOUNDS, &late(0.1), at(26)).target,
        8,
        "replicas that have nothing to do are not what is missing"
    );
    assert_eq!(scaler.decide(&BOUNDS, &seen(0.1), at(200)).target, 5, "four were too few a while ago");
    assert_eq!(scaler.decide(&BOUNDS, &seen(0.1), at(700)).target, 1);
}

const ON_DEMAND: Bounds = Bounds { min: 0, max: 3, utilization: 0.7, idle_after: Duration::from_secs(30) };

#[test]
fn a_model_that_nobody_calls_goes_and_a_call_brings_it_back() {
    let start = SystemClock::now();
    let mut scaler = Scaler::new(1, start, start);
    let at = |second: u64| start + Duration::from_secs(second);
    for second in 1..30 {
        assert_eq!(scaler.decide(&ON_DEMAND, &seen(0.0), at(second)).target, 1);
    }
    assert_eq!(scaler.decide(&ON_DEMAND, &seen(0.0), at(30)), Decision { target: 0, why: Why::Idle });
    let gone = Seen { placed: 0, ready: 0, ..seen(0.0) };
    assert_eq!(scaler.decide(&ON_DEMAND, &gone, at(500)).target, 0);
    scaler.wake(at(501));
    assert_eq!(scaler.decide(&ON_DEMAND, &gone, at(501)), Decision { target: 1, why: Why::Woken });
    assert_eq!(scaler.decide(&ON_DEMAND, &gone, at(503)).target, 1, "it is on its way");
    assert_eq!(scaler.decide(&ON_DEMAND, &seen(0.0), at(530)).target, 1);
    assert_eq!(scaler.decide(&ON_DEMAND, &seen(0.0), at(531)).target, 0);
}

#[test]
fn a_model_that_has_given_way_is_not_wanted_before_the_next_call() {
    let start = SystemClock::now();
    let mut scaler = Scaler::new(1, start, start);
    let gone = Seen { placed: 0, ready: 0, ..seen(0.0) };
    let at = |second: u64| start + Duration::from_secs(second);
    assert_eq!(scaler.decide(&ON_DEMAND, &gone, at(2)).target, 1, "it may be on its way");
    assert_eq!(scaler.decide(&ON_DEMAND, &gone, at(3)), Decision { target: 0, why: Why::Evicted });
}

#[test]
fn what_is_not_known_changes_nothing() {
    let start = SystemClock::now();
    let mut scaler = Scaler::new(3, start, start);
    let unknown = Seen { demand: None, calls_known: false, ..seen(0.0) };
    for second in 1..2_000 {
        let now = start + Duration::from_secs(second);
        assert_eq!(scaler.decide(&ON_DEMAND, &unknown, now).target, 3, "after {second} s");
        let idle = if second < 11 { Duration::from_secs(second) } else { Duration::ZERO };
        assert_eq!(scaler.idle(now), idle, "it may have been called just now");
    }
}

/// As each leader does in its first moments, before it has figures.
#[test]
fn what_is_unknown_for_a_moment_is_no_call() {
    let start = SystemClock::now();
    let unknown = Seen { demand: None, calls_known: false, ..seen(0.0) };
    let mut last_call = start;
    for term in 0..6 {
        let began = start + Duration::from_secs(5 * term);
        let mut scaler = Scaler::new(1, last_call, began);
        assert_eq!(scaler.decide(&ON_DEMAND, &unknown, began).target, 1);
        assert_eq!(scaler.decide(&ON_DEMAND, &seen(0.0), began + Duration::from_secs(2)).target, 1, "in term {term}");
        last_call = scaler.last_call();
    }
    assert_eq!(last_call, start);
    let mut scaler = Scaler::new(1, last_call, start + Duration::from_secs(30));
    assert_eq!(scaler.decide(&ON_DEMAND, &unknown, start + Duration::from_secs(31)).target, 1, "it may be called");
    let next = scaler.decide(&ON_DEMAND, &seen(0.0), start + Duration::from_secs(32));
    assert_eq!(next, Decision { target: 0, why: Why::Idle });
}

#[test]
fn bounds_hold_at_once() {
    let start = SystemClock::now();
    let mut scaler = Scaler::new(3, start, start);
    let mut at = |min, max| scaler.decide(&Bounds { min, max, ..BOUNDS }, &seen(0.5), start).target;
    assert_eq!([at(5, 9), at(1, 2), at(0, 1), at(7, 3)], [5, 2, 1, 3]);
}

#[test]
fn what_is_no_number_changes_nothing() {
    let start = SystemClock::now();
    let set: [fn(&mut Demand, f64); 5] = [
        |demand, value| demand.busy = value,
        |demand, value| demand.concurrency = value,
        |demand, value| demand.service = value,
        |demand, value| demand.wait = value,
        |demand, value| demand.missed = value,
    ];
    for (field, set) in set.iter().enumerate() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            let mut scaler = Scaler::new(3, start, start);
            let mut demand = demand(0.1);
            set(&mut demand, odd);
            for second in 1..200 {
                let seen = Seen { demand: Some(demand), ..seen(0.0) };
                let decision = scaler.decide(&BOUNDS, &seen, start + Duration::from_secs(second));
                assert_eq!(decision.target, 3, "{odd} in figure {field} after {second} s");
            }
        }
    }
}

proptest! {
    /// Whatever the figures are, the number stays within its bounds, and what is remembered is bounded.
    #[test]
    fn no_figure_leads_astray(
        figures in prop::collection::vec((ANY, ANY, ANY, ANY, 0u64..5_000), 1..50),
        min in 0u32..5,
        more in 0u32..1_000,
    ) {
        let start = SystemClock::now();
        let bounds = Bounds { min, max: (min + more).max(1), ..ON_DEMAND };
        let mut scaler = Scaler::new(bounds.min, start, start);
        let mut now = start;
        for (busy, concurrency, wait, missed, millis) in figures {
            now += Duration::from_millis(millis);
            let demand = Demand { busy, concurrency, service: busy, wait, missed };
            let told = Seen { demand: Some(demand), calls_known: millis % 2 == 0, ready: 3, ..seen(0.0) };
            let target = scaler.decide(&bounds, &told, now).target;
            prop_assert!((bounds.min..=bounds.max).contains(&target));
            prop_assert!(scaler.needs.len() <= 130 && scaler.targets.len() <= 40);
        }
    }
}
