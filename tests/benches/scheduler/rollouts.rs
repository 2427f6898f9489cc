//! A model on many workers gets another version, good or bad, under load: what callers see, and how long it takes. Each worker is a process,
//! and so is each loaded version on it.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::rollouts_client::RolloutsClient;
use weft_proto::weft::control::v1::{
    ApplyModelRequest, DeleteRolloutRequest, GetModelRequest, Model, Replica, RolloutPhase, RolloutStrategy,
    UndoRolloutRequest,
};
use weft_proto::weft::state::v1::ReplicaState;
use weft_tests::calls::{Caller, until};
use weft_tests::etcd::Etcd;
use weft_tests::goal::Goal;
use weft_tests::load::rounds::median;
use weft_tests::load::{Load, Outcome};
use weft_tests::process::Weft;
use weft_tests::versions::{
    BROKEN, FAILING, FIRST, MODEL, NEXT, SLOW, add, ask, repository, repository_of, serve_first, share, start,
    until_phase,
};
use weft_types::SystemClock;

const LIMIT: Duration = Duration::from_secs(30);
/// Callers, each with one call under way.
const CALLERS: usize = 2;
/// Of a hundred calls, so many go to a canary.
const SHARE: u32 = 20;
/// What drawing adds to a share, in percent of all calls.
const SLACK: f64 = 3.0;

/// The processes of a mesh. Dropping it ends them.
struct Mesh {
    caller: Caller,
    _processes: Vec<Weft>,
    _etcd: Etcd,
    models: tempfile::TempDir,
}

impl Mesh {
    async fn start(workers: usize, models: tempfile::TempDir) -> Result<Self> {
        let etcd = Etcd::start().await?;
        let folder = models.path().to_str().context("a path in UTF-8")?;
        let shared = ["--etcd", &etcd.client_url, "--lease-ttl", "5s"];
        let metrics = Weft::start("metrics", &shared)?;
        let told = format!("http://{}", metrics.address);
        let shared = [&shared[..], &["--otlp-endpoint", &told]].concat();
        let scheduler = Weft::start("scheduler", &[&shared[..], &["--auto", "false"]].concat())?;
        let router = Weft::start("router", &shared)?;
        let caller = Caller::new(&router.address)?;
        let mut processes = vec![metrics, scheduler, router];
        for _ in 0..workers {
            processes.push(Weft::start("worker", &[&shared[..], &["--models", folder, "--threads", "1"]].concat())?);
        }
        Ok(Self { caller, _processes: processes, _etcd: etcd, models })
    }

    fn load(&self) -> Load {
        Load::start(std::slice::from_ref(&self.caller), &ask(), CALLERS, LIMIT)
    }

    /// A rollout to a version, how long it took to its end, and what callers saw meanwhile.
    async fn roll(&self, version: u64, strategy: RolloutStrategy, end: RolloutPhase) -> Result<(Duration, Outcome)> {
        let load = self.load();
        load.pass(100).await?;
        let started = SystemClock::now();
        start(&self.caller, version, strategy).await?;
        until_phase(&self.caller, end).await?;
        let took = since(started);
        load.pass(100).await?;
        Ok((took, load.stop().await?))
    }
}

fn since(started: Instant) -> Duration {
    SystemClock::now().saturating_duration_since(started)
}

/// The share of calls that failed, or that a bad version answered, among all, in percent.
fn hurt(outcome: &Outcome, version: u64) -> f64 {
    let failed = outcome.failures.len() as f64;
    let late = outcome.versions.get(&version.to_string()).copied().unwrap_or_default() as f64;
    100.0 * (failed + late) / (failed + outcome.answered as f64)
}

/// A canary's share until it is judged: it would be long over otherwise.
fn watched() -> RolloutStrategy {
    let mut strategy = share(SHARE);
    strategy.steps.iter_mut().for_each(|step| step.pause = Some(weft_proto::duration(Duration::from_secs(3600))));
    strategy
}

