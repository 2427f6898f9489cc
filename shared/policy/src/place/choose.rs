//! The choice among workers, without a look at each.
//!
//! Workers with the same offers and zone are one group, ordered by what of their price is the same for every model. So the
//! best worker for a replica is the first one of a group that has no obstacle, and each group is left as soon as nothing
//! better can follow.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Obstacle;
use super::fleet::Fleet;
use super::goal::Goal;
use super::seat::Seat;

/// The price of a place, the lowest first: the derived order is the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// It has failed there before; any other worker is a better bet.
    failed_before: bool,
    /// Replicas of this version in the same zone.
    zone_peers: usize,
    rank: Rank,
}

/// What of the price is the same for every model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Replicas of anything on the worker.
    replicas: usize,
    /// The most that one of its devices has free, in bytes.
    free: Reverse<u64>,
    /// The worker's number: they are in the order of the names.
    seat: usize,
}

impl Rank {
    pub(super) fn new(number: usize, seat: &Seat<'_>) -> Self {
        Self { replicas: seat.replicas, free: Reverse(seat.free()), seat: number }
    }
}

/// Workers that take something new, by offers, zone and rank.
pub(super) struct Index {
    groups: Vec<Group>,
    /// The numbers of the groups and of the closed workers with these offers.
    catalogs: Vec<(Vec<usize>, Vec<usize>)>,
    /// Where a worker is found now; `None` while it takes nothing new.
    places: Vec<Option<(usize, Rank)>>,
}

struct Group {
    zone: usize,
    ranks: BTreeSet<Rank>,
    /// What each has free, to know at once that none has enough.
    free: BTreeSet<(u64, usize)>,
}

impl Group {
    fn insert(&mut self, rank: Rank) {
        self.ranks.insert(rank);
        self.free.insert((rank.free.0, rank.seat));
    }

    fn remove(&mut self, rank: &Rank) {
        self.ranks.remove(rank);
        self.free.remove(&(rank.free.0, rank.seat));
    }
}

impl Index {
    /// Every worker with the rank of an empty one.
    pub(super) fn new(seats: &[Seat<'_>], catalogs: usize) -> Self {
        let mut index =
            Self { groups: Vec::new(), catalogs: vec![(Vec::new(), Vec::new()); catalogs], places: Vec::new() };
        let mut known: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (number, seat) in seats.iter().enumerate() {
            if !seat.open() {
                index.catalogs[seat.catalog].1.push(number);
                index.places.push(None);
                continue;
            }
            let group = *known.entry((seat.catalog, seat.zone)).or_insert_with(|| {
                index.catalogs[seat.catalog].0.push(index.groups.len());
                index.groups.push(Group { zone: seat.zone, ranks: BTreeSet::new(), free: BTreeSet::new() });
                index.groups.len() - 1
            });
            let rank = Rank::new(number, seat);
            index.groups[group].insert(rank);
            index.places.push(Some((group, rank)));
        }
        index
    }

    /// Notes that a worker's price may have changed.
    pub(super) fn update(&mut self, number: usize, seat: &Seat<'_>) {
        let Some((group, rank)) = &mut self.places[number] else { return };
        let new = Rank::new(number, seat);
        if *rank != new {
            let group = &mut self.groups[*group];
            group.remove(rank);
            group.insert(new);
            *rank = new;
        }
    }

    /// The workers with these offers that take something new.
    pub(super) fn open(&self, catalog: usize) -> impl Iterator<Item = usize> {
        let groups = self.catalogs.get(catalog).into_iter().flat_map(|(groups, _)| groups);
        groups.flat_map(|group| self.groups[*group].ranks.iter().map(|rank| rank.seat))
    }

    /// Those that do not.
    pub(super) fn closed(&self, catalog: usize) -> impl Iterator<Item = usize> {
        self.catalogs.get(catalog).into_iter().flat_map(|(_, closed)| closed.iter().copied())
    }
}

impl<'a> Fleet<'a> {
    /// The best worker for one more replica.
    pub(super) fn best(&self, goal: &Goal<'a>) -> Result<usize, Obstacle> {
        if goal.condemned {
            return Err(Obstacle::FailedEverywhere);
        }
        let mut nearest = Obstacle::NotOffered;
        let mut best: Option<Score> = None;
        for (catalog, offer) in &goal.offers {
            for group in self.index.catalogs[*catalog].0.iter().map(|group| &self.index.groups[*group]) {
                let zone_peers = goal.peers(group.zone);
                // Where none has the memory, one that lacks nothing else tells all there is to tell.
                let full = goal.there.is_empty() && group.free.last().is_none_or(|(free, _)| *free < offer.size);
                for rank in &group.ranks {
                    let score = Score { failed_before: false, zone_peers, rank: *rank };
                    if best.is_some_and(|best| best < score) || full && nearest >= Obstacle::Memory {
                        break;
                    }
                    let failed_before = goal.failures.contains_key(&rank.seat);
                    match self.obstacle(goal, rank.seat, offer) {
                        Some(obstacle) => nearest = nearest.max(obstacle),
                        None => {
                            let score = Score { failed_before, ..score };
                            best = Some(best.map_or(score, |known| known.min(score)));
                        }
                    }
                }
            }
        }
        // What takes nothing new can only tell why.
        let closed = || {
            goal.offers.iter().flat_map(|(catalog, offer)| self.index.closed(*catalog).map(move |seat| (seat, offer)))
        };
        best.map(|score| score.rank.seat).ok_or_else(|| {
            closed().filter_map(|(seat, offer)| self.obstacle(goal, seat, offer)).fold(nearest, Obstacle::max)
        })
    }

    /// What a place costs a goal.
    pub(super) fn score(&self, goal: &Goal<'a>, seat: usize) -> Score {
        Score {
            failed_before: goal.failures.contains_key(&seat),
            zone_peers: goal.peers(self.seats[seat].zone),
            rank: Rank::new(seat, &self.seats[seat]),
        }
    }
}
