//! What an operator may ask for. Every refusal names the field.

use std::collections::BTreeSet;
use std::fmt::Display;

use weft_proto::weft::control::v1::{Model, Route};
use weft_types::{Error, ModelName, Reason, Result, Version};

/// More workers than any one model needs; a larger number is a slip of the finger.
const MAX_REPLICAS: u32 = 1000;
const MAX_VERSIONS: usize = 16;
const MAX_LABELS: usize = 32;
/// Bytes of a label's key or value.
const MAX_LABEL_BYTES: usize = 128;
const MAX_TARGETS: usize = 16;
const MAX_WEIGHT: u32 = 1_000_000;

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

/// A route, given which models are known.
pub(super) fn route(route: Option<&Route>, known: impl Fn(&ModelName) -> bool) -> Result<ModelName> {
    let route = route.ok_or_else(|| invalid("route", "is missing"))?;
    let route_name = name("route.name", &route.name)?;
    if !(1..=MAX_TARGETS).contains(&route.targets.len()) {
        return Err(invalid("route.targets", format_args!("must be 1 to {MAX_TARGETS}")));
    }
    let mut seen = BTreeSet::new();
    for (index, target) in route.targets.iter().enumerate() {
        let field = |part: &str| format!("route.targets[{index}]{part}");
        let model = name(&field(".model"), &target.model)?;
        // Zero stands for the latest.
        if target.version != 0 {
            version(&field(".version"), target.version)?;
        }
        if target.weight > MAX_WEIGHT {
            return Err(invalid(&field(".weight"), format_args!("must be at most {MAX_WEIGHT}")));
        }
        if !known(&model) {
            return Err(Error::new(Reason::NotFound, format!("{}: no model '{model}'", field(".model"))));
        }
        if !seen.insert((model, target.version)) {
            return Err(invalid(&field(""), "leads where another target leads"));
        }
    }
    if route.targets.iter().all(|target| target.weight == 0) {
        return Err(invalid("route.targets", "at least one must have a weight"));
    }
    Ok(route_name)
}

/// A version that can be written into a key and read back.
fn version(field: &str, number: u64) -> Result<Version> {
    number.to_string().parse().map_err(|problem| invalid(field, problem))
}

fn invalid(field: &str, problem: impl Display) -> Error {
    Error::invalid(field.to_owned(), problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use weft_proto::weft::control::v1::RouteTarget;

    fn good_model() -> Model {
        Model { name: "digits".to_owned(), replicas: 1, ..Model::default() }
    }

    fn target(model: &str, version: u64, weight: u32) -> RouteTarget {
        RouteTarget { model: model.to_owned(), version, weight }
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

    #[test]
    fn bad_routes_name_their_field() {
        let known = |model: &ModelName| model.as_str() != "unknown";
        let table: [(&str, Vec<RouteTarget>, Option<&str>); 10] = [
            ("a b", vec![target("m", 0, 1)], Some("route.name")),
            ("r", vec![], Some("route.targets")),
            ("r", (0..17).map(|version| target("m", version, 1)).collect(), Some("route.targets")),
            ("r", vec![target("m", 0, 1), target("", 0, 1)], Some("route.targets[1].model")),
            ("r", vec![target("m", u64::MAX, 1)], Some("route.targets[0].version")),
            ("r", vec![target("m", 0, 1_000_001)], Some("route.targets[0].weight")),
            ("r", vec![target("m", 1, 1), target("m", 1, 2)], Some("route.targets[1]")),
            ("r", vec![target("m", 1, 0), target("m", 2, 0)], Some("route.targets")),
            ("r", (0..16).map(|version| target("m", version, 1)).collect(), None),
            ("r", vec![target("m", 1, 0), target("n", 1, 1)], None),
        ];
        for (name, targets, field) in table {
            let checked = route(Some(&Route { name: name.to_owned(), targets }), known);
            assert_eq!(checked.as_ref().err().and_then(Error::field), field, "{checked:?}");
            assert_eq!(checked.is_ok(), field.is_none());
        }
        let lost = Route { name: "r".to_owned(), targets: vec![target("m", 0, 1), target("unknown", 0, 1)] };
        let error = route(Some(&lost), known).expect_err("unknown");
        assert_eq!(error.reason(), Reason::NotFound);
        assert!(error.message().starts_with("route.targets[1].model: "), "{error}");
        assert_eq!(route(None, known).expect_err("missing").field(), Some("route"));
    }
}
