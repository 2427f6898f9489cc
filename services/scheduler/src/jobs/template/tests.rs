use super::*;
use crate::jobs::definition::Mistakes;
use proptest::prelude::*;
use serde_json::json;
use weft_proto::weft::jobs::v1::Comparison;
use weft_types::Result;

/// Reads a template of the second of two steps, which have names of their own and the first of which is before it.
fn read(value: &Value) -> Result<Template> {
    let steps = BTreeMap::from([("first", 0), ("second", 1)]);
    let names = Names { steps: &steps, before: &[true, false], item: true, output: true };
    let mut mistakes = Mistakes::default();
    let template = Reader { names, mistakes: &mut mistakes }.read("at", &json::to_proto(value));
    mistakes.result().map(|()| template)
}

fn values() -> Values {
    Values {
        job: "job-1".to_owned(),
        input: Some(json!({ "a": { "b": [1, { "c": "x" }] }, "odd.name": true, "$x": 3, "n": null })),
        steps: BTreeMap::from([(0, json!({ "out": [10, 20] }))]),
        item: Some((4, json!({ "id": 7 }))),
        output: None,
    }
}

fn render(value: &Value) -> Result<Value, Problem> {
    read(value).expect("a template").render(&values())
}

#[test]
fn references_become_what_they_refer_to() {
    for (template, want) in [
        (json!("$input.a.b[1].c"), json!("x")),
        (json!("$input[\"odd.name\"]"), json!(true)),
        (json!("$input.a.b"), json!([1, { "c": "x" }])),
        (json!("$input.$x"), json!(3)),
        (json!("$input.n"), json!(null)),
        (json!("$steps.first.out[1]"), json!(20)),
        (json!("$steps[\"first\"].out"), json!([10, 20])),
        (json!("$item.id"), json!(7)),
        (json!("$index"), json!(4)),
        (json!("$job.id"), json!("job-1")),
        (json!("$output.booking.id"), json!(null)),
        (json!("$$input"), json!("$input")),
        (json!("no $input here"), json!("no $input here")),
        (json!({ "k": ["$index", { "l": "$job.id" }], "$$k": 1 }), json!({ "k": [4, { "l": "job-1" }], "$k": 1 })),
        (json!({ "$first": ["$input.gone", "$steps.first.out[2]", "$item.id", "$index"] }), json!(7)),
        (json!({ "$first": ["$input.n", 1] }), json!(null)),
        (json!({ "$first": [{ "x": "$input.gone" }, 2] }), json!(2)),
        (json!(3.5), json!(3.5)),
        (json!(3.0), json!(3)),
    ] {
        assert_eq!(render(&template), Ok(want), "{template}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    for (template, missing) in [
        ("$input.a.c", Some("$input.a.c")),
        ("$input.a.b[2]", Some("$input.a.b[2]")),
        ("$input.a.b[18446744073709551615]", Some("$input.a.b[18446744073709551615]")),
        ("$input.a[0]", Some("$input.a[0]")),
        ("$item.id.x", Some("$item.id.x")),
    ] {
        assert_eq!(render(&json!(template)), Err(Problem::Missing(missing.expect("named").to_owned())), "{template}");
    }
    assert_eq!(render(&json!({ "$first": ["$input.x", "$input.y"] })), Err(Problem::NoneThere));
    let nothing = Values::default();
    assert!(
        read(&json!("$steps.first")).expect("a template").render(&nothing).is_err_and(|problem| problem.is_absence())
    );
}

#[test]
fn references_that_are_none_are_mistakes() {
    let long = format!("$input.{}", "a".repeat(2_000));
    let many = format!("$input{}", ".a".repeat(65));
    for bad in [
        "$",
        "$inputs",
        "$steps",
        "$steps.",
        "$steps[0]",
        "$steps.third",
        "$steps.second",
        "$steps.first..a",
        "$job",
        "$job.name",
        "$index.a",
        "$input.",
        "$input[",
        "$input[]",
        "$input[-1]",
        "$input[1",
        "$input[\"a]",
        "$input[+1]",
        "$input[99999999999999999999999]",
        "$input[0]a",
        "$input]",
        &long,
        &many,
    ] {
        let error = read(&json!({ "k": [bad] })).expect_err(bad);
        assert_eq!(error.field(), Some("at.k[0]"), "{bad}");
    }
    for bad in
        [json!({ "$x": 1 }), json!({ "$first": [], }), json!({ "$first": [1], "b": 2 }), json!({ "$first": "$input" })]
    {
        assert!(read(&bad).is_err(), "{bad}");
    }
    let not_finite = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(f64::NAN)) };
    let mut mistakes = Mistakes::default();
    let names = Names { steps: &BTreeMap::new(), before: &[], item: false, output: false };
    let mut reader = Reader { names, mistakes: &mut mistakes };
    for (field, value) in [("item", "$item"), ("index", "$index"), ("output", "$output")] {
        reader.read(field, &json::to_proto(&json!(value)));
    }
    reader.read("nan", &not_finite);
    let told = mistakes.result().expect_err("nothing of it is there").to_string();
    assert!(["item: ", "index: ", "output: ", "nan: "].iter().all(|field| told.contains(field)), "{told}");
}

