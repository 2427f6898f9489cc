//! Models: called through a router, and held.

#![expect(clippy::needless_pass_by_value, reason = "values are written down where they are passed")]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Status;
use weft_proto::inference::model_infer_response::InferOutputTensor;
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_proto::message::{Message, Received};
use weft_proto::status_of;
use weft_proto::weft::control::v1::Model;
use weft_proto::weft::state::v1::{ReplicaState, Service};
use weft_runtime::{Api, Health, Server, ServerOptions};
use weft_saga::{Direction, Outcome};
use weft_store::{Compare, Op, Range};
use weft_telemetry::Scope;
use weft_types::{Error, Reason};

use super::rig::{Rig, code, kept};
use crate::fixture::{key, worker};
use crate::tests::{model, request};

/// Where a router is asked, and tells, who did it.
const WORKER: &str = "weft-worker";

/// A router with one model, which doubles what it is given; `kept` does so without a worker, `refuse` answers as a router without it does,
/// `fail` as a model that fails.
async fn infer(call: http::Request<tonic::body::Body>) -> Result<(Bytes, HeaderMap), Status> {
    let tenant = call.headers().get("weft-tenant").cloned();
    assert!(call.headers().contains_key("grpc-timeout") && tenant.is_some_and(|name| name == "t"));
    assert!(call.headers().contains_key(WORKER), "who did it is asked for");
    let by = HeaderMap::from_iter([(HeaderName::from_static(WORKER), HeaderValue::from_static("w7"))]);
    let message = Received::read(call.into_body()).await?.message()?.into_payload();
    let asked = ModelInferRequest::decode(message).expect("a request");
    match asked.model_name.as_str() {
        "refuse" => return Err(status_of(&Error::new(Reason::NoReadyReplica, "no replica is ready"))),
        "fail" => {
            let mut status = status_of(&Error::new(Reason::ModelFailed, "it failed"));
            status.metadata_mut().as_mut().extend(by);
            return Err(status);
        }
        _ => {}
    }
    let raw = asked.raw_input_contents[0].chunks(4).flat_map(|bytes| {
        let number = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        (2.0 * number).to_le_bytes()
    });
    let output = InferOutputTensor {
        name: "y".to_owned(),
        datatype: "FP32".to_owned(),
        shape: asked.inputs[0].shape.clone(),
        ..InferOutputTensor::default()
    };
    let by = if asked.model_name == "kept" { HeaderMap::new() } else { by };
    let answer = ModelInferResponse {
        model_name: asked.model_name,
        model_version: "3".to_owned(),
        outputs: vec![output],
        raw_output_contents: vec![raw.collect::<Vec<u8>>().into()],
        ..ModelInferResponse::default()
    };
    Ok((answer.encode_to_vec().into(), by))
}

async fn router(rig: &Rig, id: &str) {
    let answer = tower::service_fn(|call: http::Request<tonic::body::Body>| async {
        let response = match infer(call).await {
            Ok((answer, by)) => {
                let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(0))]);
                let body = tonic::body::Body::new(Message::of(answer).into_body(Some(trailers)));
                let mut response = http::Response::new(body);
                *response.headers_mut() = by;
                response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                response
            }
            Err(status) => status.into_http(),
        };
        Ok::<_, std::convert::Infallible>(response)
    });
    let server = Server::bind(ServerOptions::default()).await.expect("a free port");
    let address = server.address().to_string();
    let api = Api::new(&Health::default()).forward("inference.GRPCInferenceService", answer);
    server.serve(api, Scope::disabled(), &rig.tasks).expect("descriptors");
    register(rig, id, &address).await;
}

async fn register(rig: &Rig, id: &str, address: &str) {
    let service =
        Service { kind: "router".to_owned(), id: id.to_owned(), address: address.to_owned(), ..Service::default() };
    rig.cluster.put(rig.cluster.keys.service("router", id), &service).await;
    let mut changes = rig.scheduler.inner.mesh.changes();
    let seen = changes
        .wait_for(|_| rig.scheduler.inner.mesh.snapshot().services.contains_key(&("router".to_owned(), id.to_owned())));
    seen.await.expect("the mesh lives");
}

fn tensor(data: Value) -> Value {
    json!({ "datatype": "FP32", "shape": [1, 2], "data": data })
}

