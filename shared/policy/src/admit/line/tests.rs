use proptest::prelude::*;
use weft_types::SystemClock;

use super::*;

const MS: Duration = Duration::from_millis(1);
const FREE: Room = Room { calls: 0, bytes: 0 };

fn asked(band: Band, tenant: u64, deadline: Deadline) -> Asked {
    Asked { band, tenant, deadline, needs: Duration::ZERO }
}

/// A line of calls named by number, all with far deadlines unless said otherwise.
struct World {
    line: Line<usize>,
    now: Instant,
    next: usize,
}

impl World {
    fn new() -> Self {
        let now = SystemClock::now();
        Self { line: Line::new(25 * MS, 1, now), now, next: 0 }
    }

    fn push(&mut self, band: Band, tenant: u64, left: Duration) -> Result<usize, Refusal> {
        let asked = asked(band, tenant, Deadline::after(self.now, left));
        self.next += 1;
        let place = self.line.push(asked, (self.next - 1, 1), FREE, self.now);
        assert!(place.displaced.is_empty());
        place.outcome.map(|_| self.next - 1).map_err(|(refusal, _)| refusal)
    }

    fn pop(&mut self) -> Option<usize> {
        self.line.pop(Band::Sheddable, &mut Vec::new(), self.now)
    }

    /// Serves one for each millisecond while somebody comes for each one served, until the queue stands.
    fn stand(&mut self, tenant: u64) {
        for _ in 0..200 {
            let _ = self.push(Band::Default, tenant, 3_600_000 * MS);
        }
        for _ in 0..300 {
            self.now += MS;
            self.pop();
            let _ = self.push(Band::Default, tenant, 3_600_000 * MS);
        }
        assert!(self.line.stands());
    }
}

#[test]
fn bands_go_first_then_tenants_by_turns_then_deadlines() {
    let mut world = World::new();
    let mut push = |band, tenant, seconds: u32| world.push(band, tenant, 1_000 * MS * seconds).expect("there is room");
    let sheddable = push(Band::Sheddable, 1, 1);
    let one: Vec<usize> = [9, 7, 8].into_iter().map(|left| push(Band::Default, 1, left)).collect();
    let two: Vec<usize> = [5, 6].into_iter().map(|left| push(Band::Default, 2, left)).collect();
    let critical = push(Band::Critical, 2, 60);
    let order: Vec<usize> = std::iter::from_fn(|| world.pop()).collect();
    assert_eq!(order, [critical, one[1], two[0], one[2], two[1], one[0], sheddable]);
}

/// One tenant sends a hundred times as much: served one for one all the same, and one that comes late is not behind.
#[test]
fn tenants_that_wait_are_served_alike() {
    let mut world = World::new();
    let mut of = std::collections::HashMap::new();
    for call in 0..1_000 {
        let tenant = u64::from(call % 100 == 0);
        of.insert(world.push(Band::Default, tenant, 1_000_000 * MS).expect("there is room"), tenant);
    }
    let served: Vec<u64> = (0..20).map(|_| of[&world.pop().expect("somebody waits")]).collect();
    assert_eq!(served.iter().filter(|tenant| **tenant == 1).count(), 10, "{served:?}");
    let late = world.push(Band::Default, 7, 1_000_000 * MS).expect("there is room");
    assert!((0..2).any(|_| world.pop() == Some(late)));
}

#[test]
fn tenants_that_are_made_up_share_places() {
    let mut world = World::new();
    for tenant in 0..10_000 {
        world.push(Band::Default, tenant, 1_000_000 * MS).expect("there is room");
    }
    assert!(world.line.bands[Band::Default as usize].of(9_999) > 100);
    assert_eq!(std::iter::from_fn(|| world.pop()).count(), 10_000);
}

#[test]
fn what_cannot_be_in_time_is_refused_at_once_or_when_its_turn_comes() {
    let mut world = World::new();
    world.stand(1);
    assert_eq!(world.push(Band::Sheddable, 1, 20 * MS), Err(Refusal::Infeasible), "some 200 ms of calls are before it");
    assert!(world.push(Band::Critical, 1, 20 * MS).is_ok(), "nobody is before it");
    let needs = Asked { needs: 30 * MS, ..asked(Band::Critical, 1, Deadline::after(world.now, 20 * MS)) };
    let refused = world.line.push(needs, (0, 1), FREE, world.now).outcome;
    assert!(matches!(refused, Err((Refusal::Infeasible, 0))), "{refused:?}");
    let needs = Asked { needs: 30 * MS, ..asked(Band::Critical, 1, Deadline::after(world.now, 50 * MS)) };
    assert!(world.line.push(needs, (0, 1), FREE, world.now).outcome.is_ok());
    world.now += 21 * MS;
    let mut late = Vec::new();
    assert!(world.line.pop(Band::Sheddable, &mut late, world.now).is_some());
    assert_eq!(late.len(), 2, "one has expired, one has less left than it needs");
}

