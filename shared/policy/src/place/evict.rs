//! Who goes so that another can come.
//!
//! As in Kubernetes, a replica of a higher priority takes the room of lower ones where there is no other, and as few as
//! possible of them go. What nobody has called of late goes before anything that is in use, the least recently used first, as
//! in ModelMesh.

use std::cmp::Reverse;
use std::time::Duration;

use weft_types::Version;

use super::choose::Score;
use super::fleet::Fleet;
use super::goal::Goal;
use super::models::Models;
use super::seat::{Held, UNUSED, band};
use super::{Obstacle, Offer, Priority, Why};

/// A worker that has room for one more replica when the victims have gone.
pub(super) struct Bid {
    pub(super) seat: usize,
    pub(super) pool: usize,
    /// Who goes, and why; nobody if it is enough to wait for those that go already.
    pub(super) victims: Vec<(usize, Why)>,
}

/// What it costs to make room, the least first: the derived order is the policy.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Price {
    /// Victims that are in use.
    preempted: usize,
    /// The highest priority among them.
    priority: Reverse<Priority>,
    /// Those of them that are the last ones of their version that serve.
    last: usize,
    /// How long the most recently used of the others was not used.
    unused: Reverse<Duration>,
    evicted: usize,
    /// Promises that are taken back.
    withdrawn: usize,
    /// How old the oldest of those in use is.
    since: Reverse<u64>,
    score: Score,
    pool: usize,
}

/// The best bid for one more replica of the goal with this number.
pub(super) fn bid(fleet: &Fleet<'_>, goals: &[Goal<'_>], models: &Models<'_>, number: usize) -> Option<Bid> {
    let goal = &goals[number];
    if goal.wanted.idle.is_some() {
        return None;
    }
    // The first replica of the model, whatever its version: an update of one that is held can wait.
    let first =
        goals[models.goals(Some(goal.model))].iter().all(|goal| goal.have() == 0) && !models.holds_another(goal, fleet);
    let mut best: Option<(Price, Bid)> = None;
    for (catalog, offer) in &goal.offers {
        for seat in fleet.index.open(*catalog) {
            if !fleet.seats[seat].may_yield(goal.wanted, first) {
                continue;
            }
            if !fleet.obstacle(goal, seat, offer).is_some_and(Obstacle::yields) {
                continue;
            }
            for case in Case::all((fleet, goals, models), (goal, first), (seat, offer)) {
                let Some(victims) = case.victims() else { continue };
                let price = case.price(&victims);
                if best.as_ref().is_none_or(|(known, _)| price < *known) {
                    let victims = victims.into_iter().map(|victim| (victim, case.why(victim))).collect();
                    best = Some((price, Bid { seat, pool: case.pool, victims }));
                }
            }
        }
    }
    best.map(|(_, bid)| bid)
}

/// One more replica on one device of one worker.
struct Case<'f, 'a> {
    fleet: &'f Fleet<'a>,
    goals: &'f [Goal<'a>],
    models: &'f Models<'a>,
    goal: &'f Goal<'a>,
    first: bool,
    band: usize,
    seat: usize,
    pool: usize,
    /// What has to go, in bytes and in thousandths of a thread.
    memory: u64,
    cpu: u64,
}

impl<'f, 'a> Case<'f, 'a> {
    fn all(
        (fleet, goals, models): (&'f Fleet<'a>, &'f [Goal<'a>], &'f Models<'a>),
        (goal, first): (&'f Goal<'a>, bool),
        (seat, offer): (usize, &'f Offer),
    ) -> impl Iterator<Item = Self> {
        let place = &fleet.seats[seat];
        // What is on its way out has a device, and its memory there.
        let held = goal.there.get(&seat).map(|held| &fleet.held[*held]);
        let (size, cpu) = held.map_or((offer.size, offer.cpu_millis), |held| (held.size, held.cpu));
        let bound = held.and_then(|held| held.pool);
        let pools = place.pools(&offer.device_kind).filter(move |pool| bound.is_none_or(|bound| bound == *pool));
        pools.map(move |pool| {
            let (memory, cpu) = (place.memory[pool].lack(size), place.processors.lack(cpu));
            Self { fleet, goals, models, goal, first, band: band(goal.wanted), seat, pool, memory, cpu }
        })
    }

    fn held(&self, number: usize) -> &'f Held<'a> {
        &self.fleet.held[number]
    }

    fn idle(&self, number: usize) -> Option<Duration> {
        self.models.wanted(self.held(number).model).and_then(|wanted| wanted.idle)
    }

    fn priority(&self, number: usize) -> Priority {
        self.models.wanted(self.held(number).model).map_or(Priority::Batch, |wanted| wanted.priority)
    }

    fn why(&self, number: usize) -> Why {
        if self.held(number).band == UNUSED { Why::Evicted } else { Why::Preempted }
    }

    /// Whether it can be made to go.
    fn yields(&self, number: usize) -> bool {
        let held = self.held(number);
        if held.goes() || held.model == Some(self.goal.model) {
            return false;
        }
        let serves = |other: &Goal<'a>| other.ready(self.fleet) > usize::from(held.ready());
        let surplus = |other: &Goal<'a>| other.placed() > 1 && (!held.ready() || serves(other));
        // Each model gets its first replica before another of its priority keeps a second one.
        let fair = || self.first && held.kept && held.goal.is_some_and(|goal| surplus(&self.goals[goal]));
        let lower = held.band.cmp(&self.band);
        held.band == UNUSED || lower.is_gt() || (lower.is_eq() && fair())
    }

