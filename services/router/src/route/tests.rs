mod coming;
mod leading;
mod rollout;

use proptest::prelude::*;
use prost::Message as _;
use tonic::metadata::MetadataMap;
use weft_client::{ChannelOptions, Record, ReplicaKey, Snapshot};
use weft_policy::Affinity;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest};
use weft_proto::weft::control::v1::metadata_match::Value;
use weft_proto::weft::control::v1::sticky::Source;
use weft_proto::weft::control::v1::{self as control, MetadataMatch, RouteTarget, Sticky};
use weft_proto::weft::state::v1::{Replica, ReplicaState, Worker};
use weft_runtime::Tasks;
use weft_telemetry::Scope;
use weft_types::SystemClock;

use super::*;
use crate::table::Connect;

fn record<T>(value: T) -> std::sync::Arc<Record<T>> {
    std::sync::Arc::new(Record { value, create_revision: 1, mod_revision: 1 })
}

/// A table with this route under the name `r`, and one ready replica of each of these models.
fn table(route: control::Route, ready: &[&str]) -> Table {
    let mut snapshot = Snapshot::default();
    let worker: weft_types::WorkerId = "w".parse().expect("a name");
    let at = Worker { address: "127.0.0.1:1".to_owned(), ..Worker::default() };
    snapshot.workers.insert(worker.clone(), record(at));
    for model in ready {
        let (worker, model) = (worker.clone(), model.parse().expect("a name"));
        let key = ReplicaKey { worker, model, version: Version::new(1).expect("not zero") };
        snapshot.replicas.insert(key, record(Replica { state: ReplicaState::Ready.into(), ..Replica::default() }));
    }
    snapshot.routes.insert("r".parse().expect("a name"), record(route));
    let (tasks, scope, now) = (Tasks::new(), Scope::disabled(), SystemClock::now());
    let connect =
        Connect { channel: &ChannelOptions::default(), tasks: &tasks, scope: &scope, now, zone: "", known: true };
    Table::build(&snapshot, &Table::default(), &connect)
}

fn target(model: &str, weight: u32, matches: &[(&str, Option<&str>)]) -> RouteTarget {
    let matches = matches.iter().map(|(key, exact)| {
        let value = exact.map_or(Value::Present(true), |exact| Value::Exact(exact.to_owned()));
        MetadataMatch { key: (*key).to_owned(), value: Some(value) }
    });
    RouteTarget { model: model.to_owned(), weight, matches: matches.collect(), ..RouteTarget::default() }
}

fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (key, value) in pairs {
        metadata.append(*key, value.parse().expect("ASCII"));
    }
    metadata
}

fn message(key: &str, choice: ParameterChoice) -> Vec<u8> {
    let parameters = [(key.to_owned(), InferParameter { parameter_choice: Some(choice) })].into();
    ModelInferRequest { parameters, ..ModelInferRequest::default() }.encode_to_vec()
}

/// The model that takes the call: `-` while it is coming, or the error's reason and field.
fn taken(table: &Table, marks: &Marks<'_>) -> String {
    match route(table, "r", None, marks, SystemClock::now()) {
        Ok(Routed::Ready(target)) => target.model.to_owned(),
        Ok(Routed::Coming) => "-".to_owned(),
        Err(error) => format!("{:?} {}", error.reason(), error.field().unwrap_or_default()).trim_end().to_owned(),
    }
}

fn sticky(source: Source, models: &[&str]) -> control::Route {
    let targets = models.iter().map(|model| target(model, 1, &[])).collect();
    control::Route { targets, sticky: Some(Sticky { source: Some(source) }), ..control::Route::default() }
}

