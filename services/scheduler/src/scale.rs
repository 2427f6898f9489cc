//! The leader's look at demand: once a second, and at once when a call waits for a model without a replica, it decides how many
//! replicas models have that follow demand, and writes what has changed.
//!
//! Level-triggered: what is decided stands in a record for each model, placement acts on the records, and a new leader goes on from
//! them. When a model was called last is written coarsely, so that a model which nobody calls goes after a change of leader, too, and no
//! other does.

mod bounds;
mod measured;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use weft_client::Snapshot;
use weft_policy::place::World;
use weft_policy::scale::{IDLE, Scaler};
use weft_store::{Commit, Fence, Revision};
use weft_types::{ModelName, SystemClock};

use crate::Inner;
use crate::place::may_decide;
pub(crate) use bounds::replicas;
use bounds::{bounds, unwakeable};
use measured::Measured;
use record::{begin, changes};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What calls have asked for and what nobody calls, between the loops and the control methods.
#[derive(Default)]
pub(crate) struct Scaling {
    /// Held for a look or a change, never across an await.
    state: Mutex<State>,
    woke: Notify,
    /// Tells that other models than before may give way.
    idle: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Models that calls wait for, and since the last look have asked for. All of them are in the store, which bounds them.
    woken: BTreeMap<ModelName, Instant>,
    /// Models that may give way, and when each was called last.
    idle: BTreeMap<ModelName, Instant>,
    /// Models that shall have a replica, and since when none serves.
    waiting: BTreeMap<ModelName, Instant>,
}

impl Scaling {
    /// A call waits for the model.
    pub(crate) fn wake(&self, model: ModelName, now: Instant) {
        let mut state = self.state();
        state.idle.remove(&model);
        state.woken.insert(model, now);
        drop(state);
        self.woke.notify_one();
    }

    /// Says in `world` what may give way to others, and what waits for how long. What nobody calls and is not there is not brought back for nobody.
    pub(crate) fn mark(&self, world: &mut World, now: Instant) {
        let state = self.state();
        for wanted in &mut world.wanted {
            wanted.waits = state.waiting.get(&wanted.model).map(|since| now.saturating_duration_since(*since));
            let Some(last_call) = state.idle.get(&wanted.model) else { continue };
            wanted.idle = Some(now.saturating_duration_since(*last_call));
            let held = world.holdings.iter().filter(|holding| holding.placed && holding.key.model == wanted.model);
            wanted.replicas = wanted.replicas.min(held.count());
        }
    }

    /// Tells when other models than before may give way.
    pub(crate) fn idle(&self) -> watch::Receiver<()> {
        self.idle.subscribe()
    }

    /// What the newest look has found: models that may give way, and models that wait.
    fn note(&self, idle: BTreeMap<ModelName, Instant>, waiting: BTreeMap<ModelName, Instant>) {
        let mut state = self.state();
        state.waiting = waiting;
        // Who is asked for just now is not idle, whatever was known when the look began.
        let idle: BTreeMap<_, _> = idle.into_iter().filter(|(model, _)| !state.woken.contains_key(model)).collect();
        let changed = !idle.keys().eq(state.idle.keys());
        state.idle = idle;
        drop(state);
        if changed {
            self.idle.send_replace(());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Both maps are whole at any point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leader's loop and what it remembers.
pub(crate) struct Autoscaler {
    inner: Arc<Inner>,
    fence: watch::Receiver<Option<Fence>>,
    models: BTreeMap<ModelName, Scaler>,
    /// The term in which `models` was begun, and the revision of the last own write in it.
    term: Revision,
    written: Revision,
}

impl Autoscaler {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { fence: inner.fence.clone(), inner, models: BTreeMap::new(), term: 0, written: 0 }
    }

    /// Looks and writes until cancelled. A write that is cut off here is whole or not there.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changes = self.inner.mesh.changes();
        loop {
            let pass = tokio::select! {
                () = cancel.cancelled() => return,
                pass = self.pass() => pass,
            };
            let waits = pass.unwrap_or_else(|error| {
                tracing::warn!(%error, "what demand asks for is not written: trying again");
                false
            });
            // Whichever comes first, the next look starts from the newest state, so a cancelled branch loses nothing.
            let gone = tokio::select! {
                () = cancel.cancelled() => true,
                () = self.inner.scaling.woke.notified(), if !waits => false,
                changed = changes.changed(), if waits => changed.is_err(),
                changed = self.fence.changed() => changed.is_err(),
                () = tokio::time::sleep(LOOK) => false,
            };
            if gone {
                return;
            }
        }
    }

    /// One look, and what follows from it. True when it waits for the mesh to show what was written last.
    async fn pass(&mut self) -> Result<bool, weft_store::Error> {
        let (now, snapshot) = (SystemClock::now(), self.inner.mesh.snapshot());
        let fence = self.fence.borrow_and_update().clone();
        let Some(fence) = fence.filter(|fence| fence.holds(now) && snapshot.confirmed.is_some()) else {
            self.models.clear();
            self.term = 0;
            self.inner.scaling.note(BTreeMap::new(), BTreeMap::new());
            return Ok(false);
        };
        if fence.create_revision != self.term {
            (self.term, self.written) = (fence.create_revision, 0);
            self.models.clear();
        }
        if !may_decide(&fence, snapshot.revision, self.written, now) {
            return Ok(true);
        }
        self.look(&snapshot, now);
        for txn in changes(&self.models, &snapshot, &self.inner.keys, (&fence, now)) {
            match self.inner.store.commit(txn).await? {
                Commit::Done(revision) => self.written = self.written.max(revision),
                // The term is over, or the records have changed: news is on its way. Each transaction holds or not by itself.
                Commit::Lost(_) => {}
            }
        }
        Ok(false)
    }

    /// Decides for every model that follows demand, and tells which of them nobody calls.
    fn look(&mut self, snapshot: &Snapshot, now: Instant) {
        let figures = Arc::clone(&self.inner.figures.borrow());
        let measured = Measured::new(&figures, snapshot, now);
        let unwakeable = unwakeable(snapshot);
        let (woken, waited) = {
            let mut state = self.inner.scaling.state();
            (std::mem::take(&mut state.woken), std::mem::take(&mut state.waiting))
        };
        let (mut idle, mut waiting) = (BTreeMap::new(), BTreeMap::new());
        let models = snapshot.models.iter();
        let scaled =
            models.filter_map(|(name, record)| Some((name, bounds(&record.value, unwakeable.contains(name))?)));
        let mut scalers = BTreeMap::new();
        for (name, bounds) in scaled {
            let mut scaler = self
                .models
                .remove(name)
                .unwrap_or_else(|| begin(snapshot.scales.get(name), measured.placed(name), &bounds, now));
            if let Some(at) = woken.get(name) {
                scaler.wake(*at);
            }
            if let Some(at) = measured.last_call(name) {
                scaler.called(at);
            }
            let seen = measured.seen(name);
            let before = scaler.decision().target;
            let decision = scaler.decide(&bounds, &seen, now);
            if decision.target != before {
                tracing::info!(model = %name, replicas = decision.target, before, why = %decision.why, "autoscaled");
            }
            if bounds.min == 0 && seen.calls_known && scaler.idle(now) >= IDLE {
                idle.insert(name.clone(), scaler.last_call());
            }
            if decision.target > 0 && !measured.serves(name) {
                let since = waited.get(name).or_else(|| woken.get(name)).copied();
                waiting.insert(name.clone(), since.unwrap_or(now));
            }
            scalers.insert(name.clone(), scaler);
        }
        self.models = scalers;
        self.inner.scaling.note(idle, waiting);
    }
}