    /// What its going gives, of what is lacking: the two are weighed against what is lacking of each.
    fn relief(&self, number: usize) -> u128 {
        let (memory, cpu) = self.share(number);
        u128::from(memory.min(self.memory)) * u128::from(self.cpu.max(1))
            + u128::from(cpu.min(self.cpu)) * u128::from(self.memory.max(1))
    }

    fn share(&self, number: usize) -> (u64, u64) {
        let held = self.held(number);
        (if held.pool == Some(self.pool) { held.size } else { 0 }, held.cpu)
    }

    fn enough(&self, victims: impl Iterator<Item = usize>) -> bool {
        let (memory, cpu) = victims
            .map(|victim| self.share(victim))
            .fold((0u64, 0u64), |sum, share| (sum.0.saturating_add(share.0), sum.1.saturating_add(share.1)));
        memory >= self.memory && cpu >= self.cpu
    }

    /// The replicas that must go, as few as possible; `None` if there is no room even without all that yield.
    fn victims(&self) -> Option<Vec<usize>> {
        let place = &self.fleet.seats[self.seat];
        let shunned = |model: &usize| self.goal.shuns.contains(model);
        if place.awaited.iter().any(shunned) {
            return None;
        }
        let there = || place.held.iter().copied().filter(|number| !self.held(*number).goes());
        let mut chosen: Vec<usize> =
            there().filter(|number| self.held(*number).model.as_ref().is_some_and(shunned)).collect();
        if !chosen.iter().all(|number| self.yields(*number)) {
            return None;
        }
        let certain = chosen.len();
        if self.enough(chosen.iter().copied()) {
            return Some(chosen);
        }
        let rest =
            || there().filter(|number| !chosen.contains(number) && self.relief(*number) > 0 && self.yields(*number));
        if !self.enough(chosen.iter().copied().chain(rest())) {
            return None;
        }
        let (mut idle, mut used): (Vec<usize>, Vec<usize>) = rest().partition(|number| self.idle(*number).is_some());
        idle.sort_by_key(|number| (Reverse(self.idle(*number)), Reverse(self.relief(*number)), self.key(*number)));
        used.sort_by_key(|number| (Reverse(self.relief(*number)), self.worth(*number)));
        let mut candidates = idle.into_iter().chain(used.iter().copied());
        while !self.enough(chosen.iter().copied()) {
            chosen.push(candidates.next()?);
        }
        self.spare(&mut chosen, certain);
        self.exchange(&mut chosen, &used);
        Some(chosen)
    }

    /// Lets those go free without whom it is enough, the most deserving first.
    fn spare(&self, chosen: &mut Vec<usize>, certain: usize) {
        for position in (certain..chosen.len()).rev() {
            let others = chosen.iter().enumerate().filter(|(other, _)| *other != position).map(|(_, number)| *number);
            if self.enough(others) {
                chosen.remove(position);
            }
        }
    }

    /// Takes those that are worth less instead of others where it is enough, too.
    fn exchange(&self, chosen: &mut [usize], used: &[usize]) {
        for position in 0..chosen.len() {
            let victim = chosen[position];
            let enough = |number: usize| {
                let swapped =
                    chosen.iter().enumerate().map(|(other, kept)| if other == position { number } else { *kept });
                self.enough(swapped)
            };
            let cheaper = |number: &&usize| self.worth(**number) < self.worth(victim) && !chosen.contains(number);
            let better = used.iter().filter(cheaper).filter(|number| enough(**number));
            if let Some(better) = better.min_by_key(|number| self.worth(**number))
                && self.idle(victim).is_none()
            {
                chosen[position] = *better;
            }
        }
    }

    /// The lowest first, then those that are not the last, then the newest.
    fn worth(&self, number: usize) -> (Reverse<Priority>, bool, Reverse<u64>, (Option<usize>, Version)) {
        let since = self.held(number).since();
        (Reverse(self.priority(number)), self.last(number), Reverse(since), self.key(number))
    }

    /// Tells replicas on one worker apart, whatever the order in which they were told.
    fn key(&self, number: usize) -> (Option<usize>, Version) {
        (self.held(number).model, self.held(number).version)
    }

    /// Whether its version serves nowhere else.
    fn last(&self, number: usize) -> bool {
        let held = self.held(number);
        held.kept && held.ready() && held.goal.is_some_and(|goal| self.goals[goal].ready(self.fleet) == 1)
    }

    fn price(&self, victims: &[usize]) -> Price {
        // What is only promised is not missed.
        let there = || victims.iter().copied().filter(|number| self.held(*number).holding.is_some());
        let used = || there().filter(|number| self.idle(*number).is_none());
        let preempted = used().count();
        Price {
            preempted,
            priority: Reverse(used().map(|number| self.priority(number)).min().unwrap_or(Priority::Batch)),
            last: used().filter(|number| self.last(*number)).count(),
            unused: Reverse(victims.iter().filter_map(|number| self.idle(*number)).min().unwrap_or(Duration::MAX)),
            evicted: there().count() - preempted,
            withdrawn: victims.len() - there().count(),
            since: Reverse(used().map(|number| self.held(number).since()).min().unwrap_or(u64::MAX)),
            score: self.fleet.score(self.goal, self.seat),
            pool: self.pool,
        }
    }
}
