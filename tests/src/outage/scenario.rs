//! What befalls etcd, or the way to it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_types::{ModelName, SystemClock};

use super::deployment::Deployment;
use super::load::Load;
use super::records::{Current, compact, current, delete_route, lease_ended, put_route};
use crate::calls::until;
use crate::proxy::Fault;

/// How long the parts of a scenario last.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Calls per second.
    pub calls_per_second: u32,
    /// The calm before.
    pub before: Duration,
    /// How long etcd, or the way to it, is gone.
    pub outage: Duration,
    /// How long a paused leader stands still.
    pub pause: Duration,
}

/// A time that a scenario took, in seconds, and the most that it shall take.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// What took so long.
    pub name: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// The most that it shall take; none tells only.
    pub target: Option<f64>,
}

/// The most that routers may take to be current after etcd's leader is lost: an election takes one to two seconds of it.
const AFTER_LEADER: f64 = 3.0;
/// The most that everything may take to be current after etcd is back.
const AFTER_RETURN: f64 = 10.0;
/// The parts of a scenario during which nothing may change.
const STILL: Duration = Duration::from_secs(1);

/// What happens under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// etcd's leader is killed, and started again later.
    LeaderKilled,
    /// Two of three members are killed, and started again later.
    MajorityKilled,
    /// All members are killed; a worker and a router crash and start again meanwhile.
    AllKilled,
    /// etcd's leader stands still for a while.
    LeaderPaused,
    /// The connections of one router to etcd carry nothing for a while.
    RouterCutOff,
    /// The connections of one router to etcd carry nothing any more; new ones would.
    RouterStranded,
    /// The connections of one worker to etcd carry nothing until its lease has ended.
    WorkerCutOff,
    /// Records come and go, and the history is compacted, while one router has no connection.
    CompactedMeanwhile,
    /// A worker stands still until its lease has ended.
    WorkerPaused,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::LeaderKilled,
        Self::MajorityKilled,
        Self::AllKilled,
        Self::LeaderPaused,
        Self::RouterCutOff,
        Self::RouterStranded,
        Self::WorkerCutOff,
        Self::CompactedMeanwhile,
        Self::WorkerPaused,
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeaderKilled => "leader_killed",
            Self::MajorityKilled => "two_of_three_killed",
            Self::AllKilled => "all_killed",
            Self::LeaderPaused => "leader_paused",
            Self::RouterCutOff => "router_black_holed",
            Self::RouterStranded => "router_stranded",
            Self::WorkerCutOff => "worker_black_holed",
            Self::CompactedMeanwhile => "compacted_meanwhile",
            Self::WorkerPaused => "worker_paused",
        }
    }

    /// Makes it happen and undoes it again; returns when every router is current.
    pub(super) async fn happen(self, mesh: &mut Deployment, load: &Load, pace: &Pace) -> Result<Vec<Measure>> {
        match self {
            Self::LeaderKilled => leader_killed(mesh, load, pace).await,
            Self::MajorityKilled => majority_killed(mesh, load, pace).await,
            Self::AllKilled => all_killed(mesh, load, pace).await,
            Self::LeaderPaused => leader_paused(mesh, load, pace).await,
            Self::RouterCutOff => router_cut_off(mesh, load, pace).await,
            Self::RouterStranded => router_stranded(mesh).await,
            Self::WorkerCutOff => worker_cut_off(mesh, load, pace).await,
            Self::CompactedMeanwhile => compacted_meanwhile(mesh, load).await,
            Self::WorkerPaused => worker_paused(mesh, load).await,
        }
    }
}

fn told(name: &'static str, time: Duration, target: Option<f64>) -> Measure {
    Measure { name, seconds: time.as_secs_f64(), target }
}

/// After the leader is lost.
fn without_leader(current: Current) -> Vec<Measure> {
    vec![
        told("etcd_writable_after_loss", current.writable, None),
        told("current_after_loss", current.known, Some(AFTER_LEADER)),
    ]
}

