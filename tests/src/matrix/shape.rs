//! The shapes of jobs.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use weft_participant::Direction;
use weft_proto::duration;
use weft_proto::weft::jobs::v1::action::Kind;
use weft_proto::weft::jobs::v1::{
    Action, Condition, JobDefinition, Join, Phase, Release, Retry, Step, SubmitJobRequest,
};

use super::inner::{self, POOL};
use super::{FOR_EVER, Point};
use crate::jobs::{compute, definition, object, publish, request, reserve, step, value};
use crate::ledger::messages::FaultKind;

/// How many items a list has.
pub(super) const ITEMS: u32 = 3;
/// How long an attempt of what hangs may take.
pub(super) const SHORT: Duration = Duration::from_secs(2);
/// How long undoing may take that never succeeds, before the job counts as stuck.
const BUDGET: Duration = Duration::from_secs(2);
/// How often a step is tried whose probe never tells anything.
const FEW: u32 = 3;

/// A kind of job.
#[derive(Debug)]
pub struct Shape {
    /// For people.
    pub name: &'static str,
    steps: fn(&str) -> Vec<Step>,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Calls the participant.
    Call,
    /// Calls a model.
    Model,
    /// Takes slots.
    Slots,
}

/// A step that can go wrong, or one item of it.
#[derive(Clone, Debug)]
pub struct Spot {
    /// What it does.
    pub work: Work,
    /// The step, without its number.
    pub step: String,
    /// Of a step with a list.
    pub item: Option<u32>,
    /// Where the step stands.
    pub phase: Phase,
    /// Whether it is undone when the job cannot finish.
    pub is_undone: bool,
    /// Whether it can be asked about.
    pub is_asked: bool,
}

/// The example of `make run`, a chain without a pivot, a list with a quorum behind it, a diamond with conditions and steps after the pivot,
/// and one with models and slots at every place where a job can have them.
pub static SHAPES: [Shape; 5] = [
    Shape { name: "example", steps: example },
    Shape { name: "chain", steps: chain },
    Shape { name: "list", steps: list },
    Shape { name: "diamond", steps: diamond },
    Shape { name: "mesh", steps: mesh },
];

fn example(target: &str) -> Vec<Step> {
    vec![
        reserve("reserve", &[], "default", 1),
        call("prepare", &["reserve"], target),
        call("digits", &["prepare"], target),
        call("slow", &["prepare"], target),
        // What an `any` may leave behind has no effect, nor has anything that leads there alone.
        compute("digit", &["digits", "slow"], &json!("digits")),
        compute("guess", &["digits", "slow"], &json!("slow")),
        Step { join: Join::Any.into(), ..compute("pick", &["digit", "guess"], &json!("picked")) },
        pivot("publish", &["pick"], target),
        Step { phase: Phase::Finally.into(), action: release("reserve"), ..step("release", &[]) },
    ]
}

fn chain(target: &str) -> Vec<Step> {
    vec![
        call("first", &[], target),
        call("second", &["first"], target),
        call("third", &["second"], target),
        compute("check", &["third"], &json!("$input.text")),
        after(Phase::Finally, "close", &[], target),
    ]
}

fn list(target: &str) -> Vec<Step> {
    let items: Vec<u32> = (0..ITEMS).collect();
    let quorum = Step { join: Join::Quorum.into(), quorum: 2, ..pivot("decide", &["all", "one", "other"], target) };
    vec![
        Step { for_each: Some(value(&json!(items))), parallelism: 2, ..call("each", &[], target) },
        call("left", &["each"], target),
        call("right", &["each"], target),
        compute("all", &["each"], &json!("all")),
        compute("one", &["left", "right"], &json!("one")),
        compute("other", &["left", "right"], &json!("other")),
        quorum,
    ]
}

fn diamond(target: &str) -> Vec<Step> {
    vec![
        call("top", &[], target),
        call("left", &["top"], target),
        Step { when: given("$input.right"), ..call("right", &["top"], target) },
        Step { when: given("$input.never"), ..call("never", &["top"], target) },
        compute("bottom", &["left", "right", "never"], &json!("bottom")),
        pivot("charge", &["bottom"], target),
        after(Phase::Post, "index", &["charge"], target),
        after(Phase::Post, "mail", &["charge"], target),
    ]
}

fn mesh(target: &str) -> Vec<Step> {
    let items: Vec<_> = (0..ITEMS).map(inner::index).collect();
    vec![
        reserve("hold", &[], POOL, 1),
        call("before", &["hold"], target),
        patient(inner::pick("look", &["before"])),
        patient(Step { for_each: Some(value(&json!(items))), ..inner::pick("each", &["before"]) }),
        reserve("more", &["look", "each"], POOL, 1),
        pivot("decide", &["more"], target),
        Step { phase: Phase::Post.into(), action: release("more"), ..step("free", &["decide"]) },
        patient(Step { phase: Phase::Post.into(), ..inner::pick("grade", &["free"]) }),
        patient(Step { phase: Phase::Finally.into(), ..inner::pick("last", &[]) }),
        Step { phase: Phase::Finally.into(), action: release("hold"), ..step("back", &[]) },
    ]
}

/// A call that can be undone and asked about.
fn call(name: &str, needs: &[&str], target: &str) -> Step {
    patient(publish(name, needs, target, &json!("text")))
}

