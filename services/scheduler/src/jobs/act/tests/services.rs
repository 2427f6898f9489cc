//! Other services: with reflection of either version, without, and with answers of every kind.

#![expect(clippy::needless_pass_by_value, reason = "values are written down where they are passed")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::server_reflection_server::{ServerReflection, ServerReflectionServer};
use tonic_reflection::pb::v1::{FileDescriptorResponse, ServerReflectionRequest, ServerReflectionResponse};
use weft_proto::DESCRIPTORS;
use weft_proto::weft::control::v1::models_server::{Models, ModelsServer};
use weft_proto::weft::control::v1::*;
use weft_runtime::{Running, Tasks};
use weft_saga::{Direction, Outcome};

use super::rig::{self, Rig, code, kept};
use crate::jobs::definition::Plan;

/// A service of some other team, which happens to have our contract: it answers by the name that it is asked for.
#[derive(Clone, Default)]
struct Participant(Arc<Mutex<Vec<MetadataMap>>>);

#[async_trait]
impl Models for Participant {
    async fn apply_model(&self, request: Request<ApplyModelRequest>) -> Result<Response<ApplyModelResponse>, Status> {
        let model = Some(ModelView {
            model: request.into_inner().model,
            offered_versions: vec![u64::MAX],
            ..ModelView::default()
        });
        Ok(Response::new(ApplyModelResponse { model }))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        self.0.lock().expect("no test panics while it holds this").push(request.metadata().clone());
        match request.into_inner().name.as_str() {
            "hangs" => std::future::pending().await,
            "long" => {
                let model = Model { name: "x".repeat(2 << 20), ..Model::default() };
                Ok(Response::new(GetModelResponse {
                    model: Some(ModelView { model: Some(model), ..ModelView::default() }),
                }))
            }
            name => match name.parse::<i32>() {
                Ok(code) => Err(Status::new(Code::from_i32(code), "as it was asked")),
                Err(_) => Ok(Response::new(GetModelResponse::default())),
            },
        }
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn delete_model(&self, _: Request<DeleteModelRequest>) -> Result<Response<DeleteModelResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

/// Serves without anything of ours around it, one connection after the other.
async fn serve(routes: Routes, tasks: &Tasks) -> (String, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let running = tasks.attach(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // A caller that goes away is no matter of the service.
            let _ = server.serve_connection(TokioIo::new(socket), TowerToHyperService::new(routes.clone())).await;
        }
    });
    (address, running)
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS)
}

fn get(address: &str, name: &str) -> Value {
    json!({ "call": { "target": address, "method": "weft.control.v1.Models/GetModel", "request": { "name": name } } })
}

fn one(rig: &Rig, action: Value) -> Plan {
    rig.plan(json!([{ "name": "one", "action": action, "effect": "EFFECT_EXTERNAL", "undo": get("127.0.0.1:1", "x") }]))
}

#[tokio::test]
async fn a_service_is_called_by_what_it_tells_of_itself() {
    let rig = Rig::new();
    let participant = Participant::default();
    let routes =
        Routes::new(ModelsServer::new(participant.clone())).add_service(reflection().build_v1().expect("a service"));
    let (address, _running) = serve(routes, &rig.tasks).await;
    let apply = json!({ "call": {
        "target": address,
        "method": "weft.control.v1.Models/ApplyModel",
        "request": { "model": { "name": "$item", "replicas": "$index", "versions": ["18446744073709551615"] } },
    } });
    let plan = rig.plan(json!([
        { "name": "each", "forEach": "$input.names", "action": apply, "undo": get(&address, "$output.model.model.name") },
        { "name": "plain", "needs": ["each"], "action": get(&address, "x"), "undo": get(&address, "x"), "probe": get(&address, "x") },
    ]));
    let job = rig.job(&plan, json!({ "names": ["a", "b"] }));
    let (outcome, place) = rig.act_on(&plan, &job, (0, 1), Direction::Action).await;
    let told = rig.value(&kept(outcome)).await;
    // Defaults are told, and whole numbers are numbers.
    assert_eq!(told["model"]["model"]["name"], json!("b"));
    assert_eq!(told["model"]["model"]["replicas"], json!(1));
    assert_eq!(told["model"]["model"]["versions"], json!([u64::MAX]));
    assert_eq!((&told["model"]["applied"], &told["model"]["replicas"]), (&json!(false), &json!([])));
    assert_eq!(place.expect("somebody did it").name, address);
    let heard = |at: usize, name: &str| {
        let heard = participant.0.lock().expect("no test panics while it holds this");
        heard[at].get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
    };
    for (at, direction) in [Direction::Action, Direction::Undo, Direction::Probe].into_iter().enumerate() {
        rig.act(&plan, &job, 1, direction).await;
        assert_eq!(heard(at, "weft-idempotency-key"), "job-1/plain", "the same for each direction");
        assert_eq!(heard(at, "weft-direction"), ["action", "undo", "probe"][at]);
        assert_eq!((heard(at, "weft-attempt").as_str(), heard(at, "weft-epoch").as_str()), ("2", "9"));
        assert!(heard(at, "traceparent").starts_with("00-01010101"));
        let time = weft_types::timeout::parse(heard(at, "grpc-timeout").as_bytes()).expect("a duration");
        assert!(time <= rig.patience, "{time:?}");
    }
    // An undo whose action nobody knows of: its output is null, which in protobuf's JSON is unset.
    let (outcome, _) = rig.act_on(&plan, &job, (0, 1), Direction::Undo).await;
    assert_eq!((outcome, heard(3, "weft-idempotency-key").as_str()), (Outcome::Done(None), "job-1/each/1"));
    for (request, code) in [(json!({ "nonsense": 1 }), "INVALID_ARGUMENT"), (json!({ "name": 1 }), "INVALID_ARGUMENT")]
    {
        let mut action = get(&address, "x");
        action["call"]["request"] = request;
        let (outcome, _) = rig.act(&one(&rig, action), &job, 0, Direction::Action).await;
        assert_eq!(super::code(&outcome), ("clean", code));
    }
    let mut unheard = get(&address, "x");
    unheard["call"]["method"] = json!("weft.control.v1.Models/Unheard");
    let (outcome, _) = rig.act(&one(&rig, unheard), &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "FAILED_PRECONDITION"));
    rig.end().await;
}

