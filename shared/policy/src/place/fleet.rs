//! The workers with what they hold, and the choice among them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use weft_types::{ModelName, Version, WorkerId};

use super::{FAIL_FAST_WORKERS, Failure, Holding, Obstacle, State, Unplaced, Wanted, Worker, World};

type Name<'a> = (&'a ModelName, Version);

/// A worker as the plan goes along.
struct Seat<'a> {
    worker: &'a Worker,
    /// Bytes that are taken or promised. What the plan removes still counts: it is there until the worker has let go.
    used: u64,
    /// Replicas that are there or promised.
    replicas: usize,
    held: BTreeMap<Name<'a>, &'a Holding>,
    promised: BTreeSet<Name<'a>>,
}

/// Every worker, and what failed where.
pub(super) struct Fleet<'a> {
    seats: BTreeMap<&'a WorkerId, Seat<'a>>,
    /// Whether each worker on which a version failed is still blocked for it.
    failed: BTreeMap<Name<'a>, BTreeMap<&'a WorkerId, bool>>,
    ready: BTreeSet<Name<'a>>,
}

/// The price of a place, the lowest first: the derived order is the policy.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Score<'a> {
    /// It has failed there before; any other worker is a better bet.
    failed_before: bool,
    /// Replicas of this version in the same zone.
    zone_peers: usize,
    /// Replicas of anything on the worker.
    replicas: usize,
    free: Reverse<u64>,
    id: &'a WorkerId,
}

/// Which versions a wish stands for.
pub(super) struct Resolved {
    pub(super) versions: Vec<Version>,
    /// What is already known to be out of reach.
    pub(super) unplaced: Option<Unplaced>,
}

impl<'a> Seat<'a> {
    fn new(worker: &'a Worker) -> Self {
        Self { worker, used: 0, replicas: 0, held: BTreeMap::new(), promised: BTreeSet::new() }
    }

    fn offer(&self, (model, version): Name<'_>) -> Option<u64> {
        self.worker.offers.get(model)?.get(&version).copied()
    }

    fn hold(&mut self, holding: &'a Holding) {
        let name = (&holding.key.model, holding.key.version);
        let size = if holding.size > 0 { holding.size } else { self.offer(name).unwrap_or(0) };
        self.used = self.used.saturating_add(size);
        self.replicas += 1;
        self.held.insert(name, holding);
    }

    /// What rules the worker out on principle, whatever it holds.
    fn unsuited(&self, wanted: &Wanted, version: Version) -> Option<Obstacle> {
        let labels = &self.worker.labels;
        if self.offer((&wanted.model, version)).is_none() {
            Some(Obstacle::NotOffered)
        } else if !wanted.selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            Some(Obstacle::Selector)
        } else {
            self.worker.draining.then_some(Obstacle::Draining)
        }
    }

    /// What rules the worker out for a replica that it does not have: it may keep what it has when it is cordoned.
    fn closed(&self, wanted: &Wanted, version: Version) -> Option<Obstacle> {
        let cordoned = self.worker.cordoned.then_some(Obstacle::Cordoned);
        self.unsuited(wanted, version).into_iter().chain(cordoned).min()
    }

    /// The bytes that the version would take in addition; one that is on its way out has its memory already.
    fn extra(&self, name: Name<'_>) -> u64 {
        if self.held.contains_key(&name) { 0 } else { self.offer(name).unwrap_or(0) }
    }

    fn free(&self) -> u64 {
        self.worker.memory.saturating_sub(self.used)
    }
}