/// Also where those above turn out to be too late: their place is not one for those below.
#[test]
fn who_is_below_the_lowest_band_stays() {
    let mut world = World::new();
    let long = 3_600_000 * MS;
    for (band, left) in [(Band::Critical, MS), (Band::Default, long), (Band::Sheddable, long)] {
        world.push(band, 1, left).expect("there is room");
    }
    assert!(world.line.has_from(Band::Critical));
    world.now += 2 * MS;
    let mut late = Vec::new();
    assert_eq!(world.line.pop(Band::Critical, &mut late, world.now), None);
    assert_eq!((late, world.line.len()), (vec![0], 2));
    assert_eq!([Band::Critical, Band::Default].map(|band| world.line.has_from(band)), [false, true]);
    let served = [Band::Default, Band::Default, Band::Sheddable]
        .map(|lowest| world.line.pop(lowest, &mut Vec::new(), world.now));
    assert_eq!(served, [Some(1), None, Some(2)]);
}

/// Where calls come too late, those with the earliest deadline would each be too late in turn.
#[test]
fn the_latest_go_first_while_calls_come_too_late() {
    let mut world = World::new();
    let [_, early, late] =
        [5, 10_000, 20_000].map(|left| world.push(Band::Default, 1, left * MS).expect("there is room"));
    world.now += 6 * MS;
    assert_eq!(world.pop(), Some(late));
    let last = world.push(Band::Default, 1, 30_000 * MS).expect("there is room");
    world.now += LATE;
    assert_eq!((world.pop(), world.pop()), (Some(early), Some(last)));
}

#[test]
fn a_queue_that_stands_sheds_the_lowest_band_and_who_has_more_than_a_share() {
    let mut world = World::new();
    let long = 3_600_000 * MS;
    assert!(world.push(Band::Sheddable, 1, long).is_ok());
    world.stand(1);
    assert_eq!(world.push(Band::Sheddable, 2, long), Err(Refusal::Shed));
    assert!(world.push(Band::Default, 1, long).is_ok(), "nobody else waits in its band");
    assert!(world.push(Band::Default, 2, long).is_ok());
    assert_eq!(world.push(Band::Default, 1, long), Err(Refusal::Shed));
    assert!(world.push(Band::Default, 2, long).is_ok() && world.push(Band::Critical, 1, long).is_ok());
}

#[test]
fn room_is_made_for_the_urgent_and_for_those_with_less() {
    let mut world = World::new();
    let long = Deadline::after(world.now, 3_600_000 * MS);
    for (band, tenant) in [(Band::Sheddable, 1), (Band::Default, 1), (Band::Default, 1), (Band::Default, 1)] {
        world.push(band, tenant, 1_000 * MS).expect("there is room");
    }
    let missing = Room { calls: 1, bytes: 0 };
    let mut push = |band, tenant, missing| world.line.push(asked(band, tenant, long), (9, 1), missing, world.now);
    let place = push(Band::Default, 1, missing);
    assert!(place.outcome.is_ok() && place.displaced == [0], "{place:?}");
    let place = push(Band::Default, 1, missing);
    assert!(matches!(place.outcome, Err((Refusal::Full, 9))) && place.displaced.is_empty(), "{place:?}");
    let place = push(Band::Default, 2, missing);
    assert!(place.outcome.is_ok() && place.displaced.len() == 1, "{place:?}");
    let place = push(Band::Critical, 3, Room { calls: 1, bytes: 3 });
    assert!(place.outcome.is_ok() && place.displaced.len() == 3, "{place:?}");
    let place = push(Band::Sheddable, 3, missing);
    assert!(matches!(place.outcome, Err((Refusal::Full, 9))), "{place:?}");
}

proptest! {
    /// Whatever comes, goes and is given up: each call leaves once, and nothing is counted that is not there.
    #[test]
    fn each_call_leaves_once(steps in proptest::collection::vec((0u8..4, 0u64..300, 0u64..200, 0u64..30), 0..400)) {
        let mut world = World::new();
        let (mut there, mut keys) = (std::collections::BTreeSet::new(), Vec::new());
        for (call, (kind, tenant, left, pause)) in steps.into_iter().enumerate() {
            world.now += MS * pause as u32;
            match kind {
                0 | 1 => {
                    let asked = asked(Band::of(tenant % 4), tenant, Deadline::after(world.now, MS * left as u32));
                    let missing = Room { calls: usize::from(left % 3 == 0), bytes: 0 };
                    let place = world.line.push(asked, (call, 1), missing, world.now);
                    for gone in place.displaced {
                        prop_assert!(there.remove(&gone));
                    }
                    if let Ok(key) = place.outcome {
                        there.insert(call);
                        keys.push(key);
                    }
                }
                2 => {
                    let mut late = Vec::new();
                    let served = world.line.pop(Band::Sheddable, &mut late, world.now);
                    for gone in late.into_iter().chain(served) {
                        prop_assert!(there.remove(&gone));
                    }
                }
                _ => if let Some(gone) = keys.pop().and_then(|key| world.line.remove(&key, world.now)) {
                    prop_assert!(there.remove(&gone));
                },
            }
            prop_assert_eq!(world.line.len(), there.len());
        }
    }
}
