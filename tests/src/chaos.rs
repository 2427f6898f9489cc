//! Journaled jobs while the schedulers that run them are killed and paused, and their etcd loses its leader: none is lost, and none of their effects happens twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use serde_json::json;
use tokio::sync::watch;
use weft_client::Keys;
use weft_proto::weft::jobs::v1::{Job, JobState, Phase, Step, SubmitJobRequest};
use weft_runtime::Tasks;
use weft_store::{EtcdStore, Range, Store, etcd};
use weft_types::SystemClock;

use crate::calls::until;
use crate::etcd::Cluster;
use crate::jobs::{Client, compute, definition, publish, request, reserve};
use crate::ledger::{self, Setup, messages::Effect};
use crate::process::{FREE, Weft};

const CLUSTER: &str = "chaos";
/// How long a shard outlives its scheduler.
const LEASE_TTL: &str = "2s";
/// How long schedulers are let alone between two blows at the most, should no job end meanwhile.
const CALM: Duration = Duration::from_secs(20);

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Jobs.
    pub jobs: usize,
    /// How many of them are open at once.
    pub open: usize,
    /// Schedulers.
    pub schedulers: usize,
    /// How many are killed, and started again.
    pub kills: usize,
    /// How many are stopped where they stand until their lease is over, and then go on.
    pub pauses: usize,
    /// Members of etcd.
    pub members: usize,
    /// How often the one that leads is killed, and started again.
    pub leaders: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Jobs that went to their end.
    pub completed: usize,
    /// Jobs that were undone.
    pub compensated: usize,
    /// Effects in the other service, undos included.
    pub effects: usize,
    /// Calls that the other service got.
    pub deliveries: u64,
    /// What must never be.
    pub violations: Vec<String>,
    /// From the first submission to the last end.
    pub took: Duration,
    /// From the last blow to the last end.
    pub settled: Duration,
}

/// Schedulers that come and go over one etcd.
pub struct Schedulers {
    url: String,
    lease_ttl: &'static str,
    flags: &'static [&'static str],
    etcd: Cluster,
    running: Vec<Weft>,
    store: Arc<dyn Store>,
    keys: Keys,
}

impl Schedulers {
    /// Starts so many over one member of etcd.
    pub async fn start(count: usize) -> Result<Self> {
        Self::over(1, LEASE_TTL, count).await
    }

    /// Starts so many over so many members of etcd; their shards outlive them by `lease_ttl`.
    pub async fn over(members: usize, lease_ttl: &'static str, count: usize) -> Result<Self> {
        Self::told(members, lease_ttl, count, &[]).await
    }

    /// The same with these flags for each scheduler.
    pub async fn told(
        members: usize,
        lease_ttl: &'static str,
        count: usize,
        flags: &'static [&'static str],
    ) -> Result<Self> {
        let etcd = Cluster::start(members).await?;
        let urls: Vec<String> =
            (0..members).map(|member| Ok(etcd.client_url(member)?.to_owned())).collect::<Result<_>>()?;
        let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(etcd::Options::new(urls.clone())).await?);
        let url = urls.join(",");
        let mut schedulers = Self { url, lease_ttl, flags, etcd, running: Vec::new(), store, keys: Keys::new(CLUSTER) };
        for number in 0..count {
            let started = schedulers.launch("scheduler", number)?;
            schedulers.running.push(started);
        }
        Ok(schedulers)
    }

    /// One more process of the same mesh.
    pub fn launch(&self, command: &str, number: usize) -> Result<Weft> {
        let own = if command == "scheduler" { [&["--jobs-targets", "127.0.0.1"], self.flags].concat() } else { vec![] };
        self.launch_with(command, number, &own)
    }

    /// One more process of the same mesh, with flags of its own.
    pub fn launch_with(&self, command: &str, number: usize, own: &[&str]) -> Result<Weft> {
        self.launch_at(FREE, command, number, own)
    }

    /// The same at this address.
    pub fn launch_at(&self, address: &str, command: &str, number: usize, own: &[&str]) -> Result<Weft> {
        let id = format!("{command}-{number}");
        let flags = ["--etcd", &self.url, "--cluster", CLUSTER, "--lease-ttl", self.lease_ttl, "--id", &id];
        Weft::start_at(address, command, &[&flags[..], own].concat())
    }

    /// Their etcd.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where one of them answers.
    pub fn address(&self, number: usize) -> &str {
        &self.running[number % self.running.len()].address
    }

    /// Kills the member of etcd that leads, and starts it again.
    pub async fn kill_leader(&mut self) -> Result<()> {
        let leader = self.etcd.leader().await?;
        self.etcd.kill(leader)?;
        self.etcd.restart(leader).await
    }

    /// Kills one and starts it again.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        self.end(number)?;
        self.begin(number)
    }

    /// Kills one.
    pub fn end(&mut self, number: usize) -> Result<()> {
        let number = number % self.running.len();
        self.running[number].kill()
    }

    /// Starts one again that was killed.
    pub fn begin(&mut self, number: usize) -> Result<()> {
        let number = number % self.running.len();
        self.running[number] = self.launch("scheduler", number)?;
        Ok(())
    }

    /// Stops one where it stands until the store has forgotten it, and lets it go on.
    pub async fn pause(&self, number: usize) -> Result<()> {
        let number = number % self.running.len();
        let id = format!("scheduler-{number}");
        self.running[number].signal("STOP")?;
        let gone = until("a lease to end", async || {
            let key = Range::Key(self.keys.service("scheduler", &id));
            self.store.read(key).await.is_ok_and(|listing| listing.entries.is_empty())
        });
        let outcome = gone.await;
        self.running[number].signal("CONT")?;
        outcome
    }

    /// Keys that begin so, below the cluster's.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let range = Range::Prefix(format!("{}{prefix}", self.keys.root()));
        Ok(self.store.read(range).await?.entries.into_iter().map(|entry| entry.key).collect())
    }
}

