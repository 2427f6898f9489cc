#![expect(clippy::needless_pass_by_value, reason = "values are written down where they are passed")]

use super::*;
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
};
use serde_json::{Value, json};

/// A definition of its JSON, as grpcurl reads it.
pub(crate) fn message(definition: Value) -> JobDefinition {
    let pool = DescriptorPool::decode(weft_proto::DESCRIPTORS).expect("the contracts");
    let described = pool.get_message_by_name("weft.jobs.v1.JobDefinition").expect("it is there");
    let read = DynamicMessage::deserialize(described, definition).expect("a definition");
    read.transcode_to().expect("the same message")
}

fn submit(definition: Value) -> Result<Submitted> {
    let request = SubmitJobRequest { definition: Some(message(definition)), ..SubmitJobRequest::default() };
    definition_of(&request, &Targets::loopback())
}

fn compute(name: &str, needs: &[&str], value: Value) -> Value {
    json!({ "name": name, "needs": needs, "action": { "compute": { "value": value } } })
}

fn job(steps: Value) -> Value {
    json!({ "name": "j", "steps": steps })
}

fn call(target: &str) -> Value {
    json!({ "call": { "target": target, "method": "a.b.S/M", "request": { "x": "$job.id" } } })
}

#[test]
fn what_is_submitted_has_every_default_written_out() {
    let submitted = submit(job(json!([
        compute("a", &[], json!("$input.x")),
        { "name": "b", "needs": ["a"], "action": { "reserve": { "pools": [{ "pool": "gpu" }] } } },
        { "name": "c", "needs": ["b"], "action": call("127.0.0.1:5"), "undo": call("localhost:6"), "forEach": ["$steps.a"] },
        { "name": "d", "needs": ["c"], "action": { "load": { "model": "m" } }, "retry": { "initialBackoff": "60s" } },
    ])))
    .expect("a definition");
    let definition = &submitted.plan.definition;
    use weft_saga::{Effect, Kind, Phase};
    let effects: Vec<Effect> = definition.steps.iter().map(|step| step.effect).collect();
    assert_eq!(effects, [Effect::Pure, Effect::Reserve, Effect::External, Effect::External]);
    assert_eq!(definition.undo_budget, 600_000);
    let [a, b, c, d] = definition.steps.as_slice() else { panic!("four steps") };
    assert_eq!(
        (a.timeout, a.retry.max_attempts, a.retry.initial_backoff, a.retry.max_backoff),
        (30_000, 3, 100, 10_000)
    );
    assert_eq!((a.phase, b.kind, submitted.plan.pools(1)), (Phase::Pre, Kind::Reserve, &[("gpu".to_owned(), 1)][..]));
    assert_eq!((c.is_ruled, c.parallelism, c.refers.as_slice()), (true, 8, &[0][..]));
    assert_eq!((d.has_undo, d.retry.max_backoff), (true, 60_000), "a load knows how it is undone");
    assert!(matches!(submitted.plan.steps[3].undo, Some(Act::GiveBack { .. })));
    // What is stored is run as it was submitted, and submitted again it is the same.
    let again = compile(&submitted.message).expect("it was checked");
    assert_eq!(again.definition, submitted.plan.definition);
    let request = SubmitJobRequest { definition: Some(submitted.message.clone()), ..SubmitJobRequest::default() };
    let again = definition_of(&request, &Targets::loopback()).expect("it was checked");
    assert_eq!((again.encoded, again.message), (submitted.encoded, submitted.message));
}

#[test]
fn equal_definitions_have_equal_bytes() {
    let inputs: serde_json::Map<String, Value> = (0..40).map(|number| (format!("in{number}"), json!(number))).collect();
    let infer = json!({ "infer": { "model": "m", "inputs": inputs } });
    let definition = || job(json!([{ "name": "a", "action": infer.clone() }]));
    let first = submit(definition()).expect("a definition").encoded;
    for _ in 0..8 {
        assert_eq!(submit(definition()).expect("a definition").encoded, first);
    }
    let told = submit(job(
        json!([{ "name": "a", "action": infer, "join": "JOIN_ALL", "effect": "EFFECT_PURE", "timeout": "30s" }]),
    ));
    assert_eq!(told.expect("a definition").encoded, first);
}

