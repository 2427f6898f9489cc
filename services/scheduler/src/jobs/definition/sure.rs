//! What is repeated until it succeeds must be able to: a step after the pivot, a final one, an undo, the probe of a pivot.
//!
//! A final step may run in a job of which nothing else has, and an `any` or a condition may leave a step out. What refers to the output of such a step would fail
//! for ever, so it gives `$first` something else, or has a condition that asks for it. Null in its place was the other choice: a call would then
//! quietly be made for nothing, where somebody had meant something.

use prost_types::Struct;
use weft_saga::{Phase, Step};

use super::{Act, Mistakes, Plan, Planned};
use crate::jobs::template::{Reference, Root, Template, Values, json};

/// Notes every reference that need not be there where it has to be. `input` is what the job is given.
pub(super) fn check(plan: &Plan, input: Option<&Struct>, mistakes: &mut Mistakes) {
    let Some(certain) = plan.definition.certain() else { return };
    // What is not finite in it is told elsewhere.
    let input = json::of_struct(input.unwrap_or(&Struct::default()));
    let values = Values { input, ..Values::default() };
    for (index, (step, planned)) in plan.definition.steps.iter().zip(&plan.steps).enumerate() {
        let makes = |source: usize| plan.steps.get(source).is_some_and(always_makes);
        let is_before = |source: usize| certain[index].get(source).is_some_and(|is| *is) && makes(source);
        let is_there = |reference: &Reference| match reference.root() {
            Root::Step(source) => is_before(source),
            Root::Input => values.input.is_none() || reference.is_in(&values),
            Root::Item | Root::Index | Root::Job | Root::Output => true,
        };
        let asked = planned.when.as_ref().map(|when| when.proves()).unwrap_or_default();
        let is_there_then = |reference: &Reference| asked.contains(&reference.root()) || is_there(reference);
        let mut found = Vec::new();
        if matches!(step.phase, Phase::Post | Phase::Finally) {
            found.push(("when", planned.when.as_ref().and_then(|when| when.lacks(&is_there))));
        }
        for (field, template) in endless(step, planned) {
            found.push((field, template.lacks(&is_there_then)));
        }
        for (field, lacking) in found.into_iter().filter_map(|(field, lacking)| Some((field, lacking?))) {
            let problem = format_args!(
                "{lacking} need not be there, and this has to succeed: name something else beside it in $first, or ask for it in when"
            );
            mistakes.add(&format!("definition.steps[{index}].{field}"), problem);
        }
    }
}

/// Whether there is an output when the step has succeeded.
fn always_makes(source: &Planned) -> bool {
    source.when.is_none() && !matches!(source.action, Act::Reserve(_) | Act::Release(_))
}

/// The templates of a step that are rendered until that succeeds.
fn endless<'a>(step: &Step, planned: &'a Planned) -> Vec<(&'static str, &'a Template)> {
    let of = |field, act: &'a Act| act.templates().into_iter().map(move |template| (field, template));
    let mut templates = Vec::new();
    match step.phase {
        Phase::Pre => templates.extend(planned.undo.iter().flat_map(|undo| of("undo", undo))),
        Phase::Pivot => templates.extend(planned.probe.iter().flat_map(|probe| of("probe", probe))),
        Phase::Post | Phase::Finally => {
            templates.extend(planned.list.iter().map(|list| ("for_each", list)));
            templates.extend(of("action", &planned.action));
        }
    }
    templates
}
