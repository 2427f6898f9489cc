//! What an operator may ask for. Every refusal names the field.

mod rollout;
mod route;
mod scaling;

use std::collections::BTreeSet;
use std::fmt::Display;

use weft_proto::weft::control::v1::{Model, Priority};
use weft_types::{Error, ModelName, Result, Version, WorkerId};

pub(super) use rollout::strategy;
pub(super) use route::route;

/// More workers than any one model needs; a larger number is a slip of the finger.
const MAX_REPLICAS: u32 = 1000;
const MAX_VERSIONS: usize = 16;
const MAX_LABELS: usize = 32;
const MAX_SHUNNED: usize = 64;
/// Bytes of a label's key or value.
const MAX_LABEL_BYTES: usize = 128;
/// Bytes of the reason for a cordon, and of who gives it.
pub(super) const MAX_REASON_BYTES: usize = 256;
pub(super) const MAX_BY_BYTES: usize = 128;

/// A name in a request.
pub(super) fn name(field: &str, text: &str) -> Result<ModelName> {
    text.parse().map_err(|problem| invalid(field, problem))
}

/// A worker in a request.
pub(super) fn worker(field: &str, text: &str) -> Result<WorkerId> {
    text.parse().map_err(|problem| invalid(field, problem))
}

/// What an operator says beside a wish.
pub(super) fn remark(field: &str, text: &str, most: usize) -> Result<()> {
    match text.len() <= most && !text.chars().any(char::is_control) {
        true => Ok(()),
        false => Err(invalid(field, format_args!("must be at most {most} bytes without control characters"))),
    }
}

/// A model's desired state.
pub(super) fn model(model: Option<&Model>) -> Result<ModelName> {
    let model = model.ok_or_else(|| invalid("model", "is missing"))?;
    let name = name("model.name", &model.name)?;
    if model.replicas > MAX_REPLICAS {
        return Err(invalid("model.replicas", format_args!("must be at most {MAX_REPLICAS}")));
    }
    if model.versions.len() > MAX_VERSIONS {
        return Err(invalid("model.versions", format_args!("must be at most {MAX_VERSIONS}")));
    }
    let mut seen = BTreeSet::new();
    for (index, number) in model.versions.iter().enumerate() {
        let field = format!("model.versions[{index}]");
        version(&field, *number)?;
        if !seen.insert(number) {
            return Err(invalid(&field, "is there twice"));
        }
    }
    if model.selector.len() > MAX_LABELS {
        return Err(invalid("model.selector", format_args!("must be at most {MAX_LABELS} labels")));
    }
    let sound = |text: &String| text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control);
    if !model.selector.iter().all(|(key, value)| !key.is_empty() && sound(key) && sound(value)) {
        let problem = format_args!(
            "keys must not be empty, keys and values at most {MAX_LABEL_BYTES} bytes without control characters"
        );
        return Err(invalid("model.selector", problem));
    }
    scaling::scaling(model)?;
    if Priority::try_from(model.priority).is_err() {
        return Err(invalid("model.priority", "is none of the known ones"));
    }
    anti_affinity(&name, &model.anti_affinity)?;
    Ok(name)
}

/// Models that must not be beside the model `name`; they need not exist.
fn anti_affinity(name: &ModelName, others: &[String]) -> Result<()> {
    if others.len() > MAX_SHUNNED {
        return Err(invalid("model.anti_affinity", format_args!("must be at most {MAX_SHUNNED}")));
    }
    let mut seen = BTreeSet::new();
    for (index, other) in others.iter().enumerate() {
        let field = format!("model.anti_affinity[{index}]");
        let other = self::name(&field, other)?;
        if other == *name {
            return Err(invalid(
                &field,
                "is the model itself: each of its replicas is on a worker of its own as it is",
            ));
        }
        if !seen.insert(other) {
            return Err(invalid(&field, "is there twice"));
        }
    }
    Ok(())
}

/// A version that can be written into a key and read back.
pub(super) fn version(field: &str, number: u64) -> Result<Version> {
    number.to_string().parse().map_err(|problem| invalid(field, problem))
}

fn invalid(field: &str, problem: impl Display) -> Error {
    Error::invalid(field.to_owned(), problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use weft_types::Reason;

    fn good_model() -> Model {
        Model { name: "digits".to_owned(), replicas: 1, ..Model::default() }
    }

    #[test]
    fn bad_models_name_their_field() {
        let labels = |count: usize| (0..count).map(|number| (number.to_string(), String::new())).collect();
        let one = |key: &str, value: &str| HashMap::from([(key.to_owned(), value.to_owned())]);
        let long = "x".repeat(129);
        let shunned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let many = |count: usize| (0..count).map(|number| format!("m{number}")).collect();
        let table: [(Model, &str); 15] = [
            (Model { name: "../etc".to_owned(), ..good_model() }, "model.name"),
            (Model { name: String::new(), ..good_model() }, "model.name"),
            (Model { replicas: 1001, ..good_model() }, "model.replicas"),
            (Model { versions: (1..=17).collect(), ..good_model() }, "model.versions"),
            (Model { versions: vec![1, 0], ..good_model() }, "model.versions[1]"),
            (Model { versions: vec![u64::MAX], ..good_model() }, "model.versions[0]"),
            (Model { versions: vec![2, 3, 2], ..good_model() }, "model.versions[2]"),
            (Model { selector: labels(33), ..good_model() }, "model.selector"),
            (Model { selector: one("", "x"), ..good_model() }, "model.selector"),
            (Model { selector: one("x", &long), ..good_model() }, "model.selector"),
            (Model { priority: 3, ..good_model() }, "model.priority"),
            (Model { anti_affinity: many(65), ..good_model() }, "model.anti_affinity"),
            (Model { anti_affinity: shunned(&["a", "../x"]), ..good_model() }, "model.anti_affinity[1]"),
            (Model { anti_affinity: shunned(&["digits"]), ..good_model() }, "model.anti_affinity[0]"),
            (Model { anti_affinity: shunned(&["a", "b", "a"]), ..good_model() }, "model.anti_affinity[2]"),
        ];
        for (bad, field) in table {
            let error = model(Some(&bad)).expect_err(field);
            assert_eq!((error.reason(), error.field()), (Reason::InvalidRequest, Some(field)), "{bad:?}");
        }
        assert_eq!(model(None).expect_err("missing").field(), Some("model"));
        let full = Model {
            replicas: 1000,
            versions: (1..=16).collect(),
            selector: labels(32),
            priority: Priority::Batch.into(),
            anti_affinity: many(64),
            ..good_model()
        };
        assert_eq!(model(Some(&full)).map(|name| name.to_string()), Ok("digits".to_owned()));
    }
}