#[test]
fn bad_definitions_name_their_field() {
    let step = |step: Value| job(json!([step]));
    let a = compute("a", &[], json!(1));
    let act = |action: Value| step(json!({ "name": "a", "action": action }));
    let with = |field: &str, value: Value| {
        let mut step = compute("a", &[], json!(1));
        step[field] = value;
        job(json!([step]))
    };
    let pools = |pools: Value| act(json!({ "reserve": { "pools": pools } }));
    let table = [
        (json!({ "name": "../j", "steps": [a] }), "definition.name"),
        (job(json!([])), "definition.steps"),
        (json!({ "name": "j", "steps": [a], "undoBudget": "0.5s" }), "definition.undo_budget"),
        (json!({ "name": "j", "steps": [a], "durability": 9 }), "definition.durability"),
        (json!({ "name": "j", "steps": [a], "output": "$steps.b" }), "definition.output"),
        (job(json!([compute("a b", &[], json!(1))])), "definition.steps[0].name"),
        (job(json!([a, a])), "definition.steps[1].name"),
        (job(json!([compute("a", &["x"], json!(1))])), "definition.steps[0].needs[0]"),
        (job(json!([a, compute("b", &["a", "a"], json!(1))])), "definition.steps[1].needs[1]"),
        (job(json!([compute("a", &["b"], json!(1)), compute("b", &["a"], json!(1))])), "definition.steps"),
        (step(json!({ "name": "a" })), "definition.steps[0].action"),
        (act(json!({})), "definition.steps[0].action"),
        (with("join", json!(7)), "definition.steps[0].join"),
        (with("effect", json!(7)), "definition.steps[0].effect"),
        (with("effect", json!("EFFECT_EXTERNAL")), "definition.steps[0].effect"),
        (with("phase", json!(7)), "definition.steps[0].phase"),
        (with("quorum", json!(1)), "definition.steps[0].quorum"),
        (with("timeout", json!("0s")), "definition.steps[0].timeout"),
        (with("timeout", json!("90000s")), "definition.steps[0].timeout"),
        (with("deadlineWeight", json!(1_001)), "definition.steps[0].deadline_weight"),
        (with("parallelism", json!(2)), "definition.steps[0].parallelism"),
        (with("retry", json!({ "maxAttempts": 101 })), "definition.steps[0].retry.max_attempts"),
        (with("retry", json!({ "codes": ["OOPS"] })), "definition.steps[0].retry.codes[0]"),
        (with("when", json!({ "left": 1, "comparison": 9, "right": 1 })), "definition.steps[0].when.comparison"),
        (with("when", json!({ "left": 1, "comparison": "COMPARISON_LESS" })), "definition.steps[0].when.right"),
        (with("when", json!({ "right": 1, "comparison": "COMPARISON_LESS" })), "definition.steps[0].when.left"),
        (with("when", json!({ "left": "$item" })), "definition.steps[0].when.left"),
        (with("forEach", json!("$item")), "definition.steps[0].for_each"),
        (with("probe", call("localhost:1")), "definition.steps[0].probe"),
        (with("undo", call("localhost:1")), "definition.steps[0].undo"),
        (
            act(json!({ "compute": { "value": { "k": ["$steps.a"] } } })),
            "definition.steps[0].action.compute.value.k[0]",
        ),
        (act(json!({ "compute": {} })), "definition.steps[0].action.compute.value"),
        (act(json!({ "compute": { "value": "$output" } })), "definition.steps[0].action.compute.value"),
        (act(json!({ "infer": { "model": "../m" } })), "definition.steps[0].action.infer.model"),
        (act(json!({ "infer": { "model": "m", "version": "latest" } })), "definition.steps[0].action.infer.version"),
        (
            act(json!({ "infer": { "model": "m", "inputs": { "x": "$y" } } })),
            "definition.steps[0].action.infer.inputs.x",
        ),
        (act(json!({ "load": { "model": "m", "replicas": 1_001 } })), "definition.steps[0].action.load.replicas"),
        (act(json!({ "unload": { "model": "m" } })), "definition.steps[0].undo"),
        (act(json!({ "release": { "step": "b" } })), "definition.steps[0].action.release.step"),
        (act(json!({ "wait": { "name": "a b" } })), "definition.steps[0].action.wait.name"),
        (pools(json!([])), "definition.steps[0].action.reserve.pools"),
        (pools(json!([{ "pool": "a/b" }])), "definition.steps[0].action.reserve.pools[0].pool"),
        (pools(json!([{ "pool": "g" }, { "pool": "g" }])), "definition.steps[0].action.reserve.pools[1].pool"),
        (pools(json!([{ "pool": "g", "slots": 33 }])), "definition.steps[0].action.reserve.pools[0].slots"),
        (
            act(json!({ "call": { "target": "localhost:1", "method": "S.M" } })),
            "definition.steps[0].action.call.method",
        ),
        (act(json!({ "call": { "target": "a@b:1", "method": "S/M" } })), "definition.steps[0].action.call.target"),
        (
            act(json!({ "call": { "target": "localhost:1", "method": "S/M", "descriptorSet": "AAAA" } })),
            "definition.steps[0].action.call.descriptor_set",
        ),
        (
            step(json!({ "name": "a", "action": call("localhost:1"), "undo": { "unload": { "model": "m" } } })),
            "definition.steps[0].undo.unload",
        ),
        (
            json!({ "name": "j", "durability": "DURABILITY_LEASE", "steps": [
                { "name": "a", "action": call("localhost:1"), "undo": call("localhost:1") }
            ] }),
            "definition.durability",
        ),
        (
            job(json!([
                { "name": "load", "action": { "load": { "model": "m" } } },
                compute("a", &["load"], json!(1)),
                compute("b", &[], json!(1)),
                { "name": "c", "needs": ["a", "b"], "join": "JOIN_ANY", "action": { "compute": { "value": 1 } } },
            ])),
            "definition.steps[0].effect",
        ),
    ];
    for (definition, field) in table {
        let error = submit(definition.clone()).expect_err(field);
        assert_eq!((error.reason(), error.field()), (Reason::InvalidRequest, Some(field)), "{definition}: {error}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_no_more_than_can_be_read() {
    let error = submit(json!({ "name": "", "steps": [
        { "name": "a", "action": { "infer": { "model": "/" } } },
        compute("b", &["x"], json!(["$y", "$z"])),
    ] }));
    let told = error.expect_err("five mistakes").to_string();
    for field in [
        "definition.name: ",
        "definition.steps[0].action.infer.model: ",
        "definition.steps[1].needs[0]: ",
        "definition.steps[1].action.compute.value[0]: ",
        "definition.steps[1].action.compute.value[1]: ",
    ] {
        assert!(told.contains(field), "{field} is not in {told}");
    }
    let bad: Vec<String> = (0..1_000).map(|_| format!("${}", "y".repeat(200))).collect();
    let told = submit(job(json!([compute("a", &[], json!(bad))]))).expect_err("a thousand mistakes").to_string();
    assert!(told.len() < 10_000 && told.ends_with("and 984 more mistakes"), "{} bytes: {told}", told.len());
    let long = submit(job(json!([compute("a", &[], json!("x".repeat(MAX_DEFINITION_BYTES)))])));
    assert_eq!(long.expect_err("too long").reason(), Reason::MessageTooLarge);
}

#[test]
fn a_flowchart_tells_what_steps_wait_for() {
    let steps = json!([compute("c", &[], json!("$steps.a")), compute("a", &[], json!(1)), compute("b", &[], json!(1))]);
    let request = |flowchart: &str, steps: &Value| SubmitJobRequest {
        definition: Some(message(job(steps.clone()))),
        flowchart: flowchart.to_owned(),
        ..SubmitJobRequest::default()
    };
    let submit = |request: &SubmitJobRequest| definition_of(request, &Targets::default());
    let drawn = submit(&request("flowchart LR\n a & b --> c", &steps)).expect("a definition");
    assert_eq!(drawn.plan.definition.steps[0].needs, [1, 2]);
    let mut written = steps.clone();
    written[0]["needs"] = json!(["a", "b"]);
    assert_eq!(
        submit(&request("", &written)).expect("a definition").encoded,
        drawn.encoded,
        "drawn or written, it is the same"
    );
    let error = submit(&request("flowchart LR\n a --> b", &steps)).expect_err("a step is missing");
    assert_eq!(error.field(), Some("flowchart"));
    let error = submit(&request("flowchart LR\n a & b --> c", &written)).expect_err("both");
    assert_eq!(error.field(), Some("definition.steps[0].needs"));
}

/// As many edges as fit: 32,000 among 256 steps. What is before what is found in one look at each.
#[test]
fn the_largest_graph_is_looked_at_once() {
    let name = |step: usize| format!("{step:x}");
    let steps = (0..256).map(|step| {
        let needs: Vec<String> = (step + 1..256).map(name).collect();
        json!({ "name": name(step), "needs": needs, "action": { "compute": { "value": 1 } } })
    });
    let definition = job(Value::Array(steps.collect()));
    assert_eq!(submit(definition).expect("a definition").plan.definition.steps.len(), 256);
}

#[test]
fn only_listed_services_can_be_called() {
    let targets: Targets = "Billing.example.com:443, *.svc.local, [::1]:9".parse().expect("patterns");
    for (target, is_allowed) in [
        ("billing.example.com:443", true),
        ("BILLING.example.com:443", true),
        ("billing.example.com:444", false),
        ("x.billing.example.com:443", false),
        ("a.svc.local:1", true),
        ("a.b.svc.local:1", true),
        (".svc.local:1", false),
        ("svc.local:1", false),
        ("evilsvc.local:1", false),
        ("[::1]:9", true),
        ("[::1]:10", false),
        ("127.0.0.1:9", false),
        ("user@billing.example.com:443", false),
        ("billing.example.com", false),
        ("", false),
        ("169.254.169.254:80", false),
    ] {
        assert_eq!(targets.allow(target), is_allowed, "{target}");
    }
    for bad in ["a@b", "*", "*.", "a:b", "a:99999", "*x.com", "a.*.com", "http://a:1", "a:"] {
        assert!(bad.parse::<Targets>().is_err(), "{bad}");
    }
    assert!(Targets::loopback().allow("localhost:1") && !Targets::loopback().allow("0x7f.1:1"));
    let step = |action: Value| job(json!([{ "name": "a", "action": action, "undo": call("example.com:1") }]));
    let error = submit(step(call("127.0.0.1:1"))).expect_err("the undo's service is not listed");
    assert_eq!(error.field(), Some("definition.steps[0].undo.call.target"));
    assert!(error.to_string().contains("--jobs-targets"), "{error}");
    let none = SubmitJobRequest { definition: Some(message(step(call("127.0.0.1:1")))), ..Default::default() };
    assert!(definition_of(&none, &Targets::default()).is_err(), "by default nothing can be called");
}

fn file(name: &str, imports: &[&str], public: &[i32]) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(name.to_owned()),
        dependency: imports.iter().map(|import| (*import).to_owned()).collect(),
        public_dependency: public.to_vec(),
        ..FileDescriptorProto::default()
    }
}

