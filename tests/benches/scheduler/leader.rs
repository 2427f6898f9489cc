//! Two schedulers, of which the one that leads is killed at its first write, again and again.

use std::time::Duration;

use anyhow::Result;
use weft_tests::goal::Goal;
use weft_tests::leaders;
use weft_tests::placing::Size;

/// The lease of the default settings: what a leader that vanished leaves behind.
const LEASE: &str = "5s";

pub(crate) async fn run(small: bool, tell: impl Fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let (size, kills) = match small {
        true => (Size { workers: 100, models: 100, replicas: 8, offers: 25, capacity: 12 }, 2),
        false => (Size { workers: 1000, models: 1000, replicas: 10, offers: 50, capacity: 14 }, 5),
    };
    let figures = leaders::run(size, kills, LEASE).await?;
    let longest = figures.takeovers.iter().max().map_or(f64::NAN, Duration::as_secs_f64);
    tell(&format!(
        "\nleader: {} replicas on {} workers, {kills} kills, lease {LEASE}\nplaced of each round when its leader was killed: {:?}\n\
         next leader's first write after each kill: {:.1?}\n{}",
        size.models * size.replicas as usize,
        size.workers,
        figures.placed_at_kill,
        figures.takeovers,
        figures.violations.iter().map(|violation| format!("{violation}\n")).collect::<String>(),
    ))?;
    Ok(vec![
        Goal::at_most("leader_kill_first_write_s", 6.0, longest),
        Goal::at_least("leader_kill_takeovers", kills as f64, figures.takeovers.len() as f64),
        Goal::at_most("leader_kill_violations", 0.0, figures.violations.len() as f64),
        Goal::at_least("leader_kill_models_with_exactly_their_replicas", size.models as f64, figures.complete as f64),
    ])
}
