//! Devices, priorities, idle models, anti-affinity and cordons, by cases.

use super::*;

/// A model of ten bytes.
fn model(number: usize, replicas: usize) -> Wanted {
    Wanted { model: model_name(number), replicas, ..wanted(replicas, &[]) }
}

fn of(priority: Priority, wanted: Wanted) -> Wanted {
    Wanted { priority, ..wanted }
}

fn unused(seconds: u64, wanted: Wanted) -> Wanted {
    Wanted { idle: Some(Duration::from_secs(seconds)), ..wanted }
}

fn waiting(seconds: u64, wanted: Wanted) -> Wanted {
    Wanted { waits: Some(Duration::from_secs(seconds)), ..wanted }
}

/// Whatever their names and sizes are. What is always wanted has its place before: it does not come and go, and would wait for ever.
#[test]
fn who_has_waited_longest_is_next() {
    // Models 0 to 2 have 10, 20 and 30 bytes: there is room for the last, or for the others.
    let placed = |wanted: [Wanted; 3]| {
        let moves = moves(&mesh(vec![sized(0, 30)], wanted.into(), Vec::new()));
        [0, 1, 2].map(|number| moves.contains(&Move::Place(at(0, number), Why::Missing)))
    };
    let all = |seconds: [u64; 3]| [0, 1, 2].map(|number| waiting(seconds[number], model(number, 1)));
    let (small, large) = ([true, true, false], [false, false, true]);
    assert_eq!([all([7, 7, 7]), all([3, 5, 9])].map(placed), [large, large], "of equals the largest");
    assert_eq!([all([3, 9, 5]), all([9, 3, 5])].map(placed), [small, small]);
    assert_eq!(placed([model(0, 1), waiting(8, model(1, 1)), waiting(9, model(2, 1))]), small, "it is always wanted");
    let urgent = of(Priority::Realtime, waiting(1, model(2, 1)));
    assert_eq!(placed([waiting(8, model(0, 1)), waiting(9, model(1, 1)), urgent]), large, "its priority is before all");
    let idle = unused(50, waiting(90, model(2, 1)));
    assert_eq!(placed([waiting(1, model(0, 1)), waiting(2, model(1, 1)), idle]), small, "nobody calls it");
}

/// A worker that offers version 1 of models 0 to 7, of ten bytes times the model's number plus one.
fn sized(number: usize, memory: u64) -> Worker {
    let size = |model: u64| Offer::from(10 * (model + 1));
    offering(worker(number, memory), (0..8).map(|model| (model, size(model as u64))))
}

fn offering(worker: Worker, offers: impl Iterator<Item = (usize, Offer)>) -> Worker {
    let offers = offers.map(|(model, offer)| (model_name(model), BTreeMap::from([(version(1), offer)])));
    Worker { offers: Arc::new(offers.collect()), ..worker }
}

/// A worker that offers version 1 of models 0 to 7, of ten bytes each.
fn alike(number: usize, memory: u64) -> Worker {
    offering(worker(number, memory), (0..8).map(|model| (model, Offer::from(10))))
}

fn at(worker: usize, model: usize) -> Key {
    Key { worker: worker_id(worker), model: model_name(model), version: version(1) }
}

fn on(worker: usize, model: usize, state: State) -> Holding {
    Holding { key: at(worker, model), ..holding(worker, 1, state) }
}

fn mesh(workers: Vec<Worker>, wanted: Vec<Wanted>, holdings: Vec<Holding>) -> World {
    World { workers, wanted, holdings, failures: Vec::new() }
}

fn told(world: &World) -> Vec<(ModelName, Obstacle)> {
    place(world).unplaced.into_iter().map(|unplaced| (unplaced.model, unplaced.obstacle)).collect()
}

/// Carries plans out until there is nothing to do, with every load succeeding; what was done.
fn settle(world: &mut World) -> Vec<Move> {
    let mut done = Vec::new();
    loop {
        let plan = place(world);
        if plan.moves.is_empty() {
            return done;
        }
        carry_out(world, &plan);
        happen(world, Event::Load(usize::MAX));
        done.extend(plan.moves);
        assert!(done.len() < 100, "does not settle: {done:?}");
    }
}

