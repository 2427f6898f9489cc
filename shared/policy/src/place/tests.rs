//! Placement by cases, then as a mesh that changes under it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

mod classes;
mod disruption;
mod faults;
mod naive;
mod random;

fn worker_id(number: usize) -> WorkerId {
    format!("w{number}").parse().expect("a valid name")
}

fn model_name(number: usize) -> ModelName {
    format!("m{number}").parse().expect("a valid name")
}

fn version(number: u64) -> Version {
    Version::new(number).expect("not zero")
}

/// A worker that offers model 0 in versions 1 and 2, each of 10 bytes.
fn worker(number: usize, memory: u64) -> Worker {
    let versions = BTreeMap::from([(version(1), Offer::from(10)), (version(2), Offer::from(10))]);
    Worker {
        id: worker_id(number),
        zone: String::new(),
        labels: BTreeMap::new(),
        memory,
        devices: Vec::new(),
        cpu_millis: 0,
        draining: false,
        cordoned: false,
        offers: Arc::new(BTreeMap::from([(model_name(0), versions)])),
    }
}

fn wanted(replicas: usize, versions: &[u64]) -> Wanted {
    Wanted {
        model: model_name(0),
        replicas,
        versions: versions.iter().copied().map(version).collect(),
        selector: BTreeMap::new(),
        priority: Priority::default(),
        anti_affinity: BTreeSet::new(),
        idle: None,
        waits: None,
        exclusive: false,
    }
}

fn key(worker: usize, number: u64) -> Key {
    Key { worker: worker_id(worker), model: model_name(0), version: version(number) }
}

fn holding(worker: usize, number: u64, state: State) -> Holding {
    Holding { key: key(worker, number), placed: true, state, size: 0, device: None, since: 0 }
}

fn world(workers: Vec<Worker>, wanted: Wanted, holdings: Vec<Holding>) -> World {
    World { workers, wanted: vec![wanted], holdings, failures: Vec::new() }
}

fn moves(world: &World) -> Vec<Move> {
    place(world).moves
}

fn obstacles(world: &World) -> Vec<(Option<u64>, usize, Obstacle)> {
    let told = |unplaced: Unplaced| (unplaced.version.map(Version::get), unplaced.missing, unplaced.obstacle);
    place(world).unplaced.into_iter().map(told).collect()
}

#[test]
fn places_the_latest_version_where_there_is_most_room() {
    let world = world(vec![worker(0, 20), worker(1, 30), worker(2, 10)], wanted(2, &[]), vec![]);
    let plan = place(&world);
    assert_eq!(plan.moves, [Move::Place(key(0, 2), Why::Missing), Move::Place(key(1, 2), Why::Missing)]);
    assert_eq!(plan.unplaced, []);
}

#[test]
fn spreads_over_zones_before_it_looks_at_room() {
    let in_zone = |number, memory, zone: &str| Worker { zone: zone.to_owned(), ..worker(number, memory) };
    let workers = vec![in_zone(0, 90, "a"), in_zone(1, 80, "a"), in_zone(2, 20, "b")];
    let plan = place(&world(workers, wanted(2, &[1]), vec![]));
    assert_eq!(plan.moves, [Move::Place(key(0, 1), Why::Missing), Move::Place(key(2, 1), Why::Missing)]);
}

