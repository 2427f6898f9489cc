//! The held-out images through the mesh: every answer right or wrong, every call's time.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use weft_engine::digits::{self, Heldout};
use weft_types::SystemClock;

use super::caller::{Caller, request};
use crate::output::print;

const AT_ONCE: usize = 8;
const LIMIT: Duration = Duration::from_secs(2);
/// The least share of right answers, in thousandths.
const LEAST_RIGHT: usize = 970;

/// The request for one image, or for several together.
pub(crate) fn images(of: &[Heldout]) -> weft_proto::inference::ModelInferRequest {
    let data: Vec<u8> =
        of.iter().flat_map(|image| image.pixels).flat_map(|pixel| f32::from(pixel).to_le_bytes()).collect();
    request("digits", ("PIXELS", "FP32"), &[i64::try_from(of.len()).unwrap_or(i64::MAX), 64], data)
}

pub(crate) async fn show(caller: &Caller) -> Result<()> {
    let heldout: Vec<Heldout> = digits::heldout().collect();
    let total = heldout.len();
    let calls = heldout.into_iter().map(|image| async move {
        let started = SystemClock::now();
        let answer = caller.infer(images(&[image]), LIMIT, None).await.context("a call failed")?.into_inner();
        let index =
            answer.outputs.iter().position(|output| output.name == "LABEL").context("no LABEL in the answer")?;
        let label = answer.raw_output_contents.get(index).context("no contents in the answer")?;
        let label = i64::from_le_bytes(label.as_ref().try_into().context("LABEL is not one INT64")?);
        anyhow::Ok((image, label, SystemClock::now().saturating_duration_since(started)))
    });
    let answers: Vec<(Heldout, i64, Duration)> = stream::iter(calls).buffered(AT_ONCE).try_collect().await?;
    let right = answers.iter().filter(|(image, label, _)| i64::from(image.label) == *label).count();
    let as_reference = answers.iter().filter(|(image, label, _)| i64::from(image.reference) == *label).count();
    let mut times: Vec<Duration> = answers.iter().map(|(_, _, time)| *time).collect();
    times.sort_unstable();
    let at = |percent: usize| {
        times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    };
    print(&format!(
        "digits: {total} held-out images, {right} right ({:.2} %), {as_reference} as the Python reference; p50 {:.2} ms, p99 {:.2} ms",
        right as f64 / total as f64 * 100.0,
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
    ))?;
    ensure!(as_reference == total, "the mesh and the Python reference disagree on {} images", total - as_reference);
    ensure!(right * 1000 >= total * LEAST_RIGHT, "fewer than 97 % of the images were recognised");
    Ok(())
}