/// Each of these ends the process, or takes longer than anybody waits, where it is read without being looked at first.
#[test]
fn hostile_descriptors_are_refused() {
    let circle = vec![file("a", &["b"], &[0]), file("b", &["a"], &[0]), file("c", &["a", "b"], &[0, 1])];
    let own = vec![file("a", &["a"], &[0])];
    let level = |level: usize| [0, 1, 2].map(|one| format!("{level}-{one}"));
    let lattice = (0..60).flat_map(|number| {
        let below = level(number + 1);
        let below: Vec<&str> = if number == 59 { vec![] } else { below.iter().map(String::as_str).collect() };
        let public: Vec<i32> = (0..below.len()).map(|index| i32::try_from(index).expect("small")).collect();
        level(number).map(|name| file(&name, &below, &public))
    });
    let twice = vec![file("a", &[], &[]), file("b", &["a", "a"], &[0, 1])];
    let field = FieldDescriptorProto { name: Some("f".to_owned()), ..FieldDescriptorProto::default() };
    let long =
        DescriptorProto { name: Some("m".repeat(64 << 10)), field: vec![field; 10_000], ..DescriptorProto::default() };
    let names = vec![FileDescriptorProto { message_type: vec![long], ..file("n", &[], &[]) }];
    let many = (0..300).map(|number| file(&format!("{number}"), &[], &[])).collect();
    for (what, files) in [
        ("a circle", circle),
        ("itself", own),
        ("a lattice", lattice.collect()),
        ("twice", twice),
        ("names", names),
        ("many", many),
        ("two of one name", vec![file("a", &[], &[]), file("a", &[], &[])]),
        ("an unknown import", vec![file("a", &["nowhere"], &[])]),
    ] {
        let refused = schema::pool(files.clone()).expect_err(what);
        assert!(what != "names" || refused.contains("names are longer"), "{refused}");
        let set = FileDescriptorSet { file: files }.encode_to_vec();
        assert!(schema::Described::default().method(&set, "S", "M").is_err(), "{what}");
    }
}

