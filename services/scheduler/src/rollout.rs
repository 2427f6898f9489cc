//! The leader's loop that leads models from version to version.
//!
//! Level-triggered: each pass looks at every rollout's record, at the replicas and at the figures since its stage began, and writes what
//! the policy makes of them, under the leader's fence and over what it has read. What it remembers of a stage is only since when it lasts
//! and how often it was judged: a new leader begins the stage's time anew, so that a change of leaders never makes a stage shorter.

mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use weft_client::{Record, Snapshot};
use weft_policy::place::FAIL_FAST_WORKERS;
use weft_policy::rollout::judge::Evidence;
use weft_policy::rollout::{Memory, Phase, Seen, Status, decide};
use weft_proto::weft::control::v1::Rollout;
use weft_proto::weft::state::v1::ReplicaState;
use weft_store::{Commit, Compare, Fence, Op, Revision, Txn};
use weft_types::{ModelName, SystemClock, Version};

use crate::Inner;
use crate::figures::Inquiry;
use crate::observe::offers;
pub(crate) use record::{answers, is_over, is_split, versions};

/// How often the leader looks. It finds little to do: a look at records that have ended costs nothing.
const EVERY: Duration = Duration::from_millis(200);
/// How often it asks for a rollout's figures.
const ASK: Duration = Duration::from_secs(1);
/// How often a record is written for its message alone.
const RETELL: Duration = Duration::from_secs(5);
/// As far back as figures are told.
const LONGEST_WINDOW: Duration = Duration::from_secs(600);

/// The loop and what it remembers.
pub(crate) struct Conductor {
    inner: Arc<Inner>,
    inquiry: Inquiry,
    /// The rollouts that are under way.
    stages: BTreeMap<ModelName, Stage>,
    /// The revision of the last own write, and the term in which that was.
    written: Revision,
    term: Revision,
}

/// What is remembered of a rollout's stage.
struct Stage {
    /// Of which rollout: another one may have taken its place.
    versions: (Version, Version),
    memory: Memory,
    /// What the versions did since the stage began, and when that was asked for.
    figures: Option<Evidence>,
    asked: Option<Instant>,
    told: Instant,
}

impl Conductor {
    pub(crate) const fn new(inner: Arc<Inner>, inquiry: Inquiry) -> Self {
        Self { inner, inquiry, stages: BTreeMap::new(), written: 0, term: 0 }
    }

