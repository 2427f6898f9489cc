//! From a definition with every default written out to what is run.

use std::ops::RangeInclusive;
use std::time::Duration;

use weft_proto::from_duration;
use weft_proto::weft::jobs::v1 as jobs;
use weft_proto::weft::jobs::v1::JobDefinition;
use weft_saga::{Definition, Effect, Join, Kind, Phase, Retry, Step};
use weft_types::ModelName;

use super::flow::Flow;
use super::schema::Described;
use super::{Act, Mistakes, Plan, Planned, action};
use crate::jobs::template::{Condition, Names, Reader, Root, Roots, Template};

const MAX_STEPS: usize = 256;
const MAX_WEIGHT: u32 = 1_000;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// Makes a plan, and notes every mistake; `None` where some step cannot be read. Of one that is new, what a job leaves behind is a mistake, too.
pub(super) fn plan(message: &JobDefinition, is_new: bool, mistakes: &mut Mistakes) -> Option<Plan> {
    mistakes.check("definition.name", message.name.parse::<ModelName>());
    let budget = "definition.undo_budget";
    let undo_budget = millis(budget, message.undo_budget.as_ref(), SECOND..=7 * DAY, mistakes);
    if !(1..=MAX_STEPS).contains(&message.steps.len()) {
        mistakes.add("definition.steps", format_args!("must be 1 to {MAX_STEPS}"));
        return None;
    }
    let flow = Flow::read(&message.steps, mistakes);
    let mut described = Described::default();
    let mut steps = Vec::new();
    let mut planned = Vec::new();
    for (index, step) in message.steps.iter().enumerate() {
        let field = format!("definition.steps[{index}]");
        let reading = Reading { field, index, flow: &flow, mistakes: &mut *mistakes, described: &mut described };
        if let Some((step, plan)) = reading.step(step) {
            steps.push(step);
            planned.push(plan);
        }
    }
    let all = vec![true; message.steps.len()];
    let names = Names { steps: &flow.names, before: &all, item: false, output: false };
    let mut reader = Reader { names, mistakes: &mut *mistakes };
    let output = message.output.as_ref().map(|output| reader.read("definition.output", output));
    durability(message, &steps, mistakes);
    let definition = Definition { steps, undo_budget };
    // Indices mean what they say only where every step could be read.
    if definition.steps.len() != message.steps.len() {
        return None;
    }
    let left_behind = if is_new { definition.check_branches() } else { Vec::new() };
    let invalid = definition.check().into_iter().chain(left_behind);
    invalid.for_each(|invalid| mistakes.add(&invalid.field, invalid.problem));
    Some(Plan { definition, steps: planned, output })
}

/// A job of which nothing is kept has nothing that would have to be undone.
fn durability(message: &JobDefinition, steps: &[Step], mistakes: &mut Mistakes) {
    let kept: &[Effect] = match jobs::Durability::try_from(message.durability) {
        Ok(jobs::Durability::None) => &[Effect::Pure],
        Ok(jobs::Durability::Lease) => &[Effect::Pure, Effect::Reserve],
        Ok(jobs::Durability::Journaled) => return,
        _ => return mistakes.add("definition.durability", "must be none, lease or journaled"),
    };
    if steps.iter().any(|step| !kept.contains(&step.effect)) {
        let problem =
            "a step's effect would be lost with the scheduler: must be journaled, or lease if it only reserves";
        mistakes.add("definition.durability", problem);
    }
}

/// One step that is read.
struct Reading<'a> {
    field: String,
    index: usize,
    flow: &'a Flow<'a>,
    mistakes: &'a mut Mistakes,
    described: &'a mut Described,
}

