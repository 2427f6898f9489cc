use std::collections::VecDeque;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tonic::Code;
use tonic::metadata::MetadataMap;
use weft_telemetry::Scope;
use weft_types::{Deadline, Reason, Version};

use super::*;
use crate::gate::{Gate, Turn};
use crate::room::Room;

const LONG: Duration = Duration::from_secs(3_600);

fn gate() -> Arc<Gate> {
    let scope = Scope::disabled();
    let metrics = scope.metrics().admission(&"m".parse().expect("a name"), Version::new(1).expect("not zero"));
    Arc::new(Gate::new(metrics, SystemClock::now()))
}

fn room(calls: usize, bytes: usize) -> Arc<Room> {
    Arc::new(Room::new(calls, bytes, Duration::from_millis(25)))
}

fn asking(tenant: u64, left: Duration) -> Asked {
    let deadline = Deadline::after(SystemClock::now(), left);
    Asked { band: Band::of(tenant % 4), tenant, deadline, needs: Duration::ZERO }
}

/// Every place that there is for a band.
fn fill_with(gate: &Arc<Gate>, band: Band) -> VecDeque<Permit> {
    let now = SystemClock::now();
    std::iter::from_fn(|| gate.try_enter(band, Deadline::after(now, LONG), now)).collect()
}

/// Every place that there is for anybody.
fn fill(gate: &Arc<Gate>) -> VecDeque<Permit> {
    fill_with(gate, Band::Critical)
}

fn waiting(gate: &Gate) -> u32 {
    let view = gate.view();
    view.critical + view.default + view.sheddable
}

#[test]
fn tenants_are_told_apart_by_either_name() {
    let of = |pairs: &[(&'static str, &'static str)]| {
        let mut metadata = MetadataMap::new();
        pairs.iter().for_each(|(key, value)| drop(metadata.insert(*key, value.parse().expect("ASCII"))));
        tenant::of(&metadata)
    };
    let own = "weft-tenant";
    let other = "x-gateway-inference-fairness-id";
    assert_eq!(of(&[]), tenant::of(&MetadataMap::new()));
    assert_eq!(of(&[(own, "a"), (other, "b")]), of(&[(own, "a")]));
    assert_eq!(of(&[(own, "b")]), of(&[(other, "b")]));
    assert_ne!(of(&[(own, "a")]), of(&[(own, "b")]));
}

#[test]
fn a_place_that_is_given_back_goes_to_who_waits() {
    let (gate, room, now) = (gate(), room(10, 1_000), SystemClock::now());
    let mut held = fill(&gate);
    assert_eq!(gate.view().limit as usize, held.len());
    let mut turn = gate.wait(asking(0, LONG), 10, &room, now).expect("there is room");
    assert!(
        (&mut turn).now_or_never().is_none()
            && gate.try_enter(Band::Critical, Deadline::after(now, LONG), now).is_none()
    );
    held.pop_front().expect("there are some").end(Code::Ok);
    let permit = turn.now_or_never().expect("it is its turn").expect("it has a place");
    assert_eq!((room.taken(), waiting(&gate), gate.view().in_flight as usize), ((0, 0), 0, held.len() + 1));
    drop((permit, held));
    assert_eq!(gate.view().in_flight, 0);
}

/// Neither where nobody waits nor where others do; and once they are there, nobody below takes a place until all are within the limit again.
#[test]
fn the_urgent_do_not_wait_for_places_of_the_others() {
    let (gate, room, now) = (gate(), room(10, 1_000), SystemClock::now());
    let deadline = Deadline::after(now, LONG);
    let mut held = fill_with(&gate, Band::Sheddable);
    let limit = held.len();
    assert_eq!(gate.view().limit as usize, limit);
    let urgent = gate.try_enter(Band::Critical, deadline, now).expect("nobody is as urgent");
    let mut turn = gate.wait(asking(3, LONG), 0, &room, now).expect("there is room");
    assert!((&mut turn).now_or_never().is_none(), "those of its band have all places");
    let default = gate.try_enter(Band::Default, deadline, now).expect("nobody waits who is as urgent");
    assert_eq!((gate.view().in_flight as usize, room.taken()), (limit + 2, (1, 0)));
    held.truncate(limit - 2);
    assert!((&mut turn).now_or_never().is_none(), "there are as many as there may be");
    drop(urgent);
    drop(turn.now_or_never().expect("it is its turn").expect("it has a place"));
    drop((held, default));
    assert_eq!(gate.view().in_flight, 0);
}

/// However many the urgent are: among themselves they keep within the limit.
#[test]
fn the_urgent_wait_for_each_other() {
    let (gate, room, now) = (gate(), room(10, 1_000), SystemClock::now());
    let below = fill_with(&gate, Band::Default);
    let mut urgent = fill_with(&gate, Band::Critical);
    assert_eq!((below.len(), urgent.len()), (gate.view().limit as usize, gate.view().limit as usize));
    let mut turn = gate.wait(asking(1, LONG), 0, &room, now).expect("there is room");
    drop(below);
    assert!((&mut turn).now_or_never().is_none());
    urgent.pop_front();
    assert!(turn.now_or_never().is_some_and(|turn| turn.is_ok()));
}

