//! Meshes at random, with everything that a worker and a model can tell.

use super::*;

const WORKERS: usize = 6;
const MODELS: usize = 6;

/// What happens between two plans.
#[derive(Clone, Debug)]
enum Change {
    Join(usize, Machine),
    Leave(usize),
    Drain(usize),
    Cordon(usize, bool),
    Want(usize, Wish),
    Forget(usize),
    /// So many of the replicas that are not ready become it.
    Load(usize),
    /// The replica of this rank fails.
    Fail(usize),
    /// So many of the replicas on their way out are gone.
    Gone(usize),
    Cool,
}

#[derive(Clone, Debug)]
struct Machine {
    /// The memory of the processor and of up to two other devices; the first alone is told as one pool.
    memory: Vec<u64>,
    threads: u64,
    zone: usize,
    rack: bool,
    /// Size, kind and processors of each model's first version.
    offers: Vec<Option<(u64, bool, u64)>>,
}

#[derive(Clone, Debug)]
struct Wish {
    replicas: usize,
    priority: Priority,
    shuns: Option<usize>,
    idle: Option<u64>,
    rack: bool,
}

fn machine() -> impl Strategy<Value = Machine> {
    let offer = proptest::option::weighted(0.8, (1u64..40, proptest::bool::weighted(0.3), 0u64..1500));
    let offers = proptest::collection::vec(offer, MODELS);
    let memory = proptest::collection::vec(0u64..120, 1..4);
    (memory, 0u64..4, 0usize..2, any::<bool>(), offers).prop_map(|(memory, threads, zone, rack, offers)| Machine {
        memory,
        threads,
        zone,
        rack,
        offers,
    })
}

fn wish() -> impl Strategy<Value = Wish> {
    let priority = prop_oneof![Just(Priority::Realtime), Just(Priority::Standard), Just(Priority::Batch)];
    let shuns = proptest::option::weighted(0.2, 0..MODELS);
    let idle = proptest::option::weighted(0.25, 1u64..4);
    (0usize..5, priority, shuns, idle, proptest::bool::weighted(0.15))
        .prop_map(|(replicas, priority, shuns, idle, rack)| Wish { replicas, priority, shuns, idle, rack })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..WORKERS, machine()).prop_map(|(number, machine)| Change::Join(number, machine)),
        1 => (0..WORKERS).prop_map(Change::Leave),
        1 => (0..WORKERS).prop_map(Change::Drain),
        1 => (0..WORKERS, any::<bool>()).prop_map(|(number, cordoned)| Change::Cordon(number, cordoned)),
        6 => (0..MODELS, wish()).prop_map(|(number, wish)| Change::Want(number, wish)),
        1 => (0..MODELS).prop_map(Change::Forget),
        3 => (0usize..12).prop_map(Change::Load),
        1 => (0usize..12).prop_map(Change::Fail),
        3 => (0usize..12).prop_map(Change::Gone),
        1 => Just(Change::Cool),
    ]
}

impl Machine {
    fn worker(self, number: usize) -> Worker {
        let kinds = [(CPU, 0), ("cuda", 0), ("cuda", 1)];
        let device = |((kind, ordinal), memory): ((&str, u32), &u64)| Device {
            id: DeviceId { kind: kind.to_owned(), ordinal },
            memory: *memory,
        };
        let devices: Vec<Device> = kinds.into_iter().zip(&self.memory).map(device).collect();
        let offers = self.offers.into_iter().enumerate().filter_map(|(model, told)| {
            let (size, cuda, cpu_millis) = told?;
            let device_kind = if cuda { "cuda".to_owned() } else { String::new() };
            Some((model_name(model), BTreeMap::from([(version(1), Offer { size, device_kind, cpu_millis })])))
        });
        Worker {
            zone: self.zone.to_string(),
            labels: self.rack.then(|| ("rack".to_owned(), "a".to_owned())).into_iter().collect(),
            devices: if devices.len() > 1 { devices } else { Vec::new() },
            cpu_millis: self.threads * 1000,
            offers: Arc::new(offers.collect()),
            ..worker(number, self.memory[0])
        }
    }
}

/// A mesh, and how many replicas were ever placed in it.
#[derive(Clone, Debug, Default)]
struct Mesh {
    world: World,
    placed: u64,
}

