//! The scenarios, one after the other on the same mesh.

use std::time::Duration;

use anyhow::Result;
use weft_tests::goal::Goal;
use weft_tests::outage::{self, Deployment, Figures, Pace, Scenario};

/// The lease of the default settings.
const LEASE: Duration = Duration::from_secs(5);

/// Runs them all and tells the figures of each at once: a full run takes long.
pub(crate) async fn run(full: bool, tell: impl Fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let pace = match full {
        true => Pace {
            calls_per_second: 200,
            before: Duration::from_secs(10),
            outage: Duration::from_secs(60),
            pause: Duration::from_secs(10),
        },
        false => Pace {
            calls_per_second: 200,
            before: Duration::from_secs(3),
            outage: Duration::from_secs(8),
            pause: Duration::from_secs(6),
        },
    };
    let mut mesh = Deployment::start(LEASE).await?;
    tell(&format!(
        "2 routers, 3 workers, 2 schedulers over 3 etcd members; lease {} s, {} calls/s, outages of {} s, pauses of {} s\n\n{}",
        LEASE.as_secs(),
        pace.calls_per_second,
        pace.outage.as_secs(),
        pace.pause.as_secs(),
        Figures::head(),
    ))?;
    let mut goals = Vec::new();
    for scenario in Scenario::ALL {
        let figures = outage::run(scenario, &mut mesh, &pace).await?;
        tell(&figures.text()?)?;
        goals.extend(figures.goals());
    }
    Ok(goals)
}
