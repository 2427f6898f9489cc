//! One wanted version: what of it stays, what comes and what goes.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::Version;

use super::fleet::Fleet;
use super::models::Models;
use super::{Key, Move, Obstacle, Offer, Plan, Unplaced, Wanted, Why};

/// A version of a model that shall have a number of replicas.
pub(super) struct Goal<'a> {
    pub(super) wanted: &'a Wanted,
    /// The model's number, and the numbers of those that must not be beside it.
    pub(super) model: usize,
    pub(super) shuns: BTreeSet<usize>,
    pub(super) version: Version,
    /// What one replica takes, by the number of the catalog.
    pub(super) offers: Vec<(usize, &'a Offer)>,
    /// What one replica takes at most, in bytes.
    pub(super) size: u64,
    /// Where a replica is, placed or on its way out, by the worker's number.
    pub(super) there: BTreeMap<usize, usize>,
    /// Where one is promised.
    pub(super) taken: BTreeSet<usize>,
    /// Where it failed, and whether it is too early to try again.
    pub(super) failures: BTreeMap<usize, bool>,
    /// Whether the version itself seems to be at fault.
    pub(super) condemned: bool,
    /// Placed where they suit and not failed: these count.
    kept: Vec<usize>,
    /// Placed where they no longer suit: they serve until others do.
    leaving: Vec<usize>,
    /// Could not be loaded.
    failed: Vec<usize>,
    /// Promised by this plan.
    added: Vec<usize>,
    /// Places that are not free yet.
    awaited: usize,
    zones: BTreeMap<usize, usize>,
    pub(super) obstacle: Option<Obstacle>,
}

/// How much a replica deserves to stay, the most deserving first: the derived order is the policy.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    unready: bool,
    /// Replicas on its worker: the busiest lets go first.
    crowd: usize,
    /// The worker's number.
    seat: usize,
}

impl<'a> Goal<'a> {
    pub(super) fn new(models: &Models<'a>, number: usize, version: Version, fleet: &Fleet<'a>) -> Self {
        let model = &models.list[number];
        let offers = model.offered.iter().filter(|(_, offered, _)| *offered == version);
        let offers: Vec<(usize, &Offer)> = offers.map(|(catalog, _, offer)| (*catalog, *offer)).collect();
        let name = (&model.wanted.model, version);
        let failures = models.failures(name).filter_map(|(id, blocked)| Some((fleet.number(id)?, blocked)));
        Self {
            wanted: model.wanted,
            model: number,
            shuns: model.shuns.clone(),
            version,
            size: offers.iter().map(|(_, offer)| offer.size).max().unwrap_or(0),
            offers,
            there: BTreeMap::new(),
            taken: BTreeSet::new(),
            failures: failures.collect(),
            condemned: models.condemned(name),
            kept: Vec::new(),
            leaving: Vec::new(),
            failed: Vec::new(),
            added: Vec::new(),
            awaited: 0,
            zones: BTreeMap::new(),
            obstacle: None,
        }
    }