#[test]
fn tells_the_obstacle_that_is_nearest_to_success() {
    let draining = Worker { draining: true, ..worker(0, 90) };
    let strange = Worker { offers: Arc::default(), ..worker(1, 90) };
    let picky = Wanted { selector: BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]), ..wanted(1, &[1]) };
    let table = [
        (vec![], wanted(1, &[1]), vec![], (Some(1), 1, Obstacle::NotOffered)),
        (vec![strange.clone()], wanted(2, &[]), vec![], (None, 2, Obstacle::NotOffered)),
        (vec![worker(0, 90), strange.clone()], picky, vec![], (Some(1), 1, Obstacle::Selector)),
        (vec![draining, strange.clone()], wanted(1, &[1]), vec![], (Some(1), 1, Obstacle::Draining)),
        (vec![worker(0, 90), strange], wanted(3, &[1]), vec![], (Some(1), 2, Obstacle::Held)),
        (vec![worker(0, 9)], wanted(1, &[1]), vec![], (Some(1), 1, Obstacle::Memory)),
        (vec![worker(0, 90)], wanted(1, &[1]), vec![holding(0, 1, State::Failed)], (Some(1), 1, Obstacle::Failed)),
    ];
    for (workers, wanted, holdings, told) in table {
        assert_eq!(obstacles(&world(workers, wanted, holdings)), [told]);
    }
}

/// Until they serve, it may come back from a moment without its lease, with all that it holds.
#[test]
fn others_take_over_from_a_lost_worker_at_once_and_it_loses_its_placements_once_they_serve() {
    let mut world = world(vec![worker(1, 90)], wanted(1, &[1]), vec![holding(0, 1, State::Pending)]);
    assert_eq!(moves(&world), [Move::Place(key(1, 1), Why::Missing)]);
    world.holdings.push(holding(1, 1, State::Loading));
    assert_eq!(moves(&world), []);
    let serving = |state, workers: &[usize]| World {
        workers: workers.iter().map(|number| worker(*number, 90)).collect(),
        holdings: vec![holding(0, 1, State::Ready), holding(1, 1, state)],
        ..world.clone()
    };
    assert_eq!(moves(&serving(State::Loading, &[0, 1])), [Move::Remove(key(1, 1), Why::Excess)], "it is back");
    assert_eq!(moves(&serving(State::Ready, &[1])), [Move::Remove(key(0, 1), Why::WorkerGone)]);
    // What nobody can hold any more stays its own, unless nobody wants it.
    let alone = World { workers: vec![], ..world.clone() };
    assert_eq!(moves(&alone), []);
    let unwanted = World { wanted: vec![wanted(0, &[1])], ..alone };
    assert_eq!(moves(&unwanted), [Move::Remove(key(0, 1), Why::WorkerGone), Move::Remove(key(1, 1), Why::WorkerGone)]);
}

#[test]
fn what_could_not_be_loaded_does_not_keep_its_worker_from_being_empty() {
    let mut world = world(vec![worker(0, 90)], wanted(1, &[1]), vec![holding(0, 1, State::Failed)]);
    assert_eq!(moves(&world), [], "its worker tries again");
    world.workers[0].draining = true;
    assert_eq!(moves(&world), [Move::Remove(key(0, 1), Why::Failed)]);
}

#[test]
fn a_draining_worker_serves_until_another_does() {
    let leaving = Worker { draining: true, ..worker(0, 90) };
    let mut world = world(vec![leaving, worker(1, 90)], wanted(1, &[1]), vec![holding(0, 1, State::Ready)]);
    assert_eq!(moves(&world), [Move::Place(key(1, 1), Why::Missing)]);
    world.holdings.push(holding(1, 1, State::Loading));
    assert_eq!(moves(&world), []);
    world.holdings[1].state = State::Ready;
    assert_eq!(moves(&world), [Move::Remove(key(0, 1), Why::Replaced)]);
    // With nowhere else to go it stays.
    world.workers[1].memory = 0;
    world.holdings.truncate(1);
    assert_eq!(moves(&world), []);
    assert_eq!(obstacles(&world), [(Some(1), 1, Obstacle::Memory)]);
}

#[test]
fn a_new_version_serves_before_the_old_one_goes() {
    let mut world = world(vec![worker(0, 90)], wanted(1, &[]), vec![holding(0, 1, State::Ready)]);
    assert_eq!(moves(&world), [Move::Place(key(0, 2), Why::Missing)]);
    world.holdings.push(holding(0, 2, State::Failed));
    assert_eq!(moves(&world), []);
    world.holdings[1].state = State::Ready;
    assert_eq!(moves(&world), [Move::Remove(key(0, 1), Why::Superseded)]);
}

