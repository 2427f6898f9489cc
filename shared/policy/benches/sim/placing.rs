//! Who holds what in a simulated mesh: production's placement over its own snapshot, or what others would do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_policy::place::{self, Holding, Key, Move, Offers, Priority, State, Wanted, World};
use weft_policy::scale::{Bounds, Demand, Scaler, Seen};
use weft_types::{ModelName, Version, WorkerId};

use super::lately::WINDOW;
use super::method::Placing;
use super::scenario::Scenario;

/// Models that a worker has memory for.
pub(crate) const HOLDS: usize = 2;
/// A count of replicas follows demand only when it is off by more than this, as moves cost.
const SLACK: f64 = 0.2;
/// So many decisions long demand is remembered, so that what will be called again is not unloaded.
const LATELY: usize = 6;
/// The utilization, per pod's request of half a worker, that the number of pods is set for.
const TARGET: f64 = 0.7;

/// What is known when something is decided, of each model.
pub(crate) struct Told<'a> {
    /// Device time per second that it is called for, and that its replicas have used.
    pub(crate) demand: &'a [f64],
    pub(crate) used: &'a [f64],
    /// What workers measured, where somebody asks.
    pub(crate) measured: &'a [Option<Demand>],
    pub(crate) now: Instant,
}

/// A change: the worker shall hold the model, or no longer.
pub(crate) enum Change {
    Load(u32, u32),
    Unload(u32, u32),
}

/// What each worker holds or loads.
pub(crate) struct Placement {
    placing: Placing,
    models: Vec<ModelName>,
    workers: Vec<WorkerId>,
    version: Version,
    /// Of each pool: its own models and workers only.
    worlds: Vec<World>,
    per_pool: (usize, usize),
    /// By worker: the models, and whether they are ready.
    pub(crate) held: Vec<Vec<(u32, bool)>>,
    pub(crate) is_down: Vec<bool>,
    counts: Vec<usize>,
    /// By model: its demand of late.
    lately: Vec<VecDeque<f64>>,
    scalers: Vec<Scaler>,
}

impl Placement {
    pub(crate) fn new(scenario: &Scenario, placing: Placing) -> Option<Self> {
        let (models, workers) = (scenario.models.len(), scenario.workers);
        let names = |prefix: &str, count: usize| (0..count).map(|at| format!("{prefix}{at:06}")).collect::<Vec<_>>();
        let version = Version::new(1)?;
        let model_names: Vec<ModelName> =
            names("m", models * scenario.pools).iter().filter_map(|name| name.parse().ok()).collect();
        let worker_names: Vec<WorkerId> =
            names("w", workers * scenario.pools).iter().filter_map(|name| name.parse().ok()).collect();
        let world = |pool: usize| {
            let of_pool = &model_names[pool * models..(pool + 1) * models];
            let offers: Arc<Offers> =
                Arc::new(of_pool.iter().map(|name| (name.clone(), BTreeMap::from([(version, 1.into())]))).collect());
            let worker = |id: &WorkerId| place::Worker {
                id: id.clone(),
                zone: String::new(),
                labels: BTreeMap::new(),
                memory: HOLDS as u64,
                devices: Vec::new(),
                cpu_millis: 0,
                draining: false,
                cordoned: false,
                offers: offers.clone(),
            };
            World {
                workers: worker_names[pool * workers..(pool + 1) * workers].iter().map(worker).collect(),
                ..World::default()
            }
        };
        Some(Self {
            placing,
            worlds: (0..scenario.pools).map(world).collect(),
            per_pool: (models, workers),
            held: vec![Vec::new(); worker_names.len()],
            is_down: vec![false; worker_names.len()],
            counts: vec![0; model_names.len()],
            lately: vec![VecDeque::new(); model_names.len()],
            scalers: Vec::new(),
            models: model_names,
            workers: worker_names,
            version,
        })
    }

    /// Replicas that are held or loading.
    pub(crate) fn replicas(&self) -> usize {
        self.held.iter().map(Vec::len).sum()
    }

    /// Decides, and takes the decision as carried out.
    pub(crate) fn decide(&mut self, told: &Told<'_>) -> Vec<Change> {
        if self.placing == Placing::Scaled {
            self.scale(told);
        }
        let pools = self.worlds.len();
        (0..pools).flat_map(|pool| self.decide_pool(pool, told)).collect()
    }