/// Runs the jobs, and strikes the schedulers while they run.
pub async fn run(size: Size) -> Result<Figures> {
    let mut schedulers = Schedulers::over(size.members, LEASE_TTL, size.schedulers).await?;
    let (worker, router, tasks) = (schedulers.launch("worker", 0)?, schedulers.launch("router", 0)?, Tasks::new());
    let ledger = ledger::serve(Setup::default(), &tasks).await?;
    let (account, client) = (ledger::Client::new(&ledger.address)?, Client::new(&router.address)?);
    let begun = SystemClock::now();
    let (next, ended) = (AtomicUsize::new(0), watch::Sender::new(0));
    let callers = (0..size.open).map(|_| async {
        let mut jobs = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= size.jobs {
                return anyhow::Ok(jobs);
            }
            let asked = asked(number, &ledger.address);
            let id = client.submit(&asked).await.with_context(|| format!("job {number}"))?.id;
            jobs.push(client.ended(&id).await.with_context(|| format!("job {number}: {id}"))?);
            ended.send_modify(|ended| *ended += 1);
        }
    });
    let strikes = strike(&mut schedulers, size, ended.subscribe());
    let (jobs, last) = tokio::try_join!(try_join_all(callers), strikes)?;
    let now = SystemClock::now();
    let took = now.saturating_duration_since(begun);
    let jobs: Vec<Job> = jobs.into_iter().flatten().collect();
    let told = account.account("").await?;
    let mut figures = judge(&jobs, &told.effects, size);
    (figures.deliveries, figures.took) = (told.deliveries, took);
    figures.settled = now.saturating_duration_since(last);
    for slot in schedulers.keys("slot/").await? {
        figures.violations.push(format!("nobody gave back {slot}"));
    }
    for open in schedulers.keys("saga/").await? {
        figures.violations.push(format!("a job that has ended is still there: {open}"));
    }
    drop((worker, router));
    tasks.finish(Duration::from_secs(5)).await;
    Ok(figures)
}

/// What is done to the schedulers and their store.
#[derive(Clone, Copy)]
enum Strike {
    Kill,
    Pause,
    Leader,
}

/// Strikes in a random order at random schedulers, each time once some more jobs have ended. Returns when the last one was over.
async fn strike(schedulers: &mut Schedulers, size: Size, mut ended: watch::Receiver<usize>) -> Result<Instant> {
    let kinds = [(Strike::Kill, size.kills), (Strike::Pause, size.pauses), (Strike::Leader, size.leaders)];
    let mut strikes: Vec<Strike> =
        kinds.into_iter().flat_map(|(strike, times)| std::iter::repeat_n(strike, times)).collect();
    strikes.shuffle(&mut rand::rng());
    for (number, strike) in strikes.iter().enumerate() {
        let goal = size.jobs * (number + 1) / (strikes.len() + 2);
        // A strike that waits for jobs which wait for it would wait for ever.
        let _ = tokio::time::timeout(CALM, ended.wait_for(|ended| *ended >= goal)).await;
        let victim = rand::rng().random_range(0..size.schedulers);
        match strike {
            Strike::Kill => schedulers.kill(victim)?,
            Strike::Pause => schedulers.pause(victim).await?,
            Strike::Leader => schedulers.kill_leader().await?,
        }
    }
    Ok(SystemClock::now())
}

/// One of three kinds: with a pivot, with slots and two calls side by side, and one that cannot finish.
fn asked(number: usize, target: &str) -> SubmitJobRequest {
    let text = json!(number);
    let text = json!(text.to_string());
    let pivot = |needs: &[&str]| Step { phase: Phase::Pivot.into(), ..publish("decide", needs, target, &text) };
    let steps = match number % 3 {
        _ if fails(number) => vec![
            reserve("slot", &[], "default", 1),
            publish("first", &["slot"], target, &text),
            compute("fails", &["first"], &json!("$input.missing")),
            pivot(&["fails"]),
        ],
        0 => vec![publish("first", &[], target, &text), pivot(&["first"])],
        _ => {
            let sides = ["left", "right"].map(|name| publish(name, &["slot"], target, &text));
            [reserve("slot", &[], "default", 1)].into_iter().chain(sides).chain([pivot(&["left", "right"])]).collect()
        }
    };
    request(definition("chaos", steps), &format!("chaos-{number}"))
}

