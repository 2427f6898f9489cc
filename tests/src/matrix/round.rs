//! Jobs that come to their points at the same time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use tempfile::TempDir;
use weft_participant::{Direction, Mark};
use weft_proto::duration;
use weft_proto::weft::jobs::v1::{
    Attempt, Job, ListJobsRequest, ResolveJobRequest, SignalJobRequest, Step, StepState, StepStatus, Verb,
};

use super::held::Held;
use super::inner::{self, PICK, POOL, SLOTS, TAKEN};
use super::judge::{self, Told};
use super::{FOR_EVER, Point, Work};
use crate::calls::{Caller, PATIENCE, until};
use crate::chaos::Schedulers;
use crate::jobs::{Client, definition, has_ended, request, reserve, status, wait};
use crate::ledger::messages::{FaultKind, Fired};
use crate::ledger::{self, marked};
use crate::port::Port;
use crate::process::Weft;
use crate::server::Server;

/// What an operator says.
const REASON: &str = "seen to";

/// What is done once every job of a round stands at its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Nothing: calls go wrong while everybody lives.
    None,
    /// The scheduler that runs them is killed, and started again.
    Scheduler,
    /// The participant is killed, and started again.
    Participant,
    /// The worker is killed on which models stand still, and started again.
    Worker,
}

/// What came of a round.
#[derive(Debug, Default)]
pub struct Round {
    /// Jobs, each with one point.
    pub points: usize,
    /// Points at which it went wrong, as often as it should.
    pub met: usize,
    /// What must never be.
    pub violations: Vec<String>,
}

/// A mesh in which rounds take place.
pub struct Rounds {
    schedulers: Schedulers,
    jobs: Client,
    ledger: PathBuf,
    /// Jobs so far.
    number: usize,
    held: Held,
    _others: [Weft; 2],
    _folder: TempDir,
}

/// A ledger in a process of its own.
struct Participant {
    program: PathBuf,
    port: Port,
    folder: TempDir,
    etcd: Option<String>,
    process: Option<Server>,
    client: ledger::Client,
}

/// A job of a round.
struct Entry<'a> {
    point: &'a Point,
    number: usize,
    id: String,
}

impl Participant {
    /// With an etcd its rows and entries outlive it.
    async fn start(program: &Path, etcd: Option<String>) -> Result<Self> {
        let (port, folder) = (Port::reserve()?, tempfile::tempdir()?);
        let client = ledger::Client::new(&port.address().to_string())?;
        let mut participant =
            Self { program: program.to_owned(), port, folder, etcd, process: None, client: client.clone() };
        participant.begin().await?;
        Ok(participant)
    }

    async fn begin(&mut self) -> Result<()> {
        let (mut command, address) = (Command::new(&self.program), self.port.address().to_string());
        match &self.etcd {
            Some(url) => command.args([&address, "etcd", url]).arg(self.folder.path().join("entries")),
            None => command.args([&address, "memory"]),
        };
        let process = Server::start("ledger", &mut command, self.folder.path())?;
        // With connections of its own: those to the process before it may not know yet that they are broken.
        self.client = ledger::Client::new(&address)?;
        let client = self.client.clone();
        let answers = until("a ledger that answers", async || client.totals().await.is_ok()).await;
        answers.with_context(|| process.log())?;
        self.process = Some(process);
        Ok(())
    }

    async fn crash(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        self.begin().await
    }
}

impl Rounds {
    /// One scheduler, so that it runs every job; a router and slots enough for every job; `ledger` is the participant's program.
    pub async fn start(ledger: &Path) -> Result<Self> {
        let (schedulers, folder) = (Schedulers::start(1).await?, tempfile::tempdir()?);
        inner::repository(folder.path(), PICK)?;
        let (slots, models) = (format!("{POOL}=256,{TAKEN}={SLOTS}"), folder.path().display().to_string());
        let worker = schedulers.launch_with("worker", 0, &["--slots", &slots, "--models", &models])?;
        let router = schedulers.launch("router", 0)?;
        let (jobs, caller) = (Client::new(&router.address)?, Caller::new(&router.address)?);
        // These stand on the first worker before there is a second one.
        for model in [PICK, "sleep"] {
            caller.wait_ready(model).await?;
        }
        let held = Held::start(&schedulers, &caller).await?;
        let ledger = ledger.to_owned();
        Ok(Self { schedulers, jobs, ledger, number: 0, held, _others: [worker, router], _folder: folder })
    }