impl Reading<'_> {
    fn step(mut self, step: &jobs::Step) -> Option<(Step, Planned)> {
        let needs = self.flow.needs[self.index].clone();
        let timeout = millis(&self.at("timeout"), step.timeout.as_ref(), 1..=DAY, self.mistakes);
        let (join, phase) = (self.join(step), self.phase(step));
        let effect = self.effect(step);
        let retry = self.retry(&step.retry.clone().unwrap_or_default());
        if step.deadline_weight > MAX_WEIGHT {
            self.mistakes.add(&self.at("deadline_weight"), format_args!("must be at most {MAX_WEIGHT}"));
        }
        let parallelism = self.parallelism(step);
        let plan = self.planned(step)?;
        self.fits(effect, &plan);
        let kind = match &plan.action {
            Act::Reserve(_) => Kind::Reserve,
            Act::Release(step) => Kind::Release(*step),
            Act::Wait(_) => Kind::Wait,
            _ => Kind::Act,
        };
        let signal = match &plan.action {
            Act::Wait(name) => Some(name.clone()),
            _ => None,
        };
        let engine = Step {
            name: step.name.clone(),
            needs,
            join,
            effect,
            phase,
            kind,
            has_undo: plan.undo.is_some(),
            has_probe: plan.probe.is_some(),
            retry,
            timeout,
            deadline_weight: step.deadline_weight,
            is_ruled: plan.when.is_some() || plan.list.is_some(),
            parallelism,
            refers: refers(&plan),
            signal,
        };
        Some((engine, plan))
    }

    fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.field)
    }

    fn join(&mut self, step: &jobs::Step) -> Join {
        let join = jobs::Join::try_from(step.join).ok();
        if step.quorum != 0 && join != Some(jobs::Join::Quorum) {
            self.mistakes.add(&self.at("quorum"), "is only for the join quorum");
        }
        match join {
            Some(jobs::Join::All) => Join::All,
            Some(jobs::Join::Any) => Join::Any,
            Some(jobs::Join::Quorum) => Join::Quorum(step.quorum),
            _ => {
                self.mistakes.add(&self.at("join"), "must be all, any or quorum");
                Join::All
            }
        }
    }

    fn effect(&mut self, step: &jobs::Step) -> Effect {
        match jobs::Effect::try_from(step.effect) {
            Ok(jobs::Effect::Reserve) => Effect::Reserve,
            Ok(jobs::Effect::External) => Effect::External,
            // Without an action there is nothing to take a default from; that is told as a mistake of its own.
            Ok(jobs::Effect::Pure | jobs::Effect::Unspecified) => Effect::Pure,
            Err(_) => {
                self.mistakes.add(&self.at("effect"), "must be pure, reserve or external");
                Effect::Pure
            }
        }
    }

    fn phase(&mut self, step: &jobs::Step) -> Phase {
        match jobs::Phase::try_from(step.phase) {
            Ok(jobs::Phase::Pre | jobs::Phase::Unspecified) => Phase::Pre,
            Ok(jobs::Phase::Pivot) => Phase::Pivot,
            Ok(jobs::Phase::Post) => Phase::Post,
            Ok(jobs::Phase::Finally) => Phase::Finally,
            Err(_) => {
                self.mistakes.add(&self.at("phase"), "must be pre, pivot, post or finally");
                Phase::Pre
            }
        }
    }

    fn retry(&mut self, retry: &jobs::Retry) -> Retry {
        let (first, last) = (self.at("retry.initial_backoff"), self.at("retry.max_backoff"));
        let initial_backoff = millis(&first, retry.initial_backoff.as_ref(), 0..=u64::MAX, self.mistakes);
        let max_backoff = millis(&last, retry.max_backoff.as_ref(), 0..=u64::MAX, self.mistakes);
        Retry { max_attempts: retry.max_attempts, initial_backoff, max_backoff, codes: retry.codes.clone() }
    }

    fn parallelism(&mut self, step: &jobs::Step) -> u32 {
        match (&step.for_each, step.parallelism) {
            (None, 0) => 1,
            (None, _) => {
                self.mistakes.add(&self.at("parallelism"), "is only for a step with for_each");
                1
            }
            (Some(_), parallelism) => parallelism,
        }
    }

    /// What the step does. Condition and list are decided before there is an item.
    fn planned(&mut self, step: &jobs::Step) -> Option<Planned> {
        let when = step.when.as_ref().and_then(|when| self.condition(when));
        let at = self.at("for_each");
        let list = step.for_each.as_ref().map(|list| self.reader().read(&at, list));
        let item = list.is_some();
        let Some(message) = &step.action else {
            self.mistakes.add(&self.at("action"), "is missing");
            return None;
        };
        let read = self.act("action", message, item);
        let back = step.undo.as_ref().and_then(|message| self.act("undo", message, item));
        let probe = step.probe.as_ref().and_then(|message| self.act("probe", message, item));
        let action = read?;
        let undo = self.undo(&action, back);
        Some(Planned { action, undo, probe, when, list })
    }

    /// Reads an action of the step; only an undo has an output to refer to.
    fn act(&mut self, which: &str, message: &jobs::Action, item: bool) -> Option<Act> {
        let field = self.at(which);
        let names =
            Names { steps: &self.flow.names, before: &self.flow.before[self.index], item, output: which == "undo" };
        action::read(&field, message, &mut Reader { names, mistakes: self.mistakes }, self.described)
    }

    fn condition(&mut self, when: &jobs::Condition) -> Option<Condition> {
        let (left, right) = (self.at("when.left"), self.at("when.right"));
        let Ok(comparison) = jobs::Comparison::try_from(when.comparison) else {
            self.mistakes.add(&self.at("when.comparison"), "is not known");
            return None;
        };
        let is_compared = comparison != jobs::Comparison::Unspecified;
        if when.left.is_none() {
            self.mistakes.add(&left, "is missing");
        }
        if when.right.is_some() != is_compared {
            self.mistakes.add(&right, "must be there where something is compared, and only there");
        }
        let mut reader = self.reader();
        let mut read = |field: &str, value: &Option<prost_types::Value>| {
            value.as_ref().map_or(Template::Literal(serde_json::Value::Null), |value| reader.read(field, value))
        };
        Some(Condition { left: read(&left, &when.left), comparison, right: read(&right, &when.right) })
    }

    fn reader(&mut self) -> Reader<'_> {
        let before = &self.flow.before[self.index];
        let names = Names { steps: &self.flow.names, before, item: false, output: false };
        Reader { names, mistakes: self.mistakes }
    }

    /// A load is undone by giving back what it asked for, and never what somebody else did.
    fn undo(&mut self, action: &Act, undo: Option<Act>) -> Option<Act> {
        match (action, undo) {
            (Act::Load { model, .. }, None) => Some(Act::GiveBack { model: model.clone() }),
            (Act::Load { model, .. }, Some(Act::Unload { model: other })) if *model == other => {
                Some(Act::GiveBack { model: other })
            }
            (_, Some(Act::Unload { .. })) => {
                self.mistakes.add(&self.at("undo.unload"), "takes back only a load of the same model");
                None
            }
            (_, undo) => undo,
        }
    }

    /// Whether action, undo and probe fit each other and the effect.
    fn fits(&mut self, effect: Effect, plan: &Planned) {
        let (fitting, told): (&[Effect], &str) = match plan.action {
            Act::Reserve(_) => (&[Effect::Reserve], "reserve"),
            Act::Load { .. } | Act::Unload { .. } | Act::GiveBack { .. } => (&[Effect::External], "external"),
            Act::Call(_) => (&[Effect::Pure, Effect::External], "pure or external"),
            Act::Infer(_) | Act::Release(_) | Act::Wait(_) | Act::Compute(_) => (&[Effect::Pure], "pure"),
        };
        if !fitting.contains(&effect) {
            self.mistakes.add(&self.at("effect"), format_args!("of such an action must be {told}"));
        }
        if plan.undo.is_some() && effect == Effect::Reserve {
            self.mistakes.add(&self.at("undo"), "is not for a step that reserves: its slots are given back anyway");
        }
        if plan.probe.is_some() && effect != Effect::External {
            self.mistakes.add(&self.at("probe"), "is only for an external step: any other is simply repeated");
        }
        if matches!(plan.undo, Some(Act::Infer(_) | Act::Reserve(_) | Act::Release(_) | Act::Wait(_) | Act::Compute(_)))
        {
            self.mistakes.add(&self.at("undo"), "must be call, load or unload");
        }
        if plan.probe.as_ref().is_some_and(|probe| !matches!(probe, Act::Call(_))) {
            self.mistakes.add(&self.at("probe"), "must be call");
        }
        if plan.list.is_some() && matches!(plan.action, Act::Release(_) | Act::Wait(_)) {
            self.mistakes.add(&self.at("for_each"), "is not for a step that releases or waits");
        }
    }
}

/// The steps that a step's templates refer to.
fn refers(plan: &Planned) -> Vec<usize> {
    let mut roots = Roots::new();
    for act in [Some(&plan.action), plan.undo.as_ref(), plan.probe.as_ref()].into_iter().flatten() {
        act.roots(&mut roots);
    }
    plan.when.iter().for_each(|when| when.roots(&mut roots));
    plan.list.iter().for_each(|list| list.roots(&mut roots));
    let step = |root: Root| match root {
        Root::Step(step) => Some(step),
        _ => None,
    };
    roots.into_keys().filter_map(step).collect()
}

/// A duration in milliseconds, rounded up so that none becomes nothing.
fn millis(
    field: &str,
    value: Option<&prost_types::Duration>,
    range: RangeInclusive<u64>,
    mistakes: &mut Mistakes,
) -> u64 {
    let rounded = |value: Duration| u64::try_from(value.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let found = value.and_then(from_duration).map(rounded).filter(|value| range.contains(value));
    found.unwrap_or_else(|| {
        mistakes.add(field, format_args!("must be {} ms to {} ms", range.start(), range.end()));
        *range.start()
    })
}