    /// Looks and writes until cancelled. A write that is cut off here is whole or not there.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let work = async {
            loop {
                if let Err(error) = self.pass().await {
                    tracing::warn!(%error, "rollouts are behind: trying again");
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    /// One look at every rollout, and what follows from it.
    async fn pass(&mut self) -> Result<(), weft_store::Error> {
        let (now, snapshot) = (SystemClock::now(), self.inner.mesh.snapshot());
        let fence = self.inner.fence.borrow().clone().filter(|fence| fence.holds(now));
        let Some(fence) = fence else {
            self.stages.clear();
            return Ok(());
        };
        if fence.create_revision != self.term {
            (self.term, self.written) = (fence.create_revision, 0);
            self.stages.clear();
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
        let stage = match self.stages.remove(model).filter(|stage| stage.versions == versions) {
            Some(stage) => stage,
            None => Stage { versions, memory: Memory::new(now), figures: None, asked: None, told: now },
        };
        let stage = self.stages.entry(model.clone()).or_insert(stage);
        let status = record::status(rollout);
        if status.phase != Phase::Loading && stage.asked.is_none_or(|asked| now.duration_since(asked) >= ASK) {
            stage.asked = Some(now);
            stage.figures = evidence(&mut self.inquiry, model, stage, now).await;
        }
        let counted = Counted::of(&self.inner, snapshot, (model, versions));
        let seen = Seen { figures: stage.figures.clone(), ..counted.seen() };
        let plan = record::plan(rollout.strategy.as_ref().unwrap_or(&Default::default()));
        // Only a stage that was written has begun.
        let mut memory = stage.memory.clone();
        let next = decide(&plan, (record::intent(rollout), &status), &mut memory, &seen, now);
        let only_told = Status { message: status.message.clone(), ..next.clone() } == status;
        if next == status || (only_told && !status.message.is_empty() && now.duration_since(stage.told) < RETELL) {
            stage.memory = memory;
            return Ok(());
        }
        let write = transaction(self.inner.keys.rollout(model), record, &next, fence);
        if let Commit::Done(revision) = self.inner.store.commit(write).await? {
            self.written = self.written.max(revision);
            (stage.memory, stage.told) = (memory, now);
            if !only_told {
                (stage.figures, stage.asked) = (None, None);
                let percent = next.traffic.canary_percent;
                tracing::info!(%model, phase = ?next.phase, percent, why = next.message, "a rollout's stage");
            }
        }
        Ok(())
    }
}

/// Writes a status while the leader leads and the record is as it was read.
fn transaction(key: String, record: &Record<Rollout>, status: &Status, fence: &Fence) -> Txn {
    let value = Rollout { status: Some(record::told(status)), ..record.value.clone() };
    let compares = vec![fence.compare(), Compare::ModRevision(key.clone(), record.mod_revision)];
    Txn { compares, ops: vec![Op::Put { key, value: Bytes::from(value.encode_to_vec()), lease: None }] }
}

/// What both versions did since the stage began; `None` where nobody tells.
async fn evidence(inquiry: &mut Inquiry, model: &ModelName, stage: &Stage, now: Instant) -> Option<Evidence> {
    // Whole seconds, rounded down: a second of the stage before would count calls that were split otherwise.
    let since = now.saturating_duration_since(stage.memory.began).as_secs();
    let window = Duration::from_secs(since).clamp(Duration::from_secs(1), LONGEST_WINDOW);
    let told = inquiry.ask(window, Some(model)).await.ok()?;
    let of = |version: Version| {
        let told = told.iter().find(|told| told.model == model.as_str() && told.version == version.get());
        told.map(record::sample).unwrap_or_default()
    };
    Some(Evidence { stable: of(stage.versions.0), canary: of(stage.versions.1) })
}

/// What the snapshot shows of a rollout's replicas.
struct Counted {
    stable_ready: usize,
    canary_ready: usize,
    failed: Option<String>,
    lacking: Option<String>,
}

impl Counted {
    fn of(inner: &Inner, snapshot: &Snapshot, (model, (stable, canary)): (&ModelName, (Version, Version))) -> Self {
        let is_ready = |version: Version| {
            let ready = snapshot.replicas.iter().filter(move |(key, record)| {
                key.model == *model
                    && key.version == version
                    && record.value.state() == ReplicaState::Ready
                    && snapshot.workers.contains_key(&key.worker)
            });
            ready.count()
        };
        let (stable_ready, canary_ready) = (is_ready(stable), is_ready(canary));
        let healthy = || snapshot.workers.iter().filter(|(_, record)| !record.value.draining);
        let candidates = healthy().filter(|(_, record)| {
            offers(&record.value.offers).get(model).is_some_and(|versions| versions.contains_key(&canary))
        });
        let candidates = candidates.count();
        let failures = inner.note_failures(snapshot, SystemClock::now());
        let failed = failures.iter().filter(|failure| {
            let key = &failure.key;
            key.model == *model
                && key.version == canary
                && snapshot.workers.get(&key.worker).is_some_and(|record| !record.value.draining)
        });
        let failed = failed.count();
        let reason = || inner.failures().reason(model, Some(canary)).unwrap_or_default().to_owned();
        // As placement has it: a version that failed on so many workers and is ready on none is at fault itself.
        let at_fault = canary_ready == 0 && failed > 0 && failed >= FAIL_FAST_WORKERS.min(candidates);
        // With the words that operators read of the model, and only while something is missing: it takes a whole placement.
        let lacking = (canary_ready < stable_ready.max(1)).then(|| inner.unplaced(model, canary)).flatten();
        Self { stable_ready, canary_ready, failed: at_fault.then(reason), lacking }
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            stable_ready: self.stable_ready,
            canary_ready: self.canary_ready,
            failed: self.failed.as_deref(),
            lacking: self.lacking.as_deref(),
            figures: None,
        }
    }
}
