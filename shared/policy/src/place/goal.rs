//! One wanted version: what of it stays, what comes and what goes.

use std::collections::BTreeMap;

use weft_types::{ModelName, Version, WorkerId};

use super::fleet::Fleet;
use super::{Holding, Key, Move, Obstacle, Plan, State, Unplaced, Wanted, Why};

/// A version of a model that shall have a number of replicas.
pub(super) struct Goal<'a> {
    wanted: &'a Wanted,
    version: Version,
    /// What one replica takes at most, in bytes.
    pub(super) size: u64,
    /// Placed where they suit and not failed: these count.
    kept: Vec<&'a Holding>,
    /// More of the same than wanted.
    excess: Vec<&'a Holding>,
    /// Placed where they no longer suit: they serve until others do.
    leaving: Vec<&'a Holding>,
    /// Could not be loaded.
    failed: Vec<&'a Holding>,
    /// New places.
    added: Vec<&'a WorkerId>,
    zones: BTreeMap<&'a str, usize>,
    obstacle: Option<Obstacle>,
}

/// How much a replica deserves to stay, the most deserving first: the derived order is the policy.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    unready: bool,
    /// Replicas on its worker: the busiest lets go first.
    crowd: usize,
    worker: &'a WorkerId,
}

fn ready(holding: &Holding) -> bool {
    holding.state == State::Ready
}

impl<'a> Goal<'a> {
    pub(super) fn new(wanted: &'a Wanted, version: Version, fleet: &Fleet<'a>) -> Self {
        let claim = |holding: &&'a Holding| Claim {
            unready: !ready(holding),
            crowd: fleet.replicas(&holding.key.worker),
            worker: &holding.key.worker,
        };
        let mut placed: Vec<&Holding> = fleet.placed((&wanted.model, version)).collect();
        placed.sort_by_key(claim);
        let (failed, alive): (Vec<_>, Vec<_>) = placed.into_iter().partition(|holding| holding.state == State::Failed);
        let suits = |holding: &&Holding| fleet.suits(&holding.key.worker, wanted, version);
        let (mut kept, leaving): (Vec<_>, Vec<_>) = alive.into_iter().partition(suits);
        let excess = kept.split_off(wanted.replicas.min(kept.len()));
        let mut goal = Self {
            wanted,
            version,
            size: fleet.size((&wanted.model, version)),
            kept,
            excess,
            leaving,
            failed,
            added: Vec::new(),
            zones: BTreeMap::new(),
            obstacle: None,
        };
        for holding in goal.kept.clone() {
            goal.count_zone(&holding.key.worker, fleet);
        }
        goal
    }

    pub(super) fn name(&self) -> (&'a ModelName, Version) {
        (&self.wanted.model, self.version)
    }

    /// Replicas that count, the new ones included.
    pub(super) fn have(&self) -> usize {
        self.kept.len() + self.added.len()
    }

    /// Whether it lacks replicas and may still get some.
    pub(super) fn open(&self) -> bool {
        self.obstacle.is_none() && self.have() < self.wanted.replicas
    }

    /// Whether nothing but memory keeps it from having more.
    pub(super) fn lacks_memory(&self) -> bool {
        self.obstacle == Some(Obstacle::Memory)
    }

    /// Replicas that it has no place for.
    pub(super) fn missing(&self) -> usize {
        self.wanted.replicas.saturating_sub(self.have())
    }

    pub(super) fn wanted(&self) -> &'a Wanted {
        self.wanted
    }

    /// Looks for one more place.
    pub(super) fn add(&mut self, fleet: &mut Fleet<'a>) {
        match fleet.take(self.wanted, self.version, &self.zones) {
            Ok(worker) => {
                self.added.push(worker);
                self.count_zone(worker, fleet);
            }
            Err(obstacle) => self.obstacle = Some(obstacle),
        }
    }

    /// Whether everything that could be placed is ready, and that is something.
    pub(super) fn serves(&self) -> bool {
        self.added.is_empty() && !self.kept.is_empty() && self.kept.iter().all(|holding| ready(holding))
    }

    /// Writes its part of the plan.
    pub(super) fn write(&self, plan: &mut Plan) {
        let missing = self.wanted.replicas.saturating_sub(self.have());
        let serving = self.kept.iter().filter(|holding| ready(holding)).count();
        // Sorted by claim, so the ready ones are those that stay.
        let superfluous = self.leaving.iter().skip(self.wanted.replicas.saturating_sub(serving));
        // A failed one with nowhere else to go keeps its place, and its worker tries again.
        let given_up = self.failed.iter().skip(missing);
        let removals = (self.excess.iter().map(|holding| (holding, Why::Excess)))
            .chain(superfluous.map(|holding| (holding, Why::Replaced)))
            .chain(given_up.map(|holding| (holding, Why::Failed)));
        plan.moves.extend(removals.map(|(holding, why)| Move::Remove(holding.key.clone(), why)));
        plan.moves.extend(self.added.iter().map(|worker| Move::Place(self.key(worker), Why::Missing)));
        if let Some(obstacle) = self.obstacle.filter(|_| missing > 0) {
            let (model, version) = (self.wanted.model.clone(), Some(self.version));
            plan.unplaced.push(Unplaced { model, version, missing, obstacle });
        }
    }

    fn key(&self, worker: &WorkerId) -> Key {
        Key { worker: worker.clone(), model: self.wanted.model.clone(), version: self.version }
    }

    fn count_zone(&mut self, worker: &WorkerId, fleet: &Fleet<'a>) {
        if let Some(zone) = fleet.zone(worker) {
            *self.zones.entry(zone).or_default() += 1;
        }
    }
}