    /// As many replicas as the autoscaler says. It begins with what the mean demand takes, as a mesh does that has run for long.
    fn scale(&mut self, told: &Told<'_>) {
        let max = self.per_pool.1 as u32;
        let bounds = Bounds { min: 1, max, utilization: TARGET, idle_after: Duration::MAX };
        let begin = |demand: &f64| Scaler::new(((demand / TARGET).ceil() as u32).clamp(1, max), told.now, told.now);
        if self.scalers.is_empty() {
            self.scalers = told.demand.iter().map(begin).collect();
        }
        let (mut ready, mut placed) = (vec![0; self.scalers.len()], vec![0; self.scalers.len()]);
        for (model, is_ready) in self.held.iter().flatten() {
            placed[*model as usize] += 1;
            ready[*model as usize] += u32::from(*is_ready);
        }
        for (model, scaler) in self.scalers.iter_mut().enumerate() {
            let seen = Seen {
                demand: told.measured[model],
                calls_known: true,
                window: Duration::from_secs(WINDOW as u64),
                placed: placed[model],
                ready: ready[model],
            };
            self.counts[model] = scaler.decide(&bounds, &seen, told.now).target as usize;
        }
    }

    fn decide_pool(&mut self, pool: usize, told: &Told<'_>) -> Vec<Change> {
        let Told { demand, used, .. } = *told;
        let (models, workers) = self.per_pool;
        let (models, workers) = (pool * models..(pool + 1) * models, pool * workers..(pool + 1) * workers);
        match self.placing {
            Placing::Demand => {
                self.follow(models.clone(), workers.clone(), demand);
                self.production(pool, models, workers)
            }
            Placing::Scaled => self.production(pool, models, workers),
            Placing::Static if self.counts[models.start] == 0 => self.partition(models, workers, demand),
            Placing::Static => self.reload(workers),
            Placing::Requests => {
                self.autoscale(models.clone(), demand, used);
                self.pack(models, workers)
            }
        }
    }

    /// Replicas in proportion to the highest demand of late, all of memory together.
    fn follow(&mut self, models: std::ops::Range<usize>, workers: std::ops::Range<usize>, demand: &[f64]) {
        let seats = workers.filter(|worker| !self.is_down[*worker]).count() * HOLDS;
        let peaks: Vec<f64> = models
            .clone()
            .map(|model| {
                let lately = &mut self.lately[model];
                lately.push_back(demand[model]);
                lately.drain(..lately.len().saturating_sub(LATELY));
                lately.iter().copied().fold(0.0, f64::max)
            })
            .collect();
        let sum: f64 = peaks.iter().sum();
        for (model, peak) in models.zip(peaks) {
            let wanted = (seats as f64 * peak / sum.max(f64::MIN_POSITIVE)).floor().max(2.0);
            let has = self.counts[model] as f64;
            if (wanted - has).abs() > has * SLACK {
                self.counts[model] = wanted as usize;
            }
        }
    }

    /// By the policy that ships.
    fn production(
        &mut self,
        pool: usize,
        models: std::ops::Range<usize>,
        workers: std::ops::Range<usize>,
    ) -> Vec<Change> {
        let key = |worker: usize, model: u32| Key {
            worker: self.workers[worker].clone(),
            model: self.models[model as usize].clone(),
            version: self.version,
        };
        let held = workers.flat_map(|worker| self.held[worker].iter().map(move |held| (worker, *held)));
        let holdings: Vec<Holding> = held
            .map(|(worker, (model, ready))| Holding {
                key: key(worker, model),
                placed: true,
                state: if ready { State::Ready } else { State::Loading },
                size: 1,
                device: None,
                since: 0,
            })
            .collect();
        let wanted = models.map(|model| Wanted {
            model: self.models[model].clone(),
            replicas: self.counts[model],
            versions: BTreeSet::new(),
            selector: BTreeMap::new(),
            priority: Priority::default(),
            anti_affinity: BTreeSet::new(),
            idle: None,
            waits: None,
            exclusive: false,
        });
        let wanted = wanted.collect();
        let world = &mut self.worlds[pool];
        // A worker that is down has no record: its lease has ended.
        let is_down = |worker: &place::Worker| number(worker.id.as_str()).is_some_and(|at| self.is_down[at as usize]);
        let (there, down): (Vec<_>, Vec<_>) =
            std::mem::take(&mut world.workers).into_iter().partition(|one| !is_down(one));
        (world.workers, world.wanted, world.holdings) = (there, wanted, holdings);
        let plan = place::place(world);
        world.workers.extend(down);
        let changes = plan.moves.iter().filter_map(|change| match change {
            Move::Place(key, _) => Some(Change::Load(number(key.worker.as_str())?, number(key.model.as_str())?)),
            Move::Remove(key, _) => Some(Change::Unload(number(key.worker.as_str())?, number(key.model.as_str())?)),
        });
        let changes: Vec<Change> = changes.collect();
        changes.iter().for_each(|change| self.note(change));
        changes
    }