#[test]
fn a_higher_priority_takes_the_room_of_a_lower_one_and_waits_until_it_is_free() {
    let wanted = vec![of(Priority::Realtime, model(0, 1)), of(Priority::Batch, model(1, 1))];
    let mut world = mesh(vec![alike(0, 10)], wanted, vec![on(0, 1, State::Ready)]);
    assert_eq!(moves(&world), [Move::Remove(at(0, 1), Why::Preempted)]);
    assert_eq!(told(&world), [(model_name(0), Obstacle::Waiting), (model_name(1), Obstacle::Held)]);
    // Until its worker has let go, its memory is not given away, and nobody else is asked to go.
    world.holdings[0] = Holding { placed: false, ..on(0, 1, State::Draining) };
    assert_eq!(moves(&world), []);
    assert_eq!(told(&world), [(model_name(0), Obstacle::Waiting), (model_name(1), Obstacle::Memory)]);
    world.holdings.clear();
    assert_eq!(moves(&world), [Move::Place(at(0, 0), Why::Missing)]);
    // The other way round nothing goes.
    world.holdings = vec![on(0, 0, State::Pending)];
    assert_eq!(moves(&world), []);
    assert_eq!(told(&world), [(model_name(1), Obstacle::Memory)]);
}

/// More is there than fits, as where a model took more than it was thought to: the load that failed for that is not tried there in vain.
#[test]
fn what_found_no_room_has_that_of_a_lower_priority() {
    let wanted = vec![of(Priority::Realtime, model(0, 1)), of(Priority::Batch, model(1, 1))];
    let large = Holding { size: 15, ..on(0, 1, State::Ready) };
    let mut world = mesh(vec![alike(0, 20)], wanted, vec![on(0, 0, State::Failed), large]);
    assert_eq!(moves(&world), [Move::Remove(at(0, 0), Why::Failed)]);
    world.holdings.remove(0);
    assert_eq!(moves(&world), [Move::Remove(at(0, 1), Why::Preempted)]);
    // What nothing yields to keeps its place, and its worker tries again.
    world.holdings.push(on(0, 0, State::Failed));
    world.wanted[1].priority = Priority::Realtime;
    assert_eq!(moves(&world), []);
}

#[test]
fn every_first_replica_of_a_higher_priority_comes_before_any_of_a_lower() {
    let wanted = vec![
        of(Priority::Batch, model(0, 1)),
        of(Priority::Standard, model(1, 1)),
        of(Priority::Realtime, model(2, 3)),
    ];
    let mut world = mesh((0..4).map(|number| alike(number, 10)).collect(), wanted, vec![]);
    settle(&mut world);
    let mut models: Vec<&ModelName> = world.holdings.iter().map(|holding| &holding.key.model).collect();
    models.sort();
    assert_eq!(models, [&model_name(1), &model_name(2), &model_name(2), &model_name(2)]);
}

#[test]
fn the_first_replica_takes_the_room_of_a_second_one_and_never_that_of_the_last() {
    let holdings = vec![on(0, 0, State::Ready), on(1, 0, State::Ready)];
    let mut world = mesh(vec![alike(0, 10), alike(1, 10)], vec![model(0, 2), model(1, 2)], holdings);
    let done = settle(&mut world);
    assert_eq!(done.len(), 2, "{done:?}");
    let models: BTreeSet<&ModelName> = world.holdings.iter().map(|holding| &holding.key.model).collect();
    assert_eq!(models.len(), 2);
    // With one replica each, a third model finds no room, and neither does one whose other replica does not serve.
    world.wanted.push(model(2, 1));
    assert_eq!(moves(&world), []);
    world.wanted = vec![model(0, 2), model(1, 1)];
    world.holdings = vec![on(0, 0, State::Ready), on(1, 0, State::Loading)];
    assert_eq!(moves(&world), [Move::Remove(at(1, 0), Why::Preempted)]);
}

#[test]
fn as_few_as_possible_go_then_the_lowest_then_the_newest() {
    let realtime = || of(Priority::Realtime, model(7, 1));
    // Model 7 takes 80 bytes: two of the others are enough, and of those that would do, the first by name goes.
    let few: Vec<Wanted> = (0..5).map(|number| of(Priority::Batch, model(number, 1))).chain([realtime()]).collect();
    let holdings = (0..5).map(|number| on(0, number, State::Ready)).collect();
    let removed = |world: &World| -> Vec<Key> {
        let removed = place(world).moves.into_iter().filter_map(|moved| match moved {
            Move::Remove(key, Why::Preempted) => Some(key),
            Move::Remove(..) | Move::Place(..) => None,
        });
        removed.collect()
    };
    assert_eq!(removed(&mesh(vec![sized(0, 150)], few, holdings)), [at(0, 2), at(0, 4)]);
    // Of equal numbers, a batch replica goes before a standard one, wherever it is.
    let wanted = vec![
        of(Priority::Standard, model(0, 1)),
        of(Priority::Batch, model(1, 1)),
        of(Priority::Realtime, model(2, 1)),
    ];
    let holdings = vec![on(0, 0, State::Ready), on(1, 1, State::Ready)];
    let mut world = mesh(vec![alike(0, 10), alike(1, 10)], wanted, holdings);
    assert_eq!(removed(&world), [at(1, 1)]);
    // Of equal priorities the newest, on one worker and on several.
    world.wanted[0].priority = Priority::Batch;
    world.holdings[0].since = 2;
    assert_eq!(removed(&world), [at(0, 0)]);
    world.holdings[1].since = 3;
    assert_eq!(removed(&world), [at(1, 1)]);
    world.workers = vec![alike(0, 20)];
    world.holdings[1].key.worker = worker_id(0);
    assert_eq!(removed(&world), [at(0, 1)]);
    world.holdings[0].since = 4;
    assert_eq!(removed(&world), [at(0, 0)]);
    // One that serves elsewhere, too, goes before the last one of a model.
    world.workers.push(Worker { cordoned: true, ..alike(1, 10) });
    world.wanted[1].replicas = 2;
    world.holdings.push(on(1, 1, State::Ready));
    assert_eq!(removed(&world), [at(0, 1)]);
}