/// After what was gone has begun to come back.
fn returned(current: Current) -> Vec<Measure> {
    vec![
        told("etcd_writable_after_return", current.writable, None),
        told("current_after_return", current.known, Some(AFTER_RETURN)),
    ]
}

async fn leader_killed(mesh: &mut Deployment, load: &Load, pace: &Pace) -> Result<Vec<Measure>> {
    let leader = mesh.etcd.leader().await?;
    let lost = SystemClock::now();
    mesh.etcd.kill(leader)?;
    let measures = without_leader(current(mesh, lost).await?);
    load.pass(pace.before).await?;
    mesh.etcd.restart(leader).await?;
    Ok(measures)
}

async fn majority_killed(mesh: &mut Deployment, load: &Load, pace: &Pace) -> Result<Vec<Measure>> {
    let leader = mesh.etcd.leader().await?;
    mesh.etcd.kill(leader)?;
    mesh.etcd.kill((leader + 1) % 3)?;
    load.pass(pace.outage).await?;
    etcd_returns(mesh).await
}

async fn all_killed(mesh: &mut Deployment, load: &Load, pace: &Pace) -> Result<Vec<Measure>> {
    for member in 0..3 {
        mesh.etcd.kill(member)?;
    }
    let began = SystemClock::now();
    load.pass(STILL).await?;
    let (worker, router) = (&mut mesh.workers[1], &mut mesh.routers[1]);
    let crashed = SystemClock::now();
    worker.crash().await?;
    worker.serves().await?;
    let worker_back = SystemClock::now().saturating_duration_since(crashed);
    load.pass(STILL).await?;
    let crashed = SystemClock::now();
    router.crash().await?;
    router.serves().await?;
    let router_back = SystemClock::now().saturating_duration_since(crashed);
    let restored = router.snapshot().await.context("the router answers")?.restored;
    ensure!(restored, "the router serves a snapshot that is not from its disk");
    let rest = pace.outage.saturating_sub(SystemClock::now().saturating_duration_since(began));
    load.pass(rest.max(STILL)).await?;
    let mut measures = etcd_returns(mesh).await?;
    measures.push(told("worker_serves_from_disk", worker_back, None));
    measures.push(told("router_serves_from_disk", router_back, None));
    Ok(measures)
}

/// Starts the members that are down. The time counts from there, so etcd's own start is part of it.
async fn etcd_returns(mesh: &mut Deployment) -> Result<Vec<Measure>> {
    let back = SystemClock::now();
    mesh.etcd.launch_all()?;
    let measures = returned(current(mesh, back).await?);
    mesh.etcd.restart_all().await?;
    Ok(measures)
}

async fn leader_paused(mesh: &mut Deployment, load: &Load, pace: &Pace) -> Result<Vec<Measure>> {
    let leader = mesh.etcd.leader().await?;
    let lost = SystemClock::now();
    mesh.etcd.pause(leader)?;
    let missed = current(mesh, lost).await;
    let rest = pace.pause.saturating_sub(SystemClock::now().saturating_duration_since(lost));
    let passed = load.pass(rest).await;
    // Whatever happened, it goes on: the next scenario needs it.
    mesh.etcd.resume(leader)?;
    let back = SystemClock::now();
    passed?;
    let missed = told("current_while_paused", missed?.known, Some(AFTER_RETURN));
    let mut measures = returned(current(mesh, back).await?);
    measures.push(missed);
    Ok(measures)
}