/// What the descriptor sets of one definition take, they take together; the same one is read once.
#[test]
fn descriptors_are_bounded_for_the_definition() {
    let set = |number: usize, names: usize| {
        let field = |number: i32| FieldDescriptorProto {
            name: Some(format!("f{number}")),
            number: Some(number),
            r#type: Some(prost_types::field_descriptor_proto::Type::Int32.into()),
            ..FieldDescriptorProto::default()
        };
        let long = DescriptorProto {
            name: Some("m".repeat(names / 64)),
            field: (1..=64).map(field).collect(),
            ..DescriptorProto::default()
        };
        let method = MethodDescriptorProto {
            name: Some("M".to_owned()),
            input_type: Some(".google.protobuf.Empty".to_owned()),
            output_type: Some(".google.protobuf.Empty".to_owned()),
            ..MethodDescriptorProto::default()
        };
        let described = FileDescriptorProto {
            message_type: vec![long],
            service: vec![ServiceDescriptorProto {
                name: Some("S".to_owned()),
                method: vec![method],
                ..ServiceDescriptorProto::default()
            }],
            syntax: Some("proto3".to_owned()),
            ..file(&format!("{number}.proto"), &["google/protobuf/empty.proto"], &[])
        };
        let bytes = FileDescriptorSet { file: vec![described] }.encode_to_vec();
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
    };
    let definition = |sets: &[String]| {
        let steps = sets.iter().enumerate().map(|(index, set)| {
            let call = json!({ "call": { "target": "localhost:1", "method": "S/M", "descriptorSet": set } });
            json!({ "name": format!("s{index}"), "effect": "EFFECT_PURE", "action": call })
        });
        submit(job(steps.collect())).map(drop).map_err(|error| error.field().map(str::to_owned))
    };
    let field = |index: usize| Err(Some(format!("definition.steps[{index}].action.call.descriptor_set")));
    let many: Vec<String> = (0..9).map(|number| set(number, 640)).collect();
    assert_eq!(definition(&many[..8]), Ok(()));
    assert_eq!(definition(&many), field(8), "more different ones than are kept");
    assert_eq!(definition(&vec![many[0].clone(); 100]), Ok(()), "one that many steps name");
    let long = [set(0, 3 << 20), set(1, 3 << 20)];
    assert_eq!(definition(&long[..1]), Ok(()));
    assert_eq!(definition(&long), field(1), "their names together");
}

