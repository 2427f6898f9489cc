use proptest::prelude::*;
use weft_types::SystemClock;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn takes(ms: u32) -> Takes {
    Takes { expected: MS * ms, most: MS * ms }
}

/// Band 1, has 100 ms and takes 10.
fn urgent(now: Instant) -> Urgent {
    Urgent {
        band: 1,
        queued_at: now,
        deadline: Deadline::after(now, MS * 100),
        ahead: Duration::ZERO,
        takes: Some(takes(10)),
    }
}

/// Band 2, takes a second, and has run for 200 ms of the ten seconds that it has.
fn running(id: u64, now: Instant) -> Running {
    let began = now - MS * 200;
    Running { id, band: 2, began, deadline: Deadline::after(began, MS * 10_000), stops: 0, takes: Some(takes(1_000)) }
}

fn told(urgent: &Urgent, running: &[Running], now: Instant) -> Decision {
    decide(std::iter::once(*urgent), running.iter().copied(), Duration::ZERO, now)
}

/// What runs takes so long to stop.
fn slowly(stop: Duration, one: Running, now: Instant) -> Decision {
    decide(std::iter::once(urgent(now)), std::iter::once(one), stop, now)
}

/// The tests go back in time from here.
fn now() -> Instant {
    SystemClock::now() + Duration::from_secs(3_600)
}

#[test]
fn who_would_be_late_takes_the_place_of_a_lower_band() {
    let now = now();
    assert_eq!(told(&urgent(now), &[running(7, now)], now), Decision::Stop(7));
    assert_eq!(told(&Urgent { band: 2, ..urgent(now) }, &[running(7, now)], now), Decision::Leave, "its own band");
    assert_eq!(told(&urgent(now), &[], now), Decision::Leave);
    let relaxed = Urgent { deadline: Deadline::after(now, MS * 1_500), ..urgent(now) };
    assert_eq!(told(&relaxed, &[running(7, now)], now), Decision::WaitUntil(now + MS * 800), "it ends in time");
    let hopeless = Urgent { deadline: Deadline::after(now, MS * 10), ..urgent(now) };
    assert_eq!(told(&hopeless, &[running(7, now)], now), Decision::Leave);
}

#[test]
fn any_place_that_becomes_free_will_do() {
    let now = now();
    let peer = Running { id: 1, band: 1, began: now - MS * 950, ..running(1, now) };
    assert_eq!(told(&urgent(now), &[running(7, now), peer], now), Decision::WaitUntil(now + MS * 50));
    // It does not end when it should: nobody knows for how long it will go on.
    assert_eq!(told(&urgent(now), &[running(7, now), peer], now + MS * 51), Decision::Stop(7));
}

#[test]
fn the_lowest_band_goes_first_and_of_it_who_has_the_least_to_lose() {
    let now = now();
    let long = Running { began: now - MS * 500, ..running(1, now) };
    assert_eq!(told(&urgent(now), &[long, running(2, now), running(3, now)], now), Decision::Stop(2));
    let lowest = Running { band: 3, ..long };
    assert_eq!(told(&urgent(now), &[running(2, now), lowest], now), Decision::Stop(1));
}

#[test]
fn nobody_is_stopped_who_would_then_be_late_himself() {
    let now = now();
    let tight = Running { deadline: Deadline::after(now, MS * 1_009), ..running(1, now) };
    assert_eq!(told(&urgent(now), &[tight], now), Decision::Leave);
    let enough = Running { deadline: Deadline::after(now, MS * 1_010), ..tight };
    assert_eq!(told(&urgent(now), &[enough], now), Decision::Stop(1));
    assert_eq!(slowly(MS, enough, now), Decision::Leave, "the time to stop counts, too");
}

#[test]
fn nobody_is_stopped_for_ever() {
    let now = now();
    let often = |stops| Running { stops, ..running(7, now) };
    assert_eq!(told(&urgent(now), &[often(STOPS - 1)], now), Decision::Stop(7));
    assert_eq!(told(&urgent(now), &[often(STOPS)], now), Decision::Leave);
    assert_eq!(told(&urgent(now), &[often(STOPS), running(8, now)], now), Decision::Stop(8));
}

