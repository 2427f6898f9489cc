use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tonic::body::Body;
use tonic::{Code, Request};
use tower::{Service, ServiceExt as _};
use weft_engine::digits::{self, Heldout};
use weft_proto::error_of;
use weft_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient as Client;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use weft_proto::inference::*;
use weft_proto::weft::state::v1::ReplicaState;
use weft_proto::weft::worker::v1::worker_server::Worker as _;
use weft_proto::weft::worker::v1::{DrainRequest, GetStatusRequest, ListDevicesRequest};
use weft_runtime::Call;
use weft_telemetry::TraceContext;
use weft_types::{Deadline, Reason, SystemClock};

use super::Admin;
use crate::fake::{Handle, World, signature};

/// A client over the worker's service, without a network; every call has this long.
pub(crate) fn client(
    world: &World,
    timeout: Duration,
) -> Client<
    impl Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static,
> {
    let server = world.worker.inference();
    let trace = TraceContext::new([1; 16], [1; 8], false).expect("not zero");
    Client::new(server.map_request(move |mut request: http::Request<Body>| {
        let received = SystemClock::now();
        let call = Call { deadline: Deadline::after(received, timeout), received, trace: trace.clone() };
        request.extensions_mut().insert(call);
        request
    }))
}

pub(crate) const LONG: Duration = Duration::from_secs(60);

async fn serving() -> (World, Handle) {
    let (world, handle) = World::start(signature(0, 4)).await;
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
    (world, handle)
}

fn request(id: &str, mark: u8) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "identity".into(),
        id: id.into(),
        inputs: vec![InferInputTensor {
            name: "INPUT".into(),
            datatype: "UINT8".into(),
            shape: vec![1],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![vec![mark].into()],
        ..ModelInferRequest::default()
    }
}

/// Answers every execution.
fn echo_all(world: &World, mut handle: Handle) -> weft_runtime::Running {
    world.tasks.attach(async move {
        loop {
            handle.next().await.echo();
        }
    })
}

#[tokio::test]
async fn an_inference_goes_through() {
    let (world, handle) = serving().await;
    let _echo = echo_all(&world, handle);
    let response = client(&world, LONG).model_infer(request("7", 42)).await.expect("answered").into_inner();
    assert_eq!(
        (response.model_name.as_str(), response.model_version.as_str(), response.id.as_str()),
        ("identity", "1", "7")
    );
    assert_eq!(response.outputs[0].name, "OUTPUT");
    assert_eq!(response.raw_output_contents[0][..], [42]);
    let report =
        client(&world, LONG).model_statistics(ModelStatisticsRequest::default()).await.expect("told").into_inner();
    assert_eq!(report.model_stats.len(), 1);
    assert_eq!((report.model_stats[0].inference_count, report.model_stats[0].execution_count), (1, 1));
}

#[tokio::test]
async fn a_routers_resolution_wins_over_the_callers_name() {
    let (world, handle) = serving().await;
    let _echo = echo_all(&world, handle);
    let mut routed = Request::new(ModelInferRequest { model_name: "a-route".into(), ..request("", 1) });
    routed.metadata_mut().insert("weft-model", "identity".parse().expect("text"));
    routed.metadata_mut().insert("weft-version", "1".parse().expect("text"));
    let response = client(&world, LONG).model_infer(routed).await.expect("answered").into_inner();
    assert_eq!(response.model_name, "identity");
}

#[tokio::test]
async fn refusals_are_typed_and_name_their_field() {
    let (world, _handle) = serving().await;
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = request("", 1);
        change(&mut request);
        request
    };
    let cases = [
        (with(|r| r.model_name = "nonsense".into()), Code::NotFound, None),
        (with(|r| r.model_name = "../etc".into()), Code::InvalidArgument, Some("model_name")),
        (with(|r| r.model_version = "-1".into()), Code::InvalidArgument, Some("model_version")),
        (with(|r| r.inputs[0].shape = vec![-1]), Code::InvalidArgument, Some("inputs[0].shape")),
        (with(|r| r.inputs[0].datatype = "FP32".into()), Code::InvalidArgument, Some("raw_input_contents[0]")),
        (with(|r| r.inputs[0].name = "X".into()), Code::InvalidArgument, Some("inputs[0].name")),
        (with(|r| r.inputs = vec![InferInputTensor::default(); 10_000]), Code::InvalidArgument, Some("inputs")),
        (with(|r| r.outputs.push(Default::default())), Code::InvalidArgument, Some("outputs[0].name")),
    ];
    for (request, code, field) in cases {
        let status = client(&world, LONG).model_infer(request).await.expect_err("refused");
        assert_eq!((status.code(), error_of(&status).field()), (code, field));
    }
}

