use proptest::prelude::*;
use weft_types::SystemClock;

use super::*;

/// Calls that wait for their place at all times, on one replica that takes `seconds` with so many under way; returns the limits.
fn run(limit: &mut Limit, start: Instant, calls: usize, seconds: impl Fn(f64) -> f64) -> Instant {
    let mut now = start;
    for _ in 0..calls {
        let in_flight = limit.calls();
        let took = Duration::from_secs_f64(seconds(f64::from(in_flight)));
        now += took / in_flight;
        let sample = Sample { began: now - took, in_flight, is_good: true, wait: None, load: None };
        limit.observe(&sample, now);
    }
    now
}

#[test]
fn finds_what_a_fixed_number_of_slots_takes() {
    for slots in [3.0, 8.0, 30.0, 100.0, 700.0] {
        let start = SystemClock::now();
        let mut limit = Limit::new(1, start);
        run(&mut limit, start, 60_000, |calls| 0.02 * (calls / slots).max(1.0));
        let calls = limit.good.ceil();
        assert!(calls >= slots * 0.94 && calls <= slots * 1.1, "{slots}: {limit:?}");
    }
}

/// A batch of n takes 10 ms and n quarters of one; up to 64 run together.
#[test]
fn keeps_a_batching_replica_busy() {
    let start = SystemClock::now();
    let seconds = |calls: f64| (0.010 + 0.00025 * calls.min(64.0)) * (calls / 64.0).max(1.0);
    let mut limit = Limit::new(1, start);
    run(&mut limit, start, 60_000, seconds);
    let of = |calls: f64| calls / seconds(calls);
    assert!(of(limit.good) >= 0.9 * of(64.0) && limit.good < 80.0, "{limit:?}");
}

#[test]
fn a_slower_replica_does_not_bring_it_down() {
    let start = SystemClock::now();
    let mut limit = Limit::new(1, start);
    let seconds = |calls: f64| 0.01 * (calls / 40.0).max(1.0);
    let now = run(&mut limit, start, 40_000, seconds);
    let now = run(&mut limit, now, 40_000, |calls| 10.0 * seconds(calls));
    assert!(limit.good > 36.0 && limit.good < 46.0, "{limit:?}");
    run(&mut limit, now, 40_000, seconds);
    assert!(limit.good > 36.0 && limit.good < 46.0, "{limit:?}");
}

#[test]
fn what_comes_too_late_is_no_throughput() {
    let start = SystemClock::now();
    let mut limit = Limit::new(1, start);
    let mut now = start;
    for _ in 0..20_000 {
        let in_flight = limit.calls();
        let took = Duration::from_millis(10) * in_flight.max(8) / 8;
        now += took / in_flight;
        let is_good = took <= Duration::from_millis(20);
        limit.observe(&Sample { began: now - took, in_flight, is_good, wait: None, load: None }, now);
    }
    assert!((8.0..=16.0).contains(&limit.good.ceil()), "{limit:?}");
}

/// Where replicas are shared, throughput grows with the limit for ever; what they tell of their wait bounds it.
#[test]
fn a_wait_that_replicas_tell_bounds_the_growth() {
    let start = SystemClock::now();
    let others = 64.0;
    let with = |tells: bool| {
        let (mut limit, mut now) = (Limit::new(1, start), start);
        for _ in 0..60_000 {
            let in_flight = limit.calls();
            let took = Duration::from_secs_f64(0.01 * ((f64::from(in_flight) + others) / 16.0).max(1.0));
            now += took / in_flight;
            let wait = tells.then_some(took.as_secs_f32() - 0.01);
            limit.observe(&Sample { began: now - took, in_flight, is_good: true, wait, load: None }, now);
        }
        limit.calls()
    };
    assert!(with(true) <= 30, "{}", with(true));
    assert!(with(false) > 200, "{}", with(false));
}