/// A sequence's state is where it began: whatever its route leads by, it has no bound.
#[test]
fn a_sequence_goes_before_what_its_route_leads_by() {
    let by = control::affinity::Source::Metadata("session".to_owned());
    let affinity = Some(control::Affinity { source: Some(by), balance_factor: 2.0 });
    let route_of = control::Route { targets: vec![target("a", 1, &[])], affinity, ..control::Route::default() };
    let all = table(route_of, &["a"]);
    let metadata = metadata(&[("session", "s")]);
    let now = SystemClock::now();
    let terms = |metadata, sequence| {
        let deadline = weft_types::Deadline::after(now, std::time::Duration::from_secs(60));
        let head = weft_proto::frame::Head { model_name: "r", sequence, ..Default::default() };
        let wanted = crate::identify::Wanted { metadata, ..crate::identify::wanted(&head, deadline).expect("valid") };
        let marks = wanted.marks();
        let Ok(Routed::Ready(target)) = route(&all, "r", None, &marks, now) else { panic!("it is ready") };
        crate::choose::terms(&wanted, &target, &marks, now).expect("it can be read")
    };
    let sequence = Some(weft_proto::frame::Sequence::Number(7));
    let (led, of_sequence, plain) = (terms(Some(&metadata), None), terms(Some(&metadata), sequence), terms(None, None));
    assert_eq!((led.affinity, led.bound), (Some(Affinity::of("a", "s")), weft_policy::choose::Bound::new(2.0)));
    assert_eq!((of_sequence.affinity, of_sequence.bound), (Some(Affinity::of("a", 7)), None));
    assert_eq!(plain.affinity, None);
}

/// A router that has just started serves before it has looked at the mesh: it must not deny what it has not looked for.
#[test]
fn nothing_is_denied_before_the_mesh_is_known() {
    let mut table = Table::default();
    let routed = |table: &Table| route(table, "m", None, &Marks::default(), SystemClock::now()).map(|_| ());
    assert!(routed(&table).is_ok());
    table.known = true;
    assert_eq!(routed(&table).map_err(|error| error.reason()), Err(Reason::NotFound));
}

#[test]
fn a_marked_call_goes_to_its_target_or_nowhere() {
    let targets = vec![
        target("stable", 1, &[]),
        target("canary", 0, &[("x-canary", Some("yes")), ("x-tester", None)]),
        target("next", 0, &[("x-canary", Some("yes")), ("x-canary", Some("next"))]),
        target("gone", 0, &[("x-gone", None)]),
    ];
    let route = control::Route { targets, ..control::Route::default() };
    let all = table(route, &["stable", "canary", "next"]);
    let cases: [(&[(&str, &str)], &str); 8] = [
        (&[], "stable"),
        (&[("x-canary", "yes")], "canary"),
        (&[("x-canary", "Yes")], "stable"),
        (&[("x-canary", "no"), ("x-canary", "next")], "next"),
        (&[("x-tester", "")], "canary"),
        (&[("x-tester", "1"), ("x-canary", "next")], "canary"),
        (&[("x-other", "yes")], "stable"),
        (&[("x-gone", "1")], "NotFound"),
    ];
    for (pairs, expected) in cases {
        let metadata = metadata(pairs);
        let marks = Marks { metadata: Some(&metadata), unit: 0.999, ..Marks::default() };
        assert_eq!(taken(&all, &marks), expected, "{pairs:?}");
    }
    assert_eq!(taken(&all, &Marks::default()), "stable", "a question without metadata");
}