/// A step that doubles what the one before it made, thirty times over, must end in a refusal and not in the memory.
#[test]
fn what_grows_with_each_step_is_bounded() {
    let double = read(&json!(["$input", "$input"])).expect("a template");
    let mut values = Values { input: Some(json!("x".repeat(1_000))), ..Values::default() };
    let mut steps = 0;
    let problem = loop {
        match double.render(&values) {
            Ok(value) => values.input = Some(value),
            Err(problem) => break problem,
        }
        steps += 1;
        assert!(steps < 30, "it still grows");
    };
    assert_eq!(problem, Problem::TooLarge);
    let deeper = read(&json!({ "in": ["$input"] })).expect("a template");
    let mut values = Values { input: Some(json!(1)), ..Values::default() };
    let problem = loop {
        match deeper.render(&values) {
            Ok(value) => values.input = Some(value),
            Err(problem) => break problem,
        }
    };
    assert_eq!(problem, Problem::TooDeep);
}

#[test]
fn templates_are_no_deeper_than_values() {
    let mut deep = prost_types::Value { kind: None };
    for _ in 0..10_000 {
        let list = prost_types::ListValue { values: vec![deep] };
        deep = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
    }
    let mut mistakes = Mistakes::default();
    let names = Names { steps: &BTreeMap::new(), before: &[], item: false, output: false };
    Reader { names, mistakes: &mut mistakes }.read("at", &deep);
    assert!(mistakes.result().is_err());
    // Dropping it as it is would need the stack that the test is about.
    while let Some(prost_types::value::Kind::ListValue(list)) = deep.kind.take() {
        deep = list.values.into_iter().next().unwrap_or_default();
    }
}

