//! What is wanted, what of it is offered and held, and which versions are meant.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use weft_types::{ModelName, Version, WorkerId};

use super::fleet::Fleet;
use super::goal::Goal;
use super::{FAIL_FAST_WORKERS, Failure, Holding, Key, Obstacle, Offer, State, Unplaced, Wanted, World};

type Name<'a> = (&'a ModelName, Version);

/// Every model that was asked for, by name; a model's position is its number.
pub(super) struct Models<'a> {
    pub(super) list: Vec<Model<'a>>,
    /// What is on registered workers.
    pub(super) found: Vec<Found<'a>>,
    /// What is placed on workers that are gone.
    lost: Vec<&'a Holding>,
    /// Looked up only, so that its order is no part of the plan. Models that nobody asked for and others shun follow those of
    /// the list.
    numbers: HashMap<&'a ModelName, usize>,
    /// On which workers each version failed.
    failed: BTreeMap<Name<'a>, BTreeMap<&'a WorkerId, Failed>>,
    /// Versions that seem to be at fault themselves.
    condemned: BTreeSet<Name<'a>>,
}

/// What is remembered of a version on a worker where it failed.
#[derive(Clone, Copy)]
struct Failed {
    /// Whether it is too early to try again.
    blocked: bool,
    /// Loads in a row that failed.
    loads: u32,
}

pub(super) struct Model<'a> {
    pub(super) wanted: &'a Wanted,
    /// Its versions in each catalog that has it, by the catalog's number.
    pub(super) offered: Vec<(usize, Version, &'a Offer)>,
    /// What is found of it.
    held: Vec<usize>,
    /// The numbers of the models that must not be beside it: its own wish and the others'.
    pub(super) shuns: BTreeSet<usize>,
    /// Its goals' numbers.
    pub(super) goals: Range<usize>,
}

/// A replica with the numbers of its worker and its model.
pub(super) struct Found<'a> {
    pub(super) holding: &'a Holding,
    pub(super) seat: usize,
    pub(super) model: Option<usize>,
}

/// Which versions a wish stands for.
pub(super) struct Resolved {
    pub(super) versions: Vec<Version>,
    /// What is already known to be out of reach.
    pub(super) unplaced: Option<Unplaced>,
}

impl<'a> Models<'a> {
    pub(super) fn new(world: &'a World, fleet: &Fleet<'a>) -> Self {
        let mut wanted: Vec<&Wanted> = world.wanted.iter().collect();
        wanted.sort_by_key(|wanted| &wanted.model);
        wanted.dedup_by_key(|wanted| &wanted.model);
        let numbers = wanted.iter().enumerate().map(|(number, wanted)| (&wanted.model, number)).collect();
        let model =
            |wanted| Model { wanted, offered: Vec::new(), held: Vec::new(), shuns: BTreeSet::new(), goals: 0..0 };
        let mut models = Self {
            list: wanted.into_iter().map(model).collect(),
            found: Vec::with_capacity(world.holdings.len()),
            lost: Vec::new(),
            numbers,
            failed: BTreeMap::new(),
            condemned: BTreeSet::new(),
        };
        models.find_shunned();
        models.find_offers(fleet);
        models.find_holdings(world, fleet);
        models.condemned = models.failed.keys().copied().filter(|name| models.is_at_fault(*name, fleet)).collect();
        models
    }

    fn find_shunned(&mut self) {
        for number in 0..self.list.len() {
            for name in &self.list[number].wanted.anti_affinity {
                let next = self.numbers.len();
                let other = *self.numbers.entry(name).or_insert(next);
                if other != number {
                    self.list[number].shuns.insert(other);
                    if let Some(other) = self.list.get_mut(other) {
                        other.shuns.insert(number);
                    }
                }
            }
        }
    }

    fn find_offers(&mut self, fleet: &Fleet<'a>) {
        for (catalog, offers) in fleet.catalogs().enumerate() {
            for (name, versions) in offers {
                let model = self.numbers.get(name).and_then(|number| self.list.get_mut(*number));
                let versions = versions.iter().map(|(version, offer)| (catalog, *version, offer));
                model.into_iter().for_each(|model| model.offered.extend(versions.clone()));
            }
        }
    }

    fn find_holdings(&mut self, world: &'a World, fleet: &Fleet<'a>) {
        for Failure { key, blocked, loads } in &world.failures {
            let failed = Failed { blocked: *blocked, loads: *loads };
            self.failed.entry((&key.model, key.version)).or_default().insert(&key.worker, failed);
        }
        for holding in &world.holdings {
            let key = &holding.key;
            let Some(seat) = fleet.number(&key.worker) else {
                self.lost.extend(holding.placed.then_some(holding));
                continue;
            };
            if holding.state == State::Failed {
                // A failure that is not remembered was of before somebody asked again: it blocks its worker, but speaks against nothing.
                let workers = self.failed.entry((&key.model, key.version)).or_default();
                workers.entry(&key.worker).or_insert(Failed { blocked: true, loads: 0 }).blocked = true;
            }
            let model = self.numbers.get(&key.model).copied();
            if let Some(model) = model.and_then(|model| self.list.get_mut(model)) {
                model.held.push(self.found.len());
            }
            self.found.push(Found { holding, seat, model });
        }
    }

