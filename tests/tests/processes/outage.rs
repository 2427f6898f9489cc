//! etcd fails under load, in every way that it can: no call is lost, and the mesh is current again afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{GetSnapshotRequest, GetSnapshotResponse};
use weft_tests::calls::{Caller, until};
use weft_tests::outage::{self, Deployment, Pace, Scenario};

use super::cluster::Cluster;

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

async fn snapshot(caller: &Caller) -> Option<GetSnapshotResponse> {
    let answer = RouterClient::new(caller.channel.clone()).get_snapshot(GetSnapshotRequest {}).await;
    answer.ok().map(tonic::Response::into_inner)
}

fn age(snapshot: &GetSnapshotResponse) -> (i64, i32) {
    snapshot.age.map_or_else(Default::default, |age| (age.seconds, age.nanos))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_ages_while_etcd_is_away() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let router = cluster.weft("router", "1")?;
    let caller = Caller::new(&router.address)?;
    until("a snapshot", async || snapshot(&caller).await.is_some_and(|told| told.revision > 0)).await?;
    cluster.etcd.kill()?;
    let young = snapshot(&caller).await.context("the router answers")?;
    let mut old = young.clone();
    until("its age to grow", async || {
        old = snapshot(&caller).await.unwrap_or_default();
        age(&old) > age(&young)
    })
    .await?;
    assert_eq!((old.revision, old.restored), (young.revision, false));
    cluster.etcd.restart().await?;
    until("it to be confirmed again", async || snapshot(&caller).await.is_some_and(|told| age(&told) < age(&old))).await
}
