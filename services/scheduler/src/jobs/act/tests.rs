//! Actions against real services on real ports.

mod models;
mod rig;
mod services;

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use weft_saga::{Direction, Fault, Outcome, Ruling};

use super::{Done, MAX_WAITING};
use crate::jobs::definition::compile;
use crate::jobs::definition::tests::message;
use rig::{Rig, code, inline, kept};

#[tokio::test]
async fn a_step_runs_once_often_or_not_at_all() {
    let rig = Rig::new();
    let compute = |name: &str, more: Value| {
        let mut step = json!({ "name": name, "needs": ["a"], "action": { "compute": { "value": { "is": "$item", "at": "$index" } } } });
        step.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        step
    };
    let plan = rig.plan(json!([
        { "name": "a", "action": { "compute": { "value": "$input" } } },
        compute("list", json!({ "forEach": "$steps.a.list" })),
        compute("many", json!({ "forEach": "$steps.a.many" })),
        compute("none", json!({ "forEach": "$steps.a" })),
        compute("never", json!({ "forEach": "$steps.a.list", "when": { "left": "$steps.a.gone" } })),
        compute("odd", json!({ "forEach": [], "when": { "left": "$steps.a", "comparison": "COMPARISON_LESS", "right": 1 } })),
    ]));
    let many: Vec<u32> = (0..257).collect();
    let job = rig.job(&plan, json!({ "list": ["x", "y"], "many": many }));
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    let made = rig.value(&kept(outcome)).await;
    let job = rig::made(job, 0, rig.keep(&made).await);
    let facts = rig.facts(&job);
    let rulings = async |step| rig.actor.rule(&plan, facts, step).await.expect("values are there");
    assert_eq!(rulings(0).await, Ruling::Run(1));
    assert_eq!(rulings(1).await, Ruling::Run(2));
    assert_eq!(rulings(4).await, Ruling::Skip);
    for step in [2, 3, 5] {
        assert!(matches!(rulings(step).await, Ruling::Invalid(fault) if fault.code == "INVALID_ARGUMENT"), "{step}");
    }
    let (outcome, _) = rig.act_on(&plan, &job, (1, 1), Direction::Action).await;
    assert_eq!(rig.value(&kept(outcome)).await, json!({ "is": "y", "at": 1 }));
    let (outcome, _) = rig.act_on(&plan, &job, (1, 2), Direction::Action).await;
    assert!(matches!(outcome, Outcome::FailedClean(fault) if fault.code == "INTERNAL"), "there is no third item");
}

#[tokio::test]
async fn a_list_is_there_when_all_of_it_is() {
    let rig = Rig::new();
    let mut plan = rig.plan(json!([
        { "name": "each", "forEach": [1, 2], "action": { "compute": { "value": "$item" } } },
        { "name": "all", "needs": ["each"], "action": { "compute": { "value": "$steps.each" } } },
    ]));
    plan.output = plan.steps.pop().map(|planned| match planned.action {
        super::Act::Compute(template) => template,
        other => panic!("{other:?}"),
    });
    let mut job = rig.job(&plan, json!({}));
    job.job.steps[0].ruled = true;
    job.job.steps[0].items = vec![rig::item(json!(1)), weft_saga::Item::default()];
    let missing = rig.actor.output(&plan, rig.facts(&job)).await.expect_err("one is not done");
    assert_eq!(missing.message, "$steps.each is not there");
    job.job.steps[0].items[1] = weft_saga::Item { output: None, ..rig::item(json!(2)) };
    let output = rig.actor.output(&plan, rig.facts(&job)).await.expect("all are done").expect("there is an output");
    assert_eq!(inline(&output), json!([1, null]));
}

#[tokio::test]
async fn values_that_are_large_are_kept_elsewhere_and_those_too_large_nowhere() {
    let rig = Rig::new();
    let plan = rig.plan(json!([
        { "name": "a", "action": { "compute": { "value": "$input.x" } } },
        { "name": "b", "needs": ["a"], "action": { "compute": { "value": ["$steps.a", "$steps.a"] } } },
    ]));
    let text = "x".repeat(3 << 20);
    let job = rig.job(&plan, json!({ "x": text }));
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    let large = kept(outcome);
    assert!(matches!(&large, weft_saga::Payload::Stored { len, .. } if *len == (3 << 20) + 2));
    let job = rig::made(job, 0, large);
    let (outcome, _) = rig.act(&plan, &job, 1, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "OUT_OF_RANGE"));
    rig.memory.forget();
    let (outcome, _) = rig.act(&plan, &job, 1, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "UNAVAILABLE"), "it was not read, so nothing was done");
}

