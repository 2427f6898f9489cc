//! Where steps stand with regard to the pivot.

use super::Found;
use crate::definition::{Definition, Phase};
use crate::graph::Graph;

/// Of a graph without circles.
pub(super) fn check(definition: &Definition, found: &mut Found) {
    let steps = &definition.steps;
    if steps.iter().all(|step| step.phase == Phase::Finally) {
        found.add("definition.steps", "one at least is not a final step".to_owned());
    }
    let mut pivots = steps.iter().enumerate().filter(|(_, step)| step.phase == Phase::Pivot).map(|(index, _)| index);
    let pivot = pivots.next();
    for other in pivots {
        found.add_at(other, "phase", "there is another pivot: one step decides".to_owned());
    }
    let before = pivot.map(|pivot| Graph::ancestors(definition, pivot));
    for (index, step) in steps.iter().enumerate() {
        let ancestors = Graph::ancestors(definition, index);
        match (step.phase, pivot, &before) {
            (Phase::Pre, Some(pivot), Some(before)) if !before[index] => {
                let problem = format!(
                    "a step before the pivot is one that `{}` waits for: add it to the needs there",
                    steps[pivot].name
                );
                found.add_at(index, "phase", problem);
            }
            (Phase::Post, Some(pivot), _) if !ancestors[pivot] => {
                let problem = format!("a step after the pivot waits for `{}`: add it to the needs", steps[pivot].name);
                found.add_at(index, "phase", problem);
            }
            (Phase::Post, None, _) => found.add_at(index, "phase", "there is no pivot that it could follow".to_owned()),
            _ => {}
        }
        for (at, &need) in step.needs.iter().enumerate() {
            if steps[need].phase == Phase::Finally {
                let problem = format!("`{}` is a final step: nothing waits for it", steps[need].name);
                found.add_at(index, &format!("needs[{at}]"), problem);
            }
        }
        for &source in &step.refers {
            if !ancestors.get(source).copied().unwrap_or(false) {
                let name = steps.get(source).map_or("?", |step| step.name.as_str());
                let problem = format!("it refers to the output of `{name}`, and does not wait for it");
                found.add_at(index, "needs", problem);
            }
        }
    }
}
