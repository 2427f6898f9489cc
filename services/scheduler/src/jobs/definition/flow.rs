//! What the steps wait for: the edges of a definition, and what is before what.

use std::collections::BTreeMap;

use weft_proto::weft::jobs::v1::{JobDefinition, Step};
use weft_saga::mermaid;
use weft_types::{Error, Result};

use super::Mistakes;

/// The edges of a definition, by the steps' indices.
pub(super) struct Flow<'a> {
    /// The index of each step.
    pub(super) names: BTreeMap<&'a str, usize>,
    /// What each step waits for, in rising order.
    pub(super) needs: Vec<Vec<usize>>,
    /// Which steps are before each step.
    pub(super) before: Vec<Vec<bool>>,
}

impl<'a> Flow<'a> {
    /// Reads names and edges.
    pub(super) fn read(steps: &'a [Step], mistakes: &mut Mistakes) -> Self {
        let names = steps.iter().enumerate().map(|(index, step)| (step.name.as_str(), index)).collect();
        let needs: Vec<Vec<usize>> =
            steps.iter().enumerate().map(|(index, step)| needs(index, step, &names, mistakes)).collect();
        Self { names, before: before(&needs), needs }
    }
}

fn needs(index: usize, step: &Step, names: &BTreeMap<&str, usize>, mistakes: &mut Mistakes) -> Vec<usize> {
    let mut needs = Vec::new();
    for (position, need) in step.needs.iter().enumerate() {
        let field = format!("definition.steps[{index}].needs[{position}]");
        match names.get(need.as_str()) {
            None => mistakes.add(&field, "there is no step of that name"),
            Some(need) if needs.contains(need) => mistakes.add(&field, "is there twice"),
            Some(need) => needs.push(*need),
        }
    }
    needs.sort_unstable();
    needs
}

/// What is before each step: what it needs, and what is before that. Steps in a circle have nothing before them; that is told elsewhere.
fn before(needs: &[Vec<usize>]) -> Vec<Vec<bool>> {
    let mut before = vec![vec![false; needs.len()]; needs.len()];
    let mut left: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut free: Vec<usize> = (0..needs.len()).filter(|step| left[*step] == 0).collect();
    // Each step is taken once, after all that it needs (Kahn, 1962).
    while let Some(done) = free.pop() {
        for step in (0..needs.len()).filter(|step| needs[*step].binary_search(&done).is_ok()) {
            let theirs = before[done].clone();
            for (own, is_before) in before[step].iter_mut().zip(theirs) {
                *own |= is_before;
            }
            before[step][done] = true;
            left[step] -= 1;
            if left[step] == 0 {
                free.push(step);
            }
        }
    }
    before
}

/// Puts the edges of a flowchart in place of the steps' needs.
pub(super) fn chart(definition: &mut JobDefinition, chart: &str) -> Result<()> {
    let field = |index: usize| format!("definition.steps[{index}].needs");
    if let Some(index) = definition.steps.iter().position(|step| !step.needs.is_empty()) {
        return Err(Error::invalid(field(index), "must be empty where there is a flowchart"));
    }
    let names: Vec<String> = definition.steps.iter().map(|step| step.name.clone()).collect();
    let steps: Vec<&str> = names.iter().map(String::as_str).collect();
    let needs = mermaid::edges(chart, &steps).map_err(|error| Error::invalid("flowchart", error))?;
    for (step, needs) in definition.steps.iter_mut().zip(needs) {
        step.needs = needs.into_iter().filter_map(|need| names.get(need).cloned()).collect();
    }
    Ok(())
}
