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

use super::{FOR_EVER, Point};
use crate::jobs::{compute, definition, object, publish, request, reserve, step, value};
use crate::ledger::messages::FaultKind;

/// How many items a list has.
const ITEMS: u32 = 3;
/// How long an attempt of a call that hangs may take.
const SHORT: Duration = Duration::from_secs(1);
/// How long undoing may take that never succeeds, before the job counts as stuck.
const BUDGET: Duration = Duration::from_secs(2);

/// A kind of job.
#[derive(Debug)]
pub struct Shape {
    /// For people.
    pub name: &'static str,
    steps: fn(&str) -> Vec<Step>,
}

/// A call that jobs of a shape make.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The step, without its number.
    pub step: String,
    /// Of a step with a list.
    pub item: Option<u32>,
    /// Where the step stands.
    pub phase: Phase,
    /// Whether it is undone when the job cannot finish.
    pub is_undone: bool,
}

/// The example of `make run`, a chain without a pivot, a list with a quorum behind it, a diamond with conditions and steps after the pivot.
pub static SHAPES: [Shape; 4] = [
    Shape { name: "example", steps: example },
    Shape { name: "chain", steps: chain },
    Shape { name: "list", steps: list },
    Shape { name: "diamond", steps: diamond },
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

/// A call that can be undone and asked about. What is worth another attempt gets one, for as long as somebody may need to come back.
fn call(name: &str, needs: &[&str], target: &str) -> Step {
    let (first, longest) = (Duration::from_millis(10), Duration::from_millis(250));
    let retry = Retry {
        max_attempts: 100,
        initial_backoff: Some(duration(first)),
        max_backoff: Some(duration(longest)),
        ..Retry::default()
    };
    Step { retry: Some(retry), ..publish(name, needs, target, &json!("text")) }
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
    /// Every call of a job that goes well.
    pub fn spots(&self) -> Vec<Spot> {
        let steps = (self.steps)("");
        let calls = steps.iter().filter(|step| is_call(step) && step.name != "never");
        calls.flat_map(|step| self.spots_of(step)).collect()
    }

    fn spots_of(&self, step: &Step) -> Vec<Spot> {
        let items = if step.for_each.is_some() { (0..ITEMS).map(Some).collect() } else { vec![None] };
        let spot = |item| Spot {
            step: step.name.clone(),
            item,
            phase: if step.phase() == Phase::Unspecified { Phase::Pre } else { step.phase() },
            is_undone: step.undo.is_some(),
        };
        items.into_iter().map(spot).collect()
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

fn is_call(step: &Step) -> bool {
    matches!(&step.action, Some(Action { kind: Some(Kind::Call(_)) }))
}

impl Point {
    /// A job that comes to this point.
    pub(super) fn request(&self, number: usize, target: &str) -> SubmitJobRequest {
        let mut steps = (self.shape.steps)(target);
        for step in &mut steps {
            if step.name == self.spot.step && self.kind == FaultKind::Hang {
                step.timeout = Some(duration(SHORT));
            }
            step.name = numbered(&step.name, number);
            step.needs.iter_mut().for_each(|need| *need = numbered(need, number));
            if let Some(Action { kind: Some(Kind::Release(release)) }) = &mut step.action {
                release.step = numbered(&release.step, number);
            }
        }
        let undo_budget = (self.times == FOR_EVER).then(|| duration(BUDGET));
        let definition = JobDefinition { undo_budget, ..definition(self.shape.name, steps) };
        let input = match self.direction {
            Direction::Undo => json!({ "right": true }),
            _ => json!({ "right": true, "text": "text" }),
        };
        let key = format!("{}-{number}", self.shape.name);
        SubmitJobRequest { input: Some(object(&input)), ..request(definition, &key) }
    }
}
