//! The workers with what they hold, as the plan goes along.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use weft_types::WorkerId;

use super::choose::Index;
use super::goal::Goal;
use super::models::{Found, Models};
use super::pool::Pool;
use super::seat::{Held, Seat, UNUSED, band};
use super::{Move, Obstacle, Offer, Offers, Wanted, Why, Worker, World};

/// Every worker in the order of the names; a worker's position is its number.
pub(super) struct Fleet<'a> {
    pub(super) seats: Vec<Seat<'a>>,
    /// What is on registered workers.
    pub(super) held: Vec<Held<'a>>,
    pub(super) index: Index,
    /// Looked up only, so that its order is no part of the plan.
    numbers: HashMap<&'a WorkerId, usize>,
    catalogs: Vec<&'a Offers>,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let workers: BTreeMap<&WorkerId, &Worker> = world.workers.iter().map(|worker| (&worker.id, worker)).collect();
        let mut zones: BTreeMap<&str, usize> = workers.values().map(|worker| (&*worker.zone, 0)).collect();
        zones.values_mut().enumerate().for_each(|(number, zone)| *zone = number);
        let mut known: HashMap<*const Offers, usize> = HashMap::new();
        let mut catalogs: Vec<&Offers> = Vec::new();
        let mut seats = Vec::with_capacity(workers.len());
        for worker in workers.values() {
            let catalog = *known.entry(std::sync::Arc::as_ptr(&worker.offers)).or_insert_with(|| {
                catalogs.push(&worker.offers);
                catalogs.len() - 1
            });
            let zone = zones.get(&*worker.zone).copied().unwrap_or(0);
            seats.push(Seat::new(worker, catalog, zone));
        }
        let numbers = workers.keys().enumerate().map(|(number, id)| (*id, number)).collect();
        Self { index: Index::new(&seats, catalogs.len()), seats, held: Vec::new(), numbers, catalogs }
    }

    pub(super) fn catalogs(&self) -> impl Iterator<Item = &'a Offers> {
        self.catalogs.iter().copied()
    }

    pub(super) fn number(&self, worker: &WorkerId) -> Option<usize> {
        self.numbers.get(worker).copied()
    }

    /// Whether a worker with these offers and the labels takes something new.
    pub(super) fn any_open(&self, catalog: usize, wanted: &Wanted) -> bool {
        self.index.open(catalog).any(|seat| self.seats[seat].labelled(wanted))
    }

    /// Whether the worker may go on holding what it offers.
    pub(super) fn suits(&self, seat: usize, wanted: &Wanted) -> bool {
        !self.seats[seat].worker.draining && self.seats[seat].labelled(wanted)
    }

    /// Takes in what is there.
    pub(super) fn hold(&mut self, models: &Models<'a>, goals: &mut [Goal<'a>]) {
        let held = |found: &Found<'a>| {
            let Found { holding, seat, model } = *found;
            let (key, place) = (&holding.key, &self.seats[seat]);
            let goal = models.goals(model).find(|goal| goals[*goal].version == key.version);
            let offer = match goal {
                Some(goal) => goals[goal].offer(place.catalog),
                None => place.worker.offers.get(&key.model).and_then(|versions| versions.get(&key.version)),
            };
            let estimate = offer.map_or(0, |offer| offer.size);
            Held {
                holding: Some(holding),
                again: false,
                seat,
                model,
                version: key.version,
                goal,
                band: models.wanted(model).map_or(UNUSED, band),
                pool: place.pool_of(holding.device.as_ref(), offer.map_or("", |offer| &offer.device_kind)),
                size: if holding.size > 0 { holding.size } else { estimate },
                cpu: offer.map_or(0, |offer| offer.cpu_millis),
                kept: false,
                shunned: false,
                why: None,
            }
        };
        let held: Vec<Held<'a>> = models.found.iter().map(held).collect();
        for (number, held) in held.iter().enumerate() {
            let seat = &mut self.seats[held.seat];
            seat.take(held);
            seat.held.push(number);
            if let Some(goal) = held.goal {
                goals[goal].there.insert(held.seat, number);
            }
        }
        self.held = held;
        for number in 0..self.held.len() {
            let unwanted = models.wanted(self.held[number].model).is_none();
            if !self.held[number].placed() {
                self.release(number);
            } else if unwanted {
                self.remove(number, Why::Unwanted);
            }
        }
    }

    /// Where two are together that must not be, the one of the lower priority yields, of equal ones the later by name.
    pub(super) fn part_the_shunned(&mut self, models: &Models<'a>) {
        if models.list.iter().all(|model| model.shuns.is_empty()) {
            return;
        }
        for seat in &self.seats {
            let here = seat.held.iter().copied().filter_map(|number| {
                let held = &self.held[number];
                let counts = held.goal.is_some() && !held.goes() && !held.failed();
                held.model.filter(|_| counts).map(|model| (models.list[model].wanted.priority, model, number))
            });
            let mut here: Vec<_> = here.collect();
            here.sort_unstable();
            let mut staying: Vec<usize> = Vec::new();
            for (_, model, number) in here {
                if staying.iter().any(|other| models.list[model].shuns.contains(other)) {
                    self.held[number].shunned = true;
                } else {
                    staying.push(model);
                }
            }
        }
    }

    /// Whether a failed replica waits for what does not come: its worker is to be empty, or has more on the device than fits, of which something
    /// would yield to it. It can bid for that once it does not count as placed.
    pub(super) fn is_in_vain(&self, held: usize) -> bool {
        let held = &self.held[held];
        let seat = &self.seats[held.seat];
        let is_overfull = held.pool.is_some_and(|pool| seat.memory[pool].is_overfull());
        let yields = |from: usize| seat.staying[from..].iter().any(|count| *count > 0);
        let may_bid = held.band != UNUSED && (seat.staying[UNUSED] > 0 || yields(held.band + 1));
        seat.worker.draining || (is_overfull && may_bid)
    }

    /// Makes the workers findable by their price, once everything that is there is told.
    pub(super) fn index(&mut self) {
        for seat in 0..self.seats.len() {
            self.index.update(seat, &self.seats[seat]);
        }
    }

    /// Decides that a replica goes, or that a promise is not kept.
    pub(super) fn remove(&mut self, held: usize, why: Why) {
        if !self.held[held].goes() {
            self.held[held].why = Some(why);
            self.release(held);
        }
    }

    fn release(&mut self, held: usize) {
        let Held { seat, pool, size, cpu, band, .. } = self.held[held];
        let promised = self.held[held].holding.is_none() && !self.held[held].again;
        let place = &mut self.seats[seat];
        place.goes = true;
        place.staying[band] = place.staying[band].saturating_sub(1);
        let release = if promised { Pool::give_back } else { Pool::release };
        release(&mut place.processors, cpu);
        if let Some(pool) = pool {
            release(&mut place.memory[pool], size);
        }
        if promised {
            place.replicas = place.replicas.saturating_sub(1);
        }
        self.index.update(seat, &self.seats[seat]);
    }

    /// Promises the worker's best device to one more replica of a goal, or the one that has it still.
    pub(super) fn promise(&mut self, number: usize, goal: &mut Goal<'a>, seat: usize) {
        let place = &mut self.seats[seat];
        let still = goal.there.get(&seat).map(|held| &self.held[*held]);
        let offer = goal.offer(place.catalog);
        let held = Held {
            holding: None,
            again: still.is_some(),
            seat,
            model: Some(goal.model),
            version: goal.version,
            goal: Some(number),
            band: band(goal.wanted),
            pool: still.map_or_else(|| place.roomiest(offer.map_or("", |offer| &offer.device_kind)), |held| held.pool),
            size: still.map_or_else(|| offer.map_or(0, |offer| offer.size), |held| held.size),
            cpu: still.map_or_else(|| offer.map_or(0, |offer| offer.cpu_millis), |held| held.cpu),
            kept: true,
            shunned: false,
            why: None,
        };
        if held.again {
            place.staying[held.band] += 1;
            place.processors.retain(held.cpu);
            if let Some(pool) = held.pool {
                place.memory[pool].retain(held.size);
            }
        } else {
            place.take(&held);
        }
        place.held.push(self.held.len());
        goal.gain(self.held.len(), seat, place.zone);
        self.held.push(held);
        self.index.update(seat, &self.seats[seat]);
    }

    /// Keeps room for a replica that comes when others have gone.
    pub(super) fn reserve(&mut self, goal: &mut Goal<'a>, seat: usize, pool: usize) {
        let place = &mut self.seats[seat];
        let still = goal.there.get(&seat).map(|held| &self.held[*held]);
        let offer = goal.offer(place.catalog).map_or((0, 0), |offer| (offer.size, offer.cpu_millis));
        let (size, cpu) = still.map_or(offer, |held| (held.size, held.cpu));
        place.memory[pool].reserve(size);
        place.processors.reserve(cpu);
        place.replicas += 1;
        place.awaited.push(goal.model);
        goal.wait_for(seat, place.zone);
        self.index.update(seat, &self.seats[seat]);
    }

    /// What rules the worker out.
    pub(super) fn obstacle(&self, goal: &Goal<'a>, seat: usize, offer: &Offer) -> Option<Obstacle> {
        let place = &self.seats[seat];
        let held = goal.there.get(&seat).map(|held| &self.held[*held]);
        if !place.labelled(goal.wanted) {
            Some(Obstacle::Selector)
        } else if place.pools(&offer.device_kind).next().is_none() {
            Some(Obstacle::Device)
        } else if place.worker.cordoned {
            Some(Obstacle::Cordoned)
        } else if place.worker.draining {
            Some(Obstacle::Draining)
        } else if let Some(held) = held.filter(|held| held.placed()) {
            Some(if held.failed() { Obstacle::Failed } else { Obstacle::Held })
        } else if goal.taken.contains(&seat) {
            Some(Obstacle::Held)
        } else if goal.failures.get(&seat) == Some(&true) {
            Some(Obstacle::Failed)
        } else if self.beside_shunned(goal, place) {
            Some(Obstacle::Shunned)
        } else {
            place.crowded(held, offer)
        }
    }

    fn beside_shunned(&self, goal: &Goal<'a>, place: &Seat<'a>) -> bool {
        let shunned = |model: &usize| goal.shuns.contains(model);
        // A promise that was taken back is not there; what goes is there until it has gone.
        let there = place.held.iter().map(|number| &self.held[*number]);
        let mut there = there.filter(|held| held.holding.is_some() || held.why.is_none()).filter_map(|held| held.model);
        !goal.shuns.is_empty() && (there.any(|model| shunned(&model)) || place.awaited.iter().any(shunned))
    }

    /// What the plan removes, for the reasons that were found.
    pub(super) fn removed(&self) -> impl Iterator<Item = Move> {
        self.held.iter().filter_map(|held| Some(Move::Remove(held.holding?.key.clone(), held.why?)))
    }

    /// Removes what is placed in no goal's name when that has served its time. The version that replaces it must serve wherever it could
    /// be placed, and somewhere at all; for what failed of it the ready ones of before stand in, the newest first.
    pub(super) fn remove_strays(&mut self, goals: &[Goal<'a>], models: &Models<'a>) {
        let is_stray = |number: &usize| self.held[*number].goal.is_none() && !self.held[*number].goes();
        let mut strays: Vec<usize> = (0..self.held.len()).filter(is_stray).collect();
        strays.sort_by_key(|number| {
            let held = &self.held[*number];
            (held.model, !held.ready(), Reverse(held.version), held.seat)
        });
        for strays in strays.chunk_by(|one, other| self.held[*one].model == self.held[*other].model).collect::<Vec<_>>()
        {
            let of_model = &goals[models.goals(self.held[strays[0]].model)];
            let serves = of_model.iter().all(|goal| goal.serves(self));
            let short = of_model.iter().map(Goal::short).max().unwrap_or(0);
            // What failed keeps its room, in which the other may be placed.
            let is_stopped = |goal: &Goal<'a>| {
                goal.have() == 0 && matches!(goal.obstacle, Some(Obstacle::Processors | Obstacle::Memory))
            };
            let in_the_way = of_model.iter().any(is_stopped);
            let is_useless = in_the_way && of_model.iter().all(|goal| goal.wanted.exclusive);
            for (place, number) in strays.iter().enumerate() {
                let held = &self.held[*number];
                let name = held.holding.map(|holding| (&holding.key.model, held.version));
                if held.failed() && (serves || in_the_way || name.is_some_and(|name| models.condemned(name))) {
                    self.remove(*number, Why::Failed);
                } else if is_useless || serves && !(held.ready() && place < short) {
                    self.remove(*number, Why::Superseded);
                }
            }
        }
    }
}
