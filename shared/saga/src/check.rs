//! Whether a definition can be run and undone.

mod branches;
mod phases;
mod values;

use std::collections::HashSet;

use crate::definition::{Definition, Effect, Invalid, Join, Kind, Phase, Step};
use crate::graph::Graph;

/// How many steps a definition may have.
const STEPS: usize = 256;

impl Definition {
    /// Every mistake, with the field that holds it. A definition without any can be given to [`crate::Job::new`].
    pub fn check(&self) -> Vec<Invalid> {
        let mut found = Found(Vec::new());
        if self.steps.is_empty() || self.steps.len() > STEPS {
            found.add("definition.steps", format!("{} of them: 1 to {STEPS} are allowed", self.steps.len()));
            return found.0;
        }
        values::check(self, &mut found);
        let mut are_steps = true;
        let mut names = HashSet::new();
        for (index, step) in self.steps.iter().enumerate() {
            if !names.insert(step.name.as_str()) {
                found.add_at(index, "name", format!("`{}` is the name of another step, too", step.name));
            }
            are_steps &= self.check_needs(index, step, &mut found);
            self.check_kind(index, step, &mut found);
        }
        if !are_steps {
            return found.0;
        }
        match Graph::of(self) {
            Some(_) => {
                self.check_joins(&mut found);
                phases::check(self, &mut found);
            }
            None => {
                let problem = "some of them wait for each other in a circle, by `needs`";
                found.add("definition.steps", problem.to_owned());
            }
        }
        found.0
    }

    /// Effects that a job could complete without, and leave behind. Asked of new definitions only: a job that has begun goes on with the one that
    /// it has. Nothing where the graph itself is mistaken.
    pub fn check_branches(&self) -> Vec<Invalid> {
        let mut found = Found(Vec::new());
        if let Some(graph) = Graph::of(self) {
            branches::check(self, &graph, &mut found);
        }
        found.0
    }

    /// Whether every one is a step, so that the graph can be looked at.
    fn check_needs(&self, index: usize, step: &Step, found: &mut Found) -> bool {
        let mut are_steps = true;
        let mut before = None;
        for (at, &need) in step.needs.iter().enumerate() {
            let field = format!("needs[{at}]");
            if need >= self.steps.len() {
                are_steps = false;
                found.add_at(index, &field, format!("there is no step {need}"));
            } else if need == index {
                found.add_at(index, &field, "a step cannot wait for itself".to_owned());
            } else if before.is_some_and(|before| before >= need) {
                found.add_at(index, &field, "each step is named once, in the order of the steps".to_owned());
            }
            before = Some(need);
        }
        are_steps
    }

    fn check_joins(&self, found: &mut Found) {
        for (index, step) in self.steps.iter().enumerate() {
            match step.join {
                Join::All => continue,
                Join::Any if step.needs.is_empty() => {
                    found.add_at(index, "needs", "`any` waits for one step at least".to_owned());
                }
                Join::Quorum(count) if count == 0 || count as usize > step.needs.len() => {
                    let problem = format!("{count} of {} steps: 1 to all of them", step.needs.len());
                    found.add_at(index, "quorum", problem);
                }
                Join::Any | Join::Quorum(_) => {}
            }
            for (at, &need) in step.needs.iter().enumerate() {
                if self.steps[need].effect != Effect::Pure {
                    let name = &self.steps[need].name;
                    let problem = format!(
                        "`{name}` has an effect, and `any` and `quorum` may leave it behind: let a pure step stand between"
                    );
                    found.add_at(index, &format!("needs[{at}]"), problem);
                }
            }
        }
    }

    fn check_kind(&self, index: usize, step: &Step, found: &mut Found) {
        let mut wrong = |field: &str, problem: &str| found.add_at(index, field, problem.to_owned());
        match step.kind {
            Kind::Reserve if step.effect != Effect::Reserve => {
                wrong("effect", "a step that reserves has the effect `reserve`");
            }
            Kind::Reserve if !matches!(step.phase, Phase::Pre | Phase::Post) => {
                wrong("phase", "slots are reserved before or after the pivot");
            }
            Kind::Release(of) if self.steps.get(of).is_none_or(|of| of.kind != Kind::Reserve) => {
                wrong("action.release.step", "it is not a step that reserves");
            }
            Kind::Release(of)
                if step.phase != Phase::Finally && !Graph::ancestors(self, index).get(of).is_some_and(|&is| is) =>
            {
                wrong(
                    "action.release.step",
                    "a step that gives back waits for the one that reserves, or is a final one",
                );
            }
            Kind::Release(_) if step.phase == Phase::Pivot => wrong("phase", "giving slots back decides nothing"),
            Kind::Act if step.effect == Effect::Reserve => {
                wrong("effect", "only a step that reserves has the effect `reserve`");
            }
            Kind::Wait if step.signal.is_none() => wrong("action.wait.name", "the signal needs a name"),
            Kind::Wait if step.effect != Effect::Pure => wrong("effect", "a step that waits changes nothing: `pure`"),
            _ => {}
        }
        if step.effect == Effect::Pure && step.has_undo {
            wrong("undo", "a pure step changes nothing that could be undone: is its effect `external`?");
        }
        if step.effect == Effect::External && step.phase == Phase::Pre && !step.has_undo {
            wrong("undo", "an external step before the pivot needs one");
        }
        if step.has_probe && step.kind != Kind::Act {
            wrong("probe", "the engine knows what became of this step by itself");
        }
    }
}

/// The mistakes so far.
struct Found(Vec<Invalid>);

impl Found {
    fn add(&mut self, field: &str, problem: String) {
        self.0.push(Invalid { field: field.to_owned(), problem });
    }

    fn add_at(&mut self, step: usize, field: &str, problem: String) {
        self.add(&format!("definition.steps[{step}].{field}"), problem);
    }
}