#[test]
fn methods_that_stream_cannot_be_called() {
    let method = |name: &str, streams: bool| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".google.protobuf.Empty".to_owned()),
        output_type: Some(".google.protobuf.Empty".to_owned()),
        server_streaming: Some(streams),
        ..MethodDescriptorProto::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("S".to_owned()),
        method: vec![method("Plain", false), method("Streams", true)],
        ..ServiceDescriptorProto::default()
    };
    let described = FileDescriptorProto {
        service: vec![service],
        syntax: Some("proto3".to_owned()),
        ..file("s.proto", &["google/protobuf/empty.proto"], &[])
    };
    // Protobuf's own files need not be told.
    let pool = schema::pool(vec![described]).expect("a pool");
    assert!(schema::unary(&pool, "S", "Plain").is_ok());
    for (service, method) in [("S", "Streams"), ("S", "None"), ("T", "Plain")] {
        assert!(schema::unary(&pool, service, method).is_err(), "{service}/{method}");
    }
}

/// A job of `a`, the pivot `publish` after it, and further steps.
fn with_pivot(further: Vec<Value>) -> Value {
    let publish = json!({ "name": "publish", "needs": ["a"], "phase": "PHASE_PIVOT", "action": call("localhost:1") });
    let a = compute("a", &[], json!("$input.gone"));
    job(Value::Array([vec![a, publish], further].concat()))
}

