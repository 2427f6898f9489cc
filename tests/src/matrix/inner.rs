//! Steps that the mesh does itself: models and slots. They go wrong by what they are given, by what is cut off, and by slots that others have.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use weft_proto::duration;
use weft_proto::weft::jobs::v1::action::Kind;
use weft_proto::weft::jobs::v1::{PoolSlots, Step};

use super::Point;
use super::shape::{ITEMS, SHORT};
use crate::graphs;
use crate::jobs::{infer, value};
use crate::ledger::messages::FaultKind;

/// Of which there are slots for all jobs.
pub(super) const POOL: &str = "default";
/// Of which others have all slots.
pub(super) const TAKEN: &str = "taken";
/// As many as one step can take.
pub(super) const SLOTS: u32 = 32;
/// The model on the worker that is cut off and killed.
pub(super) const HELD: &str = "held";
/// The model that is called otherwise: it picks one of ten numbers.
pub(super) const PICK: &str = "pick";
/// For which nobody waits.
const ENDLESS_MS: u32 = 600_000;
/// How long a model that never answers is waited for where that is done again and again.
const BRIEF: Duration = Duration::from_millis(200);
/// How often a model is called that does not answer.
const TWICE: u32 = 2;

/// A repository of the one model or the other.
pub(super) fn repository(folder: &Path, model: &str) -> Result<()> {
    let folder = folder.join(model);
    fs::create_dir_all(folder.join("1"))?;
    let config = if model == PICK {
        fs::write(folder.join("1/model.onnx"), graphs::pick())?;
        "backend: 'tract'"
    } else {
        "backend: 'builtin' parameters { key: 'model' value { string_value: 'identity' } }"
    };
    Ok(fs::write(folder.join("config.pbtxt"), config)?)
}

fn tensor(datatype: &str, shape: &[u32], element: u32) -> Value {
    json!({ "datatype": datatype, "shape": shape, "data": [element] })
}

/// What the model takes: with ten and more its execution fails.
pub(super) fn index(at: u32) -> Value {
    tensor("INT64", &[1, 1], at)
}

/// A call of the model, for each item where there is a list.
pub(super) fn pick(name: &str, needs: &[&str]) -> Step {
    let input = if name == "each" { json!("$item") } else { index(1) };
    infer(name, needs, PICK, ("INDEX", &input))
}

/// How often a step is tried.
pub(super) fn tries(step: &mut Step, most: u32) {
    step.retry.get_or_insert_default().max_attempts = most;
}

/// A model that refuses what it is given, fails at it, does not answer in time, or stands on a worker that is cut off.
pub(super) fn plan_model(point: &Point, step: &mut Step) {
    let (model, name, right, wrong) = match point.kind {
        FaultKind::Refuse => (PICK, "INDEX", index(1), tensor("FP32", &[1, 1], 1)),
        FaultKind::Unknown => (PICK, "INDEX", index(1), index(10)),
        FaultKind::Hang => {
            let milliseconds = |number| tensor("UINT32", &[1], number);
            ("sleep", "MILLISECONDS", milliseconds(0), milliseconds(ENDLESS_MS))
        }
        _ => (HELD, "INPUT", index(1), index(1)),
    };
    let mut input = value(&wrong);
    if let Some(wrong_one) = point.spot.item {
        let items: Vec<&Value> = (0..ITEMS).map(|item| if item == wrong_one { &wrong } else { &right }).collect();
        step.for_each = Some(value(&json!(items)));
        input = value(&json!("$item"));
    }
    if let Some(Kind::Infer(infer)) = step.action.as_mut().and_then(|action| action.kind.as_mut()) {
        infer.model = model.to_owned();
        infer.inputs = [(name.to_owned(), input)].into();
    }
    if point.kind == FaultKind::Hang {
        step.timeout = Some(duration(if point.spot.has_to_succeed() { BRIEF } else { SHORT }));
        tries(step, TWICE);
    }
}

/// Slots of which some are there and some are not: for the whole of an attempt, or until others give them back.
pub(super) fn plan_slots(point: &Point, step: &mut Step) {
    if let Some(Kind::Reserve(reserve)) = step.action.as_mut().and_then(|action| action.kind.as_mut()) {
        reserve.pools.push(PoolSlots { pool: TAKEN.to_owned(), slots: 1 });
    }
    if point.kind == FaultKind::Refuse {
        step.timeout = Some(duration(SHORT));
        tries(step, 1);
    }
}
