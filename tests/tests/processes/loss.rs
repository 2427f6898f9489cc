//! A worker that is lost: its models are placed anew and calls go on.

use anyhow::Result;
use weft_tests::calls::{Caller, identity, until};
use weft_tests::load::Load;
use weft_tests::process::Weft;

use super::cluster::{Cluster, LIMIT, ready_on, replicate};

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
