//! A loaded model version with its queue and its executors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use weft_engine::Model;
use weft_policy::Latency;
use weft_policy::batch::Settings;
use weft_policy::learn::Ahead;
use weft_proto::inference::ModelConfig;
use weft_telemetry::ModelMetrics;
use weft_types::{Error, ModelName, Reason, Result, SystemClock, Version};

use crate::face::Face;
use crate::load::Load;
use crate::preempt::{Executions, Mark};
use crate::quarantine::{Digest, Quarantine};
use crate::queue::{Bands, Limits, Queue, Urgency, Work};
use crate::sequence::Sequences;
use crate::stats::Stats;

/// The lowest band: what a caller asks for beyond it is the same.
const LAST_BAND: u64 = 255;
/// For so long a drain waits for what it has told to end. Only the stream of a caller that does not read takes longer: it is
/// not polled, and so not told, before its deadline.
const ENDING: Duration = Duration::from_secs(1);

/// How a replica is run, from the model's configuration and the worker's options.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Which requests run together.
    pub(crate) batching: Settings,
    /// The band of requests without a priority.
    pub(crate) default_band: u64,
    /// What holds for each band.
    pub(crate) bands: Bands,
    /// Whether answers come in the order of the requests: then one execution runs at once.
    pub(crate) ordered: bool,
    /// Whether the time of an execution follows from its rows, so that a deadline can be refused beforehand.
    pub(crate) predictable: bool,
    pub(crate) limits: Limits,
}

impl Plan {
    /// The band of a request, by the priority that its caller gave: 0 is the model's default.
    pub(crate) fn band(&self, priority: u64) -> u64 {
        self.bands.level(priority).unwrap_or(self.default_band).min(LAST_BAND)
    }
}

/// What a replica is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: ModelName,
    pub(crate) version: Version,
    /// As the repository has it; completed with the signature when it is told.
    pub(crate) config: ModelConfig,
}

/// A loaded version. Dropping the last handle unloads the model.
pub(crate) struct Replica {
    pub(crate) identity: Identity,
    pub(crate) plan: Plan,
    pub(crate) model: Arc<dyn Model>,
    /// What callers see of the model.
    pub(crate) face: Face,
    pub(crate) queue: Arc<Queue>,
    pub(crate) stats: Stats,
    /// What its load reports are made of.
    pub(crate) load: Load,
    pub(crate) metrics: ModelMetrics,
    /// Inputs that are not to be executed, or alone only.
    pub(crate) quarantine: Arc<Quarantine>,
    /// Of a model that carries state from one request to the next.
    pub(crate) stateful: Option<Arc<Sequences>>,
    /// The inputs blamed for the loss of this replica's process, once it is lost: each counts once for each loss.
    // Held for map operations only, never across an await.
    lost: Mutex<Option<BTreeSet<Digest>>>,
    /// One permit for each execution that may run at once.
    permits: Arc<Semaphore>,
    /// How many executions run at once.
    pub(crate) executors: usize,
    running: AtomicUsize,
    /// Those that run, as far as they may be stopped for others.
    pub(crate) executions: Arc<Executions>,
    /// The turn of a language model's sequence that is suspected to end the process.
    suspects: Arc<Semaphore>,
    /// Sequences of a language model, which are not in the queue: counted, so that a drain waits for them, and closed with it.
    pub(crate) sequences: TaskTracker,
    /// Held by each open stream that has asked for it.
    streams: Arc<()>,
    // Held for a look-up or an update, never across an await.
    learned: Mutex<Learned>,
    /// Cancelled when running executions shall be dropped.
    aborting: CancellationToken,
    /// Cancelled when another model needs the room, and what has not begun to answer shall go.
    yielding: CancellationToken,
    /// Cancelled when the executor loop has ended: it takes no more permits.
    ended: CancellationToken,
}

#[derive(Default)]
pub(crate) struct Learned {
    pub(crate) latency: Latency,
    /// The same for each band apart, where the time does not follow from the rows; bounded by the number of bands.
    pub(crate) bands: BTreeMap<u64, Latency>,
    /// When the execution that runs now is expected to end.
    busy_until: Option<Instant>,
}

