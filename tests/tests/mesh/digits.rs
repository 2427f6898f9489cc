//! The default model through the mesh answers as it does in Python.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_engine::digits::heldout;
use weft_proto::inference::ModelInferResponse;
use weft_proto::weft::metrics::v1::SummaryRequest;
use weft_proto::weft::metrics::v1::metrics_client::MetricsClient;
use weft_tests::calls::{raw, until};
use weft_tests::mesh::Mesh;

fn pixels(of: &[[u8; 64]]) -> Vec<u8> {
    of.iter().flatten().flat_map(|pixel| f32::from(*pixel).to_le_bytes()).collect()
}

fn labels(answer: &ModelInferResponse) -> Result<Vec<i64>> {
    let index = answer.outputs.iter().position(|output| output.name == "LABEL").context("no LABEL")?;
    let contents = answer.raw_output_contents.get(index).context("no contents")?;
    let (chunks, rest) = contents.as_chunks::<8>();
    ensure!(rest.is_empty(), "LABEL is not INT64");
    Ok(chunks.iter().map(|chunk| i64::from_le_bytes(*chunk)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_held_out_image_gets_the_label_that_python_gives_it() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let images: Vec<_> = heldout().collect();
    let mut right = 0;
    // Batches of every size up to 7, so that batching itself is under test.
    let mut rest = images.as_slice();
    for size in (1..=7).cycle() {
        let (batch, later) = rest.split_at(size.min(rest.len()));
        let data = pixels(&batch.iter().map(|image| image.pixels).collect::<Vec<_>>());
        let request = raw("digits", ("PIXELS", "FP32"), &[i64::try_from(batch.len())?, 64], data);
        let answer = caller.infer(request, Duration::from_secs(20)).await?.into_inner();
        let expected: Vec<i64> = batch.iter().map(|image| i64::from(image.reference)).collect();
        assert_eq!(labels(&answer)?, expected);
        right += batch.iter().filter(|image| image.reference == image.label).count();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    assert!(right * 100 >= images.len() * 97, "{right} of {} are right", images.len());
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_service_sums_calls_up() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    for _ in 0..5 {
        let request = raw("digits", ("PIXELS", "FP32"), &[1, 64], vec![0; 256]);
        caller.infer(request, Duration::from_secs(20)).await?;
    }
    let summary = || SummaryRequest { model: "digits".into(), window: None };
    let mut metrics = MetricsClient::new(caller.channel.clone());
    until("five calls in the summary", async || {
        let models = metrics.summary(summary()).await.map(|answer| answer.into_inner().models).unwrap_or_default();
        models.first().is_some_and(|model| model.calls == 5 && model.p99.is_some() && model.compute_p99.is_some())
    })
    .await?;
    until("the Triton alias", async || {
        mesh.sample("nv_inference_request_success").await.is_ok_and(|count| count >= 5.0)
    })
    .await?;
    mesh.stop().await?;
    Ok(())
}