/// Where there is a way back, what may have been done is undone; where there is none, it is done.
#[test]
fn what_becomes_of_an_action_depends_on_where_its_output_is_lost() {
    let call = || json!({ "call": { "target": "127.0.0.1:1", "method": "a.B/C" } });
    let steps = json!([
        { "name": "pure", "action": { "compute": { "value": 1 } } },
        { "name": "pre", "needs": ["pure"], "effect": "EFFECT_EXTERNAL", "action": call(), "undo": call() },
        { "name": "pivot", "needs": ["pre"], "effect": "EFFECT_EXTERNAL", "phase": "PHASE_PIVOT", "action": call() },
    ]);
    let plan = compile(&message(json!({ "name": "j", "steps": steps }))).expect("a definition");
    let became = |step: usize, code: &str| super::unkept(plan.definition.steps.get(step), Fault::new(code, "why"));
    for (step, want) in [(0, ("clean", "OUT_OF_RANGE")), (1, ("unknown", "OUT_OF_RANGE")), (2, ("done", ""))] {
        assert_eq!(code(&became(step, "OUT_OF_RANGE")), want, "{step}");
        assert_eq!(
            code(&became(step, "UNAVAILABLE")),
            ("unknown", "UNAVAILABLE"),
            "it can be kept when it is asked for again"
        );
    }
    assert_eq!(code(&became(3, "OUT_OF_RANGE")).0, "unknown");
}

#[tokio::test]
async fn values_that_are_out_of_reach_are_told_apart_and_not_waited_for() {
    let mut rig = Rig::new();
    let mut plan = rig.plan(json!([
        { "name": "a", "action": { "compute": { "value": "$input.x" } } },
        { "name": "list", "needs": ["a"], "forEach": "$steps.a", "action": { "compute": { "value": 1 } } },
        { "name": "when", "needs": ["a"], "when": { "left": "$steps.a" }, "action": { "compute": { "value": 1 } } },
        { "name": "last", "needs": ["a"], "action": { "compute": { "value": "$steps.a" } } },
    ]));
    plan.output = plan.steps.pop().map(|planned| match planned.action {
        super::Act::Compute(template) => template,
        other => panic!("{other:?}"),
    });
    let job = rig.job(&plan, json!({ "x": ["x".repeat(5_000)] }));
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    let job = rig::made(job, 0, kept(outcome));
    let told = async |rig: &Rig| {
        let facts = rig.facts(&job);
        let (list, when) = (rig.actor.rule(&plan, facts, 1).await, rig.actor.rule(&plan, facts, 2).await);
        let output = rig.actor.output(&plan, facts).await.map(|_| Ruling::Run(1));
        [list, when, output].map(|told| told.map_err(|fault| fault.code))
    };
    let all = || [(); 3].map(|()| Ok(Ruling::Run(1)));
    assert_eq!(told(&rig).await, all());
    // A folder that hangs: without a limit this would never end.
    std::sync::Arc::get_mut(&mut rig.actor.0).expect("nobody else has it").values_in = Duration::from_millis(20);
    rig.memory.hang(true);
    let unavailable = || [(); 3].map(|()| Err("UNAVAILABLE".to_owned()));
    let late = tokio::time::timeout(crate::tests::PATIENCE, told(&rig)).await.expect("it is not waited for");
    assert_eq!(late, unavailable());
    rig.memory.hang(false);
    rig.memory.forget();
    assert_eq!(told(&rig).await, unavailable());
    rig.end().await;
}