impl Replica {
    pub(crate) fn new(identity: Identity, plan: Plan, model: Arc<dyn Model>, metrics: ModelMetrics) -> Self {
        let executors = if plan.ordered { 1 } else { model.signature().concurrency.clamp(1, Semaphore::MAX_PERMITS) };
        Self {
            queue: Arc::new(Queue::new(plan.limits, plan.ordered)),
            permits: Arc::new(Semaphore::new(executors)),
            running: AtomicUsize::new(0),
            executions: Arc::default(),
            suspects: Arc::new(Semaphore::new(1)),
            sequences: TaskTracker::new(),
            streams: Arc::default(),
            learned: Mutex::default(),
            aborting: CancellationToken::new(),
            yielding: CancellationToken::new(),
            ended: CancellationToken::new(),
            stats: Stats::default(),
            load: Load::new(SystemClock::now()),
            quarantine: Arc::default(),
            stateful: None,
            lost: Mutex::default(),
            face: Face::new(&identity.config, model.signature()),
            identity,
            plan,
            model,
            metrics,
            executors,
        }
    }

    /// The same with what earlier replicas of the version have taught.
    pub(crate) fn with_quarantine(self, quarantine: Arc<Quarantine>) -> Self {
        Self { quarantine, ..self }
    }

    /// The same for a model that carries state.
    pub(crate) fn with_sequences(self, stateful: Option<Arc<Sequences>>) -> Self {
        Self { stateful, ..self }
    }

