//! Clients that others wrote, against real processes: each script prints a line per check and fails at the first that does
//! not hold.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use weft_proto::inference::ModelMetadataRequest;
use weft_tests::calls::Caller;
use weft_tests::envoy::Envoy;
use weft_tests::process::Weft;
use weft_tests::tools::{models, python, tool};

async fn with_mesh(script: &str) -> Result<()> {
    let mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", ""])?;
    let caller = Caller::new(&mesh.address)?;
    for model in ["digits", "identity", "sleep", "fail"] {
        caller.wait_ready(model).await?;
    }
    let told = tokio::task::block_in_place(|| python("venv", script, &[&mesh.address]))?;
    assert!(told.lines().filter(|line| line.starts_with("ok ")).count() > 10, "too few checks:\n{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tritons_own_client_works_unchanged() -> Result<()> {
    with_mesh("triton_client.py").await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_grpcio_works() -> Result<()> {
    with_mesh("grpcio_client.py").await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_needs_no_proto_files() -> Result<()> {
    with_mesh("grpcurl_calls.py").await
}

/// A balancer in front that knows gRPC: streams, deadlines, cancellations, failures with their details, large and refused messages all pass
/// it as if it were not there.
#[tokio::test(flavor = "multi_thread")]
async fn clients_notice_no_envoy_in_front() -> Result<()> {
    let mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", ""])?;
    let envoy = Envoy::start(std::slice::from_ref(&mesh.address))?;
    let caller = Caller::new(&envoy.address)?;
    for model in ["digits", "identity", "sleep", "fail"] {
        caller.wait_ready(model).await?;
    }
    for script in ["grpcio_client.py", "triton_client.py"] {
        let told = tokio::task::block_in_place(|| python("venv", script, &[&envoy.address]));
        told.with_context(|| format!("Envoy says:\n{}", envoy.log()))?;
    }
    Ok(())
}

/// A foreign model from its authors' package gives the answers that the package gives.
#[tokio::test(flavor = "multi_thread")]
async fn magika_answers_as_its_own_package_does() -> Result<()> {
    let folder = models().to_string_lossy().into_owned();
    let mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", "", "--worker-models", &folder])?;
    Caller::new(&mesh.address)?.wait_ready("magika").await?;
    let check = || python("models-venv", "magika_reference.py", &[&mesh.address]);
    let told = tokio::task::block_in_place(check)?;
    assert!(told.contains("50 of 50 agree"), "{told}");
    Ok(())
}

/// Foreign models give the answers that ONNX Runtime gives in Python, batched, of unequal lengths, and with a state that the
/// worker keeps while the requests of other sequences come in between.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_models_over_onnxruntime_answer_as_in_python() -> Result<()> {
    let (folder, library) = (models(), tool("lib/libonnxruntime.so")?);
    let (folder, library) = (folder.to_string_lossy(), library.to_string_lossy());
    let flags =
        ["--metrics-http", "", "--router-http", "", "--worker-models", &folder, "--worker-onnxruntime", &library];
    let mesh = Weft::start("dev", &flags)?;
    let caller = Caller::new(&mesh.address)?;
    for (model, script) in
        [("magika", "magika_reference.py"), ("minilm", "minilm_reference.py"), ("silero_vad", "silero_reference.py")]
    {
        caller.wait_ready(model).await?;
        let asked = ModelMetadataRequest { name: model.to_owned(), version: String::new() };
        let platform = caller.inference().model_metadata(asked).await?.into_inner().platform;
        assert!(platform.starts_with("onnxruntime"), "{model} runs on {platform}");
        let told = tokio::task::block_in_place(|| python("models-venv", script, &[&mesh.address]))?;
        assert!(told.contains("max difference"), "{model} was not compared:\n{told}");
    }
    Ok(())
}

/// A language model answers Triton's own client as Triton's vLLM backend would.
#[tokio::test(flavor = "multi_thread")]
async fn tritons_own_client_streams_a_language_model() -> Result<()> {
    let folder = models().to_string_lossy().into_owned();
    let mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", "", "--worker-models", &folder])?;
    Caller::new(&mesh.address)?.wait_ready("gemma3").await?;
    let told = tokio::task::block_in_place(|| python("venv", "language_client.py", &[&mesh.address, "gemma3"]))?;
    assert!(told.contains("checks passed"), "{told}");
    Ok(())
}

/// Every service describes itself, not only the router.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_answers_grpcurl() -> Result<()> {
    let mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", ""])?;
    Caller::new(&mesh.address)?.wait_ready("digits").await?;
    for (kind, own) in [
        ("router", "weft.router.v1.Router"),
        ("scheduler", "weft.scheduler.v1.Scheduler"),
        ("worker", "weft.worker.v1.Worker"),
        ("metrics", "weft.metrics.v1.Metrics"),
    ] {
        let address = mesh.address_of("gRPC", kind).context("it says where it serves")?;
        let grpcurl = |arguments: &[&str]| -> Result<String> {
            let ended = Command::new(tool("bin/grpcurl")?).args(["-plaintext", &address]).args(arguments).output()?;
            ensure!(ended.status.success(), "{kind}: {}", String::from_utf8_lossy(&ended.stderr));
            Ok(String::from_utf8(ended.stdout)?)
        };
        let listed = grpcurl(&["list"])?;
        for name in [own, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
            assert!(listed.lines().any(|line| line == name), "{name} is not in {kind}'s list:\n{listed}");
        }
        let tells_load = listed.lines().any(|line| line == "xds.service.orca.v3.OpenRcaService");
        assert_eq!(tells_load, ["router", "worker"].contains(&kind), "{kind}:\n{listed}");
        assert!(grpcurl(&["describe", own])?.contains("service"), "{kind}");
        assert!(grpcurl(&["grpc.health.v1.Health/Check"])?.contains("SERVING"), "{kind}");
    }
    Ok(())
}
