//! What a scenario does in etcd behind the mesh's back, whichever members answer.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use etcd_client::{Client, Error};
use futures_util::future::{BoxFuture, FutureExt as _, select_ok};
use prost::Message as _;
use weft_client::Keys;
use weft_proto::weft::control::v1::{Route, RouteTarget};
use weft_types::{ModelName, SystemClock, WorkerId};

use super::deployment::{CLUSTER, Deployment, MODEL};
use crate::calls::{PATIENCE, until};
use crate::etcd::Cluster;

/// How often a router is asked.
const POLL: Duration = Duration::from_millis(5);
/// How long one attempt may take: a member without a leader would answer only after seconds.
const ATTEMPT: Duration = Duration::from_millis(500);

/// How long after an event the store and the routers were there again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    /// Until etcd took a write.
    pub(super) writable: Duration,
    /// Until the last router had seen that write.
    pub(super) known: Duration,
}

/// Writes a record and waits until every router's snapshot has it.
pub(super) async fn current(mesh: &Deployment, since: Instant) -> Result<Current> {
    let revision = put_route(&mesh.etcd, "marker").await?;
    let writable = SystemClock::now().saturating_duration_since(since);
    let given_up = SystemClock::now() + PATIENCE;
    for router in &mesh.routers {
        while !router.snapshot().await.is_some_and(|told| told.revision >= revision && !told.restored) {
            if SystemClock::now() > given_up {
                bail!("{} does not see revision {revision}:\n{}", router.id, mesh.logs());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(Current { writable, known: SystemClock::now().saturating_duration_since(since) })
}

/// Puts a route of this name to the model, and returns the revision.
pub(super) async fn put_route(etcd: &Cluster, name: &str) -> Result<i64> {
    let targets = vec![RouteTarget { model: MODEL.into(), weight: 1, ..Default::default() }];
    let route = Route { name: name.to_owned(), targets, ..Default::default() }.encode_to_vec();
    let key = route_key(name)?;
    let ask = |mut client: Client| {
        let (key, route) = (key.clone(), route.clone());
        async move { client.put(key, route, None).await }.boxed()
    };
    Ok(from_any(etcd, ask).await?.header().context("an answer has a header")?.revision())
}

/// Removes a route, and returns the revision.
pub(super) async fn delete_route(etcd: &Cluster, name: &str) -> Result<i64> {
    let key = route_key(name)?;
    let ask = |mut client: Client| {
        let key = key.clone();
        async move { client.delete(key, None).await }.boxed()
    };
    Ok(from_any(etcd, ask).await?.header().context("an answer has a header")?.revision())
}

/// Forgets the history before a revision.
pub(super) async fn compact(etcd: &Cluster, revision: i64) -> Result<()> {
    let ask = |mut client: Client| async move { client.compact(revision, None).await }.boxed();
    from_any(etcd, ask).await.map(drop)
}

/// Waits until a worker's lease has ended, as etcd knows it.
pub(super) async fn lease_ended(etcd: &Cluster, worker: &str) -> Result<()> {
    let key = Keys::new(CLUSTER).worker(&worker.parse::<WorkerId>()?);
    let ask = |mut client: Client| {
        let key = key.clone();
        async move { client.get(key, None).await }.boxed()
    };
    until("the end of the worker's lease", async || {
        from_any(etcd, ask).await.is_ok_and(|answer| answer.kvs().is_empty())
    })
    .await
}

fn route_key(name: &str) -> Result<String> {
    Ok(Keys::new(CLUSTER).route(&name.parse::<ModelName>()?))
}

/// The first answer of any member, asked again and again: some may be dead, paused or without a leader.
async fn from_any<T>(etcd: &Cluster, ask: impl Fn(Client) -> BoxFuture<'static, Result<T, Error>> + Copy) -> Result<T> {
    let members = etcd.endpoints().len();
    let mut answer = None;
    until("an answer of etcd", async || {
        let attempts = (0..members).map(|index| {
            let attempt = async move { anyhow::Ok(ask(etcd.client(index).await?).await?) };
            Box::pin(async move { tokio::time::timeout(ATTEMPT, attempt).await? })
        });
        answer = select_ok(attempts).await.ok().map(|(answer, _)| answer);
        answer.is_some()
    })
    .await?;
    answer.context("there is one")
}