#[test]
fn what_was_unused_the_longest_goes_first_and_what_is_used_stays() {
    let idle = |seconds: [u64; 3]| -> Vec<Wanted> {
        let idle = seconds.into_iter().enumerate().map(|(number, seconds)| unused(seconds, model(number, 1)));
        idle.chain([of(Priority::Batch, model(3, 1))]).collect()
    };
    let holdings = || (0..3).map(|number| on(0, number, State::Ready)).collect();
    let removed = |seconds| moves(&mesh(vec![alike(0, 30)], idle(seconds), holdings()));
    assert_eq!(removed([5, 50, 20]), [Move::Remove(at(0, 1), Why::Evicted)]);
    assert_eq!(removed([5, 20, 50]), [Move::Remove(at(0, 2), Why::Evicted)]);
    // Of equally unused ones, one of 30 bytes and not two of 10 and 20.
    let mut world = mesh(vec![worker(0, 60)], idle([7, 7, 7]), holdings());
    let sizes = [10, 20, 30, 30].map(Offer::from).into_iter().enumerate();
    world.workers[0] = offering(worker(0, 60), sizes);
    assert_eq!(moves(&world), [Move::Remove(at(0, 2), Why::Evicted)]);
    // One whose going would not help stays, however long it was unused.
    world.wanted[0] = unused(50, model(0, 1));
    assert_eq!(moves(&world), [Move::Remove(at(0, 2), Why::Evicted)]);
    // What is called stays, and what nobody calls takes nobody's room.
    let mut world = mesh(vec![alike(0, 10)], vec![model(0, 1), model(1, 1)], vec![on(0, 0, State::Ready)]);
    assert_eq!(moves(&world), []);
    world.wanted = vec![unused(9, model(0, 1)), unused(1, model(1, 1))];
    assert_eq!(moves(&world), []);
    assert_eq!(told(&world), [(model_name(1), Obstacle::Memory)]);
}

#[test]
fn an_unused_model_makes_way_before_a_lower_priority_does() {
    let wanted = vec![
        unused(1, of(Priority::Realtime, model(0, 1))),
        of(Priority::Batch, model(1, 1)),
        of(Priority::Realtime, model(2, 1)),
    ];
    let holdings = vec![on(0, 0, State::Ready), on(1, 1, State::Ready)];
    let world = mesh(vec![alike(0, 10), alike(1, 10)], wanted, holdings);
    assert_eq!(moves(&world), [Move::Remove(at(0, 0), Why::Evicted)]);
}

#[test]
fn a_drain_does_not_wait_for_room_for_what_nobody_calls() {
    let leaving = Worker { draining: true, ..alike(0, 10) };
    let mut world = mesh(vec![leaving, alike(1, 10)], vec![unused(1, model(0, 1)), model(1, 1)], vec![]);
    world.holdings = vec![on(0, 0, State::Ready), on(1, 1, State::Ready)];
    assert_eq!(moves(&world), [Move::Remove(at(0, 0), Why::Evicted)]);
    // With room elsewhere it moves as any other.
    world.holdings.truncate(1);
    world.wanted.truncate(1);
    assert_eq!(moves(&world), [Move::Place(at(1, 0), Why::Missing)]);
    // And what is called stays where it is.
    world.wanted = vec![model(0, 1), model(1, 1)];
    world.holdings.push(on(1, 1, State::Ready));
    assert_eq!(moves(&world), []);
}

