//! The mesh in virtual time, run by the policies that ship and by others on the same arrivals.
//!
//! Without arguments one short round; `-- all` is what `make sim` runs: every scenario, five seeds, then ten thousand workers. Names of
//! scenarios choose among them. Pictures are left in `sim/` below the build's folder.

mod sim {
    pub(crate) mod lately;
    pub(crate) mod mesh;
    #[expect(dead_code, reason = "the broken choice is for the tests")]
    pub(crate) mod method;
    pub(crate) mod placing;
    pub(crate) mod report;
    pub(crate) mod router;
    pub(crate) mod scenario;
    pub(crate) mod tally;
    pub(crate) mod worker;
}
#[expect(dead_code, unreachable_pub, reason = "the goals of all benchmarks, which are in a crate above this one")]
#[path = "../../../tests/src/goal.rs"]
mod goal;

use std::io::{self, Write as _};
use std::path::PathBuf;

use goal::Goal;
use sim::mesh::Mesh;
use sim::method::Method;
use sim::report;
use sim::scenario::Scenario;
use sim::tally::{Figures, Tally};
use weft_types::SystemClock;

const SEEDS: u64 = 5;

fn main() -> io::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let all = asked.iter().any(|name| name == "all");
    let named = |name: &str| asked.iter().any(|asked| asked == name);
    let scenarios = [
        Scenario::mixed(),
        Scenario::steady(),
        Scenario::diurnal(),
        Scenario::days(),
        Scenario::bursty(),
        Scenario::skewed(),
        Scenario::failing(),
    ];
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../sim");
    std::fs::create_dir_all(&folder)?;
    let mut goals = String::new();
    for scenario in scenarios.iter().filter(|one| all || named(one.name) || (asked.is_empty() && one.name == "mixed")) {
        let seeds = if asked.is_empty() || scenario.name == Scenario::DAYS { 1 } else { SEEDS };
        let figures = compare(scenario, seeds, &folder)?;
        if scenario.name == "mixed" {
            goals += &told(scenario.name, &figures);
        }
    }
    if all || named("large") {
        let large = Scenario::large();
        goals += &told(large.name, &compare(&large, 1, &folder)?);
    }
    tell(&format!("\n{goals}"))
}

/// Runs each method over the seeds and tells of it. Returns what ships came to.
fn compare(scenario: &Scenario, seeds: u64, folder: &std::path::Path) -> io::Result<Figures> {
    let (mut rows, mut first) = (Vec::new(), Vec::new());
    let (began, mut calls) = (SystemClock::now(), 0);
    for method in Method::of(scenario) {
        let runs: Vec<Tally> = (0..seeds).filter_map(|seed| Mesh::run(scenario, method, seed)).collect();
        calls += runs.iter().map(|run| run.calls).sum::<u64>();
        let figures: Vec<Figures> = runs.iter().map(Tally::figures).collect();
        rows.push((scenario.name, method.name, Figures::mean(&figures)));
        first.extend(runs.into_iter().next().map(|run| (method.name, run)));
    }
    let seconds = SystemClock::now().saturating_duration_since(began).as_secs_f64();
    std::fs::write(folder.join(format!("{}.svg", scenario.name)), report::picture(scenario.name, &first))?;
    let workers = scenario.workers * scenario.pools;
    tell(&format!(
        "\n{}\n{workers} workers, {} routers, {seeds} seed(s): {calls} calls in {seconds:.1} s of wall time, {:.0} calls/s simulated\n",
        report::table(&rows),
        scenario.routers,
        calls as f64 / seconds.max(1e-9),
    ))?;
    Ok(rows.first().map(|row| row.2).unwrap_or_default())
}

/// The goals of what realtime and batch calls share.
fn told(scenario: &str, figures: &Figures) -> String {
    let goals = [
        Goal::at_least(format!("sim_{scenario}_utilization_percent"), 92.0, figures.utilization),
        Goal::at_most(format!("sim_{scenario}_missed_percent"), 0.1, figures.missed),
        Goal::at_most(format!("sim_{scenario}_switch_p99_ms"), 5.0, figures.switch),
    ];
    goals.iter().map(|goal| goal.line() + "\n").collect()
}

fn tell(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
