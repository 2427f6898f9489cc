//! What a placement decision costs in a large mesh: 10,000 replicas on 1,000 workers.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::io::{self, Write as _};
use std::sync::Arc;

use weft_policy::place::{Holding, Move, Offer, Offers, Priority, State, Wanted, Worker, World, place};
use weft_types::{ModelName, SystemClock, Version, WorkerId};

const WORKERS: usize = 1000;
const REPLICAS: usize = 10_000;
const RUNS: usize = 15;
/// Ten replicas of the mean size fill nine tenths of a worker.
const MEMORY: u64 = 112;
const COLD_MS: f64 = 50.0;
const STEADY_MS: f64 = 10.0;

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "a placement decision for {REPLICAS} replicas on {WORKERS} workers in ms, the median of {RUNS}")?;
    writeln!(out, "models  repository  cold    at rest  worker gone  moves  short   short again")?;
    let mut goals = String::new();
    for (models, shared) in [(100, true), (1000, true), (5000, true), (1000, false)] {
        let mesh = Mesh { models, shared };
        let row = mesh.measure()?;
        let repository = if shared { "one" } else { "many" };
        writeln!(
            out,
            "{models:<6}  {repository:<10}  {:<6.2}  {:<7.2}  {:<11.2}  {:<5}  {:<6.2}  {:.2}",
            row.cold, row.rest, row.gone, row.moves, row.short, row.again
        )?;
        if shared {
            goals += &goal(&format!("placing_cold_ms_{models}_models"), row.cold, COLD_MS);
            goals += &goal(&format!("placing_worker_gone_ms_{models}_models"), row.gone, STEADY_MS);
        }
    }
    write!(out, "{goals}")
}

fn goal(name: &str, measured: f64, target: f64) -> String {
    let verdict = if measured <= target { "met" } else { "missed" };
    format!("GOAL {name} {measured:.2} <= {target} {verdict}\n")
}

/// What is measured, in milliseconds.
struct Row {
    /// Everything is to be placed.
    cold: f64,
    /// Everything is placed.
    rest: f64,
    /// A worker is lost.
    gone: f64,
    moves: usize,
    /// A third of the memory is missing, and priorities differ.
    short: f64,
    /// The same again, with what found a place.
    again: f64,
}

struct Mesh {
    models: usize,
    /// Whether all workers have one repository; otherwise each has a different part of the models.
    shared: bool,
}

impl Mesh {
    fn measure(&self) -> io::Result<Row> {
        let mut world = self.world(MEMORY)?;
        let cold = median(&world);
        settle(&mut world);
        let rest = median(&world);
        let lost = world.workers.swap_remove(WORKERS / 2);
        let gone = median(&world);
        let moves = place(&world).moves.len();
        assert!(moves > 0, "{:?} had nothing", lost.id);
        let mut world = self.world(MEMORY * 2 / 3)?;
        for (number, wanted) in world.wanted.iter_mut().enumerate() {
            wanted.priority = [Priority::Realtime, Priority::Standard, Priority::Batch][number % 3];
        }
        let short = median(&world);
        settle(&mut world);
        Ok(Row { cold, rest, gone, moves, short, again: median(&world) })
    }

    fn world(&self, memory: u64) -> io::Result<World> {
        let version = Version::new(1).ok_or_else(|| io::Error::other("versions begin with one"))?;
        let model = |number: usize| format!("model-{number}").parse().map_err(io::Error::other);
        let models: Vec<ModelName> = (0..self.models).map(model).collect::<io::Result<_>>()?;
        let offers = |part: &dyn Fn(usize) -> bool| -> Arc<Offers> {
            let offer = |number: usize| {
                let offer = Offer::from(5 + (number as u64 * 7) % 11);
                (models[number].clone(), BTreeMap::from([(version, offer)]))
            };
            Arc::new((0..self.models).filter(|number| part(*number)).map(offer).collect())
        };
        let every = offers(&|_| true);
        let worker = |number: usize| -> io::Result<Worker> {
            Ok(Worker {
                id: format!("worker-{number}").parse::<WorkerId>().map_err(io::Error::other)?,
                zone: format!("zone-{}", number % 3),
                labels: BTreeMap::new(),
                memory,
                devices: Vec::new(),
                cpu_millis: 0,
                draining: false,
                cordoned: false,
                // Each of the models is on every 25th worker.
                offers: match self.shared {
                    true => Arc::clone(&every),
                    false => offers(&|model| (model * 7 + number).is_multiple_of(25)),
                },
            })
        };
        let wanted = |model: &ModelName| Wanted {
            model: model.clone(),
            replicas: REPLICAS / self.models,
            versions: BTreeSet::new(),
            selector: BTreeMap::new(),
            priority: Priority::Standard,
            anti_affinity: BTreeSet::new(),
            idle: None,
            waits: None,
        };
        Ok(World {
            workers: (0..WORKERS).map(worker).collect::<io::Result<_>>()?,
            wanted: models.iter().map(wanted).collect(),
            ..World::default()
        })
    }
}

/// Carries plans out until there is nothing to do.
fn settle(world: &mut World) {
    for pass in 1.. {
        assert!(pass < 20, "does not settle");
        let plan = place(world);
        if plan.moves.is_empty() {
            return;
        }
        for moved in plan.moves {
            match moved {
                Move::Place(key, _) => world.holdings.push(Holding {
                    key,
                    placed: true,
                    state: State::Ready,
                    size: 0,
                    device: None,
                    since: pass,
                }),
                Move::Remove(key, _) => world.holdings.retain(|holding| holding.key != key),
            }
        }
    }
}

fn median(world: &World) -> f64 {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begun = SystemClock::now();
            black_box(place(black_box(world)));
            SystemClock::now().duration_since(begun).as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}