/// So many wait for the place as may; nobody else holds what it brought. It may have been done all the same.
#[tokio::test]
async fn only_some_of_what_succeeded_waits_for_the_place_of_values() {
    let mut rig = Rig::new();
    let plan = rig.plan(json!([
        { "name": "a", "action": { "compute": { "value": "$input.x" } } },
        { "name": "go", "needs": ["a"], "action": { "wait": { "name": "go" } } },
    ]));
    let job = rig.job(&plan, json!({ "x": "x".repeat(5_000) }));
    rig.patience = 2 * crate::tests::PATIENCE;
    std::sync::Arc::get_mut(&mut rig.actor.0).expect("nobody else has it").values_in = Duration::from_millis(20);
    for hangs in [false, true] {
        rig.memory.hang(hangs);
        rig.memory.take_away(true);
        let mut attempts: FuturesUnordered<_> =
            (0..=MAX_WAITING).map(|_| rig.act(&plan, &job, 0, Direction::Action)).collect();
        let first = tokio::time::timeout(crate::tests::PATIENCE, attempts.next()).await.expect("one does not wait");
        let (outcome, _) = first.expect("there are some");
        assert_eq!(code(&outcome), ("unknown", "UNAVAILABLE"));
        assert_eq!(attempts.len(), MAX_WAITING);
        rig.memory.take_away(false);
        while let Some((outcome, _)) = if hangs { None } else { attempts.next().await } {
            kept(outcome);
        }
    }
    rig.memory.hang(false);
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    kept(outcome);
    rig.end().await;
}

#[tokio::test]
async fn a_probe_says_what_became_of_an_action() {
    let told = |direction, value: Value| super::done(direction, Some(value)).expect("it is small");
    let all = |told| match told {
        Done::All(outcome) => outcome,
        Done::Output(text) => panic!("{text:?}"),
    };
    for (value, want) in [
        (json!({ "done": false }), Outcome::Absent),
        (json!({ "done": true }), Outcome::Done(None)),
        (json!({ "done": true, "output": null }), Outcome::Done(None)),
    ] {
        assert_eq!(all(told(Direction::Probe, value)), want);
    }
    let made = told(Direction::Probe, json!({ "done": true, "output": { "id": 7 } }));
    assert!(matches!(made, Done::Output(text) if text == r#"{"id":7}"#));
    for value in [json!({}), json!({ "done": 1 }), json!("done")] {
        assert_eq!(code(&all(told(Direction::Probe, value))), ("unknown", "INTERNAL"));
    }
    assert_eq!(super::done(Direction::Action, None).map(all), Ok(Outcome::Done(None)));
}

/// All values of one request share the room of one, and what may take much memory is known before anything is read.
#[tokio::test]
async fn large_values_are_known_beforehand_and_bounded_together() {
    let rig = Rig::new();
    let many: Vec<u32> = vec![0; 300_000];
    let tensor = json!({ "datatype": "INT32", "shape": [300_000], "data": "$input.many" });
    let inputs: Value =
        (0..4).map(|number| (format!("x{number}"), tensor.clone())).collect::<serde_json::Map<_, _>>().into();
    let plan = rig.plan(json!([
        { "name": "one", "action": { "infer": { "model": "m", "inputs": { "x": tensor } } } },
        { "name": "all", "action": { "infer": { "model": "m", "inputs": inputs } } },
        { "name": "few", "action": { "infer": { "model": "m" } } },
        { "name": "each", "forEach": "$input.many", "action": { "compute": { "value": "$item" } } },
        { "name": "when", "when": { "left": "$input.many" }, "action": { "compute": { "value": 1 } } },
    ]));
    let large = rig.job(&plan, json!({ "many": many }));
    let (outcome, _) = rig.act(&plan, &large, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "UNAVAILABLE"), "it fits, and there is no router");
    let (outcome, _) = rig.act(&plan, &large, 1, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "OUT_OF_RANGE"));
    let small = rig.job(&plan, json!({ "many": [1, 2] }));
    for (step, is_large) in [(0, true), (1, true), (2, false), (3, true)] {
        let told = |job| {
            let planned = &plan.steps[step];
            super::may_be_large(planned, planned.act(Direction::Action), rig.facts(job), step)
        };
        assert_eq!((told(&large), told(&small)), (is_large, false), "{step}");
    }
    for (step, is_large) in [(2, false), (3, true), (4, true)] {
        let told = |job| super::may_be_large(&plan.steps[step], None, rig.facts(job), step);
        assert_eq!((told(&large), told(&small)), (is_large, false), "the ruling of {step}");
    }
    // A short value that is referred to very often is not short.
    let often: Vec<&str> = vec!["$input.many"; 5_000];
    let plan = rig.plan(json!([{ "name": "often", "action": { "compute": { "value": often } } }]));
    let job = rig.job(&plan, json!({ "many": [1, 2] }));
    assert!(super::may_be_large(&plan.steps[0], Some(&plan.steps[0].action), rig.facts(&job), 0));
}