    /// Whether a version itself seems to be at fault: it failed on several workers, or on every one that could take it, and is ready on
    /// none. Where one of before still serves it need not be ready on none, only on fewer than it failed on: then it stops replacing that one.
    fn is_at_fault(&self, name: Name<'a>, fleet: &Fleet<'a>) -> bool {
        let model = self.numbers.get(name.0).and_then(|number| self.list.get(*number));
        let Some((model, failed)) = model.zip(self.failed.get(&name)) else { return false };
        let held = model.held.iter().map(|found| self.found[*found].holding);
        let all_ready: Vec<&Key> =
            held.filter(|holding| holding.state == State::Ready).map(|holding| &holding.key).collect();
        let ready: BTreeSet<&WorkerId> =
            all_ready.iter().filter(|key| key.version == name.1).map(|key| &key.worker).collect();
        let failed: BTreeMap<&WorkerId, u32> = failed
            .iter()
            .filter(|(worker, failed)| failed.loads > 0 && !ready.contains(*worker))
            .map(|(worker, failed)| (*worker, failed.loads))
            .collect();
        let offers = model.offered.iter().filter(|(_, version, _)| *version == name.1);
        let mut candidates = offers.flat_map(|(catalog, _, offer)| {
            let open = fleet.index.open(*catalog).map(|seat| &fleet.seats[seat]);
            open.filter(|seat| seat.could_take(model.wanted, offer))
        });
        let loads = failed.values().fold(0, |sum: usize, loads| sum.saturating_add(*loads as usize));
        let is_broken = failed.len() >= FAIL_FAST_WORKERS
            || loads >= FAIL_FAST_WORKERS && candidates.all(|seat| failed.contains_key(&seat.worker.id));
        let replaces = all_ready.iter().any(|key| key.version < name.1);
        is_broken && (ready.is_empty() || replaces && ready.len() < failed.len())
    }

    /// The wish that a replica's model has; `None` if nobody asks for it.
    pub(super) fn wanted(&self, model: Option<usize>) -> Option<&'a Wanted> {
        model.and_then(|model| self.list.get(model)).map(|model| model.wanted).filter(|wanted| wanted.replicas > 0)
    }

    /// The numbers of a model's goals.
    pub(super) fn goals(&self, model: Option<usize>) -> Range<usize> {
        model.and_then(|model| self.list.get(model)).map_or(0..0, |model| model.goals.clone())
    }

    /// What was placed on workers that are gone, where nobody wants it or the model serves without it. A worker that was away for a moment serves on
    /// what it is still told to hold, and others take its place meanwhile.
    pub(super) fn given_up(&self, goals: &[Goal<'a>], fleet: &Fleet<'a>) -> impl Iterator<Item = &'a Holding> {
        self.lost.iter().copied().filter(|holding| {
            let model = self.numbers.get(&holding.key.model).copied();
            let of_model = &goals[self.goals(model)];
            let serves = !of_model.is_empty() && of_model.iter().all(|goal| goal.serves(fleet));
            serves || self.wanted(model).is_none()
        })
    }

    /// Whether each worker on which the version failed is still blocked for it.
    pub(super) fn failures(&self, name: Name<'a>) -> impl Iterator<Item = (&'a WorkerId, bool)> {
        self.failed.get(&name).into_iter().flatten().map(|(worker, failed)| (*worker, failed.blocked))
    }

    /// Whether the version itself seems to be at fault.
    pub(super) fn condemned(&self, name: Name<'_>) -> bool {
        self.condemned.contains(&name)
    }

    /// Whether a worker holds a replica of another version of the model, where that may stay.
    pub(super) fn holds_another(&self, goal: &Goal<'a>, fleet: &Fleet<'a>) -> bool {
        let mut held = self.list[goal.model].held.iter().map(|number| &fleet.held[*number]);
        held.any(|held| {
            held.version != goal.version && !held.goes() && !held.failed() && fleet.suits(held.seat, goal.wanted)
        })
    }

    /// The versions that are meant: the listed ones, or else the latest that could run, so that a broken new version
    /// leaves the one before it in force.
    pub(super) fn resolve(&self, number: usize, fleet: &Fleet<'a>) -> Resolved {
        let model = &self.list[number];
        let wanted = model.wanted;
        if wanted.replicas == 0 || !wanted.versions.is_empty() {
            let versions = if wanted.replicas == 0 { Vec::new() } else { wanted.versions.iter().copied().collect() };
            return Resolved { versions, unplaced: None };
        }
        let missing =
            |version, obstacle| Unplaced { model: wanted.model.clone(), version, missing: wanted.replicas, obstacle };
        let sound = |version: &Version| !self.condemned((&wanted.model, *version));
        let offers = || model.offered.iter().map(|(_, version, _)| *version);
        let open = model.offered.iter().filter(|(catalog, ..)| fleet.any_open(*catalog, wanted));
        // A cordoned worker takes nothing new, but what it has counts.
        let placed = || model.held.iter().map(|found| &self.found[*found]).filter(|found| found.holding.placed);
        let counts = |found: &&Found<'_>| {
            let (catalog, version) = (fleet.seats[found.seat].catalog, found.holding.key.version);
            fleet.seats[found.seat].worker.cordoned
                && fleet.suits(found.seat, wanted)
                && model.offered.iter().any(|(told, offered, _)| *told == catalog && *offered == version)
        };
        let suited = open.map(|(_, version, _)| *version);
        let suited = suited.chain(placed().filter(counts).map(|found| found.holding.key.version));
        let latest = suited.filter(sound).max().or_else(|| offers().filter(sound).max()).or_else(|| offers().max());
        if let Some(latest) = latest {
            let broken = offers().max().filter(|newest| *newest > latest && !sound(newest));
            let unplaced = broken.map(|version| missing(Some(version), Obstacle::FailedEverywhere));
            return Resolved { versions: vec![latest], unplaced };
        }
        // No one offers it any more: what is there stays.
        let kept = placed().map(|found| found.holding.key.version).max();
        Resolved {
            versions: kept.into_iter().collect(),
            unplaced: kept.is_none().then(|| missing(None, Obstacle::NotOffered)),
        }
    }
}
