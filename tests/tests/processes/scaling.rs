//! More models than memory: those that are called are held, and the one that was called longest ago gives way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use weft_proto::weft::control::v1::ListWorkersRequest;
use weft_proto::weft::control::v1::workers_client::WorkersClient;
use weft_tests::calls::{Caller, until};
use weft_tests::catalogue::Catalogue;
use weft_tests::process::Weft;

use super::cluster::Cluster;

const MODELS: usize = 50;
const WORKERS: usize = 3;
/// Models that fit into one worker.
const FITTING: u64 = 3;
/// What a call gets: others must have been left alone for some seconds before they give way.
const LIMIT: Duration = Duration::from_secs(60);

/// The models that each worker holds.
async fn held(caller: &Caller) -> Vec<usize> {
    let listed = WorkersClient::new(caller.channel.clone()).list_workers(ListWorkersRequest {}).await;
    let workers = listed.map(|answer| answer.into_inner().workers).unwrap_or_default();
    workers.into_iter().map(|worker| worker.replicas.len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_models_share_the_memory_of_nine() -> Result<()> {
    let (cluster, catalogue) = (Cluster::start().await?, Arc::new(Catalogue::make(MODELS)?));
    let metrics = cluster.weft("metrics", "1")?;
    let (told, models) = (format!("http://{}", metrics.address), catalogue.folder());
    let memory = (FITTING * catalogue.size + catalogue.size / 2).to_string();
    let common = ["--etcd", &cluster.etcd.client_url, "--lease-ttl", "2s", "--otlp-endpoint", &told];
    let start = |command, flags: &[&str]| Weft::start(command, &[&common[..], flags].concat());
    let scheduler = start("scheduler", &["--id", "scheduler-1", "--auto", "false"])?;
    let ids: Vec<String> = (1..=WORKERS).map(|number| format!("worker-{number}")).collect();
    let workers = ids.iter().map(|id| start("worker", &["--id", id, "--models", &models, "--memory", &memory]));
    let workers = workers.collect::<Result<Vec<Weft>>>()?;
    let router = start("router", &["--id", "router-1"])?;
    let caller = Caller::new(&router.address)?;
    until("every worker", async || held(&caller).await.len() == WORKERS).await?;
    catalogue.apply(&caller, Duration::from_secs(300)).await?;
    let (next, mut callers) = (Arc::new(AtomicUsize::new(0)), JoinSet::<Result<()>>::new());
    for _ in 0..6 {
        let (catalogue, caller, next) = (Arc::clone(&catalogue), caller.clone(), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= MODELS {
                    return Ok(());
                }
                catalogue.call(&caller, at, LIMIT).await?;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
        let crowd = held(&caller).await;
        assert!(crowd.iter().all(|models| *models as u64 <= FITTING), "{crowd:?}");
    }
    drop((metrics, scheduler, workers, router));
    Ok(())
}
