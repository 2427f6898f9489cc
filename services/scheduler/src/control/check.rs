//! What an operator may ask for. Every refusal names the field.

mod rollout;
mod route;

use std::collections::BTreeSet;
use std::fmt::Display;

use weft_proto::weft::control::v1::Model;
use weft_types::{Error, ModelName, Result, Version};

pub(super) use rollout::strategy;
pub(super) use route::route;

/// More workers than any one model needs; a larger number is a slip of the finger.
const MAX_REPLICAS: u32 = 1000;
const MAX_VERSIONS: usize = 16;
const MAX_LABELS: usize = 32;
/// Bytes of a label's key or value.
const MAX_LABEL_BYTES: usize = 128;

/// A name in a request.
pub(super) fn name(field: &str, text: &str) -> Result<ModelName> {
    text.parse().map_err(|problem| invalid(field, problem))
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
    Ok(name)
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
        let table: [(Model, &str); 10] = [
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
        ];
        for (bad, field) in table {
            let error = model(Some(&bad)).expect_err(field);
            assert_eq!((error.reason(), error.field()), (Reason::InvalidRequest, Some(field)), "{bad:?}");
        }
        assert_eq!(model(None).expect_err("missing").field(), Some("model"));
        let full = Model { replicas: 1000, versions: (1..=16).collect(), selector: labels(32), ..good_model() };
        assert_eq!(model(Some(&full)).map(|name| name.to_string()), Ok("digits".to_owned()));
    }
}