fn field_of(definition: &Value, input: &Value) -> Option<String> {
    let input: Option<prost_types::Struct> = match crate::jobs::template::json::to_proto(input).kind {
        Some(prost_types::value::Kind::StructValue(input)) => Some(input),
        _ => None,
    };
    let request = SubmitJobRequest { definition: Some(message(definition.clone())), input, ..Default::default() };
    let refused = definition_of(&request, &Targets::loopback()).err()?;
    // Whatever is stored goes on.
    assert!(compile(&message(definition.clone())).is_ok(), "{definition}: {refused}");
    Some(refused.field().unwrap_or_default().replacen("definition.", "", 1))
}

#[test]
fn what_has_to_succeed_refers_to_what_is_there() {
    let step = |phase: &str, needs: &[&str], more: Value| {
        let mut step = json!({ "name": "x", "needs": needs, "phase": phase, "action": { "compute": { "value": 1 } } });
        step.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        step
    };
    let makes = |value: Value| json!({ "action": { "compute": { "value": value } } });
    let last = |more: Value| with_pivot(vec![step("PHASE_FINALLY", &["publish"], more)]);
    let post = |more: Value| with_pivot(vec![step("PHASE_POST", &["publish"], more)]);
    let asks = |when: Value| {
        let mut more = makes(json!("$steps.publish.id"));
        more["when"] = when;
        last(more)
    };
    let table = [
        // The job may be undone before the pivot.
        (last(makes(json!({ "id": "$steps.publish.id" }))), Some("steps[2].action")),
        (last(makes(json!([{ "$first": ["$steps.publish.id", "$steps.a"] }]))), Some("steps[2].action")),
        (last(makes(json!({ "$first": ["$steps.publish.id", "nobody"] }))), None),
        (last(makes(json!({ "$first": ["$steps.publish.id", "$job.id"] }))), None),
        (last(json!({ "forEach": "$steps.publish.ids" })), Some("steps[2].for_each")),
        (last(makes(json!("$input.to"))), None),
        (last(makes(json!("$input.too"))), Some("steps[2].action")),
        // A condition that asks for it.
        (asks(json!({ "left": "$steps.publish" })), None),
        (asks(json!({ "left": "$steps.a" })), Some("steps[2].action")),
        (asks(json!({ "left": "$steps.publish.is", "comparison": "COMPARISON_EQUAL", "right": "new" })), None),
        (
            asks(json!({ "left": "$steps.publish.is", "comparison": "COMPARISON_EQUAL", "right": null })),
            Some("steps[2].action"),
        ),
        (asks(json!({ "left": "$steps.publish", "comparison": "COMPARISON_NOT_EQUAL", "right": null })), None),
        (
            asks(json!({ "left": "$steps.publish", "comparison": "COMPARISON_NOT_EQUAL", "right": 1 })),
            Some("steps[2].action"),
        ),
        (
            asks(json!({ "left": "$steps.publish.n", "comparison": "COMPARISON_LESS", "right": 3 })),
            Some("steps[2].when"),
        ),
        // After the pivot all that it waits for is there.
        (post(makes(json!(["$steps.publish.id", "$steps.a"]))), None),
        (post(makes(json!("$input.too"))), Some("steps[2].action")),
    ];
    for (definition, field) in table {
        assert_eq!(field_of(&definition, &json!({ "to": 1 })).as_deref(), field, "{definition}");
    }
}

