//! The leader's loop that leads models from version to version.
//!
//! Level-triggered: each pass looks at every rollout's record, at the replicas and at the figures since its stage began, and writes what
//! the policy makes of them, under the leader's fence and over what it has read. What it remembers of a stage is only since when it lasts,
//! what was told of it and how often it was judged: a new leader begins the stage's time anew, so that a change of leaders never makes a
//! stage shorter. A stage is the one that the record shows, whether or not the answer to its write came back.
//!
//! Figures are asked for beside the passes: a metrics service that does not answer holds up nothing.

mod counted;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use weft_client::{Record, Snapshot};
use weft_policy::rollout::judge::Evidence;
use weft_policy::rollout::{Gathered, Memory, Phase, Seen, Status, decide};
use weft_proto::weft::control::v1::Rollout;
use weft_proto::weft::metrics::v1::ModelSummary;
use weft_store::{Commit, Compare, Fence, Op, Revision, Txn};
use weft_types::{ModelName, SystemClock, Version};

use crate::Inner;
use crate::figures::Inquiry;
use counted::Counted;
pub(crate) use record::{answers, is_over, is_split, versions};

/// How often the leader looks. It finds little to do: a look at records that have ended costs nothing.
const EVERY: Duration = Duration::from_millis(200);
/// How often it asks for a rollout's figures.
const ASK: Duration = Duration::from_secs(1);
/// Figures that are older than this are not those of now.
const FRESH: Duration = Duration::from_secs(5);
/// Questions that are under way at once; further rollouts are asked about as these are answered.
const QUESTIONS: usize = 64;
/// How often a record is written for its message alone.
const RETELL: Duration = Duration::from_secs(5);

/// The loop and what it remembers.
pub(crate) struct Conductor {
    inner: Arc<Inner>,
    inquiry: Inquiry,
    /// The rollouts that are under way.
    stages: BTreeMap<ModelName, Stage>,
    /// At most one for each of them.
    questions: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// The revision of the last own write, and the term in which that was.
    written: Revision,
    term: Revision,
}

/// What is remembered of a rollout's stage.
struct Stage {
    which: Which,
    memory: Memory,
    /// What the versions did since the stage began.
    gathered: Gathered,
    /// When that was last told, or the stage began; `None` where the last question had no answer.
    heard: Option<Instant>,
    /// When it was last asked for, and whether that is still to be answered.
    asked: Option<Instant>,
    waits: bool,
    /// When the record was last written.
    told: Instant,
}

/// Which stage of which rollout.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Which {
    versions: (Version, Version),
    begin_revision: Revision,
    phase: Phase,
    step: usize,
}

/// What a question about a stage's figures came to.
struct Answer {
    model: ModelName,
    which: Which,
    window: Duration,
    /// `None` where nobody tells.
    evidence: Option<Evidence>,
}

impl Stage {
    fn new(which: Which, now: Instant) -> Self {
        let (memory, gathered) = (Memory::new(now), Gathered::new(now));
        Self { which, memory, gathered, heard: Some(now), asked: None, waits: false, told: now }
    }

    /// Over which window its figures are to be asked for now, if they are.
    fn asks(&self, now: Instant) -> Option<Duration> {
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK);
        self.gathered.window(now).filter(|_| due && !self.waits && self.which.phase != Phase::Loading)
    }

    /// Whether its figures are those of now.
    fn is_known(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < FRESH)
    }
}

impl Conductor {
    pub(crate) fn new(inner: Arc<Inner>, inquiry: Inquiry) -> Self {
        let (stages, questions) = (BTreeMap::new(), FuturesUnordered::new());
        Self { inner, inquiry, stages, questions, written: 0, term: 0 }
    }