#[tokio::test]
async fn a_model_is_called_through_a_router() {
    let rig = Rig::new();
    let infer = |name: &str, model: &str, input: Value| json!({ "name": name, "action": { "infer": { "model": model, "inputs": { "x": input } } } });
    let plan = rig.plan(json!([
        infer("good", "double", json!("$input.tensor")),
        infer("refused", "refuse", json!("$input.tensor")),
        infer("failed", "fail", json!("$input.tensor")),
        infer("misshapen", "double", tensor(json!([1, 2, 3]))),
        infer("missing", "double", json!("$input.gone")),
        infer("kept", "kept", json!("$input.tensor")),
    ]));
    let job = rig.job(&plan, json!({ "tensor": tensor(json!([0.1, -1.5])) }));
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "UNAVAILABLE"), "there is no router yet");
    // A second router that is gone costs nothing: the call goes to the other one.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = gone.local_addr().expect("it is bound").to_string();
    drop(gone);
    register(&rig, "r2", &address).await;
    router(&rig, "r1").await;
    for _ in 0..8 {
        let (outcome, place) = rig.act(&plan, &job, 0, Direction::Action).await;
        let told = rig.value(&kept(outcome)).await;
        assert_eq!(told["outputs"]["y"], tensor(json!([0.2, -3.0])));
        assert_eq!((&told["model_name"], &told["model_version"]), (&json!("double"), &json!("3")));
        assert_eq!(place.expect("somebody did it").name, "w7", "the worker that the router tells");
    }
    let (_, place) = rig.act(&plan, &job, 5, Direction::Action).await;
    assert_eq!(place.expect("somebody did it").name, "router/r1", "no worker did it");
    for (step, code, by) in [
        (1, "UNAVAILABLE", None),
        (2, "INTERNAL", Some("w7")),
        (3, "INVALID_ARGUMENT", None),
        (4, "INVALID_ARGUMENT", None),
    ] {
        let (outcome, place) = rig.act(&plan, &job, step, Direction::Action).await;
        assert_eq!(super::code(&outcome), ("clean", code), "a model has no effect");
        assert_eq!(place.map(|place| place.name).as_deref(), by, "{code}");
    }
    rig.end().await;
}

fn load(replicas: u32) -> Value {
    json!([{ "name": "load", "action": { "load": { "model": "m", "replicas": replicas } } }])
}

async fn applied(rig: &Rig) -> Option<Model> {
    let key = rig.cluster.keys.model(&"m".parse().expect("a name"));
    let listing = rig.cluster.store.read(Range::Key(key)).await.expect("read");
    listing.entries.first().map(|entry| Model::decode(entry.value.clone()).expect("a model"))
}

#[tokio::test]
async fn a_load_ends_when_the_model_is_ready_and_its_undo_takes_back_what_it_asked_for() {
    let rig = Rig::new();
    let plan = rig.plan(load(2));
    let job = rig.job(&plan, json!({}));
    for id in ["w1", "w2"] {
        rig.cluster.join(&worker(id, 1, &[("m", 1)])).await;
    }
    rig.cluster.until("the first replica", |snapshot| !snapshot.placements.is_empty()).await;
    let ready = async {
        rig.cluster.until_placed(&[key("w1", "m", 1), key("w2", "m", 1)]).await;
        for id in ["w1", "w2"] {
            rig.cluster.report(&key(id, "m", 1), ReplicaState::Ready).await;
        }
    };
    let (one, two, ()) =
        tokio::join!(rig.act(&plan, &job, 0, Direction::Action), rig.act(&plan, &job, 0, Direction::Action), ready);
    assert_eq!(rig.value(&kept(one.0)).await, json!({ "model": "m" }));
    assert!(matches!(two.0, Outcome::Done(_)), "repeated");
    let holds = applied(&rig).await.and_then(|model| model.jobs).expect("held by a job");
    assert_eq!((holds.holds.len(), holds.holds[0].step.as_str(), holds.created), (1, "job-1/load", true));
    for _ in 0..2 {
        let (outcome, _) = rig.act(&plan, &job, 0, Direction::Undo).await;
        assert_eq!(outcome, Outcome::Done(None));
        assert_eq!(applied(&rig).await, None);
    }
    rig.end().await;
}