/// A drain would wait for the call.
#[tokio::test]
async fn a_call_is_told_to_go_elsewhere_when_its_model_makes_way() {
    let (world, mut handle) = serving().await;
    let mut client = client(&world, LONG);
    let preempted = async {
        let execution = handle.next().await;
        world.preempt("identity").await;
        execution.dropped().await;
    };
    let (answer, ()) = tokio::join!(client.model_infer(request("", 1)), preempted);
    assert_eq!(error_of(&answer.expect_err("stopped")).reason(), Reason::Draining);
    world.gone("identity").await;
    assert_eq!(handle.models(), 0);
    // What was preempted is placed again when there is room.
    world.place("identity").await;
    world.told("identity", ReplicaState::Ready).await;
}

#[tokio::test]
async fn the_timeout_parameter_only_shortens() {
    let (world, mut handle) = serving().await;
    let mut short = request("", 1);
    short
        .parameters
        .insert("timeout".into(), InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(20_000)) });
    let mut client = client(&world, LONG);
    let (answer, execution) = tokio::join!(client.model_infer(short), handle.next());
    let status = answer.expect_err("late");
    assert_eq!(error_of(&status).reason(), Reason::DeadlineRunning);
    execution.dropped().await;
}

/// The first request's time is over before the second comes, which has as much of its own.
#[tokio::test]
async fn the_timeout_of_a_request_on_a_stream_begins_with_the_request() {
    let (world, mut handle) = serving().await;
    let timed = |mark| {
        let mut request = request("", mark);
        let half_a_second = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(500_000)) };
        request.parameters.insert("timeout".into(), half_a_second);
        request
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = stream::unfold(receiver, async |mut requests| Some((requests.recv().await?, requests)));
    let mut answers = client(&world, LONG).model_stream_infer(requests).await.expect("opened").into_inner();
    sender.send(timed(1)).await.expect("open");
    let first = answers.message().await.expect("goes on").expect("not over");
    assert!(first.error_message.contains("deadline"), "{}", first.error_message);
    handle.next().await.dropped().await;
    sender.send(timed(2)).await.expect("open");
    // An answer that comes before the execution is the refusal that must not come.
    let second = tokio::select! {
        execution = handle.next() => {
            execution.echo();
            answers.message().await
        }
        refused = answers.message() => refused,
    };
    assert_eq!(second.expect("goes on").expect("not over").error_message, "");
}

#[tokio::test]
async fn a_dropped_call_stops_its_execution() {
    let (world, mut handle) = serving().await;
    let mut client = client(&world, LONG);
    let execution = tokio::select! {
        _ = client.model_infer(request("", 1)) => panic!("nobody answers"),
        execution = handle.next() => execution,
    };
    execution.dropped().await;
    let status = Admin::new(Arc::clone(&world.worker.shared)).get_status(Request::new(GetStatusRequest {})).await;
    assert_eq!(status.expect("told").into_inner().replicas[0].queued, 0);
}

#[tokio::test]
async fn a_stream_answers_in_order_and_survives_a_bad_request() {
    let (world, mut handle) = serving().await;
    let _reverse = world.tasks.attach(async move {
        // Both good requests run at once, and the later one is done first.
        let (first, second) = (handle.next().await, handle.next().await);
        second.echo();
        first.echo();
        std::future::pending::<()>().await;
    });
    let bad = ModelInferRequest { raw_input_contents: vec![], ..request("bad", 0) };
    let requests = stream::iter([request("one", 1), bad, request("two", 2)]);
    let answers = client(&world, LONG).model_stream_infer(requests).await.expect("opened").into_inner();
    let answers: Vec<ModelStreamInferResponse> = answers.map(|answer| answer.expect("goes on")).collect().await;
    let ids: Vec<&str> =
        answers.iter().filter_map(|answer| Some(answer.infer_response.as_ref()?.id.as_str())).collect();
    assert_eq!(ids, ["one", "bad", "two"]);
    assert!(answers[1].error_message.contains("inputs[0].contents"));
    let last = answers[2].infer_response.as_ref().and_then(|response| response.parameters.get("triton_final_response"));
    assert_eq!(last.and_then(|last| last.parameter_choice.clone()), Some(ParameterChoice::BoolParam(true)));
}

