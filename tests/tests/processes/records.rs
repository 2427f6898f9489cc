//! Records that somebody damages or fakes in etcd: what was good stands, and operators are told.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use weft_client::{Keys, ReplicaKey};
use weft_proto::weft::control::v1::events_client::EventsClient;
use weft_proto::weft::control::v1::routes_client::RoutesClient;
use weft_proto::weft::control::v1::{ApplyRouteRequest, ListEventsRequest, Route, RouteTarget};
use weft_proto::weft::scheduler::v1::GetStatusRequest;
use weft_proto::weft::scheduler::v1::scheduler_client::SchedulerClient;
use weft_proto::weft::state::v1::{Placement, Replica, ReplicaState};
use weft_store::{Commit, Entry, Op, Range, Revision, Store, Txn};
use weft_tests::calls::{Caller, identity, until};
use weft_tests::load::Load;
use weft_types::Version;

use super::cluster::{CLUSTER, Cluster, LIMIT, ready_on};

/// What no record looks like: no field has this tag.
const GARBAGE: Bytes = Bytes::from_static(&[0xff; 16]);

/// etcd as it is written to by hand.
struct Hand(Arc<dyn Store>);

impl Hand {
    async fn get(&self, key: String) -> Result<Option<Entry>> {
        Ok(self.0.read(Range::Key(key)).await?.entries.pop())
    }

    async fn put(&self, op: Op) -> Result<Revision> {
        match self.0.commit(Txn { compares: Vec::new(), ops: vec![op] }).await? {
            Commit::Done(revision) => Ok(revision),
            Commit::Lost(_) => bail!("lost without a comparison"),
        }
    }

    /// Puts something else where a record stands, and leaves it to whom it belongs.
    async fn damage(&self, key: String) -> Result<()> {
        let lease = self.get(key.clone()).await?.with_context(|| format!("there is no {key}"))?.lease;
        self.put(Op::Put { key, value: GARBAGE, lease }).await.map(drop)
    }
}

/// What the mesh says of records that cannot be read.
async fn undecodable(caller: &Caller) -> BTreeSet<String> {
    let told = EventsClient::new(caller.channel.clone()).list_events(ListEventsRequest::default()).await;
    let events = told.map(|answer| answer.into_inner().events).unwrap_or_default();
    events.into_iter().filter(|event| event.reason == "UndecodableRecord").map(|event| event.subject).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_told_of_and_cost_no_call() -> Result<()> {
    let cluster = Cluster::start().await?;
    let processes = [cluster.weft("scheduler", "1")?, cluster.weft("worker", "1")?];
    let router = cluster.weft("router", "1")?;
    let (caller, hand, keys) = (Caller::new(&router.address)?, Hand(cluster.store().await?), Keys::new(CLUSTER));
    caller.wait_ready("identity").await?;
    let target = RouteTarget { model: "identity".to_owned(), weight: 1, ..Default::default() };
    let route = Route { name: "alias".to_owned(), targets: vec![target], ..Default::default() };
    RoutesClient::new(caller.channel.clone()).apply_route(ApplyRouteRequest { route: Some(route) }).await?;
    caller.wait_ready("alias").await?;

    let mut message = identity(16);
    message.model_name = "alias".to_owned();
    let load = Load::start(std::slice::from_ref(&caller), &message, 4, LIMIT);
    load.pass(200).await?;
    hand.damage(keys.route(&"alias".parse()?)).await?;
    hand.damage(keys.worker(&"worker-1".parse()?)).await?;
    let wanted: BTreeSet<String> = ["routes/alias", "workers/worker-1"].map(str::to_owned).into();
    until("events of both records", async || undecodable(&caller).await == wanted).await?;
    load.pass(200).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);

    let status = SchedulerClient::new(caller.channel.clone()).get_status(GetStatusRequest {}).await?.into_inner();
    let members = status.store_members;
    assert!(members.len() == 1 && members[0].version.starts_with("3.") && members[0].leader, "{members:?}");
    drop(processes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_refuses_what_a_leader_of_the_past_places() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let workers = [cluster.weft("worker", "1")?, cluster.weft("worker", "2")?];
    let router = cluster.weft("router", "1")?;
    let (caller, hand, keys) = (Caller::new(&router.address)?, Hand(cluster.store().await?), Keys::new(CLUSTER));
    caller.wait_ready("identity").await?;
    let term = hand.get(keys.leader()).await?.context("somebody leads")?.create_revision;
    let idle = usize::from(ready_on(&caller, "identity").await == ["worker-1"]);
    // Nobody is left to put right what is wrong.
    drop(scheduler);

    let worker = format!("worker-{}", idle + 1).parse()?;
    let key = ReplicaKey { worker, model: "identity".parse()?, version: Version::new(1).context("1 is a version")? };
    let place = async |epoch: Revision| {
        let value = Placement { epoch: u64::try_from(epoch)?, ..Placement::default() }.encode_to_vec().into();
        hand.put(Op::Put { key: keys.placement(&key), value, lease: None }).await
    };
    place(term - 1).await?;
    let refused = async || workers[idle].log().contains("a placement is refused");
    until("the refusal", refused).await.with_context(|| workers[idle].log())?;
    ensure!(hand.get(keys.replica(&key)).await?.is_none(), "the worker began to load it");

    // The same of the leader that the worker knows: it only lacked the right epoch.
    let good = place(term).await?;
    until("the replica", async || {
        let entry = hand.get(keys.replica(&key)).await.ok().flatten();
        let replica = entry.as_ref().and_then(|entry| Replica::decode(entry.value.clone()).ok());
        replica.is_some_and(|replica| replica.state() == ReplicaState::Ready)
    })
    .await?;
    let replica = hand.get(keys.replica(&key)).await?.context("it is ready")?;
    ensure!(replica.create_revision > good, "it was there before: {replica:?}");
    Ok(())
}