#[test]
fn conditions_compare_alike_with_alike() {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual, Unspecified};
    let holds = |left: Value, comparison, right: Value| {
        let condition = Condition { left: read(&left).expect("left"), comparison, right: read(&right).expect("right") };
        condition.holds(&values())
    };
    for (left, comparison, right, want) in [
        (json!("$input.a"), Unspecified, json!(null), true),
        (json!("$input.n"), Unspecified, json!(null), false),
        (json!("$input.gone"), Unspecified, json!(null), false),
        (json!(false), Unspecified, json!(null), false),
        (json!(0), Unspecified, json!(null), true),
        (json!("$input.gone"), Equal, json!(null), true),
        (json!("$input.gone"), NotEqual, json!(1), true),
        (json!("$steps.first.out"), Equal, json!([10, 20]), true),
        (json!({ "a": [1] }), Equal, json!({ "a": [1], "b": 2 }), false),
        (json!("a"), Less, json!("b"), true),
        (json!(2), Less, json!(10), true),
        (json!(2.5), Greater, json!(2), true),
        (json!(2), LessOrEqual, json!(2), true),
        (json!(2), GreaterOrEqual, json!(3), false),
    ] {
        assert_eq!(holds(left.clone(), comparison, right.clone()), Ok(want), "{left} {comparison:?} {right}");
    }
    // Of a job's input, whole numbers are exact; a service may answer the same one with a fraction.
    let exact = Values {
        input: Some(json!([9_007_199_254_740_993_u64, 9_007_199_254_740_992_u64, 3.0, 3])),
        ..Values::default()
    };
    let of = |left: &str, right: &str| Condition {
        left: read(&json!(left)).expect("left"),
        comparison: Equal,
        right: read(&json!(right)).expect("right"),
    };
    assert_eq!(of("$input[0]", "$input[1]").holds(&exact), Ok(false));
    assert_eq!(of("$input[2]", "$input[3]").holds(&exact), Ok(true));
    assert!(matches!(holds(json!("2"), Less, json!(3)), Err(Problem::Unfit(_))));
    assert!(matches!(holds(json!("$input.gone"), Less, json!(3)), Err(Problem::Missing(_))));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1i64 << 53)..(1 << 53)).prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| Value::from(number / 3.0)),
        "[$a-z.\\[\\]\"]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[$a-z]{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The template that stands for a value as it is.
fn escaped(value: &Value) -> Value {
    let escape = |text: &str| if text.starts_with('$') { format!("${text}") } else { text.to_owned() };
    match value {
        Value::String(text) => Value::from(escape(text)),
        Value::Array(items) => items.iter().map(escaped).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (escape(key), escaped(value))).collect(),
        other => other.clone(),
    }
}

proptest! {
    /// Every value can be written down, and is then a literal.
    #[test]
    fn an_escaped_value_is_itself(value in any_json()) {
        let template = read(&escaped(&value)).expect("a template");
        prop_assert!(matches!(template, Template::Literal(_)));
        let rendered = template.render(&Values::default()).expect("a value");
        // Fractions that are whole, such as 2e20, come back without one: they are equal as numbers.
        let same = Condition { left: template, comparison: Comparison::Equal, right: Template::Literal(value.clone()) };
        prop_assert_eq!(same.holds(&Values::default()), Ok(true), "{} became {}", value, rendered);
    }

    /// What is weighed before it is made weighs as much as when it is there.
    #[test]
    fn a_value_weighs_what_its_text_told(value in any_json()) {
        use serde::Serialize as _;
        let all = 1 << 20;
        let mut room = Room(all);
        room.weigh(&value, 0).expect("it is small");
        let weight = all - room.0;
        prop_assert!(scale::weigh_in(Room(weight), |scale| value.serialize(scale)).is_ok());
        let short = scale::weigh_in(Room(weight - 1), |scale| value.serialize(scale));
        prop_assert_eq!(short, Err(Problem::TooLarge));
    }

    /// Whatever follows a dollar is a reference or a mistake, and never a panic; what it refers to is part of what was there.
    #[test]
    fn any_text_is_read(text in "\\$(input|steps|item|index|job|output|\\$)?[a-z0-9.\\[\\]\"\\\\]{0,16}") {
        if let Ok(template) = read(&json!(text)) {
            let _ = template.render(&values());
        }
    }
}

/// Only what is not there is passed over.
#[test]
fn the_first_that_is_too_large_is_a_failure() {
    let values = Values { input: Some(json!({ "x": "x".repeat(MAX_BYTES) })), ..values() };
    let first = |list: Value| read(&json!({ "$first": list })).expect("a template").render(&values);
    assert_eq!(first(json!(["$input.x", 1])), Err(Problem::TooLarge));
    assert_eq!(first(json!(["$input.gone", 1])), Ok(json!(1)));
}