    fn note(&mut self, change: &Change) {
        match *change {
            Change::Load(worker, model) => self.held[worker as usize].push((model, false)),
            Change::Unload(worker, model) => self.held[worker as usize].retain(|held| held.0 != model),
        }
    }

    fn load(&mut self, worker: usize, model: usize) -> Change {
        let change = Change::Load(worker as u32, model as u32);
        self.note(&change);
        change
    }

    /// A share of the workers for each model.
    fn partition(
        &mut self,
        models: std::ops::Range<usize>,
        workers: std::ops::Range<usize>,
        demand: &[f64],
    ) -> Vec<Change> {
        let sum: f64 = demand[models.clone()].iter().sum();
        let (mut changes, mut until, mut next) = (Vec::new(), 0.0, workers.start);
        for model in models {
            until += workers.len() as f64 * demand[model] / sum;
            while next < workers.end && (next - workers.start) as f64 + 0.5 < until {
                changes.push(self.load(next, model));
                self.counts[model] += 1;
                next += 1;
            }
        }
        changes
    }

    /// Workers that have come back load what they had.
    fn reload(&mut self, workers: std::ops::Range<usize>) -> Vec<Change> {
        let back: Vec<usize> =
            workers.clone().filter(|worker| !self.is_down[*worker] && self.held[*worker].is_empty()).collect();
        // A model that lacks most of what it had beside its neighbour in the partition: the worker's place tells.
        let (first, all) = (workers.start, workers.len());
        let of = |placement: &Self, worker: usize| {
            let (models, _) = placement.per_pool;
            let pool = first / all;
            let counts = &placement.counts[pool * models..(pool + 1) * models];
            let mut until = 0;
            let place = counts.iter().position(|count| {
                until += count;
                worker - first < until
            });
            pool * models + place.unwrap_or(0)
        };
        back.into_iter()
            .map(|worker| {
                let model = of(self, worker);
                self.load(worker, model)
            })
            .collect()
    }

    /// The Horizontal Pod Autoscaler's rule: replicas times utilization over its target, not within a tenth of it.
    fn autoscale(&mut self, models: std::ops::Range<usize>, demand: &[f64], used: &[f64]) {
        for model in models {
            let request = 0.5;
            let has = self.counts[model] as f64;
            let ratio = if has == 0.0 { f64::INFINITY } else { used[model] / (has * request) / TARGET };
            if has == 0.0 {
                self.counts[model] = (demand[model] / request / TARGET).ceil().max(1.0) as usize;
            } else if (ratio - 1.0).abs() > 0.1 {
                self.counts[model] = (has * ratio.min(2.0)).ceil().max(1.0) as usize;
            }
        }
    }

    /// Pods that are too many go, pods that are missing go to the first node with room, one of each model in turn.
    fn pack(&mut self, models: std::ops::Range<usize>, workers: std::ops::Range<usize>) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut has = vec![0usize; self.models.len()];
        for worker in workers.clone() {
            for (model, _) in self.held[worker].clone() {
                has[model as usize] += 1;
                if has[model as usize] > self.counts[model as usize] {
                    has[model as usize] -= 1;
                    let change = Change::Unload(worker as u32, model);
                    self.note(&change);
                    changes.push(change);
                }
            }
        }
        loop {
            let before = changes.len();
            for model in models.clone() {
                if has[model] >= self.counts[model] {
                    continue;
                }
                let fits = |worker: &usize| {
                    let held = &self.held[*worker];
                    // Two pods of one model on a node would share its device: the same as one for this simulation.
                    !self.is_down[*worker] && held.len() < HOLDS && held.iter().all(|held| held.0 as usize != model)
                };
                if let Some(worker) = workers.clone().find(fits) {
                    changes.push(self.load(worker, model));
                    has[model] += 1;
                }
            }
            if changes.len() == before {
                return changes;
            }
        }
    }
}

/// The number in a name.
fn number(name: &str) -> Option<u32> {
    name.get(1..)?.parse().ok()
}
