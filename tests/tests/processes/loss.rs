//! A worker that is lost: its models are placed anew and calls go on.

use std::collections::BTreeSet;

use anyhow::Result;
use futures_util::future::try_join_all;
use weft_client::Keys;
use weft_proto::weft::router::v1::GetSnapshotRequest;
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_store::{LeaseId, Range, Store};
use weft_tests::calls::{Caller, identity, until};
use weft_tests::load::Load;
use weft_tests::process::Weft;

use super::cluster::{CLUSTER, Cluster, LIMIT, ready_on, replicate};

#[tokio::test(flavor = "multi_thread")]
async fn four_processes_serve_and_a_killed_worker_is_replaced() -> Result<()> {
    let cluster = Cluster::start().await?;
    let metrics = cluster.weft("metrics", "1")?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let mut workers = vec![cluster.weft("worker", "1")?];
    let router = cluster.weft("router", "1")?;
    let caller = Caller::new(&router.address)?;
    caller.wait_ready("digits").await?;
    caller.infer(identity(16), LIMIT).await?;
    workers.push(cluster.weft("worker", "2")?);

    let holder = ready_on(&caller, "identity").await;
    assert_eq!(holder, ["worker-1"]);
    let load = Load::start(std::slice::from_ref(&caller), &identity(16), 4, LIMIT);
    load.pass(200).await?;
    workers[0].kill()?;
    // The only replica is gone. Calls are held until its successor is ready; those that were already being answered by the
    // dead process are repeated elsewhere, because inference has no effect that could be doubled.
    until("another worker to hold the model", async || ready_on(&caller, "identity").await == ["worker-2"]).await?;
    load.pass(200).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    drop((metrics, scheduler));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_replicas_a_killed_worker_is_not_missed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let mut workers: Vec<Weft> = vec![cluster.weft("worker", "1")?, cluster.weft("worker", "2")?];
    let router = cluster.weft("router", "1")?;
    let caller = Caller::new(&router.address)?;
    caller.wait_ready("identity").await?;
    replicate(&caller, "identity", 2).await?;
    let load = Load::start(std::slice::from_ref(&caller), &identity(16), 4, LIMIT);
    load.pass(200).await?;
    workers[0].kill()?;
    load.pass(2000).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    drop(scheduler);
    Ok(())
}

/// The leases that the workers are registered under, one for each.
async fn leases(store: &dyn Store) -> Result<BTreeSet<LeaseId>> {
    let workers = format!("{}workers/", Keys::new(CLUSTER).root());
    Ok(store.read(Range::Prefix(workers)).await?.entries.into_iter().filter_map(|entry| entry.lease).collect())
}

/// The workers that a router would send calls to, each with whether its registration is gone.
async fn endpoints(caller: &Caller) -> Result<Vec<(String, bool)>> {
    let snapshot = RouterClient::new(caller.channel.clone()).get_snapshot(GetSnapshotRequest {}).await?.into_inner();
    Ok(snapshot.endpoints.into_iter().map(|endpoint| (endpoint.worker, endpoint.retained)).collect())
}

/// As when an operator revokes too much, or etcd is restored from a backup.
#[tokio::test(flavor = "multi_thread")]
async fn workers_whose_leases_are_all_revoked_serve_on_and_register_again() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let ids = ["1", "2", "3"];
    let workers = ids.map(|id| cluster.weft("worker", id)).into_iter().collect::<Result<Vec<_>>>()?;
    let router = cluster.weft("router", "1")?;
    let (caller, store) = (Caller::new(&router.address)?, cluster.store().await?);
    caller.wait_ready("identity").await?;
    replicate(&caller, "identity", 3).await?;
    let load = Load::start(std::slice::from_ref(&caller), &identity(16), 4, LIMIT);
    load.pass(200).await?;

    let before = leases(&*store).await?;
    assert_eq!(before.len(), ids.len());
    try_join_all(before.iter().map(|lease| store.revoke(*lease))).await?;
    until("every worker to be registered again", async || {
        // Some may be seen as kept without a registration meanwhile; at the end none is.
        let told = endpoints(&caller).await.unwrap_or_default();
        let whole = told.len() == ids.len() && told.iter().all(|(_, retained)| !retained);
        whole && leases(&*store).await.is_ok_and(|now| now.len() == ids.len() && now.is_disjoint(&before))
    })
    .await?;
    until("every replica", async || ready_on(&caller, "identity").await.len() == ids.len()).await?;
    load.pass(200).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    drop((scheduler, workers));
    Ok(())
}