#[tokio::test]
async fn reflection_is_asked_in_its_older_form_and_is_not_needed() {
    let rig = Rig::new();
    let service = || Routes::new(ModelsServer::new(Participant::default()));
    let (older, _older) =
        serve(service().add_service(reflection().build_v1alpha().expect("a service")), &rig.tasks).await;
    let (without, _without) = serve(service(), &rig.tasks).await;
    let mut described = get(&without, "x");
    described["call"]["descriptorSet"] = json!(base64::engine::general_purpose::STANDARD.encode(DESCRIPTORS));
    for (action, want) in [
        (get(&older, "x"), ("done", "")),
        (get(&without, "x"), ("clean", "FAILED_PRECONDITION")),
        (described, ("done", "")),
    ] {
        let plan = one(&rig, action);
        let job = rig.job(&plan, json!({}));
        let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
        assert_eq!(code(&outcome), want, "{outcome:?}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_failed_call_says_what_may_have_been_done() {
    let mut rig = Rig::new();
    let routes =
        Routes::new(ModelsServer::new(Participant::default())).add_service(reflection().build_v1().expect("a service"));
    let (address, _running) = serve(routes, &rig.tasks).await;
    let job = rig.job(&one(&rig, get(&address, "x")), json!({}));
    for (name, want) in [
        ("3", ("clean", "INVALID_ARGUMENT")),
        ("9", ("clean", "FAILED_PRECONDITION")),
        ("14", ("unknown", "UNAVAILABLE")),
        ("8", ("unknown", "RESOURCE_EXHAUSTED")),
        ("13", ("unknown", "INTERNAL")),
        ("long", ("unknown", "INTERNAL")),
    ] {
        let (outcome, place) = rig.act(&one(&rig, get(&address, name)), &job, 0, Direction::Action).await;
        assert_eq!(code(&outcome), want, "{name}: {outcome:?}");
        assert_eq!(place.expect("somebody was asked").name, address);
    }
    // An undo is told what its action made.
    let undone = rig.plan(json!([{ "name": "one", "action": get(&address, "x"), "effect": "EFFECT_EXTERNAL", "undo": get(&address, "$output.code") }]));
    let made = rig::made(rig.job(&undone, json!({})), 0, rig.keep(&json!({ "code": "3" })).await);
    let (outcome, _) = rig.act(&undone, &made, 0, Direction::Undo).await;
    assert_eq!(code(&outcome), ("clean", "INVALID_ARGUMENT"), "{outcome:?}");
    rig.patience = Duration::from_millis(300);
    let (outcome, _) = rig.act(&one(&rig, get(&address, "hangs")), &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("unknown", "DEADLINE_EXCEEDED"));
    rig.patience = crate::tests::PATIENCE;
    let not_listed = one(&rig, get("example.com:1", "x"));
    let (outcome, _) = rig.act(&not_listed, &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "PERMISSION_DENIED"));
    // Nobody listens there: nothing is sent, so nothing was done.
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut action = get(&gone.local_addr().expect("it is bound").to_string(), "x");
    drop(gone);
    action["call"]["descriptorSet"] = json!(base64::engine::general_purpose::STANDARD.encode(DESCRIPTORS));
    let (outcome, _) = rig.act(&one(&rig, action), &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome), ("clean", "UNAVAILABLE"), "{outcome:?}");
    rig.end().await;
}