    /// Looks and writes until cancelled. A write that is cut off here is whole or not there.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let work = async {
            loop {
                if let Err(error) = self.pass().await {
                    tracing::warn!(%error, "rollouts are behind: trying again");
                }
                self.ask(SystemClock::now());
                self.rest().await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    /// Rests until the next pass, and takes in what is answered meanwhile.
    async fn rest(&mut self) {
        let mut rest = std::pin::pin!(tokio::time::sleep(EVERY));
        loop {
            // An answer that is not taken here waits for the next rest.
            tokio::select! {
                () = &mut rest => return,
                Some(answer) = self.questions.next() => self.hear(answer, SystemClock::now()),
            }
        }
    }

    /// One look at every rollout, and what follows from it.
    async fn pass(&mut self) -> Result<(), weft_store::Error> {
        let (now, snapshot) = (SystemClock::now(), self.inner.mesh.snapshot());
        let fence = self.inner.fence.borrow().clone().filter(|fence| fence.holds(now));
        let Some(fence) = fence else {
            self.forget();
            return Ok(());
        };
        if fence.create_revision != self.term {
            (self.term, self.written) = (fence.create_revision, 0);
            self.forget();
        }
        // A snapshot from before the last own write would lead to the same decision again.
        if snapshot.confirmed.is_none() || snapshot.revision < self.written.max(fence.create_revision) {
            return Ok(());
        }
        let under_way = |model: &ModelName| snapshot.rollouts.get(model).is_some_and(|record| !is_over(&record.value));
        self.stages.retain(|model, _| under_way(model));
        for (model, record) in snapshot.rollouts.iter().filter(|(_, record)| !is_over(&record.value)) {
            self.lead(&snapshot, (model, record), &fence, now).await?;
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.stages.clear();
        self.questions.clear();
    }

    /// Decides on one rollout.
    async fn lead(
        &mut self,
        snapshot: &Snapshot,
        (model, record): (&ModelName, &Record<Rollout>),
        fence: &Fence,
        now: Instant,
    ) -> Result<(), weft_store::Error> {
        let rollout = &record.value;
        // One that cannot be meant is nobody's to decide on.
        let Some(versions) = record::pair(rollout) else { return Ok(()) };
        let status = record::status(rollout);
        let which = Which { versions, begin_revision: rollout.begin_revision, phase: status.phase, step: status.step };
        let known = self.stages.remove(model).filter(|stage| stage.which == which);
        let stage = self.stages.entry(model.clone()).or_insert(known.unwrap_or_else(|| Stage::new(which, now)));
        let (figures, lately) = match stage.is_known(now) {
            true => (Some(stage.gathered.whole()), stage.gathered.lately()),
            false => (None, None),
        };
        let counted = Counted::of(&self.inner, snapshot, (model, versions));
        let seen = Seen { figures, lately, ..counted.seen() };
        let plan = record::plan(rollout.strategy.as_ref().unwrap_or(&Default::default()));
        let next = decide(&plan, (record::intent(rollout), &status), &mut stage.memory, &seen, now);
        let only_told = Status { message: status.message.clone(), ..next.clone() } == status;
        if next == status || (only_told && !status.message.is_empty() && now.duration_since(stage.told) < RETELL) {
            return Ok(());
        }
        let key = self.inner.keys.rollout(model);
        let unchanged = snapshot.unchanged(key.clone(), Some(record.mod_revision));
        let write = transaction(key, (&record.value, unchanged), &next, fence);
        if let Commit::Done(revision) = self.inner.store.commit(write).await? {
            self.written = self.written.max(revision);
            stage.told = now;
            if !only_told {
                let percent = next.traffic.canary_percent;
                tracing::info!(%model, phase = ?next.phase, percent, why = next.message, "a rollout's stage");
            }
        }
        Ok(())
    }

    /// Asks for the figures that are due.
    fn ask(&mut self, now: Instant) {
        // Who was not asked for longest comes first: there may be more than are asked about at once.
        let mut stages: Vec<_> = self.stages.iter_mut().collect();
        stages.sort_by_key(|(_, stage)| stage.asked);
        for (model, stage) in stages {
            let Some(window) = stage.asks(now).filter(|_| self.questions.len() < QUESTIONS) else { continue };
            (stage.asked, stage.waits) = (Some(now), true);
            let (model, which, told) = (model.clone(), stage.which, self.inquiry.ask(window, Some(model)));
            let question = async move {
                let evidence = told.await.ok().map(|told| evidence(&told, &model, which.versions));
                Answer { model, which, window, evidence }
            };
            self.questions.push(question.boxed());
        }
    }

    /// Takes in what is told of a stage, unless it is over.
    fn hear(&mut self, answer: Answer, now: Instant) {
        let Answer { model, which, window, evidence } = answer;
        let Some(stage) = self.stages.get_mut(&model).filter(|stage| stage.which == which) else { return };
        (stage.waits, stage.heard) = (false, evidence.is_some().then_some(now));
        if let Some(evidence) = evidence {
            stage.gathered.tell(evidence, window, now);
        }
    }
}

/// Writes a status while the leader leads and the record is as it was read.
fn transaction(key: String, (rollout, unchanged): (&Rollout, Compare), status: &Status, fence: &Fence) -> Txn {
    let value = Rollout { status: Some(record::told(status)), ..rollout.clone() };
    let compares = vec![fence.compare(), unchanged];
    Txn { compares, ops: vec![Op::Put { key, value: Bytes::from(value.encode_to_vec()), lease: None }] }
}

/// What both versions did.
fn evidence(told: &[ModelSummary], model: &ModelName, (stable, canary): (Version, Version)) -> Evidence {
    let of = |version: Version| {
        let told = told.iter().find(|told| told.model == model.as_str() && told.version == version.get());
        told.map(record::sample).unwrap_or_default()
    };
    Evidence { stable: of(stable), canary: of(canary) }
}