#[test]
fn a_failed_replica_tries_other_workers_and_gives_up_after_three() {
    let workers = (0..5).map(|number| worker(number, 90)).collect();
    let mut world = world(workers, wanted(1, &[1]), vec![]);
    for failed in 0..3 {
        // The failures so far are remembered and not due yet, so each try goes to another worker.
        let plan = place(&world);
        let Some(Move::Place(placed, _)) = plan.moves.first() else { panic!("nothing placed: {plan:?}") };
        assert_eq!(placed, &key(failed, 1));
        world.failures.push(Failure { key: placed.clone(), blocked: true, loads: 1 });
        world.holdings = vec![Holding { key: placed.clone(), ..holding(0, 1, State::Failed) }];
    }
    assert_eq!(moves(&world), []);
    assert_eq!(obstacles(&world), [(Some(1), 1, Obstacle::FailedEverywhere)]);
    // Its worker tries again by itself; once that succeeds the version is cleared.
    world.holdings[0].state = State::Ready;
    assert_eq!(place(&world), Plan::default());
}

#[test]
fn a_failure_that_is_due_again_is_the_last_choice() {
    let mut world = world(vec![worker(0, 90), worker(1, 20)], wanted(1, &[1]), vec![]);
    world.failures.push(Failure { key: key(0, 1), blocked: false, loads: 1 });
    assert_eq!(moves(&world), [Move::Place(key(1, 1), Why::Missing)]);
    world.workers.truncate(1);
    assert_eq!(moves(&world), [Move::Place(key(0, 1), Why::Missing)]);
    world.failures[0].blocked = true;
    assert_eq!(obstacles(&world), [(Some(1), 1, Obstacle::Failed)]);
}

#[test]
fn a_broken_new_version_leaves_the_one_before_in_force() {
    let workers = (0..4).map(|number| worker(number, 90)).collect();
    let mut world = world(workers, wanted(1, &[]), vec![]);
    world.failures = (0..3).map(|number| Failure { key: key(number, 2), blocked: false, loads: 1 }).collect();
    assert_eq!(moves(&world), [Move::Place(key(0, 1), Why::Missing)]);
    assert_eq!(obstacles(&world), [(Some(2), 1, Obstacle::FailedEverywhere)]);
}

#[test]
fn fewer_replicas_keep_the_ready_ones() {
    let states = [State::Loading, State::Ready, State::Pending];
    let holdings = states.into_iter().enumerate().map(|(number, state)| holding(number, 1, state)).collect();
    let mut world = world((0..3).map(|number| worker(number, 90)).collect(), wanted(1, &[1]), holdings);
    assert_eq!(moves(&world), [Move::Remove(key(0, 1), Why::Excess), Move::Remove(key(2, 1), Why::Excess)]);
    world.wanted[0].replicas = 0;
    assert_eq!(moves(&world).len(), 3);
    world.wanted.clear();
    assert!(moves(&world).iter().all(|moved| matches!(moved, Move::Remove(_, Why::Unwanted))));
}

#[test]
fn a_second_replica_gives_way_to_a_first_one_within_one_plan() {
    let join = |worker, memory, sizes: [u64; 6]| Event::Join { worker, memory, zone: 0, sizes: sizes.to_vec() };
    let want = |model, replicas| Event::Want { model, replicas, versions: vec![] };
    // Model 1 fits only where model 0 goes at first; when it has gone, model 2 fits there, too.
    let events =
        [join(2, 11, [1, 0, 0, 0, 0, 1]), join(3, 35, [19, 0, 0, 17, 0, 17]), want(2, 2), want(1, 1), want(0, 2)];
    let mut world = World::default();
    events.into_iter().for_each(|event| happen(&mut world, event));
    let plan = place(&world);
    assert_eq!(plan.moves.len(), 4, "{plan:?}");
    carry_out(&mut world, &plan);
    assert_eq!(moves(&world), []);
}