#[test]
fn what_stops_too_late_is_not_stopped() {
    let now = now();
    assert_eq!(slowly(MS * 95, running(7, now), now), Decision::Leave);
    let ending = Running { began: now - MS * 905, ..running(7, now) };
    assert_eq!(slowly(MS * 89, ending, now), Decision::Stop(7));
    let ending = Running { began: now - MS * 915, ..running(7, now) };
    assert_eq!(slowly(MS * 89, ending, now), Decision::Leave, "it ends sooner");
}

/// The first has time to wait for what runs; the eighth in the line has not.
#[test]
fn who_waits_behind_others_has_less_time_to_spare() {
    let now = now();
    let ending = Running { began: now - MS * 980, ..running(7, now) };
    let line = |count: u32| (0..count).map(move |at| Urgent { ahead: MS * 10 * at, ..urgent(now) });
    let told = |count: u32| decide(line(count), std::iter::once(ending), Duration::ZERO, now);
    assert_eq!((told(1), told(7)), (Decision::WaitUntil(now + MS * 20), Decision::WaitUntil(now + MS * 20)));
    assert_eq!(told(8), Decision::Stop(7));
    assert_eq!(told(20), Decision::Stop(7), "those that are lost change nothing");
    let lower = line(7).chain(line(8).skip(7).map(|one| Urgent { band: 2, ..one }));
    assert_eq!(decide(lower, std::iter::once(ending), Duration::ZERO, now), told(7), "another band's line is its own");
}

/// Where nothing was learned, half of the time is waited, and what runs is thought to run on.
#[test]
fn without_knowledge_half_of_the_time_is_set_aside() {
    let now = now();
    let unknown = Urgent { takes: None, ..urgent(now) };
    let fresh = Running { takes: None, began: now, ..running(7, now) };
    assert_eq!(told(&unknown, &[fresh], now), Decision::WaitUntil(now + MS), "it may end at any moment");
    assert_eq!(told(&unknown, &[Running { began: now - MS * 10, ..fresh }], now + MS * 50), Decision::Stop(7));
    let old = Running { began: now - MS * 200, ..fresh };
    assert_eq!(told(&unknown, &[old], now), Decision::Stop(7));
    assert_eq!(told(&unknown, &[Running { deadline: Deadline::after(now, MS * 300), ..old }], now), Decision::Leave);
}

fn some_takes() -> impl Strategy<Value = Option<Takes>> {
    let takes = |(ms, more): (u32, u32)| Takes { expected: MS * ms, most: MS * (ms + more) };
    proptest::option::of((0u32..3_000, 0u32..1_000).prop_map(takes))
}

fn some_running() -> impl Strategy<Value = Vec<(u64, u32, u32, Option<Takes>)>> {
    proptest::collection::vec((1u64..4, 0u32..3_000, 0u32..20_000, some_takes()), 0..8)
}

proptest! {
    #[test]
    fn whoever_is_stopped_can_still_be_in_time(
        all in some_running(),
        (band, has, waited, takes) in (1u64..4, 0u32..3_000, 0u32..1_000, some_takes()),
        (stop, ahead) in (0u32..50, 0u32..50),
    ) {
        let now = now();
        let all: Vec<Running> = (0..).zip(all).map(|(id, (band, began, left, takes))| Running {
            id,
            band,
            began: now - MS * began,
            deadline: Deadline::after(now, MS * left),
            stops: 0,
            takes,
        }).collect();
        let queued_at = now - MS * waited;
        let urgent = Urgent { band, queued_at, deadline: Deadline::after(queued_at, MS * has), ahead: MS * ahead, takes };
        match decide(std::iter::once(urgent), all.iter().copied(), MS * stop, now) {
            Decision::Stop(id) => {
                let one = all[id as usize];
                prop_assert!(one.band > band);
                let likely = MS * ahead + takes.map_or(Duration::ZERO, |takes| takes.expected);
                prop_assert!(urgent.deadline.remaining(now) > MS * stop + likely, "stopped in vain");
                prop_assert!(one.deadline.remaining(now) >= MS * stop + likely + one.again(now));
            }
            Decision::WaitUntil(at) => {
                prop_assert!(at > now && at <= urgent.deadline.instant());
                prop_assert!(all.iter().any(|one| one.band > band));
            }
            Decision::Leave => {}
        }
    }
}