    /// One job for each point, all of them at the same time.
    pub async fn run(&mut self, points: &[Point], blow: Blow) -> Result<Round> {
        let etcd = (blow == Blow::Participant).then(|| self.schedulers.url().to_owned());
        let mut participant = Participant::start(&self.ledger, etcd).await?;
        let first = self.number;
        self.number += points.len();
        let numbered = || points.iter().enumerate().map(|(at, point)| (first + at, point));
        participant.client.plan(numbered().flat_map(|(number, point)| point.faults(number)).collect()).await?;
        let target = participant.port.address().to_string();
        let mut taken = match points.iter().any(|point| point.spot.work == Work::Slots) {
            true => Some(self.take(first).await?),
            false => None,
        };
        let executed = self.held.executed().await?;
        self.held.cut_off(points)?;
        let entries = try_join_all(numbered().map(async |(number, point)| {
            let id = self.jobs.submit(&point.request(number, &target)).await?.id;
            anyhow::Ok(Entry { point, number, id })
        }));
        let entries = entries.await?;
        let fired = self.strike(&mut participant, &entries, (blow, executed)).await?;
        if blow != Blow::None {
            self.give_back(taken.take()).await?;
        }
        let (jobs, mut violations) = self.follow(&participant.client, &entries).await?;
        self.give_back(taken).await?;
        let account = participant.client.account("").await?;
        let fired = fired.unwrap_or(account.fired);
        for (entry, job) in entries.iter().zip(&jobs) {
            let told = Told { number: entry.number, job, effects: &account.effects };
            violations.extend(judge::judge(entry.point, &told));
        }
        let met = entries.iter().zip(&jobs).filter(|(entry, job)| entry.has_met(&fired, job)).count();
        let missed = entries.iter().zip(&jobs).filter(|(entry, job)| !entry.has_met(&fired, job));
        violations.extend(missed.map(|(entry, job)| format!("never met: {}: {:?}", entry.what(), entry.status(job))));
        for prefix in ["slot/", "saga/"] {
            let left = self.schedulers.keys(prefix).await?;
            violations.extend(left.into_iter().map(|key| format!("left behind: {key}")));
        }
        Ok(Round { points: entries.len(), met, violations })
    }

    /// Waits until every job stands at its point, and strikes; what went wrong by then, of which a participant that was killed knows no more.
    async fn strike(
        &mut self,
        participant: &mut Participant,
        entries: &[Entry<'_>],
        (blow, executed): (Blow, u64),
    ) -> Result<Option<Vec<Fired>>> {
        if blow == Blow::None {
            return Ok(None);
        }
        let (calls, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.point.spot.work == Work::Call);
        participant.client.held(u32::try_from(calls.len())?).await?;
        try_join_all(others.iter().map(|entry| self.comes_to(entry, |job| entry.has_begun(job)))).await?;
        self.held.until_executed(executed, entries.iter().map(|entry| entry.point)).await?;
        let fired = participant.client.account("").await?.fired;
        match blow {
            Blow::Participant => participant.crash().await?,
            Blow::Worker => self.held.crash(&self.schedulers)?,
            Blow::Scheduler | Blow::None => self.schedulers.kill(0)?,
        }
        self.held.connect();
        Ok(Some(fired))
    }

    /// Somebody else takes all slots of a pool.
    async fn take(&self, number: usize) -> Result<String> {
        let waits = Step { timeout: Some(duration(2 * PATIENCE)), ..wait("wait", &["take"], "go") };
        let others = definition("others", vec![reserve("take", &[], TAKEN, SLOTS), waits]);
        let id = self.jobs.submit(&request(others, &format!("others-{number}"))).await?.id;
        let has_taken = |job: &Job| status(job, "take").is_ok_and(|take| take.state() == StepState::Done);
        self.jobs.watch(&id, &mut Vec::new(), has_taken).await?;
        Ok(id)
    }

    /// And gives them back.
    async fn give_back(&self, taken: Option<String>) -> Result<()> {
        let Some(id) = taken else { return Ok(()) };
        let signal = SignalJobRequest { id: id.clone(), name: "go".to_owned(), value: None };
        let given =
            until("slots to be given back", async || self.jobs.jobs.clone().signal_job(signal.clone()).await.is_ok());
        given.await?;
        self.jobs.ended(&id).await.map(drop)
    }

    /// The jobs as they ended, those that got stuck with the help of an operator.
    async fn follow(&self, ledger: &ledger::Client, entries: &[Entry<'_>]) -> Result<(Vec<Job>, Vec<String>)> {
        let first = try_join_all(entries.iter().map(async |entry| match entry.point.verb() {
            Some(_) => self.comes_to(entry, |job| entry.is_stuck(job) || has_ended(job)).await,
            None => self.comes_to(entry, has_ended).await,
        }));
        let mut jobs = first.await?;
        let mut violations = self.listed_stuck(entries).await?;
        // What was to go wrong for ever goes well from now on; nobody else is under way.
        ledger.plan(Vec::new()).await?;
        for (entry, job) in entries.iter().zip(&mut jobs) {
            let Some(verb) = entry.point.verb() else { continue };
            violations.extend(judge::stuck(entry.point, &entry.what(), entry.status(job)));
            let told = Told { number: entry.number, job, effects: &[] };
            violations.extend(judge::slots(entry.point, &told, &entry.what()));
            if has_ended(job) {
                violations.push(format!("it ended by itself: {}", entry.what()));
                continue;
            }
            *job = self.resolve(ledger, entry, verb).await.with_context(|| entry.what())?;
        }
        Ok((jobs, violations))
    }

    /// The job as soon as this holds of it.
    async fn comes_to(&self, entry: &Entry<'_>, holds: impl FnMut(&Job) -> bool) -> Result<Job> {
        let mut seen = Vec::new();
        let watch = tokio::time::timeout(PATIENCE, self.jobs.watch(&entry.id, &mut seen, holds)).await;
        // A watch of a job that stands still tells nothing and does not end.
        let outcome = watch.context("it stands still").flatten();
        outcome.with_context(|| format!("{}: {:?}", entry.what(), seen.last()))
    }

    /// Whether a listing of jobs that wait for an operator has those that do.
    async fn listed_stuck(&self, entries: &[Entry<'_>]) -> Result<Vec<String>> {
        let asked = ListJobsRequest { stuck: true, page_size: 1_000, ..ListJobsRequest::default() };
        let mut listed = Vec::new();
        until("a listing", async || match self.jobs.jobs.clone().list_jobs(asked.clone()).await {
            Ok(answer) => {
                listed = answer.into_inner().jobs;
                true
            }
            Err(_) => false,
        })
        .await?;
        let wrong =
            entries.iter().filter(|entry| listed.iter().any(|job| job.id == entry.id) != entry.point.verb().is_some());
        Ok(wrong.map(|entry| format!("stuck, and not listed so, or the other way: {}", entry.what())).collect())
    }

    /// An operator ends a job that is stuck.
    async fn resolve(&self, ledger: &ledger::Client, entry: &Entry<'_>, verb: Verb) -> Result<Job> {
        if let Some(direction) = entry.point.by_hand() {
            let by_hand = Mark { epoch: u64::MAX, ..marked(&entry.key(), direction, FOR_EVER)? };
            ensure!(ledger.deliver(&by_hand).await?, "there is something to do by hand");
        }
        let request = ResolveJobRequest {
            id: entry.id.clone(),
            verb: verb.into(),
            step: if verb == Verb::Skip {
                super::shape::numbered(&entry.point.spot.step, entry.number)
            } else {
                String::new()
            },
            reason: REASON.to_owned(),
            item: entry.point.spot.item.unwrap_or_default(),
        };
        let answer = self.jobs.jobs.clone().resolve_job(request).await?.into_inner();
        let job = answer.job.context("an answer has its job")?;
        match verb {
            Verb::Retry => ensure!(job.stuck.is_empty(), "it is tried again: {job:?}"),
            Verb::Abandon => ensure!(job.failure.contains(REASON), "it says why: {job:?}"),
            _ => {
                let notes = entry.status(&job).map(|status| &status.attempts);
                let is_told = notes.is_some_and(|notes| notes.iter().any(|note| note.message.contains(REASON)));
                ensure!(is_told, "the step says who did it: {job:?}");
            }
        }
        self.comes_to(entry, has_ended).await
    }
}

impl Entry<'_> {
    /// The idempotency key of the call.
    fn key(&self) -> String {
        format!("{}/{}", self.id, self.point.place(self.number))
    }

    fn status<'a>(&self, job: &'a Job) -> Option<&'a StepStatus> {
        let step = super::shape::numbered(&self.point.spot.step, self.number);
        let item = self.point.spot.item.unwrap_or_default();
        job.steps.iter().find(|status| status.name == step && status.item == item)
    }

