//! Versions that fail to load, beside those that they were to replace.

use super::*;

fn failure(worker: usize, number: u64, loads: u32) -> Failure {
    Failure { key: key(worker, number), blocked: true, loads }
}

fn workers(count: usize) -> Vec<Worker> {
    (0..count).map(|number| worker(number, 90)).collect()
}

/// Where fewer workers could take it than a version must fail on, all of them count, and as many loads.
#[test]
fn on_few_workers_a_broken_newest_version_leaves_the_one_before_in_force() {
    let placed = |workers: Vec<Worker>, failures: &[(usize, u32)]| {
        let mut world = world(workers, wanted(1, &[]), vec![]);
        world.failures = failures.iter().map(|(worker, loads)| failure(*worker, 2, *loads)).collect();
        let plan = place(&world);
        let versions: Vec<u64> = plan
            .moves
            .iter()
            .map(|moved| match moved {
                Move::Place(key, _) | Move::Remove(key, _) => key.version.get(),
            })
            .collect();
        let broken = plan.unplaced.iter().any(|told| told.obstacle == Obstacle::FailedEverywhere);
        (versions, broken)
    };
    assert_eq!(placed(workers(1), &[(0, 2)]), (vec![], false), "it may be the worker's fault, or a moment's");
    assert_eq!(placed(workers(1), &[(0, 3)]), (vec![1], true));
    assert_eq!(placed(workers(2), &[(0, 9)]), (vec![2], false), "the other one was not tried");
    assert_eq!(placed(workers(2), &[(0, 2), (1, 1)]), (vec![1], true));
    // Only those count that could take it, whatever else they lack.
    let labelled = Worker { cordoned: true, ..worker(2, 90) };
    assert_eq!(placed(vec![worker(0, 90), worker(1, 9), labelled], &[(0, 3)]), (vec![1], true));
    // Nor does a lack of room speak against a version, wherever it is.
    assert_eq!(placed(workers(4), &[(0, 0), (1, 0), (2, 0)]), (vec![2], false));
}

/// Its worker loads it again: until the new version serves, it is all that could.
#[test]
fn the_version_before_is_kept_through_a_failure_until_the_new_one_serves() {
    let holdings = vec![holding(0, 1, State::Failed), holding(0, 2, State::Loading)];
    let mut world = world(workers(1), wanted(1, &[]), holdings);
    assert_eq!(moves(&world), []);
    world.holdings[1].state = State::Ready;
    assert_eq!(moves(&world), [Move::Remove(key(0, 1), Why::Failed)]);
    // One that is at fault itself goes at once: it would take the room of others.
    world.holdings[1].state = State::Loading;
    world.failures = vec![failure(0, 1, 3)];
    assert_eq!(moves(&world), [Move::Remove(key(0, 1), Why::Failed)]);
}

/// What failed keeps its room, and the version that would repair it needs that.
#[test]
fn the_version_before_makes_room_when_it_has_failed() {
    let world = world(vec![worker(0, 15)], wanted(1, &[]), vec![holding(0, 1, State::Failed)]);
    assert_eq!(moves(&world), [Move::Remove(key(0, 1), Why::Failed)]);
}

/// Unless its calls go to no other version: after a rollout that was led back, say.
#[test]
fn a_ready_version_before_makes_room_only_where_it_does_not_stand_in() {
    let mut world = world(vec![worker(0, 15)], wanted(1, &[1]), vec![holding(0, 2, State::Ready)]);
    assert_eq!(moves(&world), []);
    world.wanted[0].exclusive = true;
    assert_eq!(moves(&world), [Move::Remove(key(0, 2), Why::Superseded)]);
    world.workers[0].memory = 20;
    assert_eq!(moves(&world), [Move::Place(key(0, 1), Why::Missing)]);
}

#[test]
fn what_was_lost_with_its_worker_comes_back_while_the_new_version_is_broken() {
    let mut world = world(vec![worker(1, 90)], wanted(1, &[]), vec![holding(0, 1, State::Pending)]);
    world.holdings.push(holding(1, 2, State::Failed));
    world.failures = vec![failure(1, 2, 3)];
    assert_eq!(moves(&world), [Move::Place(key(1, 1), Why::Missing), Move::Remove(key(1, 2), Why::Failed)]);
}