/// Whether a job of this number cannot finish.
const fn fails(number: usize) -> bool {
    number % 3 == 2
}

/// What the other service did, against what became of the jobs. The key of an effect names the job and the step that it is for.
fn judge(jobs: &[Job], effects: &[Effect], size: Size) -> Figures {
    let mut figures = Figures { effects: effects.len(), ..Figures::default() };
    let mut net: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for effect in effects {
        let (actions, undos) = net.entry(effect.key.as_str()).or_default();
        *(if effect.direction == "undo" { undos } else { actions }) += 1;
    }
    let mut known = BTreeSet::new();
    for job in jobs {
        known.insert(job.id.as_str());
        let number = job.key.rsplit('-').next().and_then(|number| number.parse().ok());
        let meant = if number.is_some_and(fails) { JobState::Compensated } else { JobState::Completed };
        match job.state() {
            JobState::Completed => figures.completed += 1,
            JobState::Compensated => figures.compensated += 1,
            _ => {}
        }
        if job.state() != meant {
            figures.violations.push(format!("{} ended as {:?}: {:?}", job.id, job.state(), job.failure));
        }
        for step in job.steps.iter().filter(|step| !["slot", "fails"].contains(&step.name.as_str())) {
            let done = net.remove(format!("{}/{}", job.id, step.name).as_str()).unwrap_or_default();
            let is_right = match job.state() {
                JobState::Completed => done == (1, 0),
                _ => done.0 == done.1 && done.0 <= 1,
            };
            if !is_right {
                figures.violations.push(format!("{}/{}: {done:?} in {:?}", job.id, step.name, job.state()));
            }
        }
    }
    figures.violations.extend(net.keys().map(|key| format!("{key} is no call of a job that was submitted")));
    if known.len() != size.jobs {
        figures.violations.push(format!("{} jobs for {} submissions", known.len(), size.jobs));
    }
    figures
}

#[cfg(test)]
mod tests {
    use weft_proto::weft::jobs::v1::StepStatus;

    use super::*;

    fn job(number: usize, state: JobState, steps: &[&str]) -> Job {
        let status = |name: &&str| StepStatus { name: (*name).to_owned(), ..StepStatus::default() };
        Job {
            id: format!("job{number}"),
            key: format!("chaos-{number}"),
            state: state.into(),
            steps: steps.iter().map(status).collect(),
            ..Job::default()
        }
    }

    fn effect(key: &str, direction: &str) -> Effect {
        Effect { key: key.to_owned(), direction: direction.to_owned(), ..Effect::default() }
    }

    const ONE: Size = Size { jobs: 1, open: 1, schedulers: 1, kills: 0, pauses: 0, members: 1, leaders: 0 };

    #[test]
    fn every_kind_of_wrong_is_told() {
        let done = job(0, JobState::Completed, &["first", "decide"]);
        let undone = job(2, JobState::Compensated, &["slot", "first", "fails", "decide"]);
        let both = || vec![effect("job0/first", "action"), effect("job0/decide", "action")];
        let wrong = |job: &Job, effects: &[Effect]| judge(std::slice::from_ref(job), effects, ONE).violations.len();
        assert_eq!(wrong(&done, &both()), 0);
        assert_eq!(wrong(&undone, &[]), 0);
        assert_eq!(wrong(&undone, &[effect("job2/first", "action"), effect("job2/first", "undo")]), 0);

        assert_eq!(wrong(&done, &both()[..1]), 1, "an effect is lost");
        assert_eq!(wrong(&done, &[both(), both()].concat()), 2, "effects are doubled");
        assert_eq!(wrong(&done, &[both(), vec![effect("job0/first", "undo")]].concat()), 1, "one was undone");
        assert_eq!(wrong(&done, &[both(), vec![effect("job0/other", "action")]].concat()), 1, "of no step");
        assert_eq!(wrong(&done, &[both(), vec![effect("job1/first", "action")]].concat()), 1, "of no job");
        assert_eq!(wrong(&undone, &[effect("job2/first", "action")]), 1, "nothing was undone");
        let twice = ["action", "undo", "action", "undo"].map(|direction| effect("job2/first", direction));
        assert_eq!(wrong(&undone, &twice), 1, "done and undone twice");
        assert_eq!(wrong(&job(0, JobState::Compensated, &[]), &[]), 1, "it could have finished");
        assert_eq!(wrong(&job(2, JobState::Completed, &[]), &[]), 1, "it could not");
        assert_eq!(wrong(&job(0, JobState::Running, &[]), &[]), 1, "it has not ended");
        assert_eq!(judge(&[], &[], ONE).violations.len(), 1, "it is lost");
    }
}
