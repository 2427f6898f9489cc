//! Placement: which worker shall hold which model version.
//!
//! A pure function of the [`World`]: the same world gives the same [`Plan`], whatever the order in which it is told. It
//! is level-triggered: it compares what is wanted with what is, so a plan that was carried out in part, or not at all, is
//! simply made again.
//!
//! Rules, strongest first. What stays within a worker's devices and processors, and beside nothing that it shuns, is placed,
//! nothing else. What is placed and fits stays where it is, unless others need its room more: a replica that nobody has
//! called of late is evicted for any that somebody calls, one of a lower priority is preempted for one of a higher, and a
//! second one for the first of another model of the same priority. It goes first, and what it goes for follows when the room is
//! free. A replica that must go (its worker drains, or no longer suits) is removed only when others that are ready make it
//! superfluous; where nothing else can take it, it stays. A replica that failed to load is tried on another worker, and a version
//! that failed on [`FAIL_FAST_WORKERS`], or as often on the fewer that could take it, is not tried further. What it was to replace serves
//! on, as far as the new one is missing. Within a priority everything wanted gets its first replica before
//! anything gets its second; what is always wanted before what is wanted while it is called, and of that
//! the one first that has waited longest.
//!
//! Priority and preemption are those of Kubernetes; which idle replica goes is ModelMesh's choice: the least recently used.

mod choose;
mod evict;
mod fleet;
mod goal;
mod models;
mod plan;
mod pool;
mod seat;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weft_types::{ModelName, Version, WorkerId};

pub use plan::{Move, Obstacle, Plan, Unplaced, Why};

use fleet::Fleet;
use goal::Goal;
use models::Models;

/// A version that failed to load on so many workers, and is ready on none, is at fault itself. Where fewer could take it, it is once it has
/// failed on each of them, and as often in all: one failure can be the worker's.
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
    /// Memory that models may take, in bytes. It counts where no devices are told.
    pub memory: u64,
    /// Whose memory models may take; none means one pool of `memory` for every kind.
    pub devices: Vec<Device>,
    /// Threads that run models, in thousandths of one; 0 means that they are not counted.
    pub cpu_millis: u64,
    /// Whether it is shutting down: it takes nothing new, and what it has moves.
    pub draining: bool,
    /// Whether an operator keeps new replicas away from it.
    pub cordoned: bool,
    /// What it could load. Workers with one repository share it, which is what makes a large mesh cheap to look at.
    pub offers: Arc<Offers>,
}

/// What a worker could load.
pub type Offers = BTreeMap<ModelName, BTreeMap<Version, Offer>>;

/// What a replica of an offered version takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Estimated memory of one device, in bytes.
    pub size: u64,
    /// The kind of that device; empty means [`CPU`].
    pub device_kind: String,
    /// Its share of the worker's threads, in thousandths of one.
    pub cpu_millis: u64,
}

impl From<u64> for Offer {
    /// So many bytes of the processor's memory.
    fn from(size: u64) -> Self {
        Self { size, ..Self::default() }
    }
}

/// The kind of device that every worker has.
pub const CPU: &str = "cpu";

/// One device of a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceId {
    /// `cpu`, `cuda` and so on.
    pub kind: String,
    /// Which one of its kind, from 0.
    pub ordinal: u32,
}

/// A device whose memory models may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which one; told once.
    pub id: DeviceId,
    /// Memory that models may take of it, in bytes.
    pub memory: u64,
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
    /// Set where demand decides over the model and it has no replica that serves: for how long.
    pub waits: Option<Duration>,
    /// Whether its calls go to these versions alone: another one that is ready does not stand in for them.
    pub exclusive: bool,
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
    /// Whose memory it takes; where that is not told or not known, the first device of its kind counts.
    pub device: Option<DeviceId>,
    /// Greater for what was placed later; only the order counts.
    pub since: u64,
}

/// A failed load that is remembered, whether or not its placement still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed and where.
    pub key: Key,
    /// Whether it is too early to try again there.
    pub blocked: bool,
    /// How many loads in a row failed there; none where only the worker lacked something.
    pub loads: u32,
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

/// Decides what to place and what to remove.
pub fn place(world: &World) -> Plan {
    plan_by(world, |fleet, goal| fleet.best(goal))
}

/// How a worker is chosen for one more replica: its position in the fleet, or the obstacle that is nearest to success.
type Choice = for<'f, 'a> fn(&'f Fleet<'a>, &'f Goal<'a>) -> Result<usize, Obstacle>;

