//! The choice by a look at every worker, against which the indexed one is compared.

use super::*;
use crate::place::choose::Score;

/// The best worker for one more replica.
pub(super) fn best<'a>(fleet: &Fleet<'a>, goal: &Goal<'a>) -> Result<usize, Obstacle> {
    if goal.condemned {
        return Err(Obstacle::FailedEverywhere);
    }
    let mut best: Option<(Score, usize)> = None;
    let mut nearest = Obstacle::NotOffered;
    for (number, seat) in fleet.seats.iter().enumerate() {
        let Some(offer) = goal.offer(seat.catalog) else { continue };
        match fleet.obstacle(goal, number, offer) {
            Some(obstacle) => nearest = nearest.max(obstacle),
            None => {
                let price = (fleet.score(goal, number), number);
                best = Some(best.map_or(price, |known| known.min(price)));
            }
        }
    }
    best.map(|(_, number)| number).ok_or(nearest)
}

/// The plan that the look at every worker gives.
pub(super) fn place(world: &World) -> Plan {
    plan_by(world, best)
}