impl Mesh {
    fn happen(&mut self, change: Change) {
        let world = &mut self.world;
        let mut workers = world.workers.iter_mut();
        match change {
            Change::Join(number, machine) => {
                happen(world, Event::Leave(number));
                world.workers.push(machine.worker(number));
            }
            Change::Leave(number) => happen(world, Event::Leave(number)),
            Change::Drain(number) => happen(world, Event::Drain(number)),
            Change::Cordon(number, cordoned) => {
                workers
                    .find(|worker| worker.id == worker_id(number))
                    .into_iter()
                    .for_each(|worker| worker.cordoned = cordoned);
            }
            Change::Want(number, wish) => {
                happen(world, Event::Forget(number));
                world.wanted.push(Wanted {
                    model: model_name(number),
                    priority: wish.priority,
                    selector: wish.rack.then(|| ("rack".to_owned(), "a".to_owned())).into_iter().collect(),
                    anti_affinity: wish.shuns.map(model_name).into_iter().collect(),
                    idle: wish.idle.map(Duration::from_secs),
                    waits: wish.replicas.is_multiple_of(2).then(|| Duration::from_secs(number as u64)),
                    ..wanted(wish.replicas, &[])
                });
            }
            Change::Forget(number) => happen(world, Event::Forget(number)),
            Change::Load(count) => {
                let loading =
                    world.holdings.iter_mut().filter(|holding| holding.placed && holding.state != State::Ready);
                loading.take(count).for_each(|holding| holding.state = State::Ready);
            }
            Change::Fail(rank) => {
                let placed = world.holdings.get(rank).is_some_and(|holding| holding.placed);
                happen(world, if placed { Event::Fail(rank) } else { Event::Cool });
            }
            Change::Gone(count) => {
                let mut left = count;
                world
                    .holdings
                    .retain(|holding| holding.placed || left.checked_sub(1).map(|rest| left = rest).is_none());
            }
            Change::Cool => happen(world, Event::Cool),
        }
    }

    /// As the workers would: what is removed takes its memory until it has gone.
    fn carry_out(&mut self, plan: &Plan) {
        for moved in &plan.moves {
            match moved {
                Move::Place(key, _) => {
                    self.placed += 1;
                    self.world.holdings.retain(|holding| holding.key != *key);
                    self.world.holdings.push(Holding {
                        key: key.clone(),
                        device: plan.devices.get(key).cloned(),
                        since: self.placed,
                        ..holding(0, 1, State::Pending)
                    });
                }
                Move::Remove(key, Why::WorkerGone) => self.world.holdings.retain(|holding| holding.key != *key),
                Move::Remove(key, _) => {
                    let mut holdings = self.world.holdings.iter_mut();
                    let holding = holdings.find(|holding| holding.key == *key).expect("it is there");
                    (holding.placed, holding.state) = (false, State::Draining);
                }
            }
        }
    }

    fn worker(&self, key: &Key) -> Option<&Worker> {
        self.world.workers.iter().find(|worker| worker.id == key.worker)
    }

    fn wanted(&self, key: &Key) -> Option<&Wanted> {
        self.world.wanted.iter().find(|wanted| wanted.model == key.model && wanted.replicas > 0)
    }

    fn offer(&self, key: &Key) -> Option<&Offer> {
        self.worker(key)?.offers.get(&key.model)?.get(&key.version)
    }

    /// Which of its worker's devices a replica is on.
    fn device(&self, holding: &Holding) -> Option<usize> {
        let worker = self.worker(&holding.key)?;
        let kind = self
            .offer(&holding.key)
            .map_or(CPU, |offer| if offer.device_kind.is_empty() { CPU } else { &offer.device_kind });
        let told = worker.devices.iter().position(|device| Some(&device.id) == holding.device.as_ref());
        let first = || worker.devices.iter().position(|device| device.id.kind == kind);
        if worker.devices.is_empty() { Some(0) } else { told.or_else(first) }
    }

    /// What is taken of each device, by the worker and the device's position, and of the processors, beyond the devices.
    fn taken(&self) -> BTreeMap<(WorkerId, usize), u64> {
        let mut taken = BTreeMap::new();
        for holding in &self.world.holdings {
            let (Some(device), Some(offer)) = (self.device(holding), self.offer(&holding.key)) else { continue };
            *taken.entry((holding.key.worker.clone(), device)).or_default() += offer.size;
            *taken.entry((holding.key.worker.clone(), usize::MAX)).or_default() += offer.cpu_millis;
        }
        taken
    }

    fn capacity(&self, worker: &WorkerId, device: usize) -> u64 {
        let worker = self.world.workers.iter().find(|known| known.id == *worker).expect("a known worker");
        match device {
            usize::MAX if worker.cpu_millis == 0 => u64::MAX,
            usize::MAX => worker.cpu_millis,
            device => worker.devices.get(device).map_or(worker.memory, |device| device.memory),
        }
    }

