//! Placement: which worker shall hold which model version.
//!
//! A pure function of the [`World`]: the same world gives the same [`Plan`], whatever the order in which it is told. It
//! is level-triggered: it compares what is wanted with what is, so a plan that was carried out in part, or not at all, is
//! simply made again.
//!
//! Rules, strongest first. What stays within a worker's memory is placed, nothing else. What is placed and fits stays
//! where it is. A replica that must go (its worker drains, or no longer suits) is removed only when others that are ready
//! make it superfluous; where nothing else can take it, it stays. A replica that failed to load is tried on another
//! worker, and one that failed on [`FAIL_FAST_WORKERS`] is not tried further. Everything wanted gets its first replica
//! before anything gets its second.

mod evict;
mod fleet;
mod goal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use weft_types::{ModelName, Version, WorkerId};

use fleet::Fleet;
use goal::Goal;

/// A version that failed to load on so many workers, and is ready on none, is at fault itself.
pub const FAIL_FAST_WORKERS: usize = 3;

/// One version of a model on one worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The worker.
    pub worker: WorkerId,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
}

/// A worker that is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its identity.
    pub id: WorkerId,
    /// Its failure domain; replicas of a model are spread over them.
    pub zone: String,
    /// What selectors match.
    pub labels: BTreeMap<String, String>,
    /// Memory that models may take, in bytes.
    pub memory: u64,
    /// Whether an operator keeps new replicas away from it.
    pub cordoned: bool,
    /// Whether what it holds shall go elsewhere, because it shuts down or an operator wants it empty: it takes nothing new.
    pub draining: bool,
    /// What it could load, with the estimated size of each version in bytes.
    pub offers: BTreeMap<ModelName, BTreeMap<Version, u64>>,
}

/// A model that the mesh shall serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name; told once.
    pub model: ModelName,
    /// How many workers shall hold each version; 0 unloads it everywhere.
    pub replicas: usize,
    /// The versions; none means the latest that a worker offers.
    pub versions: BTreeSet<Version>,
    /// Labels that a worker must have.
    pub selector: BTreeMap<String, String>,
    /// Who yields to whom.
    pub priority: Priority,
    /// Models that must not be on the same worker.
    pub anti_affinity: BTreeSet<ModelName>,
    /// Set where a replica need not stay if others need its memory: for how long nobody has called the model.
    pub idle: Option<Duration>,
}

/// Who yields to whom where memory is short: the derived order is the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for each answer.
    Realtime,
    /// In between.
    #[default]
    Standard,
    /// What can wait.
    Batch,
}

/// How far a replica is, as its worker tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The worker has not reported it yet.
    Pending,
    /// It is being loaded.
    Loading,
    /// It serves.
    Ready,
    /// It finishes its calls and then goes.
    Draining,
    /// It could not be loaded.
    Failed,
}

/// A replica that is placed, or is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which one; told once.
    pub key: Key,
    /// Whether there is a placement for it: otherwise it is on its way out.
    pub placed: bool,
    /// How far it is.
    pub state: State,
    /// Its measured size in bytes; 0 while unknown, then the offer's estimate counts.
    pub size: u64,
}

/// A failed load that is remembered, whether or not its placement still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed and where.
    pub key: Key,
    /// Whether it is too early to try again there.
    pub blocked: bool,
}

/// What placement looks at.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The registered workers.
    pub workers: Vec<Worker>,
    /// What shall be served.
    pub wanted: Vec<Wanted>,
    /// What is.
    pub holdings: Vec<Holding>,
    /// What failed of late.
    pub failures: Vec<Failure>,
}

/// Why a replica is placed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Fewer are there than wanted.
    Missing,
    /// The worker is no longer registered.
    WorkerGone,
    /// Nobody wants the model any more.
    Unwanted,
    /// More are there than wanted.
    Excess,
    /// Its worker drains or no longer suits, and others serve.
    Replaced,
    /// Another version serves.
    Superseded,
    /// It could not be loaded, and is tried elsewhere.
    Failed,
    /// Nobody calls it, and others need its memory.
    Evicted,
}

/// One change of the placements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Move {
    /// The worker shall hold it.
    Place(Key, Why),
    /// The worker shall let go of it.
    Remove(Key, Why),
}

