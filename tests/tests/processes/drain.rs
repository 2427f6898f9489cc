//! SIGTERM under load: every service goes without losing a call.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context as _, Result, ensure};
use tokio_stream::wrappers::ReceiverStream;
use weft_tests::calls::{Caller, beside, identity, sleep, until, with_timeout};
use weft_tests::load::Load;
use weft_tests::process::Weft;

use super::cluster::{Cluster, LIMIT, ready_on};

/// Sends SIGTERM and waits for a clean end.
async fn terminate(mut weft: Weft) -> Result<()> {
    weft.signal("TERM")?;
    let status = weft.wait().await?;
    assert_eq!(status.code(), Some(0), "{}", weft.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_every_service_loses_no_call() -> Result<()> {
    let cluster = Cluster::start().await?;
    let metrics = cluster.weft("metrics", "1")?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let worker = cluster.weft("worker", "1")?;
    let routers = [cluster.weft("router", "1")?, cluster.weft("router", "2")?];
    let callers = [Caller::new(&routers[0].address)?, Caller::new(&routers[1].address)?];
    for caller in &callers {
        caller.wait_ready("identity").await?;
    }
    let load = Load::start(&callers, &identity(16), 4, LIMIT);
    load.pass(200).await?;

    // The only worker goes after its successor has taken over.
    let successor = cluster.weft("worker", "2")?;
    load.pass(200).await?;
    terminate(worker).await?;
    assert_eq!(ready_on(&callers[0], "identity").await, ["worker-2"]);
    load.pass(200).await?;

    let next_scheduler = cluster.weft("scheduler", "2")?;
    terminate(scheduler).await?;
    load.pass(200).await?;
    terminate(metrics).await?;
    load.pass(200).await?;
    let [first, second] = routers;
    terminate(first).await?;
    load.pass(200).await?;

    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    drop((successor, next_scheduler, second));
    Ok(())
}

/// A stream outlives the worker that it began on: its later requests go to the successor.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_moves_with_its_model() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let mut worker = cluster.weft("worker", "1")?;
    let router = cluster.weft("router", "1")?;
    let caller = Caller::new(&router.address)?;
    caller.wait_ready("identity").await?;
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    let stream = with_timeout(ReceiverStream::new(sent), LIMIT);
    // The first request goes out before the answers are asked for: a stream without any has no worker yet.
    requests.send(identity(1)).await?;
    let mut answers = caller.inference().model_stream_infer(stream).await?.into_inner();
    let mut answered = async || -> Result<()> {
        let answer = answers.message().await?.context("the stream goes on")?;
        ensure!(answer.error_message.is_empty(), "{}", answer.error_message);
        Ok(())
    };
    answered().await?;
    let successor = cluster.weft("worker", "2")?;
    worker.signal("TERM")?;
    until("the successor", async || ready_on(&caller, "identity").await == ["worker-2"]).await?;
    assert_eq!(worker.wait().await?.code(), Some(0), "{}", worker.log());
    for _ in 0..20 {
        requests.send(identity(1)).await?;
        answered().await?;
    }
    drop((scheduler, successor));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_at_once() -> Result<()> {
    let mut mesh = Weft::start("dev", &["--metrics-http", "", "--router-http", ""])?;
    let caller = Caller::new(&mesh.address)?;
    caller.wait_ready("sleep").await?;
    // A call in flight holds the drain up, for as long as the grace.
    let call = beside(async move { caller.infer(sleep(600_000), LIMIT).await });
    mesh.signal("TERM")?;
    until("the drain", async || mesh.log().contains("draining")).await?;
    mesh.signal("TERM")?;
    let status = mesh.wait().await?;
    assert_eq!((status.code(), status.signal()), (Some(143), None), "{}", mesh.log());
    assert!(call.outcome().await?.is_err());
    Ok(())
}
