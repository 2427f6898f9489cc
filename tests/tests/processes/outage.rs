//! etcd fails under load, in every way that it can: no call is lost, and the mesh is current again afterwards.

use std::time::Duration;

use anyhow::Result;
use weft_tests::outage::{self, Deployment, Pace, Scenario};

const LEASE: Duration = Duration::from_secs(2);

/// Outages are longer than the lease, or nothing would be shown by its end.
const PACE: Pace = Pace {
    calls_per_second: 100,
    before: Duration::from_secs(1),
    outage: Duration::from_secs(4),
    pause: Duration::from_secs(4),
};

async fn nothing_is_lost(scenarios: &[Scenario]) -> Result<()> {
    let mut mesh = Deployment::start(LEASE).await?;
    for scenario in scenarios {
        let figures = outage::run(*scenario, &mut mesh, &PACE).await?;
        assert_eq!(figures.failures, Vec::<String>::new(), "{scenario:?}, of {} calls", figures.sent);
        // Calls go through both routers; only a router that is killed takes some with it.
        assert!(figures.repeated == 0 || *scenario == Scenario::AllKilled, "{scenario:?}: {}", figures.repeated);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_members_of_etcd_loses_no_call() -> Result<()> {
    nothing_is_lost(&[Scenario::LeaderKilled, Scenario::MajorityKilled, Scenario::LeaderPaused]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_crash_while_etcd_is_gone_serve_from_their_disk() -> Result<()> {
    nothing_is_lost(&[Scenario::AllKilled]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_way_to_etcd_loses_no_call() -> Result<()> {
    nothing_is_lost(&[
        Scenario::RouterCutOff,
        Scenario::RouterStranded,
        Scenario::WorkerCutOff,
        Scenario::CompactedMeanwhile,
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_past_its_lease_registers_again() -> Result<()> {
    nothing_is_lost(&[Scenario::WorkerPaused]).await
}
