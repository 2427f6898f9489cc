use std::sync::Arc;
use std::time::Duration;

use weft_engine::{DataType, Engine};
use weft_proto::error_of;
use weft_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use weft_proto::inference::{
    ModelConfigRequest, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
};
use weft_proto::weft::state::v1::ReplicaState;

use super::*;
use crate::fake::{Handle, World, fake};
use crate::grpc::tests::{LONG, client};

/// Far longer than a load takes: one that succeeds fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker with a model of this signature and this configuration.
async fn placed(config: &str, signature: Signature) -> (World, Handle) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("m/1")).expect("a folder");
    std::fs::write(folder.path().join("m/1/model.onnx"), "").expect("a file");
    let config = format!("backend: 'onnxruntime' max_batch_size: {} {config}", signature.max_batch_size);
    std::fs::write(folder.path().join("m/config.pbtxt"), config).expect("a file");
    let (engine, handle) = fake(signature);
    let engines = [("onnxruntime", engine as Arc<dyn Engine>)].into();
    let world = World::with_engines(engines, |options| options.models_dir = Some(folder.path().to_owned())).await;
    assert_eq!(world.worker.problems(), []);
    world.place("m").await;
    (world, handle)
}

async fn serving(config: &str, signature: Signature) -> (World, Handle) {
    let (world, handle) = placed(config, signature).await;
    world.told("m", ReplicaState::Ready).await;
    (world, handle)
}

/// A model that batches, with ports of bytes in these shapes behind the batch axis.
fn signature(inputs: &[(&str, &[i64])], outputs: &[(&str, &[i64])]) -> Signature {
    let ports = |ports: &[(&str, &[i64])]| {
        let port = |(name, dims): &(&str, &[i64])| Port::new(*name, DataType::Uint8, &[&[-1], *dims].concat());
        ports.iter().map(port).collect()
    };
    let (inputs, outputs) = (ports(inputs), ports(outputs));
    Signature { platform: "test".into(), inputs, outputs, max_batch_size: 8, concurrency: 1 }
}

fn request(shape: &[i64], wanted: &[&str]) -> ModelInferRequest {
    let (name, datatype, shape) = ("X".to_owned(), "UINT8".to_owned(), shape.to_vec());
    let elements = usize::try_from(shape.iter().product::<i64>()).expect("sizes");
    let wanted = wanted.iter().map(|name| InferRequestedOutputTensor { name: (*name).into(), ..Default::default() });
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![InferInputTensor { name, datatype, shape, ..Default::default() }],
        outputs: wanted.collect(),
        raw_input_contents: vec![vec![1; elements].into()],
        ..Default::default()
    }
}

/// Asks, and answers with what `make` makes of the model's inputs.
async fn ask(
    (world, handle): &mut (World, Handle),
    request: ModelInferRequest,
    make: impl Fn(&Inputs) -> Outputs,
) -> ModelInferResponse {
    let mut client = client(world, LONG);
    let (answer, ()) = tokio::join!(client.model_infer(request), async { handle.next().await.answer(make) });
    answer.expect("answered").into_inner()
}

async fn field(world: &World, request: ModelInferRequest) -> String {
    let status = client(world, LONG).model_infer(request).await.expect_err("refused");
    error_of(&status).field().unwrap_or_default().to_owned()
}

async fn metadata(world: &World) -> ModelMetadataResponse {
    let asked = ModelMetadataRequest { name: "m".into(), version: String::new() };
    client(world, LONG).model_metadata(asked).await.expect("told").into_inner()
}

/// Each output is one row of what its name begins with.
fn named(_: &Inputs) -> Outputs {
    ["A", "B", "C"].map(|name| Tensor::of(name, &[1, 1], &[name.as_bytes()[0]])).into()
}

