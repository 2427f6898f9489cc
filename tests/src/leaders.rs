//! Schedulers whose leader is killed in the midst of placing, again and again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use weft_client::{Keys, Mesh};
use weft_proto::weft::state::v1::Event;
use weft_runtime::Tasks;
use weft_store::{EtcdStore, Range, Store, etcd};
use weft_types::SystemClock;

use crate::calls::until;
use crate::etcd::Etcd;
use crate::placing::{Fleet, Placements, Size, ready};
use crate::process::Weft;

const CLUSTER: &str = "leaders";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the kills did.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// From each kill to the first placement that the next leader wrote.
    pub takeovers: Vec<Duration>,
    /// Of each round: how many of its replicas were placed when its leader was killed.
    pub placed_at_kill: Vec<usize>,
    /// What must never be; the first ones of each look.
    pub violations: Vec<String>,
    /// Models that have exactly their replicas in the end.
    pub complete: usize,
    /// Replicas that were placed, whoever did it.
    pub placed: usize,
    /// Those of them whose placement has an event.
    pub told: usize,
}

/// Applies the models in `kills` parts; each time, two schedulers compete and the leader is killed at its first write.
pub async fn run(size: Size, kills: usize, lease_ttl: &str) -> Result<Figures> {
    let etcd = Etcd::start().await?;
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(etcd::Options::new(vec![etcd.client_url.clone()])).await?);
    let (tasks, keys) = (Tasks::new(), Keys::new(CLUSTER));
    let mesh = Mesh::follow(Arc::clone(&store), &keys, &tasks, None);
    mesh.synced().await;
    let mut placements = Placements::follow(&store, &keys, size).await?;
    let fleet = Fleet::register(Arc::clone(&store), keys.clone(), size).await?;
    fleet.answer(&mesh, &tasks);
    let start = |number: usize| {
        let id = format!("scheduler-{number}");
        let flags = ["--etcd", &etcd.client_url, "--cluster", CLUSTER, "--auto", "false", "--lease-ttl", lease_ttl];
        anyhow::Ok((id.clone(), Weft::start("scheduler", &[&flags[..], &["--id", &id]].concat())?))
    };
    let mut schedulers = vec![start(0)?, start(1)?];
    let mut figures = Figures::default();
    for kill in 0..kills {
        let leader = leading(&mesh, &schedulers).await?;
        let from = size.models * kill / kills;
        let to = size.models * (kill + 1) / kills;
        let before = placements.count();
        let epoch = placements.newest.map(|(epoch, _)| epoch);
        fleet.apply(from..to - 1).await?;
        placements.until("the leader's first write", PATIENCE, |placements| placements.count() > before).await?;
        let (_, mut killed) = schedulers.remove(leader);
        killed.kill()?;
        let at = SystemClock::now();
        drop(killed);
        schedulers.push(start(kill + 2)?);
        figures.placed_at_kill.push(placements.count() - before);
        let own = placements.newest.map(|(epoch, _)| epoch).max(epoch);
        // So that the next leader has something to write however far the last one came.
        fleet.apply(to - 1..to).await?;
        let all = to * size.replicas as usize;
        placements.until("everything to be placed", PATIENCE, |placements| placements.count() >= all).await?;
        if let Some((epoch, first)) = placements.newest
            && Some(epoch) > own
        {
            figures.takeovers.push(first.saturating_duration_since(at));
        }
    }
    let all = size.models * size.replicas as usize;
    until("every replica to be ready", async || ready(&mesh.snapshot()) == all).await?;
    figures.violations.clone_from(&placements.violations);
    figures.complete = placements.complete();
    figures.placed = placements.written;
    figures.told = told(&*store, &keys).await?;
    ensure!(!tasks.failed(), "a task of the fleet failed");
    tasks.finish(Duration::from_secs(1)).await;
    Ok(figures)
}

/// Replicas whose placement has an event.
async fn told(store: &dyn Store, keys: &Keys) -> Result<usize> {
    let listing = store.read(Range::Prefix(keys.events())).await?;
    let mut told = 0;
    for entry in listing.entries {
        let event = Event::decode(entry.value)?;
        if event.reason == "ReplicasPlaced" {
            told += replicas(&event.message).with_context(|| format!("a message of moves: {}", event.message))?;
        }
    }
    Ok(told)
}

/// How many replicas a message is about.
fn replicas(message: &str) -> Option<usize> {
    if let Some((number, _)) = message.split_once(" replicas of ") {
        return number.parse().ok();
    }
    let of_part = |part: &str| {
        let (named, _) = part.split_once(": ")?;
        let (named, more) = named.split_once(" and ").unwrap_or((named, "0 more"));
        Some(named.split(", ").count() + more.strip_suffix(" more")?.parse::<usize>().ok()?)
    };
    message.split("; ").map(of_part).sum()
}

/// Waits until one of these leads.
async fn leading(mesh: &Mesh, schedulers: &[(String, Weft)]) -> Result<usize> {
    let find = || {
        let leader = mesh.snapshot().leader.as_ref().map(|record| record.value.id.clone())?;
        schedulers.iter().position(|(id, _)| *id == leader)
    };
    until("a leader", async || find().is_some()).await?;
    find().context("the leader is known")
}
