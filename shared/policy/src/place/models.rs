//! What is wanted, what of it is offered and held, and which versions are meant.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use weft_types::{ModelName, Version, WorkerId};

use super::fleet::Fleet;
use super::{FAIL_FAST_WORKERS, Failure, Holding, Obstacle, Offer, State, Unplaced, Wanted, World};

type Name<'a> = (&'a ModelName, Version);

/// Every model that was asked for, by name; a model's position is its number.
pub(super) struct Models<'a> {
    pub(super) list: Vec<Model<'a>>,
    /// What is on registered workers.
    pub(super) found: Vec<Found<'a>>,
    /// What is placed on workers that are gone.
    pub(super) lost: Vec<&'a Holding>,
    /// Looked up only, so that its order is no part of the plan. Models that nobody asked for and others shun follow those of
    /// the list.
    numbers: HashMap<&'a ModelName, usize>,
    /// Whether each worker on which a version failed is still blocked for it.
    failed: BTreeMap<Name<'a>, BTreeMap<&'a WorkerId, bool>>,
    /// Of the versions that failed somewhere, those that are ready somewhere.
    ready: BTreeSet<Name<'a>>,
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
            ready: BTreeSet::new(),
        };
        models.find_shunned();
        models.find_offers(fleet);
        models.find_holdings(world, fleet);
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
        for Failure { key, blocked } in &world.failures {
            self.failed.entry((&key.model, key.version)).or_default().insert(&key.worker, *blocked);
        }
        for holding in &world.holdings {
            let key = &holding.key;
            let Some(seat) = fleet.number(&key.worker) else {
                self.lost.extend(holding.placed.then_some(holding));
                continue;
            };
            if holding.state == State::Failed {
                self.failed.entry((&key.model, key.version)).or_default().insert(&key.worker, true);
            }
            let model = self.numbers.get(&key.model).copied();
            if let Some(model) = model.and_then(|model| self.list.get_mut(model)) {
                model.held.push(self.found.len());
            }
            self.found.push(Found { holding, seat, model });
        }
        for name in self.failed.keys() {
            let model = self.numbers.get(name.0).and_then(|number| self.list.get(*number));
            let mut held = model.into_iter().flat_map(|model| &model.held).map(|found| self.found[*found].holding);
            if held.any(|holding| holding.state == State::Ready && holding.key.version == name.1) {
                self.ready.insert(*name);
            }
        }
    }

    /// The wish that a replica's model has; `None` if nobody asks for it.
    pub(super) fn wanted(&self, model: Option<usize>) -> Option<&'a Wanted> {
        model.and_then(|model| self.list.get(model)).map(|model| model.wanted).filter(|wanted| wanted.replicas > 0)
    }

    /// The numbers of a model's goals.
    pub(super) fn goals(&self, model: Option<usize>) -> Range<usize> {
        model.and_then(|model| self.list.get(model)).map_or(0..0, |model| model.goals.clone())
    }

    /// Whether each worker on which the version failed is still blocked for it.
    pub(super) fn failures(&self, name: Name<'a>) -> impl Iterator<Item = (&'a WorkerId, bool)> {
        self.failed.get(&name).into_iter().flatten().map(|(worker, blocked)| (*worker, *blocked))
    }

    /// Whether the version itself seems to be at fault.
    pub(super) fn condemned(&self, name: Name<'a>) -> bool {
        self.failed.get(&name).is_some_and(|workers| workers.len() >= FAIL_FAST_WORKERS) && !self.ready.contains(&name)
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
