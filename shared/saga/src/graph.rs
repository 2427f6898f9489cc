//! The order of a definition's steps.

use crate::definition::{Definition, Phase};

/// What follows from `needs` alone.
pub(crate) struct Graph {
    /// Each step after those that it waits for.
    pub(crate) order: Vec<usize>,
    /// The steps that wait for each, without the final ones, which wait for everything.
    pub(crate) after: Vec<Vec<usize>>,
    /// The pivot, where there is one.
    pub(crate) pivot: Option<usize>,
    /// The weights of the heaviest way through the steps after each, summed.
    pub(crate) weight_after: Vec<u64>,
}

impl Graph {
    /// `None` where a step waits for one that there is not, or for itself.
    pub(crate) fn of(definition: &Definition) -> Option<Self> {
        let steps = &definition.steps;
        let mut waiting_for: Vec<usize> = steps.iter().map(|step| step.needs.len()).collect();
        let mut all_after = vec![Vec::new(); steps.len()];
        for (index, step) in steps.iter().enumerate() {
            for &need in &step.needs {
                all_after.get_mut(need)?.push(index);
            }
        }

        // Kahn, 1962.
        let mut order: Vec<usize> = (0..steps.len()).filter(|&step| waiting_for[step] == 0).collect();
        let mut next = 0;
        while let Some(&step) = order.get(next) {
            next += 1;
            for &follower in &all_after[step] {
                waiting_for[follower] -= 1;
                if waiting_for[follower] == 0 {
                    order.push(follower);
                }
            }
        }
        if order.len() < steps.len() {
            return None;
        }

        let mut after = all_after;
        for followers in &mut after {
            followers.retain(|&follower| steps[follower].phase != Phase::Finally);
        }
        let pivot = steps.iter().position(|step| step.phase == Phase::Pivot);
        let weight_after = weights(definition, &order, &after);
        Some(Self { order, after, pivot, weight_after })
    }

    /// Which steps have succeeded when each begins, whichever of those that its join waits for were the ones. A final step begins without any.
    pub(crate) fn certain(&self, definition: &Definition) -> Vec<Vec<bool>> {
        let steps = &definition.steps;
        let mut certain = vec![vec![false; steps.len()]; steps.len()];
        for &step in self.order.iter().filter(|&&step| steps[step].phase != Phase::Finally) {
            let needs = &steps[step].needs;
            let mut ways = vec![0_usize; steps.len()];
            for &need in needs {
                for (source, ways) in ways.iter_mut().enumerate() {
                    *ways += usize::from(source == need || certain[need][source]);
                }
            }
            // Those that it need not wait for are too few to hold all the ways on which a source lies.
            let spared = needs.len().saturating_sub(steps[step].asked());
            certain[step] = ways.into_iter().map(|ways| ways > spared).collect();
        }
        certain
    }

    /// Which steps `from` waits for, directly or through others.
    pub(crate) fn ancestors(definition: &Definition, from: usize) -> Vec<bool> {
        let mut found = vec![false; definition.steps.len()];
        let mut open = vec![from];
        while let Some(step) = open.pop() {
            for &need in definition.steps.get(step).map_or(&[][..], |step| &step.needs) {
                if let Some(seen) = found.get_mut(need).filter(|seen| !**seen) {
                    *seen = true;
                    open.push(need);
                }
            }
        }
        found
    }
}

fn weights(definition: &Definition, order: &[usize], after: &[Vec<usize>]) -> Vec<u64> {
    let mut weights = vec![0_u64; order.len()];
    for &step in order.iter().rev() {
        let through = |&next: &usize| weights[next].saturating_add(u64::from(definition.steps[next].deadline_weight));
        weights[step] = after[step].iter().map(through).max().unwrap_or(0);
    }
    weights
}
