//! Schedulers that are stopped while they lead: what they wrote, as etcd remembers it.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use prost::Message as _;
use weft_client::{Keys, ReplicaKey};
use weft_proto::weft::scheduler::v1::GetStatusRequest;
use weft_proto::weft::scheduler::v1::scheduler_client::SchedulerClient;
use weft_proto::weft::state::v1::{Leader, ModelOffer, Placement, Replica, ReplicaState, VersionOffer, Worker};
use weft_store::etcd::Options;
use weft_store::{Change, Commit, EtcdStore, Op, Range, Revision, Store, Txn};
use weft_tests::calls::{Caller, until};
use weft_tests::etcd::Etcd;
use weft_tests::process::Weft;
use weft_types::Version;

/// How often the leader is stopped.
const STOPS: usize = 3;

struct Cluster {
    store: Arc<dyn Store>,
    keys: Keys,
    schedulers: Vec<(String, Weft)>,
}

impl Cluster {
    async fn start(etcd: &Etcd) -> Result<Self> {
        let endpoint = etcd.client_url.as_str();
        let store = Arc::new(EtcdStore::connect(Options::new(vec![endpoint.to_owned()])).await?);
        let scheduler = |id: &str| {
            let flags = ["--etcd", endpoint, "--lease-ttl", "2s", "--history", "0s", "--id", id];
            Ok((id.to_owned(), Weft::start("scheduler", &flags)?))
        };
        let schedulers = ["scheduler-1", "scheduler-2"].map(scheduler).into_iter().collect::<Result<_>>()?;
        Ok(Self { store, keys: Keys::new("default"), schedulers })
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Revision> {
        match self.store.commit(Txn { compares: Vec::new(), ops }).await? {
            Commit::Done(revision) => Ok(revision),
            Commit::Lost(_) => bail!("lost without a comparison"),
        }
    }

    /// A worker without a process: it takes whatever is placed on it.
    fn join(&self, id: &str) -> Result<Op> {
        let offer = ModelOffer {
            name: "m".into(),
            engine: "fake".into(),
            versions: vec![VersionOffer { version: 1, size_bytes: 1, ..VersionOffer::default() }],
        };
        let worker = Worker { id: id.into(), memory_bytes: 100, epoch: 1, offers: vec![offer], ..Worker::default() };
        Ok(Op::Put { key: self.keys.worker(&id.parse()?), value: worker.encode_to_vec().into(), lease: None })
    }

    /// The one worker that holds the model, once there is one.
    async fn holder(&self) -> Option<String> {
        let placements = format!("{}placements/", self.keys.root());
        let listing = self.store.read(Range::Prefix(placements.clone())).await.ok()?;
        let [entry] = listing.entries.as_slice() else { return None };
        Some(entry.key.strip_prefix(&placements)?.split_once('/')?.0.to_owned())
    }

    /// Who leads, by its place among the schedulers, and its term.
    async fn leader(&self) -> Option<(usize, Revision)> {
        let listing = self.store.read(Range::Key(self.keys.leader())).await.ok()?;
        let entry = listing.entries.first()?;
        let leader = Leader::decode(entry.value.clone()).ok()?;
        Some((self.schedulers.iter().position(|(id, _)| *id == leader.id)?, entry.create_revision))
    }

    /// Takes the worker that holds the model away and offers another one, as an operator's change of the fleet does.
    async fn want_a_move(&self) -> Result<(&'static str, Revision)> {
        let from = self.holder().await.context("the model is placed")?;
        let to = if from == "w-1" { "w-2" } else { "w-1" };
        let gone = [self.keys.worker(&from.parse()?), self.keys.replica(&replica(&from)?)].map(Op::Delete);
        Ok((to, self.commit(gone.into_iter().chain([self.join(to)?]).collect()).await?))
    }

    /// What was on a worker that is gone is removed once another one serves.
    async fn moved(&self, to: &str) -> Result<()> {
        let placement = self.keys.placement(&replica(to)?);
        until("the model to be placed anew", async || {
            let listing = self.store.read(Range::Key(placement.clone())).await;
            listing.is_ok_and(|listing| !listing.entries.is_empty())
        })
        .await?;
        let ready = Replica { state: ReplicaState::Ready.into(), size_bytes: 1, ..Replica::default() };
        let key = self.keys.replica(&replica(to)?);
        self.commit(vec![Op::Put { key, value: ready.encode_to_vec().into(), lease: None }]).await?;
        until("the model to move", async || self.holder().await.as_deref() == Some(to)).await
    }

    /// Waits until a scheduler whose term is over has seen a revision. It may rightly lead again: a leader that is stopped
    /// for longer than its lease makes room.
    async fn seen(&self, (stale, term): (usize, Revision), revision: Revision) -> Result<()> {
        let mut client = SchedulerClient::new(Caller::new(&self.schedulers[stale].1.address)?.channel);
        until("the stale leader to see what has happened", async || {
            let status = client.get_status(GetStatusRequest {}).await.map(|status| status.into_inner());
            status.is_ok_and(|status| (!status.leader || status.epoch > term) && status.revision >= revision)
        })
        .await
    }

    /// Stops the leader until another one has moved something, and lets it see that there is more to be done.
    async fn stop_the_leader(&self) -> Result<()> {
        until("a leader", async || self.leader().await.is_some()).await?;
        let (stale, term) = self.leader().await.context("just seen")?;
        self.schedulers[stale].1.signal("STOP")?;
        until("another leader", async || self.leader().await.is_some_and(|(leader, _)| leader != stale)).await?;
        let (to, revision) = self.want_a_move().await?;
        self.moved(to).await?;
        self.schedulers[stale].1.signal("CONT")?;
        self.seen((stale, term), revision).await?;
        // While the other one holds still for less than its lease, only the stale one is there to do what is wanted.
        let other = 1 - stale;
        self.schedulers[other].1.signal("STOP")?;
        let (to, revision) = self.want_a_move().await?;
        let seen = self.seen((stale, term), revision).await;
        self.schedulers[other].1.signal("CONT")?;
        seen?;
        self.moved(to).await
    }
}

/// The model's replica on a worker.
fn replica(worker: &str) -> Result<ReplicaKey> {
    Ok(ReplicaKey { worker: worker.parse()?, model: "m".parse()?, version: Version::new(1).context("not zero")? })
}

/// Everything that ever happened, in order.
async fn all_changes(store: &dyn Store) -> Result<Vec<Change>> {
    let end = store.read(Range::Key("absent".into())).await?.revision;
    let mut watch = store.watch(Range::Prefix("/weft/v1/default/".into()), 1).await?;
    let mut changes = Vec::new();
    let mut revision: Revision = 0;
    while revision < end {
        let told = watch.next().await.context("the watch runs")??;
        revision = told.revision;
        changes.extend(told.changes);
    }
    Ok(changes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_was_stopped_while_it_led_writes_nothing_late() -> Result<()> {
    let etcd = Etcd::start().await?;
    let cluster = Cluster::start(&etcd).await?;
    cluster.commit(vec![cluster.join("w-1")?]).await?;
    until("the first placement", async || cluster.holder().await.is_some()).await?;
    for _ in 0..STOPS {
        cluster.stop_the_leader().await?;
    }

    let (leader_key, placements) = (cluster.keys.leader(), format!("{}placements/", cluster.keys.root()));
    let (mut term, mut writes, mut epochs) = (None, 0, Vec::new());
    for change in all_changes(&*cluster.store).await? {
        match &change {
            Change::Put(entry) if entry.key == leader_key => term = Some(entry.create_revision),
            Change::Delete { key, .. } if *key == leader_key => term = None,
            Change::Put(entry) if entry.key.starts_with(&placements) => {
                let epoch = i64::try_from(Placement::decode(entry.value.clone())?.epoch)?;
                ensure!(term == Some(epoch), "epoch {epoch} wrote in term {term:?}: {change:?}");
                writes += 1;
                epochs.push(epoch);
            }
            Change::Delete { key, .. } if key.starts_with(&placements) => {
                ensure!(term.is_some(), "removed while nobody led: {change:?}");
            }
            _ => {}
        }
    }
    ensure!(epochs.is_sorted(), "an older leader wrote after a newer one: {epochs:?}");
    epochs.dedup();
    ensure!(writes > 2 * STOPS && epochs.len() > STOPS, "too little happened: {writes} writes by {epochs:?}");
    Ok(())
}
