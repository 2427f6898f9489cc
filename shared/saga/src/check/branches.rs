//! Effects that a job may leave behind: in a branch that `any` or `quorum` does not wait for.

use super::Found;
use crate::definition::{Definition, Effect, Join, Phase};
use crate::graph::Graph;

/// Of a graph without circles. An effect is one that no job completes without, or it stays when its branch loses. Slots are given back with
/// the job's end either way.
pub(super) fn check(definition: &Definition, graph: &Graph, found: &mut Found) {
    let steps = &definition.steps;
    if steps.iter().all(|step| step.join == Join::All) {
        return;
    }
    let certain = certain(definition, graph);
    for (index, step) in steps.iter().enumerate() {
        let may_stay = step.effect == Effect::External && step.phase != Phase::Finally && !certain[index];
        // Right before the join the join's own field is named.
        let is_told = graph.after[index].iter().any(|&next| steps[next].join != Join::All);
        if may_stay && !is_told {
            let problem = "it would stay where a later `any` or `quorum` goes on without its branch: let it come before \
                           all branches, or after the join";
            found.add_at(index, "effect", problem.to_owned());
        }
    }
}

/// Which steps have succeeded in every job that completes: the last of each way, and whatever these cannot begin without.
fn certain(definition: &Definition, graph: &Graph) -> Vec<bool> {
    let steps = &definition.steps;
    // For each step, which ones have succeeded whenever it begins.
    let mut before: Vec<Vec<bool>> = vec![Vec::new(); steps.len()];
    let mut certain = vec![false; steps.len()];
    for &index in &graph.order {
        let step = &steps[index];
        let left_out = match step.join {
            Join::All => step.needs.len().saturating_sub(1),
            Join::Any => 0,
            Join::Quorum(count) => (count as usize).saturating_sub(1),
        };
        // Of so many branches at least one is always waited for.
        let enough = step.needs.len().saturating_sub(left_out).max(1);
        let is_before = |other: usize| {
            let through = |need: &&usize| **need == other || before[**need][other];
            step.needs.iter().filter(through).count() >= enough
        };
        before[index] = (0..steps.len()).map(is_before).collect();
        if step.phase != Phase::Finally && graph.after[index].is_empty() {
            certain[index] = true;
            certain.iter_mut().zip(&before[index]).for_each(|(certain, before)| *certain |= before);
        }
    }
    certain
}