/// One that was given its turn and has gone meanwhile gives it to the next; more replicas let more in at once.
#[test]
fn no_turn_is_lost() {
    let (gate, room, now) = (gate(), room(10, 1_000), SystemClock::now());
    let mut held = fill(&gate);
    let [first, second, third] = [1, 1, 1].map(|tenant| gate.wait(asking(tenant, LONG), 0, &room, now).ok());
    held.pop_front();
    drop(first);
    let second = second.expect("there is room").now_or_never();
    assert!(second.is_some_and(|turn| turn.is_ok()));
    gate.resize(2, now);
    assert!(third.expect("there is room").now_or_never().is_some_and(|turn| turn.is_ok()));
}

#[test]
fn the_room_is_bounded_over_all_gates() {
    let (one, other, room, now) = (gate(), gate(), room(3, 1_000), SystemClock::now());
    let _held = (fill(&one), fill(&other));
    let refusal =
        |gate: &Arc<Gate>, bytes| gate.wait(asking(0, LONG), bytes, &room, now).err().map(|error| error.reason());
    let first = one.wait(asking(0, LONG), 5_000, &room, now).expect("one alone always fits");
    assert_eq!(refusal(&other, 1), Some(Reason::QueueFull), "too many bytes");
    drop(first);
    let waiting: Vec<_> = (0..3).map(|_| other.wait(asking(0, LONG), 1, &room, now).ok()).collect();
    assert!(waiting.iter().all(Option::is_some));
    assert_eq!(refusal(&one, 1), Some(Reason::QueueFull), "too many calls");
    let urgent = other.wait(asking(1, LONG), 1, &room, now).expect("a less urgent one makes room");
    let refused: Vec<_> = waiting.into_iter().flatten().filter_map(|turn| turn.now_or_never()).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused.iter().all(|turn| turn.as_ref().is_err_and(|error| error.pushback().is_some())));
    drop((urgent, refused));
    assert_eq!(room.taken(), (0, 0));
}

/// Many callers on all processors: everyone gets an answer, and nothing is left in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everyone_gets_a_turn_or_an_answer() {
    let (gate, room) = (gate(), room(150, 100_000));
    let call = async |caller: u64, turn: u64| {
        let now = SystemClock::now();
        let asked = asking(caller, LONG);
        let permit = match gate.try_enter(asked.band, asked.deadline, now) {
            Some(permit) => permit,
            None => match gate.wait(asked, 10, &room, now) {
                // Some go away while they wait.
                Ok(waits) if (caller + turn).is_multiple_of(7) => return drop(waits.now_or_never()),
                Ok(waits) => match waits.await {
                    Ok(permit) => permit,
                    Err(_) => return,
                },
                Err(_) => return,
            },
        };
        tokio::task::yield_now().await;
        match turn % 3 {
            0 => drop(permit),
            1 => permit.end(Code::ResourceExhausted),
            _ => permit.end(Code::Ok),
        }
    };
    let callers = (0..300).map(async |caller| {
        for turn in 0..60 {
            call(caller, turn).await;
        }
    });
    let all = futures_util::future::join_all(callers);
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("nobody is forgotten");
    assert_eq!((gate.view().in_flight, waiting(&gate), room.taken()), (0, 0, (0, 0)));
}

proptest! {
    /// Whatever the order in which calls come, end, panic and are given up, all places and all room are free in the end.
    #[test]
    fn nothing_is_held_at_rest(steps in proptest::collection::vec((0u8..7, any::<u8>(), 0u64..50), 0..500)) {
        let (gate, room) = (gate(), room(40, 2_000));
        let mut held: VecDeque<_> = fill(&gate).into_iter().map(|permit| (Band::Critical, permit)).collect();
            let (mut turns, mut highest) = (VecDeque::new(), held.len());
        for (kind, at, left) in steps {
            let now = SystemClock::now();
            let asked = asking(u64::from(at), if left > 40 { Duration::ZERO } else { LONG });
            match kind {
                0..=2 => match gate.try_enter(asked.band, asked.deadline, now) {
                    Some(permit) => held.push_back((asked.band, permit)),
                    None => turns.extend(gate.wait(asked, usize::from(at), &room, now).ok().map(|turn| (asked.band, turn))),
                },
                3 => drop(turns.remove(usize::from(at) % turns.len().max(1))),
                4 => if let Some((_, permit)) = held.pop_front() { permit.end(Code::Ok) },
                5 => if let Some((_, permit)) = held.pop_back() { permit.end(Code::DeadlineExceeded) },
                _ => if let Some((_, permit)) = held.pop_front() {
                    // As where a handler panics.
                    let planted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        let _permit = permit;
                        std::panic::resume_unwind(Box::new("planted"));
                    }));
                    prop_assert!(planted.is_err());
                },
            }
            turns.retain_mut(|(band, turn): &mut (Band, Turn)| match turn.now_or_never() {
                Some(Ok(permit)) => { held.push_back((*band, permit)); false }
                Some(Err(_)) => false,
                None => true,
            });
            let view = gate.view();
            prop_assert_eq!((view.in_flight as usize, waiting(&gate) as usize), (held.len(), turns.len()));
            highest = highest.max(view.limit as usize);
            for band in Band::ALL {
                prop_assert!(held.iter().filter(|(other, _)| *other == band).count() <= highest, "more than the limit");
            }
            for (band, _) in &turns {
                let as_urgent = held.iter().filter(|(other, _)| other <= band).count();
                prop_assert!(as_urgent >= view.limit as usize, "a place is free and somebody waits");
            }
        }
        drop((held, turns));
        prop_assert_eq!((gate.view().in_flight, waiting(&gate), room.taken()), (0, 0, (0, 0)));
    }
}