#[test]
fn models_that_shun_each_other_are_kept_apart_whichever_of_them_says_so() {
    let shuns = |wanted: Wanted, other: usize| Wanted { anti_affinity: BTreeSet::from([model_name(other)]), ..wanted };
    for wanted in [vec![shuns(model(0, 1), 1), model(1, 1)], vec![model(0, 1), shuns(model(1, 1), 0)]] {
        let mut world = mesh(vec![alike(0, 90)], wanted.clone(), vec![]);
        assert_eq!(moves(&world), [Move::Place(at(0, 0), Why::Missing)]);
        assert_eq!(told(&world), [(model_name(1), Obstacle::Shunned)]);
        // What is on its way out is still beside it.
        world.holdings = vec![Holding { placed: false, ..on(0, 1, State::Draining) }];
        assert_eq!(moves(&world), []);
        // Together already, the one that yields moves when it serves elsewhere.
        let together = vec![on(0, 0, State::Ready), on(0, 1, State::Ready)];
        let mut world = mesh(vec![alike(0, 90), alike(1, 90)], wanted, together);
        assert_eq!(settle(&mut world), [Move::Place(at(1, 1), Why::Missing), Move::Remove(at(0, 1), Why::Replaced)]);
    }
    // A higher priority does not wait for a lower one to go by itself.
    let wanted = vec![shuns(of(Priority::Realtime, model(0, 1)), 1), model(1, 1)];
    let mut world = mesh(vec![alike(0, 90)], wanted, vec![on(0, 1, State::Ready)]);
    assert_eq!(settle(&mut world), [Move::Remove(at(0, 1), Why::Preempted), Move::Place(at(0, 0), Why::Missing)]);
}

#[test]
fn a_cordoned_worker_keeps_what_it_has_and_takes_nothing_new() {
    let cordoned = Worker { cordoned: true, ..alike(0, 90) };
    let mut world = mesh(vec![cordoned], vec![model(0, 2), model(1, 1)], vec![on(0, 0, State::Ready)]);
    assert_eq!(moves(&world), []);
    assert_eq!(told(&world), [(model_name(0), Obstacle::Cordoned), (model_name(1), Obstacle::Cordoned)]);
    world.workers.push(alike(1, 90));
    assert_eq!(moves(&world), [Move::Place(at(1, 0), Why::Missing), Move::Place(at(1, 1), Why::Missing)]);
    // The version that it has counts as the latest, although nobody else offers it.
    let mut world = super::world(vec![worker(0, 90)], wanted(1, &[]), vec![holding(0, 2, State::Ready)]);
    world.workers[0].cordoned = true;
    world.workers.push(offering(worker(1, 90), [(0, Offer::from(10))].into_iter()));
    assert_eq!(moves(&world), []);
    world.holdings.clear();
    assert_eq!(moves(&world), [Move::Place(key(1, 1), Why::Missing)]);
}

#[test]
fn a_replica_takes_the_memory_of_one_device_of_its_kind() {
    let cuda = |ordinal| DeviceId { kind: "cuda".to_owned(), ordinal };
    let cpu = DeviceId { kind: CPU.to_owned(), ordinal: 0 };
    let device = |id: &DeviceId, memory| Device { id: id.clone(), memory };
    let on_gpu = |size| Offer { size, device_kind: "cuda".to_owned(), cpu_millis: 0 };
    let offers = [(0, on_gpu(60)), (1, on_gpu(50)), (2, on_gpu(50)), (3, Offer::from(90))];
    let devices = vec![device(&cpu, 100), device(&cuda(0), 100), device(&cuda(1), 100)];
    let told_devices =
        |worker: Worker| offering(Worker { devices: devices.clone(), ..worker }, offers.clone().into_iter());
    let mut world = mesh(vec![told_devices(worker(0, 1))], (0..4).map(|number| model(number, 1)).collect(), vec![]);
    let plan = place(&world);
    assert_eq!(plan.unplaced, []);
    let placed: BTreeMap<Key, DeviceId> =
        [(at(0, 0), cuda(0)), (at(0, 1), cuda(1)), (at(0, 2), cuda(1)), (at(0, 3), cpu)].into();
    assert_eq!(plan.devices, placed);
    // Told where they are, they leave 40 bytes on one and none on the other: no 50 in one piece.
    carry_out(&mut world, &plan);
    for holding in &mut world.holdings {
        holding.device = plan.devices.get(&holding.key).cloned();
    }
    world.workers[0].offers = told_devices(worker(0, 1)).offers;
    let smaller = [(4, on_gpu(50)), (5, on_gpu(40))].into_iter().chain(offers.clone());
    world.workers[0] = offering(world.workers[0].clone(), smaller);
    world.wanted.extend([model(4, 1), model(5, 1)]);
    let plan = place(&world);
    assert_eq!(plan.devices, BTreeMap::from([(at(0, 5), cuda(0))]));
    assert_eq!(told(&world), [(model_name(4), Obstacle::Memory)]);
    // A worker that tells no devices has one pool for every kind; one that tells others only has none.
    let before = offering(worker(0, 60), offers.clone().into_iter());
    let plan = place(&mesh(vec![before], vec![model(0, 1)], vec![]));
    assert_eq!((plan.moves.len(), plan.devices.len()), (1, 0));
    let plain = Worker { devices: devices[..1].to_vec(), ..told_devices(worker(0, 1)) };
    assert_eq!(told(&mesh(vec![plain], vec![model(0, 1)], vec![])), [(model_name(0), Obstacle::Device)]);
}

