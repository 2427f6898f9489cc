//! What callers see of a mesh whose etcd fails: scenarios that tests make sure of and a benchmark measures.
//!
//! A mesh of separate processes over three etcd members is under load at a fixed rate while something befalls the members,
//! the connections to them, or a process that needs them. Every call is counted, and its time from when it should have been
//! sent.

mod deployment;
pub mod load;
mod records;
mod scenario;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weft_types::SystemClock;

pub use self::deployment::Deployment;
use self::load::{Call, Load};
pub use self::scenario::{Measure, Pace, Scenario};
use crate::goal::Goal;

/// What every call gets. A worker that stands still is given up after four seconds of silence, and the call goes elsewhere.
const LIMIT: Duration = Duration::from_secs(10);

/// What a scenario cost.
#[derive(Debug)]
pub struct Figures {
    /// Which it was.
    pub scenario: Scenario,
    /// The calls that were sent.
    pub sent: usize,
    /// Why calls failed, each with its time since the scenario began.
    pub failures: Vec<String>,
    /// Calls that the caller itself sent once more, because the router that had them died.
    pub repeated: usize,
    /// How long calls took in the calm before: 99 in 100 at most so long.
    pub p99_before: Duration,
    /// The same, from the beginning until everything was as before.
    pub p99_during: Duration,
    /// The slowest call since the beginning.
    pub slowest: Duration,
    /// How long other things took.
    pub measures: Vec<Measure>,
}

/// Runs a scenario on a mesh that is whole, and leaves it whole.
pub async fn run(scenario: Scenario, mesh: &mut Deployment, pace: &Pace) -> Result<Figures> {
    mesh.settle().await?;
    let load = Load::start(mesh.addresses(), pace.calls_per_second, LIMIT);
    load.pass(pace.before).await?;
    let began = SystemClock::now();
    let happened = async {
        let measures = scenario.happen(mesh, &load, pace).await?;
        mesh.settle().await?;
        anyhow::Ok(measures)
    };
    let happened = happened.await.with_context(|| scenario.name());
    let calls = load.stop().await?;
    Ok(Figures::new(scenario, began, &calls, happened?))
}

impl Figures {
    fn new(scenario: Scenario, began: Instant, calls: &[Call], measures: Vec<Measure>) -> Self {
        let failed = |call: &Call| {
            let at = call.due.saturating_duration_since(began).as_secs_f64();
            call.failure.as_ref().map(|why| format!("at {at:.2} s, after {:.2} s: {why}", call.took.as_secs_f64()))
        };
        let (before, during): (Vec<&Call>, Vec<&Call>) = calls.iter().partition(|call| call.due < began);
        Self {
            scenario,
            sent: calls.len(),
            failures: calls.iter().filter_map(failed).collect(),
            repeated: calls.iter().filter(|call| call.repeated).count(),
            p99_before: percentile(&before, 99),
            p99_during: percentile(&during, 99),
            slowest: percentile(&during, 100),
            measures,
        }
    }

    /// One line per scenario and one per time that was measured, for people.
    pub fn text(&self) -> Result<String> {
        let mut text = String::new();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        writeln!(
            text,
            "{:<20} {:>6} {:>6} {:>8} {:>13.1} {:>13.1} {:>11.1}",
            self.scenario.name(),
            self.sent,
            self.failures.len(),
            self.repeated,
            ms(self.p99_before),
            ms(self.p99_during),
            ms(self.slowest),
        )?;
        for measure in &self.measures {
            writeln!(text, "    {:<28} {:.2} s", measure.name, measure.seconds)?;
        }
        for failure in self.failures.iter().take(10) {
            writeln!(text, "    failed {failure}")?;
        }
        Ok(text)
    }

    /// What [`Self::text`] has in its columns.
    pub fn head() -> String {
        format!(
            "{:<20} {:>6} {:>6} {:>8} {:>13} {:>13} {:>11}\n",
            "scenario", "sent", "failed", "repeated", "p99 before ms", "p99 during ms", "slowest ms"
        )
    }

    /// No call fails, and the mesh is current again in time.
    pub fn goals(&self) -> Vec<Goal> {
        let name = self.scenario.name();
        let failed = Goal::at_most(format!("{name}_failed_calls"), 0.0, self.failures.len() as f64);
        let times = self.measures.iter().filter_map(|measure| {
            Some(Goal::at_most(format!("{name}_{}_s", measure.name), measure.target?, measure.seconds))
        });
        std::iter::once(failed).chain(times).collect()
    }
}

/// The time that so many in a hundred calls did not exceed.
pub fn percentile(calls: &[&Call], percent: usize) -> Duration {
    let mut times: Vec<Duration> = calls.iter().map(|call| call.took).collect();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}