#[test]
fn a_withdrawn_offer_leaves_what_serves() {
    let empty = Worker { offers: Arc::default(), ..worker(0, 90) };
    let mut world = world(vec![empty], wanted(1, &[]), vec![holding(0, 1, State::Ready)]);
    assert_eq!(moves(&world), []);
    world.workers.push(worker(1, 90));
    world.wanted[0].versions.insert(version(1));
    assert_eq!(moves(&world), [Move::Place(key(1, 1), Why::Missing)]);
}

/// What can happen to the mesh between two plans.
#[derive(Clone, Debug)]
enum Event {
    Join {
        worker: usize,
        memory: u64,
        zone: usize,
        sizes: Vec<u64>,
    },
    Leave(usize),
    Drain(usize),
    Want {
        model: usize,
        replicas: usize,
        versions: Vec<u64>,
    },
    Forget(usize),
    /// So many of the replicas that are not ready become it.
    Load(usize),
    /// The replica of this rank fails.
    Fail(usize),
    /// The failures that are remembered may be tried again.
    Cool,
}

fn event() -> impl Strategy<Value = Event> {
    let sizes = proptest::collection::vec(0u64..40, 6);
    prop_oneof![
        4 => (0usize..6, 0u64..120, 0usize..2, sizes)
            .prop_map(|(worker, memory, zone, sizes)| Event::Join { worker, memory, zone, sizes }),
        1 => (0usize..6).prop_map(Event::Leave),
        1 => (0usize..6).prop_map(Event::Drain),
        4 => (0usize..3, 0usize..5, proptest::collection::vec(1u64..3, 0..2))
            .prop_map(|(model, replicas, versions)| Event::Want { model, replicas, versions }),
        1 => (0usize..3).prop_map(Event::Forget),
        3 => (0usize..12).prop_map(Event::Load),
        1 => (0usize..12).prop_map(Event::Fail),
        1 => Just(Event::Cool),
    ]
}

/// A worker that offers three models in two versions, where `sizes` says so.
fn joined(number: usize, memory: u64, zone: usize, sizes: &[u64]) -> Worker {
    let mut offers: Offers = BTreeMap::new();
    for (slot, size) in sizes.iter().enumerate().filter(|(_, size)| **size % 4 != 0) {
        offers.entry(model_name(slot / 2)).or_default().insert(version(slot as u64 % 2 + 1), Offer::from(*size));
    }
    Worker { zone: zone.to_string(), offers: Arc::new(offers), ..worker(number, memory) }
}

fn happen(world: &mut World, event: Event) {
    match event {
        Event::Join { worker, memory, zone, sizes } => {
            happen(world, Event::Leave(worker));
            world.workers.push(joined(worker, memory, zone, &sizes));
        }
        Event::Leave(number) => {
            let id = worker_id(number);
            world.workers.retain(|worker| worker.id != id);
            // Its replicas' keys go with its lease; the placements stay until the scheduler removes them.
            for holding in world.holdings.iter_mut().filter(|holding| holding.key.worker == id) {
                holding.state = State::Pending;
            }
            world.holdings.retain(|holding| holding.placed || holding.key.worker != id);
        }
        Event::Drain(number) => {
            let id = worker_id(number);
            world.workers.iter_mut().filter(|worker| worker.id == id).for_each(|worker| worker.draining = true);
        }
        Event::Want { model, replicas, versions } => {
            happen(world, Event::Forget(model));
            world.wanted.push(Wanted { model: model_name(model), ..wanted(replicas, &versions) });
        }
        Event::Forget(model) => world.wanted.retain(|wanted| wanted.model != model_name(model)),
        Event::Load(count) => {
            let known = |holding: &&mut Holding| world.workers.iter().any(|worker| worker.id == holding.key.worker);
            let loading = world.holdings.iter_mut().filter(known).filter(|holding| holding.state != State::Ready);
            loading.take(count).for_each(|holding| holding.state = State::Ready);
        }
        Event::Fail(rank) => {
            if let Some(holding) = world.holdings.get_mut(rank).filter(|holding| holding.state != State::Ready) {
                holding.state = State::Failed;
                world.failures.retain(|failure| failure.key != holding.key);
                world.failures.push(Failure { key: holding.key.clone(), blocked: true, loads: 1 });
            }
        }
        Event::Cool => world.failures.iter_mut().for_each(|failure| failure.blocked = false),
    }
}