/// Runs the part: on 23 workers where it is to be `full`, else on three.
pub(crate) async fn run(full: bool) -> Result<Vec<Goal>> {
    let workers = if full { 23 } else { 3 };
    let mut goals = from_disk(workers).await?;
    let mesh = Mesh::start(workers, repository()?).await?;
    serve_first(&mesh.caller, u32::try_from(workers)?).await?;
    for (name, version, limit) in [("failing", FAILING, 30.0), ("slow", SLOW, 60.0), ("broken", BROKEN, 30.0)] {
        let (took, outcome) = mesh.roll(version, watched(), RolloutPhase::RolledBack).await?;
        let most = if version == BROKEN { 0.0 } else { f64::from(SHARE) + SLACK };
        goals.push(Goal::at_most(format!("rollouts_{name}_verdict_s"), limit, took.as_secs_f64()));
        goals.push(Goal::at_most(format!("rollouts_{name}_hurt_percent"), most, hurt(&outcome, version)));
    }
    let (took, outcome) = mesh.roll(NEXT, share(SHARE), RolloutPhase::Promoted).await?;
    goals.push(Goal::at_most("rollouts_promoted_s", 60.0, took.as_secs_f64()));
    goals.push(Goal::at_most("rollouts_promoted_failed_calls", 0.0, outcome.failures.len() as f64));
    goals.extend(update(&mesh).await?);
    Ok(goals)
}

/// Sound versions that are put on the disk one after the other.
const FRESH: [u64; 5] = [NEXT, 6, 7, 8, 9];

/// A version is put on the disk that all workers read: all of them load it and change over. Told is the median of some.
async fn from_disk(workers: usize) -> Result<Vec<Goal>> {
    let mesh = Mesh::start(workers, repository_of(&[FIRST])?).await?;
    let mut models = ModelsClient::new(mesh.caller.channel.clone());
    let model = Model { name: MODEL.into(), replicas: u32::try_from(workers)?, ..Model::default() };
    until("the model to be applied", async || {
        models.apply_model(ApplyModelRequest { model: Some(model.clone()) }).await.is_ok()
    })
    .await?;
    let mut ready = async |version: u64| {
        let told = models.get_model(GetModelRequest { name: MODEL.into() }).await.map(tonic::Response::into_inner);
        let replicas = told.ok().and_then(|told| told.model).unwrap_or_default().replicas;
        let ready = |one: &&Replica| one.version == version && one.state() == ReplicaState::Ready;
        let others = replicas.iter().filter(|one| one.version != version).count();
        replicas.iter().filter(ready).count() == workers && others == 0
    };
    until("the first version everywhere", async || ready(FIRST).await).await?;
    let load = mesh.load();
    let mut took = Vec::new();
    for version in FRESH {
        load.pass(2000).await?;
        let started = SystemClock::now();
        add(mesh.models.path(), version)?;
        until("the next version everywhere", async || ready(version).await).await?;
        took.push(since(started).as_secs_f64());
    }
    load.pass(100).await?;
    let outcome = load.stop().await?;
    writeln!(std::io::stdout(), "rollouts: from the disk to everywhere in s: {took:.2?}")?;
    Ok(vec![
        Goal::at_most("rollouts_from_disk_everywhere_s", 1.0, median(took)),
        Goal::at_most("rollouts_from_disk_failed_calls", 0.0, outcome.failures.len() as f64),
    ])
}

/// The update without a rollout: all replicas load the next version and change over as they are ready.
async fn update(mesh: &Mesh) -> Result<Vec<Goal>> {
    let mut rollouts = RolloutsClient::new(mesh.caller.channel.clone());
    rollouts.undo_rollout(UndoRolloutRequest { model: MODEL.into() }).await?;
    until_phase(&mesh.caller, RolloutPhase::Promoted).await?;
    rollouts.delete_rollout(DeleteRolloutRequest { model: MODEL.into() }).await?;
    let answers = async |version: u64| {
        let answer = mesh.caller.infer(ask(), LIMIT).await;
        answer.is_ok_and(|answer| answer.into_inner().model_version == version.to_string())
    };
    until("the first version", async || answers(FIRST).await).await?;
    let load = mesh.load();
    load.pass(100).await?;
    let mut models = ModelsClient::new(mesh.caller.channel.clone());
    let told = models.get_model(GetModelRequest { name: MODEL.into() }).await?;
    let there = told.into_inner().model.and_then(|view| view.model).context("it was applied")?;
    let started = SystemClock::now();
    models.apply_model(ApplyModelRequest { model: Some(Model { versions: vec![NEXT], ..there }) }).await?;
    until("the next version", async || answers(NEXT).await).await?;
    let took = since(started);
    load.pass(100).await?;
    let outcome = load.stop().await?;
    Ok(vec![
        Goal::at_most("rollouts_update_s", 1.0, took.as_secs_f64()),
        Goal::at_most("rollouts_update_failed_calls", 0.0, outcome.failures.len() as f64),
    ])
}