#[test]
fn what_a_branch_or_a_condition_leaves_out_need_not_be_there() {
    let with = |mut step: Value, field: &str, value: Value| {
        step[field] = value;
        step
    };
    let refers = |to: &str| with(compute("x", &["p"], json!(to)), "phase", json!("PHASE_POST"));
    let graph = |join: &str, quorum: u32, to: &str| {
        let c = with(compute("c", &["b1", "b2"], json!(1)), "join", json!(join));
        job(json!([
            compute("root", &[], json!(1)),
            compute("b1", &["root"], json!(1)),
            compute("b2", &["root"], json!(1)),
            if quorum > 0 { with(c, "quorum", json!(quorum)) } else { c },
            { "name": "p", "needs": ["c"], "phase": "PHASE_PIVOT", "action": call("localhost:1") },
            refers(to),
        ]))
    };
    for (definition, refused) in [
        (graph("JOIN_ANY", 0, "$steps.b1"), true),
        (graph("JOIN_ANY", 0, "$steps.root"), false),
        (graph("JOIN_QUORUM", 1, "$steps.b1"), true),
        (graph("JOIN_QUORUM", 2, "$steps.b1"), false),
        (graph("JOIN_ALL", 0, "$steps.b1"), false),
    ] {
        let field = field_of(&definition, &json!({}));
        assert_eq!(field.as_deref(), refused.then_some("steps[5].action"), "{definition}");
    }

    let perhaps = with(compute("perhaps", &[], json!(1)), "when", json!({ "left": "$input.more" }));
    let slots = json!({ "name": "perhaps", "action": { "reserve": { "pools": [{ "pool": "gpu" }] } } });
    let pivot = json!({ "name": "p", "needs": ["perhaps"], "phase": "PHASE_PIVOT", "action": call("localhost:1") });
    let asking = |to: &str| json!({ "call": { "target": "localhost:1", "method": "S/M", "request": { "id": to } } });
    for (steps, field) in [
        (json!([perhaps, pivot, refers("$steps.perhaps")]), Some("steps[2].action")),
        (json!([slots, pivot, refers("$steps.perhaps")]), Some("steps[2].action")),
        (json!([perhaps, with(pivot, "probe", asking("$steps.perhaps"))]), Some("steps[1].probe")),
        (
            json!([perhaps, { "name": "x", "needs": ["perhaps"], "action": call("localhost:1"), "undo": asking("$steps.perhaps") }]),
            Some("steps[1].undo"),
        ),
        (
            json!([perhaps, { "name": "x", "needs": ["perhaps"], "action": call("localhost:1"), "undo": asking("$output.id") }]),
            None,
        ),
        // It fails cleanly, and the job is undone.
        (json!([perhaps, compute("x", &["perhaps"], json!("$steps.perhaps"))]), None),
    ] {
        assert_eq!(field_of(&job(steps.clone()), &json!({})).as_deref(), field, "{steps}");
    }
}