/// What kept a replica from being placed.
///
/// Each worker is ruled out by its first obstacle, in this order; the last one that any worker reached is told, because
/// it is the nearest to success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// No worker offers it.
    NotOffered,
    /// No worker that offers it has the labels.
    Selector,
    /// The workers that could take it are cordoned.
    Cordoned,
    /// The workers that could take it drain.
    Draining,
    /// Every worker that could take it has it: more replicas are wanted than there are workers.
    Held,
    /// It failed to load, and it is too early to try again.
    Failed,
    /// No worker that could take it has the memory left.
    Memory,
    /// It failed to load on several workers, and is not tried on others.
    FailedEverywhere,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotOffered => "no worker offers it",
            Self::Selector => "no worker that offers it has the labels of the selector",
            Self::Cordoned => "the workers that could take it are cordoned",
            Self::Draining => "the workers that could take it are shutting down",
            Self::Held => "every worker that could take it already has it",
            Self::Failed => "it failed to load on the workers that could take it and is tried again later",
            Self::Memory => "no worker that could take it has enough free memory",
            Self::FailedEverywhere => "it failed to load on several workers and is not tried on others",
        })
    }
}

/// Replicas that are wanted and have no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// The model.
    pub model: ModelName,
    /// The version; `None` when no worker offers any.
    pub version: Option<Version>,
    /// How many are missing.
    pub missing: usize,
    /// Why.
    pub obstacle: Obstacle,
}

/// What to change, and what cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes, new places first, each key at most once.
    pub moves: Vec<Move>,
    /// What is missing, by model and version.
    pub unplaced: Vec<Unplaced>,
}

/// Decides what to place and what to remove.
pub fn place(world: &World) -> Plan {
    let mut fleet = Fleet::new(world);
    let mut plan = Plan::default();
    let wanted: BTreeMap<&ModelName, &Wanted> =
        world.wanted.iter().filter(|wanted| wanted.replicas > 0).map(|wanted| (&wanted.model, wanted)).collect();
    let mut goals = Vec::new();
    for wanted in wanted.values() {
        let resolved = fleet.resolve(wanted);
        plan.unplaced.extend(resolved.unplaced);
        goals.extend(resolved.versions.into_iter().map(|version| Goal::new(wanted, version, &fleet)));
    }
    fill(&mut goals, &mut fleet);
    for goal in &goals {
        goal.write(&mut plan);
    }
    for holding in world.holdings.iter().filter(|holding| holding.placed) {
        if let Some(why) = stray(holding, &goals, &wanted, &fleet) {
            plan.moves.push(Move::Remove(holding.key.clone(), why));
        }
    }
    evict::evict(world, &goals, &fleet, &mut plan);
    plan.moves.sort();
    plan.unplaced.sort_by(|one, other| (&one.model, one.version).cmp(&(&other.model, other.version)));
    plan
}

/// Gives every goal its next replica, the goals with the fewest first, until none can get more.
fn fill<'a>(goals: &mut [Goal<'a>], fleet: &mut Fleet<'a>) {
    // Within a round the largest comes first: it has the fewest places to go to.
    goals.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.name().cmp(&other.name())));
    let mut round = 1;
    while goals.iter().any(Goal::open) {
        for goal in goals.iter_mut().filter(|goal| goal.open() && goal.have() < round) {
            goal.add(fleet);
        }
        round += 1;
    }
}

/// Why a placement that belongs to no goal goes; `None` if it stays, or a goal answers for it.
fn stray(
    holding: &Holding,
    goals: &[Goal<'_>],
    wanted: &BTreeMap<&ModelName, &Wanted>,
    fleet: &Fleet<'_>,
) -> Option<Why> {
    let key = &holding.key;
    if !fleet.knows(&key.worker) {
        return Some(Why::WorkerGone);
    }
    if !wanted.contains_key(&key.model) {
        return Some(Why::Unwanted);
    }
    let mut of_model = goals.iter().filter(|goal| goal.name().0 == &key.model);
    if of_model.clone().any(|goal| goal.name().1 == key.version) {
        return None;
    }
    match holding.state {
        State::Failed => Some(Why::Failed),
        // The version that replaces it must serve wherever it could be placed, and somewhere at all.
        _ => of_model.all(Goal::serves).then_some(Why::Superseded),
    }
}
