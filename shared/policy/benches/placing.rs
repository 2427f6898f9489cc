//! What a placement decision costs in a large mesh: 10,000 replicas on 1,000 workers.
//!
//! Criterion measures; the table and the goals are the medians that it leaves in `criterion/` below the build's folder.

#[expect(dead_code, unreachable_pub, reason = "the goals of all benchmarks, which are in a crate above this one")]
#[path = "../../../tests/src/goal.rs"]
mod goal;

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use goal::Goal;
use weft_policy::place::{Holding, Move, Offer, Offers, Priority, State, Wanted, Worker, World, place};
use weft_types::{ModelName, Version, WorkerId};

const WORKERS: usize = 1000;
const REPLICAS: usize = 10_000;
const SAMPLES: usize = 15;
/// Ten replicas of the mean size fill nine tenths of a worker.
const MEMORY: u64 = 112;
const COLD_MS: f64 = 50.0;
const STEADY_MS: f64 = 10.0;

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../criterion");
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .output_directory(&folder)
        .configure_from_args();
    let (mut table, mut goals) = (String::new(), String::new());
    for (models, shared) in [(100, true), (1000, true), (5000, true), (1000, false)] {
        let repository = if shared { "one" } else { "many" };
        let name = format!("placing_{models}_models_{repository}_repository");
        let mut group = criterion.benchmark_group(&name);
        group.sampling_mode(SamplingMode::Flat);
        let row = Mesh { models, shared }.measure(&mut Bench { group, folder: folder.join(name) })?;
        let Row { cold, rest, gone, moves, short, again } = row;
        table += &format!(
            "{models:<6}  {repository:<10}  {cold:<6.2}  {rest:<7.2}  {gone:<11.2}  {moves:<5}  {short:<6.2}  {again:.2}\n"
        );
        if shared {
            let at_most =
                |what: &str, target, ms| Goal::at_most(format!("placing_{what}_ms_{models}_models"), target, ms);
            for goal in [at_most("cold", COLD_MS, cold), at_most("worker_gone", STEADY_MS, gone)] {
                goals += &(goal.line() + "\n");
            }
        }
    }
    criterion.final_summary();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "a placement decision for {REPLICAS} replicas on {WORKERS} workers in ms, Criterion's median of {SAMPLES} samples"
    )?;
    writeln!(out, "models  repository  cold    at rest  worker gone  moves  short   short again")?;
    write!(out, "{table}{goals}")
}

/// What is measured, in milliseconds; not a number where the command line leaves it out.
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

/// The decisions of one mesh, and where Criterion leaves what it finds.
struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    folder: PathBuf,
}

impl Bench<'_> {
    /// Criterion's estimate of the median time of a decision, in milliseconds.
    fn median(&mut self, name: &str, world: &World) -> io::Result<f64> {
        let path = self.folder.join(name).join("new/estimates.json");
        // What a run before has left is no estimate of this one.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.group.bench_function(name, |bencher| bencher.iter(|| place(black_box(world))));
        let estimates = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(f64::NAN),
            read => serde_json::from_slice::<serde_json::Value>(&read?)?,
        };
        let median = estimates["median"]["point_estimate"].as_f64();
        median.map(|ns| ns / 1e6).ok_or_else(|| io::Error::other(format!("{} tells no median", path.display())))
    }
}

struct Mesh {
    models: usize,
    /// Whether all workers have one repository; otherwise each has a different part of the models.
    shared: bool,
}

impl Mesh {
    fn measure(&self, bench: &mut Bench<'_>) -> io::Result<Row> {
        let mut world = self.world(MEMORY)?;
        let cold = bench.median("cold", &world)?;
        settle(&mut world);
        let rest = bench.median("at_rest", &world)?;
        let lost = world.workers.swap_remove(WORKERS / 2);
        let gone = bench.median("worker_gone", &world)?;
        let moves = place(&world).moves.len();
        assert!(moves > 0, "{:?} had nothing", lost.id);
        let mut world = self.world(MEMORY * 2 / 3)?;
        for (number, wanted) in world.wanted.iter_mut().enumerate() {
            wanted.priority = [Priority::Realtime, Priority::Standard, Priority::Batch][number % 3];
        }
        let short = bench.median("short", &world)?;
        settle(&mut world);
        Ok(Row { cold, rest, gone, moves, short, again: bench.median("short_again", &world)? })
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
            exclusive: false,
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