/// A replica of 1,024 slots is filled before as many calls have ended, though each takes two seconds.
#[test]
fn room_that_replicas_tell_is_taken_at_once() {
    let start = SystemClock::now();
    let (mut limit, took) = (Limit::new(1, start), Duration::from_secs(2));
    let mut now = start + took;
    for _ in 0..300 {
        let in_flight = limit.calls();
        now += took / in_flight;
        let wait = if in_flight <= 1_024 { 0.0 } else { 1.0 };
        limit.observe(&Sample { began: now - took, in_flight, is_good: true, wait: Some(wait), load: None }, now);
    }
    assert!((1_024..=2_048).contains(&limit.calls()), "{}", limit.calls());
}

/// Calls that wait at all times for a replica of so many slots, which others use as well; returns the limits.
fn shared(limit: &mut Limit, slots: f64, others: impl Fn(usize) -> f64, calls: usize) -> Vec<u32> {
    let one = Duration::from_secs(1);
    let mut now = SystemClock::now();
    let (mut limits, mut in_flight) = (Vec::new(), 0.0);
    for call in 0..calls {
        let own = f64::from(limit.calls());
        // What is too much drains at the replica's pace.
        in_flight = if in_flight > own { in_flight - 1.0 } else { own };
        let all = in_flight + others(call);
        let took = one.mul_f64((all / slots).max(1.0));
        now += took.div_f64(in_flight);
        let (wait, load) = ((took - one).as_secs_f32(), (all / (slots * 1.0625)) as f32);
        let (in_flight, is_good) = (in_flight as u32, true);
        limit.observe(&Sample { began: now - took, in_flight, is_good, wait: Some(wait), load: Some(load) }, now);
        limits.push(limit.calls());
    }
    limits
}

/// Where the limits change.
fn steps(limits: &[u32]) -> Vec<(usize, u32)> {
    let changes = limits.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]);
    changes.map(|(call, pair)| (call, pair[1])).collect()
}

/// A replica of 1,024 slots that a limit of 4,096 has filled three times over: it comes down as soon as a few have told, and stays.
#[test]
fn what_replicas_cannot_use_is_taken_back_at_once() {
    let mut limit = Limit::new(1, SystemClock::now());
    limit.tested = 4_096.0;
    let limits = shared(&mut limit, 1_024.0, |_| 0.0, 60_000);
    assert!(limits[200..].iter().all(|limit| (1_024..=1_160).contains(limit)), "{:?}", steps(&limits));
}

/// When others come, every caller gives up the same part, and takes it again when they have gone.
#[test]
fn what_others_use_is_left_to_them() {
    let mut limit = Limit::new(1, SystemClock::now());
    limit.tested = 1_024.0;
    let limits =
        shared(&mut limit, 1_024.0, |call| if (2_000..20_000).contains(&call) { 1_024.0 } else { 0.0 }, 60_000);
    assert!(limits[4_000..20_000].iter().all(|limit| (32..=600).contains(limit)), "{:?}", steps(&limits));
    assert!(limits[30_000..].iter().all(|limit| (1_024..=2_048).contains(limit)), "{:?}", steps(&limits));
}

proptest! {
    /// Whatever calls bring, it stays within its bounds, and scales with the replicas.
    #[test]
    fn stays_within_bounds(
        samples in proptest::collection::vec((0u64..2_000_000, any::<u32>(), any::<bool>(), proptest::option::of(any::<f32>()), proptest::option::of(any::<f32>())), 0..600),
        replicas in 0u32..5_000,
    ) {
        let start = SystemClock::now();
        let (mut limit, mut now) = (Limit::new(1, start), start);
        for (micros, in_flight, is_good, wait, load) in samples {
            now += Duration::from_micros(micros);
            limit.observe(&Sample { began: now - Duration::from_micros(micros / 2), in_flight, is_good, wait, load }, now);
            prop_assert!((2..=4_096).contains(&limit.calls()));
        }
        let one = limit.tested;
        limit.resize(replicas, now);
        prop_assert_eq!(limit.calls(), (one * f64::from(replicas.max(1))).ceil() as u32);
    }
}
