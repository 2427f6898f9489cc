//! The leader is killed while it places: nothing is placed twice, nothing is forgotten or untold, and no worker gets more than it has
//! memory for.

use anyhow::{Result, ensure};
use weft_tests::leaders;
use weft_tests::placing::Size;

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_place_nothing_twice() -> Result<()> {
    let size = Size { workers: 40, models: 60, replicas: 6, offers: 20, capacity: 12 };
    let kills = 2;
    let figures = leaders::run(size, kills, "2s").await?;
    assert_eq!(figures.violations, Vec::<String>::new());
    assert_eq!(figures.complete, size.models, "models with exactly their replicas");
    assert_eq!(figures.told, figures.placed, "replicas whose placement has an event");
    ensure!(figures.takeovers.len() == kills, "a leader that was killed wrote on: {figures:?}");
    Ok(())
}