impl<'a> Fleet<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let seats = world.workers.iter().map(|worker| (&worker.id, Seat::new(worker)));
        let mut fleet = Self { seats: seats.collect(), failed: BTreeMap::new(), ready: BTreeSet::new() };
        for Failure { key, blocked } in &world.failures {
            fleet.failed.entry((&key.model, key.version)).or_default().insert(&key.worker, *blocked);
        }
        for holding in &world.holdings {
            let (key, name) = (&holding.key, (&holding.key.model, holding.key.version));
            let Some(seat) = fleet.seats.get_mut(&key.worker) else {
                continue;
            };
            seat.hold(holding);
            match holding.state {
                State::Failed => {
                    fleet.failed.entry(name).or_default().insert(&key.worker, true);
                }
                State::Ready => {
                    fleet.ready.insert(name);
                }
                State::Pending | State::Loading | State::Draining => {}
            }
        }
        fleet
    }

    pub(super) fn knows(&self, worker: &WorkerId) -> bool {
        self.seats.contains_key(worker)
    }

    pub(super) fn zone(&self, worker: &WorkerId) -> Option<&'a str> {
        self.seats.get(worker).map(|seat| &*seat.worker.zone)
    }

    pub(super) fn replicas(&self, worker: &WorkerId) -> usize {
        self.seats.get(worker).map_or(0, |seat| seat.replicas)
    }

    /// Whether the worker may go on holding the version.
    pub(super) fn suits(&self, worker: &WorkerId, wanted: &Wanted, version: Version) -> bool {
        self.seats.get(worker).is_some_and(|seat| seat.unsuited(wanted, version).is_none())
    }

    /// The placements of a version on registered workers.
    pub(super) fn placed(&self, name: Name<'_>) -> impl Iterator<Item = &'a Holding> {
        let held = self.seats.values().filter_map(move |seat| seat.held.get(&name).copied());
        held.filter(|holding| holding.placed)
    }

    /// The largest size that a worker expects of the version.
    pub(super) fn size(&self, name: Name<'_>) -> u64 {
        self.seats.values().filter_map(|seat| seat.offer(name)).max().unwrap_or(0)
    }

    /// Whether the version itself seems to be at fault.
    pub(super) fn condemned(&self, name: Name<'_>) -> bool {
        !self.ready.contains(&name) && self.failed.get(&name).is_some_and(|workers| workers.len() >= FAIL_FAST_WORKERS)
    }

    /// The versions that are meant: the listed ones, or else the latest that could run, so that a broken new version
    /// leaves the one before it in force.
    pub(super) fn resolve(&self, wanted: &Wanted) -> Resolved {
        if !wanted.versions.is_empty() {
            return Resolved { versions: wanted.versions.iter().copied().collect(), unplaced: None };
        }
        let missing =
            |version, obstacle| Unplaced { model: wanted.model.clone(), version, missing: wanted.replicas, obstacle };
        let offered = || self.seats.values().flat_map(|seat| Some((seat, seat.worker.offers.get(&wanted.model)?)));
        let sound = |version: &Version| !self.condemned((&wanted.model, *version));
        let suited = offered().flat_map(|(seat, versions)| {
            versions.keys().copied().filter(|version| seat.unsuited(wanted, *version).is_none())
        });
        let offers = || offered().flat_map(|(_, versions)| versions.keys().copied());
        let latest = suited.filter(sound).max().or_else(|| offers().filter(sound).max()).or_else(|| offers().max());
        if let Some(latest) = latest {
            let broken = offers().max().filter(|newest| *newest > latest && !sound(newest));
            let unplaced = broken.map(|version| missing(Some(version), Obstacle::FailedEverywhere));
            return Resolved { versions: vec![latest], unplaced };
        }
        // No one offers it any more: what is there stays.
        let held = self.seats.values().flat_map(|seat| seat.held.values()).filter(|holding| holding.placed);
        let kept = held.filter(|holding| holding.key.model == wanted.model).map(|holding| holding.key.version).max();
        Resolved {
            versions: kept.into_iter().collect(),
            unplaced: kept.is_none().then(|| missing(None, Obstacle::NotOffered)),
        }
    }

    /// Promises the version to the best worker, or tells what stands in the way.
    pub(super) fn take(
        &mut self,
        wanted: &'a Wanted,
        version: Version,
        zones: &BTreeMap<&str, usize>,
    ) -> Result<&'a WorkerId, Obstacle> {
        let name = (&wanted.model, version);
        if self.condemned(name) {
            return Err(Obstacle::FailedEverywhere);
        }
        let mut nearest = Obstacle::NotOffered;
        let mut best: Option<Score<'a>> = None;
        for seat in self.seats.values() {
            match self.obstacle(seat, wanted, version) {
                Some(obstacle) => nearest = nearest.max(obstacle),
                None => {
                    let score = self.score(seat, name, zones);
                    if best.as_ref().is_none_or(|known| score < *known) {
                        best = Some(score);
                    }
                }
            }
        }
        let id = best.ok_or(nearest)?.id;
        if let Some(seat) = self.seats.get_mut(id) {
            seat.used = seat.used.saturating_add(seat.extra(name));
            seat.replicas += usize::from(!seat.held.contains_key(&name));
            seat.promised.insert(name);
        }
        Ok(id)
    }

    /// Workers that could take the version if they had the memory, with the bytes that are free there and those that it takes.
    pub(super) fn lacking(&self, wanted: &Wanted, version: Version) -> impl Iterator<Item = (&'a WorkerId, u64, u64)> {
        let lacks = move |seat: &&Seat<'a>| self.obstacle(seat, wanted, version) == Some(Obstacle::Memory);
        let seats = self.seats.values().filter(lacks);
        seats.map(move |seat| (&seat.worker.id, seat.free(), seat.extra((&wanted.model, version))))
    }

    fn obstacle(&self, seat: &Seat<'a>, wanted: &Wanted, version: Version) -> Option<Obstacle> {
        let name = (&wanted.model, version);
        if let Some(obstacle) = seat.closed(wanted, version) {
            return Some(obstacle);
        }
        let holding = seat.held.get(&name).filter(|holding| holding.placed);
        let blocked = self.failed.get(&name).and_then(|workers| workers.get(&seat.worker.id)) == Some(&true);
        match holding {
            Some(holding) if holding.state == State::Failed => Some(Obstacle::Failed),
            Some(_) => Some(Obstacle::Held),
            None if seat.promised.contains(&name) => Some(Obstacle::Held),
            None if blocked => Some(Obstacle::Failed),
            None => (seat.extra(name) > seat.free()).then_some(Obstacle::Memory),
        }
    }

    fn score(&self, seat: &Seat<'a>, name: Name<'_>, zones: &BTreeMap<&str, usize>) -> Score<'a> {
        Score {
            failed_before: self.failed.get(&name).is_some_and(|workers| workers.contains_key(&seat.worker.id)),
            zone_peers: zones.get(&*seat.worker.zone).copied().unwrap_or(0),
            replicas: seat.replicas,
            free: Reverse(seat.free()),
            id: &seat.worker.id,
        }
    }
}
