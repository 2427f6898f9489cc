//! What must be refused: each refusal has a type and names its field, and the mesh serves on.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tonic::{Code, Request};
use weft_client::{Channel, ChannelOptions};
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{InferTensorContents, ModelInferRequest};
use weft_proto::raw::InferenceClient;
use weft_proto::{PUSHBACK, error_of};
use weft_runtime::Tasks;
use weft_tests::calls::{identity, raw};
use weft_tests::mesh::Mesh;
use weft_types::Reason;

const LIMIT: Duration = Duration::from_secs(20);

/// A request for one digit in which one thing is wrong.
fn digit(change: impl FnOnce(&mut ModelInferRequest)) -> ModelInferRequest {
    let mut request = raw("digits", ("PIXELS", "FP32"), &[1, 64], vec![0; 256]);
    change(&mut request);
    request
}

fn cases() -> Vec<(&'static str, ModelInferRequest, Code, &'static str)> {
    let invalid = Code::InvalidArgument;
    vec![
        (
            "wrong shape",
            digit(|r| {
                r.inputs[0].shape = vec![1, 63];
                r.raw_input_contents[0].truncate(252);
            }),
            invalid,
            "inputs[0].shape",
        ),
        ("wrong rank", digit(|r| r.inputs[0].shape = vec![64]), invalid, "inputs[0].shape"),
        ("negative dimension", digit(|r| r.inputs[0].shape = vec![-1, 64]), invalid, "inputs[0].shape"),
        ("overflowing shape", digit(|r| r.inputs[0].shape = vec![i64::MAX, 64]), invalid, "inputs[0].shape"),
        ("claimed terabytes", digit(|r| r.inputs[0].shape = vec![1 << 40, 64]), invalid, "raw_input_contents[0]"),
        (
            "wrong type",
            digit(|r| {
                r.inputs[0].datatype = "INT64".into();
                r.raw_input_contents[0] = vec![0; 512].into();
            }),
            invalid,
            "inputs[0].datatype",
        ),
        ("unknown type", digit(|r| r.inputs[0].datatype = "FP33".into()), invalid, "inputs[0].datatype"),
        ("unknown input", digit(|r| r.inputs[0].name = "OTHER".into()), invalid, "inputs[0].name"),
        (
            "no input",
            digit(|r| {
                r.inputs.clear();
                r.raw_input_contents.clear();
            }),
            invalid,
            "inputs",
        ),
        (
            "short contents",
            digit(|r| r.raw_input_contents[0] = Bytes::from_static(&[0; 255])),
            invalid,
            "raw_input_contents[0]",
        ),
        ("missing contents", digit(|r| r.raw_input_contents.clear()), invalid, "inputs[0].contents"),
        (
            "both kinds of contents",
            digit(|r| {
                r.inputs[0].contents = Some(InferTensorContents { fp32_contents: vec![0.0; 64], ..Default::default() });
            }),
            invalid,
            "inputs[0].contents",
        ),
        ("ten thousand inputs", digit(|r| r.inputs = vec![InferInputTensor::default(); 10_000]), invalid, "inputs"),
        ("escaping name", digit(|r| r.model_name = "../etc/passwd".into()), invalid, "model_name"),
        ("empty name", digit(|r| r.model_name.clear()), invalid, "model_name"),
        ("version that is no number", digit(|r| r.model_version = "one".into()), invalid, "model_version"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_request_is_refused_by_the_field_at_fault() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("digits").await?;
    for (what, request, code, field) in cases() {
        let status = caller.infer(request, LIMIT).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status}");
        let error = error_of(&status);
        assert_eq!(error.field(), Some(field), "{what}: {status}");
        assert!(error.message().starts_with(field), "{what}: {status}");
    }
    for request in [digit(|r| r.model_name = "nobody".into()), digit(|r| r.model_version = "99".into())] {
        let status = caller.infer(request, LIMIT).await.expect_err("unknown");
        assert_eq!((status.code(), error_of(&status).reason()), (Code::NotFound, Reason::NotFound), "{status}");
    }
    // The mesh answers as before, the empty tensor included.
    caller.infer(digit(|_| {}), LIMIT).await?;
    caller.infer(identity(0), LIMIT).await?;
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_not_to_be_sent_again() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let status = caller.infer(identity(65 << 18), LIMIT).await.expect_err("65 MiB");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(error_of(&status).reason(), Reason::MessageTooLarge, "{status}");
    assert_eq!(status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok()), Some("-1"));
    // Just under the limit passes, both ways.
    let answer = caller.infer(identity((64 << 18) - 64), LIMIT).await?.into_inner();
    assert_eq!(answer.raw_output_contents[0].len(), (64 << 20) - 256);
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_refused() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    mesh.caller()?.wait_ready("identity").await?;
    let channel = Channel::new(mesh.address(), ChannelOptions::default(), &Tasks::new())?;
    let cut = [0x0a, 0xff, 0xff, 0xff, 0x7f];
    for bad in [&cut[..], &[0xff; 64], &[0x0b], &[0x00, 0x01]] {
        let mut client = InferenceClient::new(channel.clone());
        let status = client.model_infer(Request::new(Bytes::copy_from_slice(bad))).await.expect_err("no message");
        assert_eq!(status.code(), Code::InvalidArgument, "{bad:?}: {status}");
        assert_eq!(error_of(&status).field(), Some("message"), "{bad:?}: {status}");
    }
    mesh.stop().await?;
    Ok(())
}