    fn lost(&self) -> MutexGuard<'_, Option<BTreeSet<Digest>>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its process is known to be lost: what would begin now could only fail, and would be blamed for it.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost().is_some()
    }

    /// The process is lost. What waits is sent elsewhere; what was being executed learns it from the engine.
    pub(crate) fn lose(&self) {
        self.queue.abandon(&gone());
        self.blame(std::iter::empty());
    }

    /// These were being executed when the process was lost.
    pub(crate) fn blame(&self, inputs: impl Iterator<Item = Digest>) {
        let mut lost = self.lost();
        let blamed = lost.get_or_insert_default();
        let fresh: Vec<Digest> = inputs.filter(|digest| blamed.insert(*digest)).collect();
        drop(lost);
        let now = SystemClock::now();
        for digest in fresh {
            if self.quarantine.blame(digest, now) {
                tracing::warn!(model = %self.identity.name, version = %self.identity.version, "an input is quarantined");
            }
        }
    }

    /// Held by the executor loop: dropped, it tells that the loop takes no more permits.
    pub(crate) fn executing(&self) -> DropGuard {
        self.ended.clone().drop_guard()
    }

    /// Cancelled when the executor loop has ended.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Rows that a request brings: those of its first input, and one where requests are not batched.
    pub(crate) fn rows(&self, inputs: &[weft_engine::Tensor]) -> usize {
        match self.plan.batching.max_batch_rows {
            0 => 1,
            _ => inputs.first().map_or(1, weft_engine::Tensor::rows).max(1),
        }
    }

    /// Waits until one more execution may run; fails never, as the permits are not closed.
    pub(crate) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Waits until nothing else is executed, with this permit and all others.
    pub(crate) async fn alone(&self, mut permit: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let others = u32::try_from(self.executors.saturating_sub(permit.num_permits())).ok()?;
        permit.merge(Arc::clone(&self.permits).acquire_many_owned(others).await.ok()?);
        Some(permit)
    }

    /// Waits until no other suspect's sequence runs.
    pub(crate) async fn suspects_turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.suspects).acquire_owned().await.map_err(|_| gone())?;
        if self.is_lost() { Err(gone()) } else { Ok(turn) }
    }

    pub(crate) fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long until a request of this size would be answered, behind everything that waits where no urgency is given; `None` before that
    /// is known.
    pub(crate) fn estimate(&self, rows: usize, urgency: Option<Urgency>, now: Instant) -> Option<Duration> {
        let ahead = Ahead {
            rows: urgency.map_or_else(|| self.queue.backlog().1, |urgency| self.queue.rows_before(urgency)),
            busy: Duration::ZERO,
            executors: self.executors,
            max_batch_rows: self.plan.batching.max_batch_rows,
            idle: false,
        };
        let learned = self.learned();
        // With several executors it is not known which one ends first: none is assumed to be waited for.
        let busy = learned.busy_until.filter(|_| self.executors == 1).map(|until| until.saturating_duration_since(now));
        learned.latency.estimate(&Ahead { busy: busy.unwrap_or_default(), ..ahead }, rows, now)
    }

    /// The learned time of one row.
    pub(crate) fn expected(&self) -> Option<Duration> {
        self.learned().latency.expect(1, SystemClock::now())
    }

    /// Whether nothing waits and one more execution may run. Such a moment may be over at once: it refuses nobody.
    pub(crate) fn is_idle(&self) -> bool {
        self.running() < self.executors && self.queue.len() == 0
    }

    /// Executions that run now.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Counts an execution as running until the guard is dropped.
    pub(crate) fn execution(self: &Arc<Self>, work: &[Work], permit: OwnedSemaphorePermit, now: Instant) -> Execution {
        let rows = work.iter().map(|work| work.rows).sum();
        let mark = self.mark(work, now);
        self.running.fetch_add(1, Ordering::AcqRel);
        let mut learned = self.learned();
        learned.busy_until = learned.latency.expect(rows, now).and_then(|expected| now.checked_add(expected));
        drop(learned);
        Execution { replica: Arc::clone(self), mark, _permit: permit }
    }

    /// Waits until running executions shall be dropped.
    pub(crate) async fn aborted(&self) {
        self.aborting.cancelled().await;
    }

    /// Takes nothing new, serves what has come, for at most `grace`, and drops what is left then.
    pub(crate) async fn drain(&self, grace: Duration) {
        self.queue.close();
        self.sequences.close();
        let all = u32::try_from(self.executors).unwrap_or(u32::MAX);
        // First the loop, then what it has started: permits are handed out in turn, so asking for all of them while the loop
        // still takes some would get in its way.
        let idle = async || {
            self.ended.cancelled().await;
            drop(self.permits.acquire_many(all).await);
            self.sequences.wait().await;
        };
        if tokio::time::timeout(grace, idle()).await.is_err() {
            tracing::warn!(model = %self.identity.name, version = %self.identity.version, "calls outlived the drain");
            self.abandon();
            if tokio::time::timeout(ENDING, idle()).await.is_err() {
                tracing::warn!(model = %self.identity.name, version = %self.identity.version, "calls outlived their end");
            }
        }
    }

    /// Takes nothing new that can be sent elsewhere, and gives up what waits of that and, at its next yield point, what runs: callers are told. Not
    /// what may not be stopped, nor what came on a stream, carries state or has begun to answer: a drain waits for that. Returns whether nobody
    /// needs to be warned before that.
    pub(crate) fn give_way(&self) -> bool {
        if self.stateful.is_some() {
            return false;
        }
        self.yielding.cancel();
        self.queue.give_way(&unloading());
        self.executions.give_way();
        Arc::strong_count(&self.streams) == 1
    }

    /// What a stream holds that has asked for this replica, for as long as it is open.
    pub(crate) fn stream(&self) -> Arc<()> {
        Arc::clone(&self.streams)
    }

    /// Waits until the replica gives way to another model.
    pub(crate) async fn gives_way(&self) {
        self.yielding.cancelled().await;
    }

    /// Ends everything at once: callers are told to go elsewhere.
    pub(crate) fn abandon(&self) {
        self.queue.abandon(&unloading());
        self.aborting.cancel();
    }
}

/// Why a request is not executed on a replica whose process is lost.
pub(crate) fn gone() -> Error {
    Error::new(Reason::NoReadyReplica, "the model's process was lost: it is loaded again")
}

/// Why a request is not executed on a replica that goes.
pub(crate) fn unloading() -> Error {
    Error::new(Reason::Draining, "the replica is being unloaded")
}

/// A running execution: it gives back its permit when dropped.
pub(crate) struct Execution {
    pub(crate) replica: Arc<Replica>,
    pub(crate) mark: Mark,
    // Given back last: who gets it finds the execution gone.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.replica.learned().busy_until = None;
        self.replica.running.fetch_sub(1, Ordering::AcqRel);
    }
}
