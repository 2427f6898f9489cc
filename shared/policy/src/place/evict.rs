//! Memory for a model that is called, from models that nobody calls: the one that was called longest ago goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_types::{ModelName, WorkerId};

use super::fleet::Fleet;
use super::goal::Goal;
use super::{Holding, Key, Move, Plan, State, Why, World};

/// What a worker could free, as the choice goes along.
struct Room<'a> {
    /// Bytes that are free, or will be when it has let go of what is on its way out.
    free: u64,
    /// Replicas that may go, the one called longest ago first.
    idle: Vec<(Duration, &'a Key, u64)>,
}

/// Removes idle replicas where a model that is called lacks nothing but memory. It is placed once the worker has let go of them.
pub(super) fn evict(world: &World, goals: &[Goal<'_>], fleet: &Fleet<'_>, plan: &mut Plan) {
    let idle: BTreeMap<&ModelName, Duration> =
        world.wanted.iter().filter_map(|wanted| Some((&wanted.model, wanted.idle?))).collect();
    let going: BTreeSet<Key> = plan.moves.iter().filter_map(removed).cloned().collect();
    let mut rooms: BTreeMap<&WorkerId, Room<'_>> = BTreeMap::new();
    for goal in goals.iter().filter(|goal| goal.lacks_memory() && !idle.contains_key(goal.name().0)) {
        for _ in 0..goal.missing() {
            let candidates = fleet.lacking(goal.wanted(), goal.name().1);
            let best = candidates
                .filter_map(|(worker, free, size)| {
                    let room = rooms.entry(worker).or_insert_with(|| room(world, &idle, &going, (worker, free)));
                    Some((cost(room, size)?, worker, size))
                })
                .min();
            let Some((_, worker, size)) = best else { break };
            if let Some(room) = rooms.get_mut(worker) {
                free_up(room, size, plan);
            }
        }
    }
}

fn removed(change: &Move) -> Option<&Key> {
    match change {
        Move::Remove(key, _) => Some(key),
        Move::Place(..) => None,
    }
}

fn room<'a>(
    world: &'a World,
    idle: &BTreeMap<&ModelName, Duration>,
    going: &BTreeSet<Key>,
    (worker, free): (&WorkerId, u64),
) -> Room<'a> {
    let here = world.holdings.iter().filter(|holding| holding.key.worker == *worker);
    let leaves = |holding: &&Holding| !holding.placed || going.contains(&holding.key);
    let (leaving, staying): (Vec<_>, Vec<_>) = here.partition(leaves);
    let freed: u64 = leaving.iter().map(|holding| size(holding, world)).sum();
    let may_go = |holding: &'a Holding| {
        let since = idle.get(&holding.key.model).filter(|_| holding.state == State::Ready)?;
        Some((*since, &holding.key, size(holding, world)))
    };
    let mut may_go: Vec<_> = staying.into_iter().filter_map(may_go).collect();
    may_go.sort_by(|one, other| (other.0, other.1).cmp(&(one.0, one.1)));
    Room { free: free.saturating_add(freed), idle: may_go }
}

/// What a replica takes: as it was measured, or as its worker expects.
fn size(holding: &Holding, world: &World) -> u64 {
    let worker = world.workers.iter().find(|worker| worker.id == holding.key.worker);
    let offer = || worker?.offers.get(&holding.key.model)?.get(&holding.key.version).copied();
    if holding.size > 0 { holding.size } else { offer().unwrap_or(0) }
}

/// How lately the last of those was called that would have to go, negated: the longest ago is the cheapest. `None` where even all of them
/// are not enough.
fn cost(room: &Room<'_>, size: u64) -> Option<std::cmp::Reverse<Duration>> {
    let mut free = room.free;
    if free >= size {
        return Some(std::cmp::Reverse(Duration::MAX));
    }
    room.idle.iter().find_map(|(since, _, bytes)| {
        free = free.saturating_add(*bytes);
        (free >= size).then_some(std::cmp::Reverse(*since))
    })
}