#[tokio::test]
async fn outputs_that_the_configuration_does_not_list_are_not_there() {
    let outputs: &[(&str, &[i64])] = &[("A", &[1]), ("B", &[1]), ("C", &[1])];
    let mut serving = serving("output [ { name: 'C' }, { name: 'A' } ]", signature(&[("X", &[1])], outputs)).await;
    let told = |answer: ModelInferResponse| {
        let names: Vec<String> = answer.outputs.into_iter().map(|output| output.name).collect();
        (names.concat(), answer.raw_output_contents.concat())
    };
    assert_eq!(told(ask(&mut serving, request(&[1, 1], &[]), named).await), ("AC".into(), b"AC".to_vec()));
    assert_eq!(told(ask(&mut serving, request(&[1, 1], &["C"]), named).await), ("C".into(), b"C".to_vec()));
    assert_eq!(told(ask(&mut serving, request(&[1, 1], &["C", "A"]), named).await), ("CA".into(), b"CA".to_vec()));
    assert_eq!(field(&serving.0, request(&[1, 1], &["A", "B"])).await, "outputs[1].name");
    let names: Vec<String> = metadata(&serving.0).await.outputs.into_iter().map(|output| output.name).collect();
    assert_eq!(names, ["A", "C"]);
}

#[tokio::test]
async fn a_reshape_stands_between_the_callers_shapes_and_the_models() {
    let config = "
        input { name: 'X' data_type: TYPE_UINT8 dims: [ 6, -1 ] reshape { shape: [ 2, 3, -1 ] } }
        output [ { name: 'Y' data_type: TYPE_UINT8 dims: [ 1 ] reshape { shape: [ ] } },
                 { name: 'Z' data_type: TYPE_UINT8 dims: [ -1, 4 ] reshape { shape: [ -1, 2, 2 ] } } ]";
    let outputs: &[(&str, &[i64])] = &[("Y", &[]), ("Z", &[-1, 2, 2])];
    let mut serving = serving(config, signature(&[("X", &[2, 3, -1])], outputs)).await;
    let make = |inputs: &Inputs| {
        assert_eq!(inputs[0].shape, [2, 2, 3, 5]);
        vec![Tensor::of("Y", &[2], &[7_u8, 8]), Tensor::of("Z", &[2, 3, 2, 2], &[9_u8; 24])]
    };
    let answer = ask(&mut serving, request(&[2, 6, 5], &[]), make).await;
    let shapes: Vec<&[i64]> = answer.outputs.iter().map(|output| &output.shape[..]).collect();
    assert_eq!(shapes, [&[2, 1][..], &[2, 3, 4]]);
    assert_eq!(answer.raw_output_contents, [&[7_u8, 8][..], &[9; 24]]);
    let one = ask(&mut serving, request(&[2, 6, 5], &["Z"]), make).await;
    assert_eq!(one.outputs[0].shape, [2, 3, 4]);
    assert_eq!(field(&serving.0, request(&[2, 2, 3, 5], &[])).await, "inputs[0].shape");
    let told = metadata(&serving.0).await;
    assert_eq!((&told.inputs[0].shape[..], &told.outputs[0].shape[..]), (&[-1, 6, -1][..], &[-1, 1][..]));
    let asked = ModelConfigRequest { name: "m".into(), version: String::new() };
    let config = client(&serving.0, LONG).model_config(asked).await.expect("told").into_inner().config.expect("one");
    assert_eq!((&config.input[0].dims[..], &config.output[0].dims[..]), (&[6, -1][..], &[1][..]));
}

#[tokio::test]
async fn what_the_configuration_says_of_a_tensor_must_be_true() {
    let cases = [
        ("output { name: 'Z' }", "an output Z that the model lacks"),
        ("input { name: 'X' optional: true }", "input X as optional"),
        ("input { name: 'X' dims: [ 4 ] reshape { shape: [ 2, 2 ] } }", "dims of input X"),
        ("input { name: 'X' dims: [ 1 ] reshape { shape: [ ] } }", "dims of input X"),
    ];
    for (config, expected) in cases {
        let (world, _handle) = placed(config, signature(&[("X", &[4])], &[("Y", &[4])])).await;
        let told = tokio::time::timeout(PATIENCE, world.told("m", ReplicaState::Failed)).await;
        let reason = told.unwrap_or_else(|_| panic!("{config} was loaded")).reason;
        assert!(reason.contains(expected), "{config}: {reason}");
    }
}

#[test]
fn a_shape_that_was_not_expected_stays_as_it_is() {
    let reshape = Reshape::new(true, &[2, -1], &[-1, 2]);
    assert_eq!(reshape.apply(&[3, 2, 5]), Some(vec![3, 5, 2]));
    for other in [&[3, 4, 5][..], &[3, 2], &[3, 2, 5, 1], &[]] {
        assert_eq!(reshape.apply(other), None, "{other:?}");
    }
}