    fn shun(&self, one: &Key, other: &Key) -> bool {
        let says = |one: &Key, other: &Key| {
            self.world
                .wanted
                .iter()
                .any(|wanted| wanted.model == one.model && wanted.anti_affinity.contains(&other.model))
        };
        one.model != other.model && (says(one, other) || says(other, one))
    }
}

/// What must hold of every plan; the mesh after it.
fn check(mesh: &Mesh, plan: &Plan) -> Result<Mesh, TestCaseError> {
    let mut after = mesh.clone();
    after.carry_out(plan);
    let (before, taken) = (mesh.taken(), after.taken());
    for ((worker, device), bytes) in &taken {
        let bound = after.capacity(worker, *device).max(before.get(&(worker.clone(), *device)).copied().unwrap_or(0));
        prop_assert!(*bytes <= bound, "{worker} has {bytes} of {bound} on device {device}");
    }
    let waits = |unplaced: &&Unplaced| unplaced.obstacle == Obstacle::Waiting;
    let waiting: Vec<&Wanted> = plan
        .unplaced
        .iter()
        .filter(waits)
        .filter_map(|unplaced| mesh.world.wanted.iter().find(|wanted| wanted.model == unplaced.model))
        .collect();
    for moved in &plan.moves {
        match moved {
            Move::Place(key, _) => {
                let worker = mesh.worker(key).expect("a known worker");
                prop_assert!(!worker.draining && !worker.cordoned);
                prop_assert_eq!(plan.devices.contains_key(key), !worker.devices.is_empty());
                let beside = after.world.holdings.iter().filter(|other| other.key.worker == key.worker);
                let parted = beside.clone().all(|other| !after.shun(key, &other.key));
                prop_assert!(parted, "{key:?} is beside what it shuns");
            }
            Move::Remove(key, Why::Evicted) => {
                prop_assert!(mesh.wanted(key).is_some_and(|wanted| wanted.idle.is_some()));
            }
            Move::Remove(key, Why::Preempted) => {
                let victim = mesh.wanted(key).expect("wanted");
                let left = after.world.holdings.iter().any(|holding| holding.placed && holding.key.model == key.model);
                let fair =
                    |wanted: &&Wanted| wanted.priority < victim.priority || wanted.priority == victim.priority && left;
                prop_assert!(victim.idle.is_none());
                let placed = after.world.holdings.iter().filter(|holding| holding.state == State::Pending);
                let mut gainers = waiting.iter().copied().chain(placed.filter_map(|holding| mesh.wanted(&holding.key)));
                prop_assert!(gainers.any(|wanted| fair(&wanted) && wanted.idle.is_none()), "{key:?} goes for nobody");
            }
            Move::Remove(..) => {}
        }
    }
    Ok(after)
}

/// In a mesh at rest, nothing that is missing could be had at the cost of what matters less.
fn check_fair(mesh: &Mesh, plan: &Plan) -> Result<(), TestCaseError> {
    for unplaced in plan.unplaced.iter().filter(|unplaced| unplaced.version.is_some()) {
        let wanted = mesh.world.wanted.iter().find(|wanted| wanted.model == unplaced.model).expect("wanted");
        if wanted.idle.is_some() || matches!(unplaced.obstacle, Obstacle::FailedEverywhere) {
            continue;
        }
        for worker in mesh.world.workers.iter().filter(|worker| !worker.draining && !worker.cordoned) {
            let key = Key { worker: worker.id.clone(), model: unplaced.model.clone(), version: version(1) };
            let Some(offer) = mesh.offer(&key) else { continue };
            let here: Vec<&Holding> =
                mesh.world.holdings.iter().filter(|holding| holding.key.worker == worker.id).collect();
            let stays = |holding: &&Holding| {
                mesh.wanted(&holding.key).is_none_or(|other| other.idle.is_none() && other.priority <= wanted.priority)
            };
            let labelled = wanted.selector.iter().all(|(key, value)| worker.labels.get(key) == Some(value));
            let taken = here.iter().any(|holding| holding.key == key);
            let shunned = here.iter().copied().filter(stays).any(|holding| mesh.shun(&key, &holding.key));
            if !labelled || taken || shunned {
                continue;
            }
            let kind = if offer.device_kind.is_empty() { CPU } else { &offer.device_kind };
            let devices = (0..worker.devices.len().max(1))
                .filter(|device| worker.devices.get(*device).is_none_or(|device| device.id.kind == kind));
            let size =
                |holding: &Holding| mesh.offer(&holding.key).map_or((0, 0), |offer| (offer.size, offer.cpu_millis));
            let cpu: u64 = here.iter().copied().filter(stays).map(|holding| size(holding).1).sum();
            for device in devices {
                let on_it = here.iter().copied().filter(stays).filter(|holding| mesh.device(holding) == Some(device));
                let bytes: u64 = on_it.map(|holding| size(holding).0).sum();
                let fits = bytes + offer.size <= mesh.capacity(&worker.id, device)
                    && cpu + offer.cpu_millis <= mesh.capacity(&worker.id, usize::MAX);
                prop_assert!(!fits, "{} could be on {}: {plan:?}", unplaced.model, worker.id);
            }
        }
    }
    Ok(())
}