#[test]
fn a_device_is_cleared_for_a_higher_priority_and_the_other_is_left_alone() {
    let cuda = |ordinal| DeviceId { kind: "cuda".to_owned(), ordinal };
    let devices = (0..2).map(|ordinal| Device { id: cuda(ordinal), memory: 100 }).collect();
    let gpu = |size| Offer { size, device_kind: "cuda".to_owned(), cpu_millis: 0 };
    let offers = [(0, gpu(100)), (1, gpu(60)), (2, gpu(40)), (3, gpu(90))].into_iter();
    let worker = offering(Worker { devices, ..worker(0, 0) }, offers);
    let wanted = vec![
        of(Priority::Realtime, model(0, 1)),
        of(Priority::Batch, model(1, 1)),
        of(Priority::Batch, model(2, 1)),
        of(Priority::Batch, model(3, 1)),
    ];
    let held = |number, ordinal| Holding { device: Some(cuda(ordinal)), ..on(0, number, State::Ready) };
    let world = mesh(vec![worker], wanted, vec![held(1, 0), held(2, 0), held(3, 1)]);
    assert_eq!(moves(&world), [Move::Remove(at(0, 3), Why::Preempted)]);
}

#[test]
fn processors_are_shared_out_where_an_offer_asks_for_them() {
    let asking = |cpu_millis| Offer { size: 1, device_kind: String::new(), cpu_millis };
    let offers = [(0, asking(1500)), (1, asking(600)), (2, asking(0))];
    let limited = |cpu_millis| offering(Worker { cpu_millis, ..worker(0, 90) }, offers.clone().into_iter());
    let models = || (0..3).map(|number| model(number, 1)).collect::<Vec<_>>();
    let world = mesh(vec![limited(2000)], models(), vec![]);
    assert_eq!(moves(&world).len(), 2);
    assert_eq!(told(&world), [(model_name(1), Obstacle::Processors)]);
    assert_eq!(moves(&mesh(vec![limited(2100)], models(), vec![])).len(), 3);
    // Where they are not counted, nothing asks in vain.
    assert_eq!(moves(&mesh(vec![limited(0)], models(), vec![])).len(), 3);
    // They, too, are made free for a higher priority.
    let wanted = vec![of(Priority::Batch, model(0, 1)), model(1, 1), of(Priority::Batch, model(2, 1))];
    let world = mesh(vec![limited(2000)], wanted, vec![on(0, 0, State::Ready), on(0, 2, State::Ready)]);
    assert_eq!(moves(&world), [Move::Remove(at(0, 0), Why::Preempted)]);
}

#[test]
fn waiting_for_what_leaves_comes_before_making_others_leave() {
    let wanted = vec![of(Priority::Realtime, model(0, 1)), of(Priority::Batch, model(1, 1))];
    let leaving = Holding { placed: false, ..on(1, 2, State::Draining) };
    let mut world = mesh(vec![alike(0, 10), alike(1, 10)], wanted, vec![on(0, 1, State::Ready), leaving]);
    assert_eq!(moves(&world), []);
    assert_eq!(told(&world), [(model_name(0), Obstacle::Waiting)]);
    // Likewise what the same plan removes: nobody wants it any more.
    world.holdings[1] = on(1, 2, State::Ready);
    assert_eq!(moves(&world), [Move::Remove(at(1, 2), Why::Unwanted)]);
    // Nor does what is lower take the room that is kept.
    world.wanted.push(of(Priority::Standard, model(3, 1)));
    world.wanted.push(of(Priority::Batch, model(2, 1)));
    world.workers.truncate(1);
    world.holdings = vec![Holding { placed: false, ..on(0, 1, State::Draining) }];
    world.workers[0].memory = 10;
    assert_eq!(moves(&world), []);
}