/// Everything that an item can have but its output's text, which is counted apart, and its history, which a long record goes without.
fn full(planned: &Planned) -> weft_saga::Item {
    use weft_saga::{Hold, Payload, Place};
    let name = match &planned.action {
        Act::Call(call) => Some(call.target.clone()),
        Act::Infer(_) => Some(format!("router/{}", "r".repeat(128))),
        _ => None,
    };
    let slots = match &planned.action {
        Act::Reserve(pools) => pools.clone(),
        _ => Vec::new(),
    };
    let holds = slots.iter().flat_map(|(pool, count)| {
        let hold =
            |number| Hold { pool: pool.clone(), worker: "w".repeat(128), number: u32::MAX - number, confirmed: true };
        (0..*count).map(hold)
    });
    weft_saga::Item {
        state: weft_saga::StepState::Stuck,
        attempts: u32::MAX,
        undo_attempts: u32::MAX,
        failures: u32::MAX,
        unknown: true,
        not_before: 1 << 41,
        until: 1 << 41,
        output: Some(Payload::Stored { sha256: [255; 32], len: 4 << 20 }),
        place: name.map(|name| Place { name, epoch: 0 }),
        holds: holds.collect(),
        history: Vec::new(),
    }
}

fn bytes_of(plan: &Plan) -> usize {
    let mut job = weft_saga::Job::new(&plan.definition, 0, 0);
    for (node, planned) in job.steps.iter_mut().zip(&plan.steps) {
        let items = if planned.list.is_some() { MAX_ITEMS } else { 1 };
        node.items = vec![full(planned); items];
    }
    weft_journal::Record {
        id: weft_journal::JobId::new(0, 0, 0),
        tenant: String::new(),
        key: String::new(),
        request_hash: [0; 32],
        definition: [0; 32],
        definition_name: String::new(),
        durability: weft_journal::Durability::Journaled,
        input: weft_saga::Payload::Inline(Vec::new()),
        output: None,
        trace_id: [0; 16],
        span: 0,
        sampled: false,
        job,
    }
    .encode()
    .len()
}

#[test]
fn what_runs_after_the_decision_fits_the_log() {
    let actions = [
        ("compute", json!({ "compute": { "value": 1 } })),
        ("infer", json!({ "infer": { "model": "m" } })),
        ("call", call("a-service-with-a-name.example.localhost:65535")),
        ("reserve", json!({ "reserve": { "pools": [{ "pool": "gpu", "slots": 1 }, { "pool": "disk", "slots": 2 }] } })),
        ("load", json!({ "load": { "model": "m" } })),
    ];
    let targets: Targets = "*.localhost, localhost".parse().expect("patterns");
    let submit = |further: Vec<Value>| {
        let request = SubmitJobRequest { definition: Some(message(with_pivot(further))), ..Default::default() };
        definition_of(&request, &targets)
    };
    let pivot_alone = bytes_of(&submit(vec![]).expect("a definition").plan);
    for (name, action) in actions {
        let lists = |count: usize, phase: &str| {
            let step = |at| json!({ "name": format!("x{at}"), "needs": ["publish"], "phase": phase, "action": action, "forEach": [1] });
            submit((0..count).map(step).collect())
        };
        // What is counted is no less than what it takes, and not much more.
        let one = lists(1, "PHASE_POST").expect(name).plan;
        let (counted, taken) = (size::bytes(&one.steps[2]), bytes_of(&one) - pivot_alone);
        assert!((taken..2 * taken).contains(&counted), "{name}: {counted} for {taken}");

        for (phase, most) in [("PHASE_POST", 512 << 10), ("PHASE_FINALLY", 192 << 10)] {
            if name == "reserve" && phase == "PHASE_FINALLY" {
                continue;
            }
            let fit = most / counted;
            assert!(fit == 0 || lists(fit, phase).is_ok(), "{fit} times {name}");
            let refused = lists(fit + 1, phase).expect_err(name);
            assert_eq!(refused.field(), Some("definition.steps"), "{refused}");
        }
    }
}
