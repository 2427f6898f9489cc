//! What the steps wait for: the edges of a definition, and what is before what.

use std::collections::BTreeMap;

use weft_proto::weft::jobs::v1::{JobDefinition, Step};
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
    /// Reads names and edges; a cycle is a mistake.
    pub(super) fn read(steps: &'a [Step], mistakes: &mut Mistakes) -> Self {
        let mut names = BTreeMap::new();
        for (index, step) in steps.iter().enumerate() {
            let field = format!("definition.steps[{index}].name");
            mistakes.check(&field, check_name(&step.name));
            if names.insert(step.name.as_str(), index).is_some() {
                mistakes.add(&field, "is another step's name, too");
            }
        }
        let needs: Vec<Vec<usize>> =
            steps.iter().enumerate().map(|(index, step)| needs(index, step, &names, mistakes)).collect();
        let before = before(&needs);
        for (index, before) in before.iter().enumerate() {
            if before.get(index) == Some(&true) {
                mistakes.add(&format!("definition.steps[{index}].needs"), "the step would wait for itself");
            }
        }
        Self { names, needs, before }
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

/// What is before each step, by going along the edges until nothing is added: at most as often as the longest way has steps.
fn before(needs: &[Vec<usize>]) -> Vec<Vec<bool>> {
    let mut before = vec![vec![false; needs.len()]; needs.len()];
    loop {
        let mut changed = false;
        for (index, needs) in needs.iter().enumerate() {
            for need in needs {
                let theirs = before[*need].clone();
                for (step, is_before) in theirs.into_iter().enumerate() {
                    if (is_before || step == *need) && !before[index][step] {
                        before[index][step] = true;
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            return before;
        }
    }
}

/// A name of a step or a signal.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"_-".contains(&letter);
    match (1..=63).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err("must be 1 to 63 letters, digits, '_' or '-'"),
    }
}

/// Puts the edges of a flowchart in place of the steps' needs.
pub(super) fn chart(_: &mut JobDefinition, _: &str) -> Result<()> {
    Err(Error::invalid("flowchart", "is not read by this build: write definition.steps[].needs"))
}
