//! How exactly a deadline ends a call, and how soon its work stops.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tonic::Code;
use weft_tests::calls::{Caller, sleep, until};
use weft_tests::http;
use weft_types::SystemClock;

const LIMIT: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 16;
const STOPPED: &str = "weft_cancel_to_stop_seconds";

/// What came of calls that cannot be answered in time.
pub(crate) struct Deadlines {
    pub(crate) calls: usize,
    /// How far from its deadline a call ended, early or late: 99 of 100 were nearer.
    pub(crate) off_p99_ms: f64,
    /// From the moment that nobody waits any more until the model has stopped: 99 of 100 took at most so long, rounded up to
    /// the next bound of the histogram.
    pub(crate) stop_p99_ms: f64,
}

/// Sends `rounds` times as many calls as may be in flight, each for ten minutes of work within 200 ms.
pub(crate) async fn measure(caller: &Caller, metrics: &str, rounds: usize) -> Result<Deadlines> {
    caller.wait_ready("sleep").await?;
    let mut off = Vec::new();
    for _ in 0..rounds {
        let mut calls = JoinSet::new();
        for _ in 0..AT_ONCE {
            let caller = caller.clone();
            calls.spawn(async move {
                let started = SystemClock::now();
                let outcome = caller.infer(sleep(600_000), LIMIT).await;
                (outcome.map_err(|status| status.code()), SystemClock::now().saturating_duration_since(started))
            });
        }
        while let Some(ended) = calls.join_next().await {
            let (outcome, took) = ended?;
            ensure!(outcome.is_err_and(|code| code == Code::DeadlineExceeded), "a call did not end by its deadline");
            off.push(took.abs_diff(LIMIT).as_secs_f64() * 1e3);
        }
    }
    off.sort_unstable_by(f64::total_cmp);
    let calls = off.len();
    let mut page = String::new();
    until("every stop to be reported", async || {
        page = http::get(metrics, "/metrics").await.unwrap_or_default();
        sum(&page, &format!("{STOPPED}_count")) >= calls as f64
    })
    .await?;
    Ok(Deadlines { calls, off_p99_ms: at_p99(&off), stop_p99_ms: stop_p99(&page).context("a histogram")? * 1e3 })
}

fn at_p99(sorted: &[f64]) -> f64 {
    sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn samples<'a>(page: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    let of_name =
        page.lines().filter(move |line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    of_name.filter_map(|line| line.rsplit_once(' ')).filter_map(|(labels, value)| Some((labels, value.parse().ok()?)))
}

fn sum(page: &str, name: &str) -> f64 {
    samples(page, name).map(|(_, value)| value).sum()
}

/// The upper bound of the bucket that holds the 99th percentile; the one series is that of `sleep`.
fn stop_p99(page: &str) -> Option<f64> {
    let wanted = sum(page, &format!("{STOPPED}_count")) * 0.99;
    let name = format!("{STOPPED}_bucket");
    let bound = |labels: &str| labels.split("le=\"").nth(1)?.split('"').next()?.parse::<f64>().ok();
    samples(page, &name).filter(|(_, below)| *below >= wanted).filter_map(|(labels, _)| bound(labels)).reduce(f64::min)
}
