//! A deadline that cannot be met, and one that passes while a model runs: refused or cut, and shown to stop computing.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use tonic::{Code, Status};
use weft_proto::error_of;
use weft_proto::inference::{ModelStatisticsRequest, StatisticDuration};
use weft_types::SystemClock;

use super::caller::{Caller, request};
use crate::output::print;

const ASKED_MS: u32 = 10_000;

pub(crate) async fn show(caller: &Caller) -> Result<()> {
    caller.wait_ready("sleep").await.context("the model 'sleep' did not become ready")?;
    let before = ended(caller).await?;
    for limit in [Duration::from_millis(1), Duration::from_millis(50)] {
        let started = SystemClock::now();
        let data = Bytes::copy_from_slice(&ASKED_MS.to_le_bytes());
        let outcome = caller.infer(request("sleep", ("MILLISECONDS", "UINT32"), &[1], data), limit, None).await;
        let took = SystemClock::now().saturating_duration_since(started);
        let Err(status) = outcome else { bail!("a call for {ASKED_MS} ms of work was answered within {limit:?}") };
        ensure!(status.code() == Code::DeadlineExceeded, "expected DEADLINE_EXCEEDED, got {status}");
        let reason = error_of(&status).reason().as_str();
        print(&format!(
            "sleep for {ASKED_MS} ms with a deadline of {} ms: DEADLINE_EXCEEDED ({reason}) after {:.2} ms",
            limit.as_millis(),
            took.as_secs_f64() * 1e3,
        ))?;
    }
    // The worker ends its record of a call only when the execution has been dropped: no model is still asleep.
    let stopped = caller.until(async |caller| {
        let after = ended(caller).await?;
        Ok((after > before).then_some(after - before))
    });
    let stopped = stopped.await.context("the worker does not say that it has stopped")?;
    print(&format!(
        "stopped: the worker has ended {stopped} of these calls before their time; nothing is computed any more"
    ))
}

/// Calls of `sleep` that the worker has ended without an answer.
async fn ended(caller: &Caller) -> Result<u64, Status> {
    let request = ModelStatisticsRequest { name: "sleep".to_owned(), version: String::new() };
    let statistics = caller.inference().model_statistics(request).await?.into_inner();
    let failed = statistics.model_stats.iter().filter_map(|model| model.inference_stats.as_ref()?.fail.as_ref());
    Ok(failed.map(|fail: &StatisticDuration| fail.count).sum())
}
