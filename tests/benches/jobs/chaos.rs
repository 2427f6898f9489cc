//! Thousands of jobs while their schedulers are killed and paused, and etcd loses its leader.

use anyhow::Result;
use weft_tests::chaos::{self, Size};
use weft_tests::goal::Goal;

/// No job lost, no effect twice.
pub(crate) async fn run(small: bool) -> Result<Vec<Goal>> {
    let size = match small {
        true => Size { jobs: 100, open: 16, schedulers: 2, kills: 1, pauses: 1, members: 3, leaders: 1 },
        false => Size { jobs: 5_000, open: 64, schedulers: 3, kills: 10, pauses: 5, members: 3, leaders: 3 },
    };
    let figures = chaos::run(size).await?;
    let chaos::Figures { completed, compensated, effects, deliveries, took, settled, .. } = &figures;
    crate::tell(&format!(
        "chaos: {completed} completed, {compensated} undone, {effects} effects of {deliveries} calls in {took:?}, the last {settled:?} after the last blow\n"
    ))?;
    for violation in figures.violations.iter().take(10) {
        crate::tell(&format!("  {violation}\n"))?;
    }
    let ended = completed + compensated;
    Ok(vec![
        Goal::at_least("jobs.chaos.ended", size.jobs as f64, ended as f64),
        Goal::at_most("jobs.chaos.violations", 0.0, figures.violations.len() as f64),
        Goal::at_most("jobs.chaos.settled.s", 60.0, settled.as_secs_f64()),
    ])
}