/// The large model comes second and takes the device on which the other was first; another device of that worker has room for it.
#[test]
fn what_is_taken_back_is_placed_on_another_device_there() {
    let wish = |replicas| Wish { replicas, priority: Priority::Realtime, shuns: None, idle: None, rack: false };
    let machine = |memory: &[u64], offers: [Option<(u64, bool, u64)>; 2]| {
        let [large, small] = offers;
        let offers = vec![None, large, None, small, None, None];
        Machine { memory: memory.to_vec(), threads: 0, zone: 0, rack: false, offers }
    };
    let one = machine(&[12], [None, Some((1, false, 0))]);
    let two = machine(&[0, 10, 38], [Some((29, true, 0)), Some((10, true, 0))]);
    let mut mesh = Mesh::default();
    let changes = [Change::Want(3, wish(3)), Change::Want(1, wish(2)), Change::Join(0, one), Change::Join(1, two)];
    changes.into_iter().for_each(|change| mesh.happen(change));
    let place = |worker, model| {
        let key = Key { worker: worker_id(worker), model: model_name(model), version: version(1) };
        Move::Place(key, Why::Missing)
    };
    assert_eq!(super::place(&mesh.world).moves, [place(0, 3), place(1, 1), place(1, 3)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Within every device at every step, for good reasons only, and always coming to rest.
    #[test]
    fn whatever_happens_to_a_mesh_of_everything(changes in proptest::collection::vec((change(), any::<bool>()), 1..40)) {
        let mut mesh = Mesh::default();
        for (change, planned) in changes {
            mesh.happen(change);
            if planned {
                let plan = place(&mesh.world);
                mesh = check(&mesh, &plan)?;
                // Until something is free or has changed, there is nothing to add, but for what nobody calls: its place may have been wanted by
                // one that found another. What waits for room that becomes free may wait elsewhere, now that others have been placed, and leave
                // its place to them.
                let waits = plan.unplaced.iter().any(|unplaced| unplaced.obstacle == Obstacle::Waiting);
                let freed = waits || plan.moves.iter().any(|moved| matches!(moved, Move::Remove(..)));
                let again = place(&mesh.world);
                let uncalled = |moved: &Move| {
                    let idle = |key: &Key| mesh.world.wanted.iter().any(|of| of.model == key.model && of.idle.is_some());
                    matches!(moved, Move::Place(key, _) if idle(key))
                };
                prop_assert!(freed || again.moves.iter().all(uncalled), "{again:?} after {plan:?}");
            }
        }
        mesh.happen(Change::Cool);
        let mut passes = 0;
        loop {
            mesh.happen(Change::Gone(usize::MAX));
            mesh.happen(Change::Load(usize::MAX));
            let plan = place(&mesh.world);
            mesh = check(&mesh, &plan)?;
            if plan.moves.is_empty() {
                check_fair(&mesh, &plan)?;
                break;
            }
            passes += 1;
            prop_assert!(passes < 12, "does not settle: {plan:?}");
        }
    }

    /// The index finds what a look at every worker finds, and the order in which the world is told is no part of it.
    #[test]
    fn the_index_finds_what_a_look_at_every_worker_finds(changes in proptest::collection::vec(change(), 1..60)) {
        let mut mesh = Mesh::default();
        for change in changes {
            mesh.happen(change);
            let plan = place(&mesh.world);
            prop_assert_eq!(&naive::place(&mesh.world), &plan);
            let mut turned = mesh.world.clone();
            turned.workers.reverse();
            turned.wanted.reverse();
            turned.holdings.reverse();
            turned.failures.reverse();
            prop_assert_eq!(&place(&turned), &plan);
            mesh.carry_out(&plan);
        }
    }
}