    /// What a replica takes on a worker with these offers.
    pub(super) fn offer(&self, catalog: usize) -> Option<&'a Offer> {
        let found = self.offers.binary_search_by_key(&catalog, |(catalog, _)| *catalog).ok()?;
        Some(self.offers[found].1)
    }

    /// Tells what is there apart, and removes what is too much.
    pub(super) fn sort_out(&mut self, fleet: &mut Fleet<'a>) {
        let claim = |(seat, held): (&usize, &usize)| {
            let claim = Claim { unready: !fleet.held[*held].ready(), crowd: fleet.seats[*seat].replicas, seat: *seat };
            (claim, *held)
        };
        let mut placed: Vec<(Claim, usize)> = self.there.iter().map(claim).collect();
        placed.retain(|(_, held)| !fleet.held[*held].goes());
        placed.sort_unstable();
        let (failed, alive): (Vec<_>, Vec<_>) =
            placed.into_iter().map(|(_, held)| held).partition(|held| fleet.held[*held].failed());
        let suits = |held: &usize| {
            let held = &fleet.held[*held];
            let offered = self.offer(fleet.seats[held.seat].catalog).is_some();
            offered && !held.shunned && fleet.suits(held.seat, self.wanted)
        };
        let (mut kept, leaving): (Vec<_>, Vec<_>) = alive.into_iter().partition(suits);
        for held in kept.split_off(self.wanted.replicas.min(kept.len())) {
            fleet.remove(held, Why::Excess);
        }
        // Sorted by claim, so the ready ones are those that stay.
        let serving = kept.iter().filter(|held| fleet.held[**held].ready()).count();
        for held in leaving.iter().skip(self.wanted.replicas.saturating_sub(serving)) {
            fleet.remove(*held, Why::Replaced);
        }
        for held in &kept {
            fleet.held[*held].kept = true;
            *self.zones.entry(fleet.seats[fleet.held[*held].seat].zone).or_default() += 1;
        }
        (self.kept, self.leaving, self.failed) = (kept, leaving, failed);
    }

    /// Replicas that count, those included that are to come.
    pub(super) const fn have(&self) -> usize {
        self.kept.len() + self.added.len() + self.awaited
    }

    /// Replicas that count and are there or promised.
    pub(super) const fn placed(&self) -> usize {
        self.kept.len() + self.added.len()
    }

    /// Those of them that serve.
    pub(super) fn ready(&self, fleet: &Fleet<'_>) -> usize {
        self.kept.iter().filter(|held| fleet.held[**held].ready()).count()
    }

    /// Whether it lacks replicas and may still get some.
    pub(super) const fn open(&self) -> bool {
        self.obstacle.is_none() && self.have() < self.wanted.replicas
    }

    /// Its replicas in a zone.
    pub(super) fn peers(&self, zone: usize) -> usize {
        self.zones.get(&zone).copied().unwrap_or(0)
    }

    /// One more is promised.
    pub(super) fn gain(&mut self, held: usize, seat: usize, zone: usize) {
        self.added.push(held);
        self.taken.insert(seat);
        *self.zones.entry(zone).or_default() += 1;
    }

    /// One more place that is not free yet.
    pub(super) fn wait_for(&mut self, seat: usize, zone: usize) {
        self.awaited += 1;
        self.taken.insert(seat);
        *self.zones.entry(zone).or_default() += 1;
    }

    /// One of its replicas goes, so that another comes, or is not placed after all.
    pub(super) fn lose(&mut self, held: usize, fleet: &mut Fleet<'a>) {
        let seat = fleet.held[held].seat;
        if std::mem::take(&mut fleet.held[held].kept)
            && let Some(peers) = self.zones.get_mut(&fleet.seats[seat].zone)
        {
            *peers = peers.saturating_sub(1);
        }
        if self.added.contains(&held) {
            self.taken.remove(&seat);
            // What kept it from one more was seen while it had this one: another device there may do.
            self.obstacle = None;
        }
        for list in [&mut self.kept, &mut self.leaving, &mut self.failed, &mut self.added] {
            list.retain(|one| *one != held);
        }
    }

    /// Replicas that are missing because it failed: others stand in for those.
    pub(super) fn short(&self) -> usize {
        let has_failed = !self.failed.is_empty() || !self.failures.is_empty();
        if has_failed { self.wanted.replicas.saturating_sub(self.kept.len()) } else { 0 }
    }

    /// Whether everything that could be placed is ready, and that is something.
    pub(super) fn serves(&self, fleet: &Fleet<'_>) -> bool {
        self.added.is_empty() && !self.kept.is_empty() && self.ready(fleet) == self.kept.len()
    }

    /// Writes its part of the plan.
    pub(super) fn write(&self, plan: &mut Plan, fleet: &mut Fleet<'a>) {
        let missing = self.wanted.replicas.saturating_sub(self.placed());
        let (gone, tried): (Vec<usize>, Vec<usize>) = self.failed.iter().partition(|held| fleet.is_in_vain(**held));
        // Another one with nowhere else to go keeps its place, and its worker tries again.
        for held in gone.into_iter().chain(tried.into_iter().skip(missing)) {
            fleet.remove(held, Why::Failed);
        }
        for held in self.leaving.iter().filter(|_| self.wanted.idle.is_some() && self.obstacle.is_some()) {
            // No other worker has room for what nobody calls, so it does not hold up the one that wants to end.
            if fleet.seats[fleet.held[*held].seat].worker.draining {
                fleet.remove(*held, Why::Evicted);
            }
        }
        for held in &self.added {
            let (worker, pool) = (fleet.seats[fleet.held[*held].seat].worker, fleet.held[*held].pool);
            let key = Key { worker: worker.id.clone(), model: self.wanted.model.clone(), version: self.version };
            if let Some(device) = pool.and_then(|pool| worker.devices.get(pool)) {
                plan.devices.insert(key.clone(), device.id.clone());
            }
            plan.moves.push(Move::Place(key, Why::Missing));
        }
        let waiting = (self.awaited > 0).then_some(Obstacle::Waiting);
        if let Some(obstacle) = self.obstacle.max(waiting)
            && missing > 0
        {
            let (model, version) = (self.wanted.model.clone(), Some(self.version));
            plan.unplaced.push(Unplaced { model, version, missing, obstacle });
        }
    }
}