#[test]
fn a_version_that_fails_on_most_workers_stops_replacing_the_one_before() {
    let held = |number, state: fn(usize) -> State| (0..10).map(move |worker| holding(worker, number, state(worker)));
    let old = held(1, |_| State::Ready);
    let new = held(2, |worker| if worker == 0 { State::Ready } else { State::Failed });
    let mut world = world(workers(10), wanted(10, &[]), old.chain(new).collect());
    world.failures = (1..10).map(|worker| failure(worker, 2, 1)).collect();
    let gone: Vec<u64> = moves(&world)
        .iter()
        .map(|moved| match moved {
            Move::Place(key, _) => panic!("{key:?} is placed"),
            Move::Remove(key, _) => key.version.get(),
        })
        .collect();
    assert_eq!(gone, [2; 10], "the one before serves everywhere");
    // Named by its number it stays, and what is missing of it is served by the other.
    world.wanted[0].versions = BTreeSet::from([version(2)]);
    assert_eq!(moves(&world), [Move::Remove(key(9, 1), Why::Superseded)]);
    assert_eq!(obstacles(&world), [(Some(2), 9, Obstacle::FailedEverywhere)]);
}

/// What failed before its model was applied anew is not remembered any more, but its record stands until its worker has loaded it again.
#[test]
fn failures_that_are_forgotten_do_not_bring_the_version_before_back() {
    let holdings: Vec<Holding> = (0..4).map(|worker| holding(worker, 2, State::Failed)).collect();
    let mut world = world(workers(4), wanted(4, &[]), holdings);
    assert_eq!(moves(&world), []);
    world.failures = (0..4).map(|worker| failure(worker, 2, 1)).collect();
    assert!(moves(&world).iter().any(|moved| matches!(moved, Move::Place(key, _) if key.version == version(1))));
}

#[test]
fn a_few_failures_cost_no_replica_of_the_version_before() {
    let new = |worker| holding(worker, 2, if worker < 8 { State::Ready } else { State::Failed });
    let holdings = (0..10).flat_map(|worker| [holding(worker, 1, State::Ready), new(worker)]).collect();
    let mut world = world(workers(10), wanted(10, &[]), holdings);
    let gone = moves(&world);
    assert_eq!(gone.len(), 8, "{gone:?}");
    assert!(gone.iter().all(|moved| matches!(moved, Move::Remove(_, Why::Superseded))), "{gone:?}");
    // When all of the new ones serve nothing is kept.
    let plan = place(&world);
    carry_out(&mut world, &plan);
    happen(&mut world, Event::Load(usize::MAX));
    assert_eq!(moves(&world).len(), 2);
    // A version that nothing is left to go back to is tried on, however many workers cannot load it.
    world.holdings.retain(|holding| holding.key.version == version(2) && holding.key.worker == worker_id(0));
    world.wanted[0].replicas = 2;
    world.failures = (1..5).map(|worker| failure(worker, 2, 9)).collect();
    assert_eq!(moves(&world), [Move::Place(key(5, 2), Why::Missing)]);
}

/// Only a model that has nothing takes another's second replica: an update can wait.
#[test]
fn an_update_takes_nobodys_second_replica() {
    let own = BTreeMap::from([(version(1), Offer::from(10)), (version(2), Offer::from(10))]);
    let other = BTreeMap::from([(version(1), Offer::from(10))]);
    let offers: Arc<Offers> = Arc::new(BTreeMap::from([(model_name(0), own), (model_name(1), other)]));
    let full = |number| Worker { offers: Arc::clone(&offers), ..worker(number, 10) };
    let second =
        |worker| Holding { key: Key { model: model_name(1), ..key(worker, 1) }, ..holding(worker, 1, State::Ready) };
    let mut world = world((0..3).map(full).collect(), wanted(1, &[]), vec![holding(0, 1, State::Ready)]);
    world.wanted.push(Wanted { model: model_name(1), ..wanted(2, &[]) });
    world.holdings.extend([second(1), second(2)]);
    assert_eq!(moves(&world), []);
    let preempts = |world: &World| moves(world).iter().any(|moved| matches!(moved, Move::Remove(_, Why::Preempted)));
    world.workers[0].draining = true;
    assert!(preempts(&world), "what must go from where it is needs a place");
    world.workers[0].draining = false;
    world.holdings.remove(0);
    world.workers.remove(0);
    assert!(preempts(&world), "it has nothing");
}