#[tokio::test]
async fn what_an_operator_applied_outlives_the_undo() {
    use weft_proto::weft::control::v1::models_server::Models as _;
    let rig = Rig::new();
    rig.cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    rig.cluster.until_placed(&[key("w1", "m", 1)]).await;
    rig.cluster.report(&key("w1", "m", 1), ReplicaState::Ready).await;
    let plan = rig.plan(load(1));
    let job = rig.job(&plan, json!({}));
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    kept(outcome);
    // Whoever applies the model takes it over, also with what a job has put there.
    let surface = crate::grpc::Surface(std::sync::Arc::clone(&rig.scheduler.inner));
    let as_it_is = applied(&rig).await.expect("held");
    let apply = weft_proto::weft::control::v1::ApplyModelRequest { model: Some(as_it_is) };
    surface.apply_model(request(apply)).await.expect("applied");
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Undo).await;
    assert_eq!(outcome, Outcome::Done(None));
    assert_eq!(applied(&rig).await.map(|model| (model.replicas, model.jobs)), Some((1, None)));
    surface.apply_model(model("m", 0)).await.expect("applied");
    rig.end().await;
}

#[tokio::test]
async fn a_load_that_is_late_may_have_had_its_effect_and_is_undone() {
    let mut rig = Rig::new();
    rig.cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    rig.cluster.until_placed(&[key("w1", "m", 1)]).await;
    rig.patience = std::time::Duration::from_millis(300);
    let plan = rig.plan(load(3));
    let job = rig.job(&plan, json!({}));
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("unknown", "DEADLINE_EXCEEDED"));
    let Outcome::Unknown(fault) = &outcome else { panic!("{outcome:?}") };
    assert!(fault.message.contains("missing"), "it tells why: {}", fault.message);
    assert_eq!(applied(&rig).await.map(|model| model.replicas), Some(3));
    rig.patience = crate::tests::PATIENCE;
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Undo).await;
    assert_eq!((outcome, applied(&rig).await), (Outcome::Done(None), None));
    let unheard = rig.plan(json!([{ "name": "load", "action": { "load": { "model": "unheard-of" } } }]));
    let (outcome, _) = rig.act(&unheard, &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "NOT_FOUND"));
    rig.end().await;
}

/// A scheduler that was paused while another took the job over must not load what that one has undone.
#[tokio::test]
async fn whoever_does_not_own_the_job_any_more_changes_nothing() {
    let mut rig = Rig::new();
    rig.cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    rig.cluster.until_placed(&[key("w1", "m", 1)]).await;
    rig.guards = vec![Compare::CreateRevision("/weft/v1/test/own/07".to_owned(), 1)];
    let plan = rig.plan(load(1));
    let job = rig.job(&plan, json!({}));
    for direction in [Direction::Action, Direction::Undo] {
        rig.cluster.write(Op::Delete("/weft/v1/test/own/07".to_owned())).await;
        let (outcome, _) = rig.act(&plan, &job, 0, direction).await;
        let want = if direction == Direction::Action { ("clean", "FAILED_PRECONDITION") } else { ("done", "") };
        assert_eq!(code(&outcome), want, "{direction:?}");
        assert_eq!(applied(&rig).await, None);
    }
    rig.end().await;
}

#[tokio::test]
async fn an_unload_ends_when_no_replica_is_ready() {
    let rig = Rig::new();
    rig.cluster.join(&worker("w1", 1, &[("m", 1)])).await;
    rig.cluster.until_placed(&[key("w1", "m", 1)]).await;
    rig.cluster.report(&key("w1", "m", 1), ReplicaState::Ready).await;
    let plan = rig.plan(json!([
        { "name": "go", "phase": "PHASE_PIVOT", "action": { "compute": { "value": 1 } } },
        { "name": "unload", "needs": ["go"], "phase": "PHASE_POST", "action": { "unload": { "model": "m" } } },
        { "name": "unheard", "needs": ["go"], "phase": "PHASE_POST", "action": { "unload": { "model": "unheard-of" } } },
    ]));
    let job = rig.job(&plan, json!({}));
    let (outcome, _) = rig.act(&plan, &job, 1, Direction::Action).await;
    kept(outcome);
    assert!(rig.cluster.snapshot().placements.is_empty());
    assert_eq!(applied(&rig).await.map(|model| model.replicas), Some(0));
    let (outcome, _) = rig.act(&plan, &job, 2, Direction::Action).await;
    kept(outcome);
    rig.end().await;
}