/// What is worth another attempt gets one, for as long as somebody may need to come back.
fn patient(step: Step) -> Step {
    let (first, longest) = (Duration::from_millis(10), Duration::from_millis(250));
    let retry = Retry {
        max_attempts: 100,
        initial_backoff: Some(duration(first)),
        max_backoff: Some(duration(longest)),
        ..Retry::default()
    };
    Step { retry: Some(retry), ..step }
}

/// The call that decides. Without the input's text it cannot be made.
fn pivot(name: &str, needs: &[&str], target: &str) -> Step {
    let decides = publish(name, needs, target, &json!("$input.text"));
    Step { phase: Phase::Pivot.into(), undo: None, action: decides.action, ..call(name, needs, target) }
}

/// A call that has to succeed. Nobody can ask about it: it is repeated.
fn after(phase: Phase, name: &str, needs: &[&str], target: &str) -> Step {
    Step { phase: phase.into(), undo: None, probe: None, ..call(name, needs, target) }
}

fn given(reference: &str) -> Option<Condition> {
    Some(Condition { left: Some(value(&json!(reference))), ..Condition::default() })
}

fn release(step: &str) -> Option<Action> {
    Some(Action { kind: Some(Kind::Release(Release { step: step.to_owned() })) })
}

/// A step's name in the job with this number: the participant tells jobs apart before they have ids.
pub(super) fn numbered(step: &str, number: usize) -> String {
    format!("{step}_{number}")
}

impl Shape {
    /// Everything that can go wrong in a job that goes well otherwise.
    pub fn spots(&self) -> Vec<Spot> {
        let steps = (self.steps)("");
        let working = steps.iter().filter(|step| step.name != "never");
        working
            .filter_map(|step| Some((work(step)?, step)))
            .flat_map(|(work, step)| Self::spots_of(work, step))
            .collect()
    }

    /// The calls of the participant among them.
    pub fn calls(&self) -> Vec<Spot> {
        self.spots().into_iter().filter(|spot| spot.work == Work::Call).collect()
    }

    fn spots_of(work: Work, step: &Step) -> Vec<Spot> {
        let items = if step.for_each.is_some() { (0..ITEMS).map(Some).collect() } else { vec![None] };
        let spot = |item| Spot {
            work,
            step: step.name.clone(),
            item,
            phase: if step.phase() == Phase::Unspecified { Phase::Pre } else { step.phase() },
            is_undone: step.undo.is_some(),
            is_asked: step.probe.is_some(),
        };
        items.into_iter().map(spot).collect()
    }

    /// The step that gives back what this one has reserved.
    pub(super) fn releases(&self, reserving: &str) -> Option<String> {
        let releases = |step: &Step| match &step.action {
            Some(Action { kind: Some(Kind::Release(release)) }) => release.step == reserving,
            _ => false,
        };
        (self.steps)("").into_iter().find(releases).map(|step| step.name)
    }

    /// Whether one step waits for another, directly or not.
    pub(super) fn waits(&self, step: &str, other: &str) -> bool {
        let steps = (self.steps)("");
        let (mut before, mut open) = (BTreeSet::new(), vec![step]);
        while let Some(name) = open.pop() {
            let needs = steps.iter().filter(|step| step.name == name).flat_map(|step| &step.needs);
            open.extend(needs.map(String::as_str).filter(|need| before.insert(*need)));
        }
        before.contains(other)
    }
}

fn work(step: &Step) -> Option<Work> {
    match step.action.as_ref()?.kind.as_ref()? {
        Kind::Call(_) => Some(Work::Call),
        Kind::Infer(_) => Some(Work::Model),
        Kind::Reserve(_) => Some(Work::Slots),
        _ => None,
    }
}

impl Point {
    /// A job that comes to this point.
    pub(super) fn request(&self, number: usize, target: &str) -> SubmitJobRequest {
        let mut steps = (self.shape.steps)(target);
        for step in &mut steps {
            if step.name == self.spot.step {
                self.plan(step);
            }
            step.name = numbered(&step.name, number);
            step.needs.iter_mut().for_each(|need| *need = numbered(need, number));
            if let Some(Action { kind: Some(Kind::Release(release)) }) = &mut step.action {
                release.step = numbered(&release.step, number);
            }
        }
        let is_undo_stuck = self.direction == Direction::Undo && self.times == FOR_EVER;
        let undo_budget = is_undo_stuck.then(|| duration(BUDGET));
        let definition = JobDefinition { undo_budget, ..definition(self.shape.name, steps) };
        let input = match self.direction {
            Direction::Undo => json!({ "right": true }),
            _ => json!({ "right": true, "text": "text" }),
        };
        let key = format!("{}-{number}", self.shape.name);
        SubmitJobRequest { input: Some(object(&input)), ..request(definition, &key) }
    }

    /// What its step is told so that it goes wrong.
    fn plan(&self, step: &mut Step) {
        if self.kind == FaultKind::Hang {
            step.timeout = Some(duration(SHORT));
        }
        match self.spot.work {
            Work::Call if self.direction == Direction::Probe && self.times == FOR_EVER => inner::tries(step, FEW),
            Work::Call => {}
            Work::Model => inner::plan_model(self, step),
            Work::Slots => inner::plan_slots(self, step),
        }
    }
}