/// Does what the plan says, as the workers would: a removed replica is gone at the next look.
fn carry_out(world: &mut World, plan: &Plan) {
    for moved in &plan.moves {
        match moved {
            Move::Place(key, _) => world.holdings.push(Holding { key: key.clone(), ..holding(0, 1, State::Pending) }),
            Move::Remove(key, _) => world.holdings.retain(|holding| holding.key != *key),
        }
    }
}

fn used(world: &World, worker: &Worker) -> u64 {
    let here = world.holdings.iter().filter(|holding| holding.key.worker == worker.id);
    let size = |holding: &Holding| Some(worker.offers.get(&holding.key.model)?.get(&holding.key.version)?.size);
    here.filter_map(size).sum()
}

/// Models that serve: wanted, and ready somewhere.
fn serving(world: &World) -> BTreeSet<ModelName> {
    let is_wanted = |model: &ModelName| world.wanted.iter().any(|wanted| wanted.model == *model && wanted.replicas > 0);
    let ready = world.holdings.iter().filter(|holding| holding.state == State::Ready);
    ready.map(|holding| holding.key.model.clone()).filter(is_wanted).collect()
}

/// What must hold of one plan in one world.
fn check(world: &World, plan: &Plan) -> Result<World, TestCaseError> {
    let mut keys = BTreeSet::new();
    for moved in &plan.moves {
        let (Move::Place(key, _) | Move::Remove(key, _)) = moved;
        prop_assert!(keys.insert(key), "{key:?} moves twice");
        let holding = world.holdings.iter().find(|holding| holding.key == *key);
        match moved {
            Move::Remove(..) => prop_assert!(holding.is_some_and(|holding| holding.placed)),
            Move::Place(..) => {
                prop_assert!(holding.is_none());
                let target = world.workers.iter().find(|worker| worker.id == key.worker).expect("a known worker");
                prop_assert!(!target.draining);
                prop_assert!(target.offers.get(&key.model).is_some_and(|versions| versions.contains_key(&key.version)));
                prop_assert!(world.failures.iter().all(|failure| failure.key != *key || !failure.blocked));
            }
        }
    }
    // Even before anything is removed the new places fit.
    let mut full = world.clone();
    let places = plan.moves.iter().filter(|moved| matches!(moved, Move::Place(..))).cloned().collect();
    carry_out(&mut full, &Plan { moves: places, ..Plan::default() });
    for worker in &world.workers {
        prop_assert!(used(&full, worker) <= worker.memory.max(used(world, worker)), "{} is over capacity", worker.id);
    }
    let mut after = world.clone();
    carry_out(&mut after, plan);
    let known = |holding: &Holding| world.workers.iter().any(|worker| worker.id == holding.key.worker);
    let mut reachable = world.clone();
    reachable.holdings.retain(known);
    prop_assert_eq!(serving(&after), serving(&reachable), "a plan stopped a model from serving");
    Ok(after)
}