async fn router_cut_off(mesh: &mut Deployment, load: &Load, pace: &Pace) -> Result<Vec<Measure>> {
    mesh.disturb_router(Fault::BlackHole);
    let cut_off = async {
        let missed = put_route(&mesh.etcd, "missed").await?;
        load.pass(pace.outage).await?;
        let snapshot = mesh.routers[0].snapshot().await.context("a router that is cut off answers")?;
        ensure!(snapshot.revision < missed, "the router knows of changes that happened while it was cut off");
        Ok(())
    };
    let cut_off = cut_off.await;
    mesh.disturb_router(Fault::None);
    let back = SystemClock::now();
    cut_off?;
    Ok(returned(current(mesh, back).await?))
}

/// Nothing tells the router but silence.
async fn router_stranded(mesh: &mut Deployment) -> Result<Vec<Measure>> {
    let lost = SystemClock::now();
    mesh.disturb_router(Fault::Strand);
    let found = current(mesh, lost).await;
    mesh.disturb_router(Fault::None);
    Ok(vec![told("current_after_loss", found?.known, Some(AFTER_RETURN))])
}

async fn worker_cut_off(mesh: &mut Deployment, load: &Load, pace: &Pace) -> Result<Vec<Measure>> {
    mesh.disturb_worker(Fault::BlackHole);
    let began = SystemClock::now();
    let ended = lease_ended(&mesh.etcd, &mesh.workers[0].id).await;
    let rest = pace.outage.saturating_sub(SystemClock::now().saturating_duration_since(began));
    let passed = load.pass(rest.max(STILL)).await;
    // It serves whoever asks, registered or not.
    let serves = mesh.workers[0].serves().await;
    mesh.disturb_worker(Fault::None);
    let back = SystemClock::now();
    ended.and(passed).and(serves)?;
    let mut measures = returned(current(mesh, back).await?);
    mesh.settle().await?;
    let registered = SystemClock::now().saturating_duration_since(back);
    measures.push(told("registered_after_return", registered, Some(AFTER_RETURN)));
    Ok(measures)
}

async fn compacted_meanwhile(mesh: &mut Deployment, load: &Load) -> Result<Vec<Measure>> {
    let [doomed, newborn]: [ModelName; 2] = ["doomed".parse()?, "newborn".parse()?];
    delete_route(&mesh.etcd, newborn.as_str()).await?;
    put_route(&mesh.etcd, doomed.as_str()).await?;
    let router = &mesh.routers[0];
    until("the router to know the route", async || router.knows(&doomed).await).await?;
    mesh.disturb_router(Fault::Refuse);
    let changed = async {
        for _ in 0..50 {
            put_route(&mesh.etcd, "passing").await?;
            delete_route(&mesh.etcd, "passing").await?;
        }
        put_route(&mesh.etcd, newborn.as_str()).await?;
        let revision = delete_route(&mesh.etcd, doomed.as_str()).await?;
        compact(&mesh.etcd, revision).await?;
        load.pass(STILL).await
    };
    let changed = changed.await;
    let is_cut_off = router.knows(&doomed).await && !router.knows(&newborn).await;
    mesh.disturb_router(Fault::None);
    let back = SystemClock::now();
    changed?;
    ensure!(is_cut_off, "the router knows of changes that happened while it was cut off");
    let measures = returned(current(mesh, back).await?);
    ensure!(router.knows(&newborn).await, "the router does not know what came while it was cut off");
    ensure!(!router.knows(&doomed).await, "the router still knows what went while it was cut off");
    Ok(measures)
}

async fn worker_paused(mesh: &mut Deployment, load: &Load) -> Result<Vec<Measure>> {
    let worker = &mesh.workers[2];
    worker.signal("STOP")?;
    let ended = lease_ended(&mesh.etcd, &worker.id).await;
    let passed = load.pass(STILL).await;
    worker.signal("CONT")?;
    let back = SystemClock::now();
    ended.and(passed)?;
    let measures = returned(current(mesh, back).await?);
    mesh.settle().await?;
    worker.serves().await?;
    let registered = SystemClock::now().saturating_duration_since(back);
    Ok([measures, vec![told("registered_after_return", registered, Some(AFTER_RETURN))]].concat())
}