/// It takes the call and goes away: nobody knows what it did.
#[tokio::test]
async fn a_call_that_is_cut_off_may_have_been_done() {
    let rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let _running = rig.tasks.attach(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|_| async { Err::<http::Response<tonic::body::Body>, _>("gone") });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        }
    });
    let mut action = get(&address, "x");
    action["call"]["descriptorSet"] = json!(base64::engine::general_purpose::STANDARD.encode(DESCRIPTORS));
    let plan = one(&rig, action);
    let job = rig.job(&plan, json!({}));
    let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
    assert_eq!(code(&outcome).0, "unknown", "{outcome:?}");
    rig.end().await;
}

type Answer = fn(MessageRequest) -> Option<MessageResponse>;

/// A reflection service that answers as a test wants.
struct Hostile(Answer);

#[async_trait]
impl ServerReflection for Hostile {
    type ServerReflectionInfoStream = stream::BoxStream<'static, Result<ServerReflectionResponse, Status>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let answer = self.0;
        let answers = request.into_inner().map(move |asked| {
            let message_response = answer(asked?.message_request.expect("a question"));
            Ok(ServerReflectionResponse { message_response, ..ServerReflectionResponse::default() })
        });
        Ok(Response::new(answers.boxed()))
    }
}

fn files(files: impl IntoIterator<Item = FileDescriptorProto>) -> Option<MessageResponse> {
    let file_descriptor_proto = files.into_iter().map(|file| file.encode_to_vec()).collect();
    Some(MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto }))
}

fn importing(name: &str, import: &str) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(name.to_owned()),
        dependency: vec![import.to_owned()],
        public_dependency: vec![0],
        ..FileDescriptorProto::default()
    }
}

/// It may have been replaced since it told of its methods.
#[tokio::test]
async fn a_service_that_lacks_a_method_is_asked_anew() {
    static TELLS: AtomicBool = AtomicBool::new(true);
    let rig = Rig::new();
    let answer: Answer = |_| {
        if TELLS.load(Ordering::SeqCst) {
            files(FileDescriptorSet::decode(DESCRIPTORS).expect("a set").file)
        } else {
            None
        }
    };
    let routes = Routes::new(ModelsServer::new(Participant::default()))
        .add_service(ServerReflectionServer::new(Hostile(answer)));
    let (address, _running) = serve(routes, &rig.tasks).await;
    let outcome = async |name: &str| {
        let plan = one(&rig, get(&address, name));
        let job = rig.job(&plan, json!({}));
        rig.act(&plan, &job, 0, Direction::Action).await.0
    };
    assert_eq!(code(&outcome("x").await), ("done", ""));
    TELLS.store(false, Ordering::SeqCst);
    assert_eq!(code(&outcome("x").await), ("done", ""), "its word is kept");
    assert_eq!(code(&outcome("12").await), ("clean", "UNIMPLEMENTED"));
    assert_eq!(code(&outcome("x").await), ("clean", "INTERNAL"));
    rig.end().await;
}

#[tokio::test]
async fn hostile_reflection_ends_in_a_clean_failure() {
    let rig = Rig::new();
    let cases: [(&str, Answer); 6] = [
        ("endless", |asked| match asked {
            MessageRequest::FileByFilename(name) => files([importing(&name, &format!("{name}x"))]),
            _ => files([importing("a", "b")]),
        }),
        ("circle", |_| files([importing("a", "b"), importing("b", "a")])),
        ("another file", |_| files([importing("a", "b")])),
        ("huge", |_| {
            let file = FileDescriptorProto { package: Some("p".repeat(3 << 20)), ..FileDescriptorProto::default() };
            files([file])
        }),
        ("no descriptor", |_| {
            let file_descriptor_proto = vec![Bytes::from_static(b"\xff\xff").to_vec()];
            Some(MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto }))
        }),
        ("no answer", |_| None),
    ];
    for (what, answer) in cases {
        let routes = Routes::new(ServerReflectionServer::new(Hostile(answer)));
        let (address, _running) = serve(routes, &rig.tasks).await;
        let plan = one(&rig, get(&address, "x"));
        let job = rig.job(&plan, json!({}));
        let (outcome, _) = rig.act(&plan, &job, 0, Direction::Action).await;
        assert_eq!(code(&outcome).0, "clean", "{what}: {outcome:?}");
        assert!(what != "endless" || code(&outcome).1 == "FAILED_PRECONDITION", "only time ended it: {outcome:?}");
    }
    rig.end().await;
}