    /// Whether its step is under way.
    fn has_begun(&self, job: &Job) -> bool {
        self.status(job).is_some_and(|status| status.attempts_total > 0)
    }

    /// Whether it is this step for which the job waits for an operator.
    fn is_stuck(&self, job: &Job) -> bool {
        !job.stuck.is_empty() && self.status(job).is_some_and(|status| status.state() == StepState::Stuck)
    }

    /// Whether all went wrong that should have.
    fn has_met(&self, fired: &[Fired], job: &Job) -> bool {
        let (key, point) = (self.key(), self.point);
        if point.spot.work != Work::Call {
            let attempts = self.status(job).map_or(&[][..], |status| &status.attempts);
            let went_wrong = |attempt: &Attempt| (attempt.outcome.as_str(), attempt.code.as_str()) == point.shown();
            // What stands still was waited for.
            return point.stands() || attempts.iter().any(went_wrong);
        }
        let times = |direction: Direction, kind: FaultKind| {
            let fits =
                |fired: &&Fired| fired.key == key && fired.direction == direction.as_str() && fired.kind() == kind;
            fired.iter().find(fits).map_or(0, |fired| fired.times)
        };
        let met = times(point.direction, point.kind);
        let is_unknown = point.first.is_none_or(|first| times(Direction::Action, first) == 1);
        is_unknown && (met == point.times || point.times == FOR_EVER && met > 0)
    }

    fn what(&self) -> String {
        let Point { shape, direction, kind, times, .. } = self.point;
        format!(
            "{}, {} of {} ({}): {kind:?} {times} times",
            shape.name,
            direction.as_str(),
            self.point.place(self.number),
            self.id
        )
    }
}