fn plan_by(world: &World, choice: Choice) -> Plan {
    let mut fleet = Fleet::new(world);
    let mut models = Models::new(world, &fleet);
    let mut plan = Plan::default();
    let mut goals = Vec::new();
    for number in 0..models.list.len() {
        let resolved = models.resolve(number, &fleet);
        plan.unplaced.extend(resolved.unplaced);
        goals.extend(resolved.versions.into_iter().map(|version| Goal::new(&models, number, version, &fleet)));
        models.list[number].goals.end = goals.len();
        if let Some(next) = models.list.get_mut(number + 1) {
            next.goals = goals.len()..goals.len();
        }
    }
    fleet.hold(&models, &mut goals);
    fleet.part_the_shunned(&models);
    goals.iter_mut().for_each(|goal| goal.sort_out(&mut fleet));
    fleet.index();
    fill(&mut goals, &mut fleet, &models, choice);
    for goal in &goals {
        goal.write(&mut plan, &mut fleet);
    }
    fleet.remove_strays(&goals, &models);
    let given_up = models.given_up(&goals, &fleet);
    plan.moves.extend(given_up.map(|holding| Move::Remove(holding.key.clone(), Why::WorkerGone)));
    plan.moves.extend(fleet.removed());
    plan.moves.sort_unstable();
    plan.unplaced.sort_by(|one, other| (&one.model, one.version).cmp(&(&other.model, other.version)));
    plan
}

/// Gives every goal its next replica, the goals with the fewest first, until none can get more: first the goals of the highest
/// priority, and last those that nobody calls.
fn fill<'a>(goals: &mut [Goal<'a>], fleet: &mut Fleet<'a>, models: &Models<'a>, choice: Choice) {
    let class = |goal: &Goal<'_>| (goal.wanted.idle.is_some(), goal.wanted.priority);
    // Within a round, whoever has come before others keeps its turn, or calls for one model could wait for ever. Else the largest comes first: it
    // has the fewest places to go to. Goals are in the order of their names.
    let turn = |goal: &Goal<'_>| (goal.wanted.waits.is_some(), Reverse(goal.wanted.waits), Reverse(goal.size));
    let mut order: Vec<_> = goals.iter().enumerate().map(|(number, goal)| (class(goal), turn(goal), number)).collect();
    order.sort_unstable();
    for turn in order.chunk_by(|one, other| one.0 == other.0) {
        let turn: Vec<usize> = turn.iter().map(|(.., number)| *number).collect();
        loop {
            let promised = fleet.held.len();
            take_turns(&turn, goals, |goals, number| add(goals, number, fleet, models, choice));
            // Who got nothing may have the place of one that has since become another's second. A promise that is taken back for
            // that can leave room for the others.
            let lacks = |number: &usize| goals[*number].obstacle.is_some_and(Obstacle::may_yield);
            let lacking: Vec<usize> = turn.iter().copied().filter(lacks).collect();
            if fleet.held.len() == promised || lacking.iter().all(|number| goals[*number].have() > 0) {
                break;
            }
            lacking.iter().for_each(|number| goals[*number].obstacle = None);
        }
    }
}

/// Calls upon the goals that have the fewest replicas, again and again, until none is open.
fn take_turns<'a>(turn: &[usize], goals: &mut [Goal<'a>], mut add: impl FnMut(&mut [Goal<'a>], usize)) {
    let have = |goals: &[Goal<'a>], number: usize| goals[number].open().then(|| goals[number].have());
    while let Some(fewest) = turn.iter().filter_map(|number| have(goals, *number)).min() {
        for number in turn {
            if have(goals, *number).is_some_and(|have| have <= fewest) {
                add(goals, *number);
            }
        }
    }
}

/// Looks for one more place, or for others that can be made to leave one.
fn add<'a>(goals: &mut [Goal<'a>], number: usize, fleet: &mut Fleet<'a>, models: &Models<'a>, choice: Choice) {
    let obstacle = match choice(fleet, &goals[number]) {
        Ok(seat) => return fleet.promise(number, &mut goals[number], seat),
        Err(obstacle) => obstacle,
    };
    let Some(bid) = obstacle.may_yield().then(|| evict::bid(fleet, goals, models, number)).flatten() else {
        goals[number].obstacle = Some(obstacle);
        return;
    };
    for (victim, why) in bid.victims {
        if let Some(goal) = fleet.held[victim].goal {
            goals[goal].lose(victim, fleet);
        }
        fleet.remove(victim, why);
    }
    match choice(fleet, &goals[number]) {
        // Only promises stood in the way.
        Ok(seat) => fleet.promise(number, &mut goals[number], seat),
        Err(_) => fleet.reserve(&mut goals[number], bid.seat, bid.pool),
    }
}