/// In a mesh at rest, what is placed where it suits and what the plan calls missing make up what is wanted.
fn check_settled(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let suited = |holding: &&Holding| {
        let worker = world.workers.iter().find(|worker| worker.id == holding.key.worker && !worker.draining);
        let versions = worker.and_then(|worker| worker.offers.get(&holding.key.model));
        versions.is_some_and(|versions| versions.contains_key(&holding.key.version))
    };
    for wanted in world.wanted.iter().filter(|wanted| wanted.replicas > 0) {
        let held: Vec<&Holding> = world.holdings.iter().filter(|holding| holding.key.model == wanted.model).collect();
        let told: Vec<&Unplaced> = plan.unplaced.iter().filter(|told| told.model == wanted.model).collect();
        let versions: BTreeSet<Version> = held.iter().map(|holding| holding.key.version).collect();
        if told.is_empty() {
            // Nothing is missing, so nothing lingers either.
            let count = if wanted.versions.is_empty() { 1 } else { wanted.versions.len() };
            prop_assert_eq!(versions.len(), count);
            prop_assert_eq!(held.iter().copied().filter(suited).count(), count * wanted.replicas);
            prop_assert_eq!(held.len(), count * wanted.replicas);
        }
        for version in &wanted.versions {
            let missing: usize =
                told.iter().filter(|told| told.version == Some(*version)).map(|told| told.missing).sum();
            let there = held.iter().copied().filter(suited).filter(|holding| holding.key.version == *version).count();
            prop_assert_eq!(there + missing, wanted.replicas);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_to_the_mesh(events in proptest::collection::vec((event(), any::<bool>()), 1..40)) {
        let mut world = World::default();
        for (event, planned) in events {
            happen(&mut world, event);
            if planned {
                let plan = place(&world);
                world = check(&world, &plan)?;
                // Carried out, it has nothing to add until memory is free or a replica has changed.
                let freed = plan.moves.iter().any(|moved| matches!(moved, Move::Remove(..)));
                let again = place(&world);
                prop_assert!(freed || again.moves.is_empty(), "{again:?} after {plan:?} in {world:#?}");
            }
        }
        // Left alone, with every load succeeding, it settles.
        happen(&mut world, Event::Cool);
        let mut rounds = 0;
        loop {
            happen(&mut world, Event::Load(usize::MAX));
            let plan = place(&world);
            world = check(&world, &plan)?;
            if plan.moves.is_empty() {
                check_settled(&world, &plan)?;
                break;
            }
            rounds += 1;
            prop_assert!(rounds < 10, "does not settle: {plan:?}");
        }
    }

    /// The order in which the world is told is no part of it.
    #[test]
    fn the_same_world_gives_the_same_plan(events in proptest::collection::vec(event(), 1..40)) {
        let mut world = World::default();
        for event in events {
            happen(&mut world, event);
            let plan = place(&world);
            let mut turned = world.clone();
            turned.workers.reverse();
            turned.wanted.reverse();
            turned.holdings.reverse();
            turned.failures.reverse();
            prop_assert_eq!(&place(&turned), &plan);
            carry_out(&mut world, &plan);
        }
    }

    /// The loss of a worker moves what that worker had, and nothing else.
    #[test]
    fn a_loss_moves_only_what_was_lost(workers in 2usize..6, replicas in 1usize..5, lost in 0usize..6) {
        let mut world = world((0..workers).map(|number| worker(number, 30)).collect(), wanted(replicas, &[1]), vec![]);
        let plan = place(&world);
        carry_out(&mut world, &plan);
        happen(&mut world, Event::Load(usize::MAX));
        prop_assert_eq!(moves(&world), []);
        let held = world.holdings.iter().filter(|holding| holding.key.worker == worker_id(lost)).count();
        happen(&mut world, Event::Leave(lost));
        let plan = place(&world);
        let places = plan.moves.iter().filter(|moved| matches!(moved, Move::Place(..))).count();
        prop_assert!(places <= held);
        let removes = plan.moves.len() - places;
        prop_assert!(if places == 0 { removes == held } else { removes == 0 }, "it goes once the others serve: {plan:?}");
        carry_out(&mut world, &plan);
        happen(&mut world, Event::Load(usize::MAX));
        let plan = place(&world);
        prop_assert_eq!(plan.moves.len() + removes, held);
        carry_out(&mut world, &plan);
        prop_assert_eq!(moves(&world), []);
    }
}
