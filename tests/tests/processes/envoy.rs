//! Routers behind an Envoy that asks for their health: they come and go, and callers notice nothing.

use anyhow::{Context as _, Result};
use tonic::{Code, Request};
use weft_proto::weft::router::v1::GetSnapshotRequest;
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_tests::calls::{Caller, identity, until};
use weft_tests::envoy::{Envoy, UNHEALTHY};
use weft_tests::load::Load;
use weft_tests::process::Weft;

use super::cluster::{Cluster, LIMIT};

/// Waits until this router has a call of somebody's in flight.
async fn is_called(router: &Weft) -> Result<()> {
    let caller = Caller::new(&router.address)?;
    until("a call through this router", async || {
        let snapshot = RouterClient::new(caller.channel.clone()).get_snapshot(GetSnapshotRequest {}).await;
        let endpoints = snapshot.map_or_else(|_| Vec::new(), |snapshot| snapshot.into_inner().endpoints);
        endpoints.iter().any(|endpoint| endpoint.in_flight > 0)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_behind_envoy_restart_one_by_one_without_a_lost_call() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let worker = cluster.weft("worker", "1")?;
    let mut routers = vec![cluster.weft("router", "1")?, cluster.weft("router", "2")?];
    for router in &routers {
        Caller::new(&router.address)?.wait_ready("identity").await?;
    }
    let addresses: Vec<String> = routers.iter().map(|router| router.address.clone()).collect();
    let envoy = Envoy::start(&addresses)?;
    let caller = Caller::new(&envoy.address)?;
    caller.wait_ready("identity").await.with_context(|| envoy.log())?;

    // Whoever does not say that it serves gets nothing, so calls pass because routers say so.
    let mut request = Request::new(identity(1));
    request.metadata_mut().insert(UNHEALTHY, "1".parse()?);
    let refused = caller.inference().model_infer(request).await.expect_err("nobody is healthy");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    let load = Load::start(std::slice::from_ref(&caller), &identity(16), 16, LIMIT);
    for index in 0..routers.len() {
        // Both have their share, the one that was started again, too.
        for router in &routers {
            is_called(router).await?;
        }
        routers[index].signal("TERM")?;
        assert_eq!(routers[index].wait().await?.code(), Some(0), "{}", routers[index].log());
        load.pass(200).await?;
        let id = format!("router-{}", index + 1);
        let flags = ["--etcd", &cluster.etcd.client_url, "--lease-ttl", "2s", "--id", &id];
        routers[index] = Weft::start_at(&addresses[index], "router", &flags)?;
    }
    for router in &routers {
        is_called(router).await?;
    }
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    drop((scheduler, worker));
    Ok(())
}
