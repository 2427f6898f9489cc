//! Jobs in a closed loop, and what came of them.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use weft_tests::goal::Goal;
use weft_tests::load::closed::Slice;
use weft_types::SystemClock;

/// So many jobs under way at any time, for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) in_flight: usize,
    pub(crate) lasting: Duration,
}

/// What a load brought.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) in_flight: usize,
    pub(crate) slice: Slice,
}

/// A system with its settings, and what it did.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) name: String,
    /// Jobs that end well.
    pub(crate) jobs: Vec<Figures>,
    /// Jobs whose last step fails, and that are undone.
    pub(crate) undone: Vec<Figures>,
}

/// Keeps jobs under way, each with a number of its own from `numbers` on. `lane` makes the caller of a lane, which does one job at a time; a job
/// that fails ends the benchmark.
pub(crate) async fn closed<C, L, J>(load: Load, numbers: &Arc<AtomicU64>, lane: L) -> Result<Figures>
where
    C: FnMut(u64) -> J + Send + 'static,
    L: Fn() -> C,
    J: Future<Output = Result<()>> + Send,
{
    let started = SystemClock::now();
    let mut lanes = JoinSet::new();
    for _ in 0..load.in_flight {
        let (mut job, numbers) = (lane(), Arc::clone(numbers));
        lanes.spawn(async move {
            let mut times = Vec::new();
            loop {
                let began = SystemClock::now();
                if began >= started + load.lasting {
                    return anyhow::Ok(times);
                }
                job(numbers.fetch_add(1, Ordering::Relaxed)).await?;
                times.push(SystemClock::now().saturating_duration_since(began));
            }
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = lanes.join_next().await {
        times.extend(ended??);
    }
    Ok(Figures { in_flight: load.in_flight, slice: Slice::new(started, times) })
}

/// Jobs a second beside Restate's at the same load, the least of all loads: each with its defaults, over one store.
pub(crate) fn beside(ways: &[Way]) -> Option<Goal> {
    let of = |name: &str| ways.iter().find(|way| way.name == name).map(|way| &way.jobs);
    let (ours, theirs) = (of("weft, 1 etcd")?, of("restate")?);
    let ratios =
        ours.iter().zip(theirs).map(|(ours, theirs)| ours.slice.calls_per_second() / theirs.slice.calls_per_second());
    ratios.min_by(f64::total_cmp).map(|least| Goal::at_least("jobs.rate_to_restate", 2.0, least))
}

/// What every system did, a line for each load.
pub(crate) fn table(ways: &[Way]) -> String {
    let mut text = String::from("\nsystem                   jobs     in flight   jobs/s     p50 ms     p99 ms\n");
    for way in ways {
        for (kind, all) in [("done", &way.jobs), ("undone", &way.undone)] {
            for Figures { in_flight, slice } in all {
                let (name, rate) = (&way.name, slice.calls_per_second());
                let (p50, p99) = (slice.percentile_us(50) / 1e3, slice.percentile_us(99) / 1e3);
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{name:<24} {kind:<8} {in_flight:>9} {rate:>8.0} {p50:>10.2} {p99:>10.2}");
            }
        }
    }
    text
}