fn free_up(room: &mut Room<'_>, size: u64, plan: &mut Plan) {
    while room.free < size && !room.idle.is_empty() {
        let (_, key, bytes) = room.idle.remove(0);
        room.free = room.free.saturating_add(bytes);
        plan.moves.push(Move::Remove(key.clone(), Why::Evicted));
    }
    room.free = room.free.saturating_sub(size);
}

#[cfg(test)]
mod tests {
    use super::super::{Wanted, Worker, place};
    use super::*;
    use weft_types::Version;

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    fn worker(id: &str, memory: u64) -> Worker {
        let version = Version::new(1).expect("not zero");
        let offers = ["a", "b", "c", "d"].map(|model| (name(model), BTreeMap::from([(version, 10)])));
        Worker {
            id: id.parse().expect("an id"),
            zone: String::new(),
            labels: BTreeMap::new(),
            memory,
            draining: false,
            offers: offers.into(),
        }
    }

    fn wanted(model: &str, idle: Option<u64>) -> Wanted {
        Wanted {
            model: name(model),
            replicas: 1,
            versions: BTreeSet::new(),
            selector: BTreeMap::new(),
            priority: super::super::Priority::default(),
            anti_affinity: BTreeSet::new(),
            idle: idle.map(Duration::from_secs),
        }
    }

    fn held(worker: &str, model: &str) -> Holding {
        let version = Version::new(1).expect("not zero");
        let key = Key { worker: worker.parse().expect("an id"), model: name(model), version };
        Holding { key, placed: true, state: State::Ready, size: 0 }
    }

    fn evicted(world: &World) -> Vec<Key> {
        let gone = place(world).moves.into_iter().filter_map(|change| match change {
            Move::Remove(key, Why::Evicted) => Some(key),
            _ => None,
        });
        gone.collect()
    }

    #[test]
    fn who_was_called_longest_ago_gives_way_and_nobody_who_is_called() {
        let workers = vec![worker("w1", 10), worker("w2", 10), worker("w3", 10)];
        let holdings = vec![held("w1", "a"), held("w2", "b"), held("w3", "c")];
        let asked = vec![wanted("a", Some(10)), wanted("b", Some(20)), wanted("c", None), wanted("d", None)];
        let mut world = World { workers, wanted: asked, holdings, failures: Vec::new() };
        assert_eq!(evicted(&world), [held("w2", "b").key]);
        // What is on its way out counts as free, so that nobody else has to go meanwhile.
        world.holdings[1] = Holding { placed: false, state: State::Draining, ..held("w2", "b") };
        world.wanted[1].replicas = 0;
        assert_eq!(evicted(&world), []);
        // Nobody gives way to who is idle as well.
        world.holdings[1] = held("w2", "b");
        world.wanted[1].replicas = 1;
        world.wanted[3].idle = Some(Duration::from_secs(5));
        assert_eq!(evicted(&world), []);
        for wanted in &mut world.wanted {
            wanted.idle = None;
        }
        assert_eq!(evicted(&world), []);
    }

    #[test]
    fn several_go_where_one_is_not_enough_and_none_where_all_are_not() {
        let mut large = worker("w1", 25);
        let version = Version::new(1).expect("not zero");
        let offer = |bytes| BTreeMap::from([(version, bytes)]);
        large.offers.insert(name("d"), offer(20));
        let holdings = vec![held("w1", "a"), held("w1", "b")];
        let asked = vec![wanted("a", Some(10)), wanted("b", Some(20)), wanted("d", None)];
        let mut world = World { workers: vec![large], wanted: asked, holdings, failures: Vec::new() };
        assert_eq!(evicted(&world), [held("w1", "a").key, held("w1", "b").key]);
        world.workers[0].offers.insert(name("d"), offer(15));
        assert_eq!(evicted(&world), [held("w1", "b").key], "five bytes are free");
        world.workers[0].offers.insert(name("d"), offer(30));
        assert_eq!(evicted(&world), [], "it would not fit in any case");
    }
}