#[test]
fn a_key_decides_for_all_of_its_calls_and_a_sequence_before_it() {
    let models = ["a", "b", "c"];
    let all = table(sticky(Source::Metadata("user-id".to_owned()), &models), &models);
    let of = |user: &str, unit: f64, sequence| {
        let metadata = metadata(&[("user-id", user)]);
        taken(&all, &Marks { metadata: Some(&metadata), unit, sequence, ..Marks::default() })
    };
    let users: Vec<String> = (0..60).map(|user| of(&user.to_string(), 0.0, None)).collect();
    for (user, first) in users.iter().enumerate() {
        assert_eq!(of(&user.to_string(), 0.999, None), *first);
    }
    assert!(models.iter().all(|model| users.iter().any(|taken| taken == model)), "{users:?}");
    // Without a key, and in a sequence, the number decides.
    for (unit, expected) in [(0.0, "a"), (0.5, "b"), (0.999, "c")] {
        assert_eq!(taken(&all, &Marks { unit, ..Marks::default() }), expected);
        assert_eq!(of("", unit, None), expected);
        let sequence = Some(Affinity::of("r", 7));
        assert!((0..60).all(|user| of(&user.to_string(), unit, sequence) == expected));
    }
    // A target that goes takes only its own keys with it.
    let two = table(sticky(Source::Metadata("user-id".to_owned()), &models), &models[..2]);
    for (user, first) in users.iter().enumerate().filter(|(_, first)| *first != "c") {
        let metadata = metadata(&[("user-id", &user.to_string())]);
        assert_eq!(taken(&two, &Marks { metadata: Some(&metadata), ..Marks::default() }), *first);
    }
}

#[test]
fn a_parameter_is_a_key_as_well() {
    let models = ["a", "b", "c"];
    let all = table(sticky(Source::Parameter("user".to_owned()), &models), &models);
    let of = |key: &str, choice, unit| taken(&all, &Marks { message: &message(key, choice), unit, ..Marks::default() });
    let users: Vec<String> = (0..60).map(|user| of("user", ParameterChoice::Int64Param(user), 0.0)).collect();
    for (user, first) in (0..).zip(&users) {
        assert_eq!(of("user", ParameterChoice::Uint64Param(user), 0.999), *first);
    }
    assert!(models.iter().all(|model| users.iter().any(|taken| taken == model)), "{users:?}");
    assert_eq!(of("other", ParameterChoice::Int64Param(1), 0.999), "c");
    let refused = of("user", ParameterChoice::DoubleParam(1.0), 0.0);
    assert_eq!(refused, "InvalidRequest parameters[user]");
}

/// What the scheduler would refuse may still be in the store: it costs nothing but itself.
#[test]
fn rules_that_cannot_be_meant_are_left_out() {
    let bad = MetadataMatch { key: "not a key".to_owned(), value: Some(Value::Present(true)) };
    let empty = MetadataMatch { key: "x".to_owned(), value: None };
    let never = MetadataMatch { key: "x".to_owned(), value: Some(Value::Present(false)) };
    let mut targets =
        vec![target("../m", 9, &[]), RouteTarget { matches: vec![bad, empty, never], ..target("m", 1, &[]) }];
    targets.extend((0..40).map(|number| target(&format!("m{number}"), 1, &[("x-beyond", None)])));
    let shadow = control::Shadow { model: String::new(), version: 0, percent: u32::MAX };
    let no_source = Some(Sticky { source: None });
    let route = control::Route { targets, sticky: no_source, shadow: Some(shadow), ..control::Route::default() };
    let table = table(route, &["m"]);
    let metadata = metadata(&[("x", "1")]);
    assert_eq!(taken(&table, &Marks { metadata: Some(&metadata), ..Marks::default() }), "m");
    let rules = table.rules("r").expect("it is kept");
    assert_eq!((rules.targets.len(), rules.shadow.as_ref().map(|shadow| shadow.percent)), (16, Some(100)));
}

proptest! {
    /// Whatever callers send, a call is routed or refused.
    #[test]
    fn any_metadata_and_message_are_survived(
        value in "[ -~]{0,40}",
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        unit in -1.0f64..2.0,
    ) {
        for source in [Source::Metadata("k".to_owned()), Source::Parameter("k".to_owned())] {
            let table = table(sticky(source, &["a", "b"]), &["a", "b"]);
            let metadata = metadata(&[("k", &value)]);
            let taken = taken(&table, &Marks { metadata: Some(&metadata), message: &bytes, unit, sequence: None });
            prop_assert!(["a", "b"].contains(&taken.as_str()) || taken.starts_with("InvalidRequest"), "{taken}");
        }
    }
}