#[tokio::test]
async fn the_rest_of_the_protocol_answers() {
    let (world, _handle) = serving().await;
    let mut client = client(&world, LONG);
    assert!(client.server_live(ServerLiveRequest {}).await.expect("told").get_ref().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.expect("told").get_ref().ready);
    let mut ready = async |name: &str| {
        let request = ModelReadyRequest { name: name.into(), version: String::new() };
        client.model_ready(request).await.expect("told").get_ref().ready
    };
    assert!(ready("identity").await && !ready("sleep").await);
    let metadata = client.server_metadata(ServerMetadataRequest {}).await.expect("told").into_inner();
    assert_eq!(metadata.name, "weft");
    let asked = ModelMetadataRequest { name: "identity".into(), version: String::new() };
    let metadata = client.model_metadata(asked).await.expect("told").into_inner();
    assert_eq!((metadata.versions, metadata.platform.as_str()), (vec!["1".to_owned()], "builtin"));
    let asked = ModelConfigRequest { name: "identity".into(), version: String::new() };
    let config = client.model_config(asked).await.expect("told").into_inner().config.expect("filled");
    assert_eq!((config.name.as_str(), config.input[0].data_type()), ("identity", DataType::TypeUint8));
    let asked = RepositoryIndexRequest { ready: true, ..RepositoryIndexRequest::default() };
    let index = client.repository_index(asked).await.expect("told").into_inner();
    assert_eq!(index.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["identity"]);
    let load =
        RepositoryModelLoadRequest { model_name: "sleep".into(), parameters: HashMap::new(), ..Default::default() };
    assert_eq!(client.repository_model_load(load).await.expect_err("not here").code(), Code::Unimplemented);
    let shared = client.system_shared_memory_status(SystemSharedMemoryStatusRequest::default()).await;
    assert_eq!(shared.expect_err("not offered").code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_worker_shows_itself_and_drains_when_asked() {
    let (world, mut handle) = serving().await;
    let admin = Admin::new(Arc::clone(&world.worker.shared));
    let mut client = client(&world, LONG);
    let _running = tokio::select! {
        _ = client.model_infer(request("", 1)) => panic!("nobody answers"),
        execution = handle.next() => execution,
    };
    let told = admin.list_devices(Request::new(ListDevicesRequest {})).await.expect("told").into_inner();
    assert!(told.devices[0].kind == "cpu" && told.devices[0].threads > 0);
    let gpus = told.devices.iter().filter(|device| device.kind == "cuda").count();
    assert!(gpus > 0 || !told.note.is_empty(), "neither a GPU nor why there is none: {told:?}");
    admin.drain(Request::new(DrainRequest {})).await.expect("taken");
    world.tasks.stopping().cancelled().await;
    world.worker.drained().await;
    let status = admin.get_status(Request::new(GetStatusRequest {})).await.expect("told").into_inner();
    assert!(status.draining);
    assert_eq!(status.replicas[0].state(), ReplicaState::Ready);
}

fn image(image: &Heldout, raw: bool) -> ModelInferRequest {
    let pixels = image.input();
    let contents = InferTensorContents { fp32_contents: pixels.to_vec(), ..InferTensorContents::default() };
    let input = InferInputTensor {
        name: "PIXELS".into(),
        datatype: "FP32".into(),
        shape: vec![1, 64],
        contents: (!raw).then_some(contents),
        ..InferInputTensor::default()
    };
    let bytes: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    ModelInferRequest {
        model_name: "digits".into(),
        inputs: vec![input],
        outputs: vec![InferRequestedOutputTensor { name: "LABEL".into(), ..InferRequestedOutputTensor::default() }],
        raw_input_contents: raw.then(|| bytes.into()).into_iter().collect(),
        ..ModelInferRequest::default()
    }
}

/// The engines and the model of production: every answer is the reference's, however the images are batched.
#[tokio::test]
async fn the_real_digits_are_read_in_batches() {
    let world = World::wired().await;
    world.place("digits").await;
    world.told("digits", ReplicaState::Ready).await;
    let client = client(&world, LONG);
    let answers = stream::iter(digits::heldout().enumerate())
        .map(|(index, heldout)| {
            let mut client = client.clone();
            async move {
                let response =
                    client.model_infer(image(&heldout, index % 2 == 0)).await.expect("answered").into_inner();
                assert_eq!((response.outputs.len(), response.outputs[0].name.as_str()), (1, "LABEL"));
                (i64::from(heldout.reference).to_le_bytes().to_vec(), response.raw_output_contents[0].to_vec())
            }
        })
        .buffered(48)
        .collect::<Vec<_>>()
        .await;
    assert_eq!(answers.len(), 360);
    assert!(answers.iter().all(|(reference, label)| reference == label));
    let report = client.clone().model_statistics(ModelStatisticsRequest::default()).await.expect("told").into_inner();
    assert_eq!(report.model_stats[0].inference_count, 360);
    assert!(report.model_stats[0].execution_count < 360, "nothing went together");
}
