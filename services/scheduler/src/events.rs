//! What happened, for operators: told by the leader, kept in the store for some hours, listed by every scheduler.
//!
//! Level-triggered like everything here: each pass looks at what is odd now ([`findings`]) and tells what the [`ledger`] has
//! not told yet. An event's key names what it tells, and is only ever created, under the leader's fence: a leader that takes
//! over repeats nothing, and a leader of the past tells nothing. What cannot be written, as in a store that is full, the
//! leader keeps in memory ([`Untold`]) and lists all the same.
//!
//! What the leader does is no state that can be looked at later. Its [`moves`] are told in the transaction that carries them out
//! ([`telling`]), so that a leader that is killed loses no event of them. What else occurs (its own election, the end of a cordon, and
//! moves whose events the store did not take) waits in a queue ([`Occurred`]) for the next pass, and is lost with a leader that is killed
//! before that. All who tell share one [`Register`] of what was told.

mod feed;
mod findings;
mod ledger;
mod listing;
mod moves;
mod occurred;
mod place;
mod register;
mod rollouts;
mod scaled;
mod standing;
mod stream;
mod telling;
#[cfg(test)]
mod tests;
mod untold;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_store::{Commit, Compare, Error, Fence, Op, Txn};
use weft_types::{Backoff, SystemClock};

use crate::Inner;
pub(crate) use feed::{Feed, follow};
use findings::{Silence, of_snapshot, of_store};
use ledger::Due;
pub(crate) use moves::{Batch, batches};
pub(crate) use occurred::Occurred;
pub(crate) use register::Register;
use standing::{Cordoned, of_cordons, of_unplaced};
pub(crate) use stream::EventStream;
pub(crate) use telling::Telling;
pub(crate) use untold::Untold;

/// How often the store's members are asked how they are.
const LOOK: Duration = Duration::from_secs(10);
/// Between the first two attempts to write after a failure.
const LEAST_BACKOFF: Duration = Duration::from_millis(100);

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Another one leads.
    Idle,
    /// Everything found is told.
    Told,
    /// The leadership is over, or somebody has told some of it: the ledger must be read again.
    Lost,
}

/// The leader's loop and what it remembers.
pub(crate) struct Herald {
    inner: Arc<Inner>,
    fence: watch::Receiver<Option<Fence>>,
    silence: Silence,
    /// What was found about the store at the last look, and when the next one is due.
    store: Vec<findings::Finding>,
    next_look: Instant,
    /// Whether the last pass was a leader's.
    led: bool,
    /// The last own election that was told.
    elected: Option<i64>,
    /// The cordons of the last look.
    cordoned: Cordoned,
}

impl Herald {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let fence = inner.fence.clone();
        Self::under(inner, fence)
    }

    /// A herald that leads while `fence` says so.
    pub(crate) fn under(inner: Arc<Inner>, fence: watch::Receiver<Option<Fence>>) -> Self {
        Self {
            inner,
            fence,
            silence: Silence::default(),
            store: Vec::new(),
            next_look: SystemClock::now(),
            led: false,
            elected: None,
            cordoned: Cordoned::default(),
        }
    }

    /// Looks and tells until cancelled. An event whose write is cut off here is there or is told by the next leader.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut changes = self.inner.mesh.changes();
        let mut backoff = Backoff::new(LEAST_BACKOFF, LOOK);
        loop {
            let pass = tokio::select! {
                () = cancel.cancelled() => return,
                pass = self.pass() => pass,
            };
            if let Err(error) = &pass {
                tracing::warn!(%error, "events are behind: trying again");
            }
            let pass = pass.unwrap_or(Pass::Lost);
            let until_look = self.next_look.saturating_duration_since(SystemClock::now());
            let wait = rest(pass, until_look, &mut backoff, rand::random());
            // Whichever comes first, the next pass looks at everything anew, so a cancelled branch loses nothing. The mesh
            // changes all the time: it must neither cut a backoff short nor wake one who does not lead.
            let gone = tokio::select! {
                () = cancel.cancelled() => true,
                changed = changes.changed(), if pass == Pass::Told => changed.is_err(),
                changed = self.fence.changed() => changed.is_err(),
                () = self.inner.occurred.news(), if pass == Pass::Told => false,
                () = tokio::time::sleep(wait) => false,
            };
            if gone {
                return;
            }
        }
    }

    pub(crate) async fn pass(&mut self) -> Result<Pass, Error> {
        let fence = self.fence.borrow_and_update().clone();
        let Some(fence) = fence.filter(|fence| fence.holds(SystemClock::now())) else {
            if std::mem::take(&mut self.led) {
                self.inner.register.close().await;
                self.inner.untold.clear();
                self.inner.occurred.clear();
                self.cordoned = Cordoned::default();
            }
            return Ok(Pass::Idle);
        };
        self.led = true;
        if SystemClock::now() >= self.next_look {
            self.look_at_the_store().await;
        }
        let snapshot = self.inner.mesh.snapshot();
        let mut found = self.store.clone();
        found.extend(of_snapshot(&snapshot, self.inner.keys.root()));
        found.extend(of_cordons(&snapshot));
        found.extend(rollouts::of_rollouts(&snapshot));
        found.extend(scaled::of_scales(&snapshot, SystemClock::wall()));
        found.extend(of_unplaced(&self.inner.unplaced.borrow()));
        self.inner.occurred.extend(self.cordoned.observe(&snapshot));
        let hour = hour_now();
        // Even when nothing is found: what was told before and is over now would otherwise not be news when it comes again.
        let due = self.inner.register.open(&self.inner, fence.create_revision, hour).await?.ledger.due(&found, hour);
        if self.elected.replace(fence.create_revision) != Some(fence.create_revision) {
            self.inner.occurred.extend([standing::elected(&self.inner.options.id, fence.create_revision)]);
        }
        self.inner.untold.keep(&due, &self.inner.options.id, SystemClock::wall());
        if self.tell_occurred(hour, &fence).await? == Pass::Lost {
            return Ok(Pass::Lost);
        }
        for due in due {
            if let Commit::Lost(_) = self.tell(&due, hour, &fence).await? {
                // Nothing else under this fence and ledger would fare better.
                self.inner.register.close().await;
                return Ok(Pass::Lost);
            }
        }
        Ok(Pass::Told)
    }

    /// Tells what was done since the last pass. What is not written stays in the queue.
    async fn tell_occurred(&mut self, hour: u64, fence: &Fence) -> Result<Pass, Error> {
        while let Some(finding) = self.inner.occurred.first() {
            let page = self.inner.register.open(&self.inner, fence.create_revision, hour).await?;
            let due = page.ledger.occurrences(&[finding], &mut page.ledger.counts(hour)).pop();
            drop(page);
            if let Some(due) = due
                && let Commit::Lost(_) = self.tell(&due, hour, fence).await?
            {
                self.inner.register.close().await;
                return Ok(Pass::Lost);
            }
            self.inner.occurred.told();
        }
        Ok(Pass::Told)
    }

    async fn look_at_the_store(&mut self) {
        let members = self.inner.store_members().await;
        let silent = self.silence.observe(&members);
        self.store = of_store(&members, &silent);
        self.next_look = SystemClock::now() + LOOK;
    }

    async fn tell(&self, due: &Due, hour: u64, fence: &Fence) -> Result<Commit, Error> {
        let Inner { store, register, untold, keys, options, .. } = &*self.inner;
        let event = untold.get(&due.id).unwrap_or_else(|| due.event(&options.id, SystemClock::wall()));
        let lease = register.lease(&**store, hour).await?;
        let key = keys.event(hour, &due.id);
        let unwritten = Compare::CreateRevision(key.clone(), 0);
        let put = Op::Put { key, value: Bytes::from(event.encode_to_vec()), lease: Some(lease) };
        let commit = store.commit(Txn { compares: vec![fence.compare(), unwritten], ops: vec![put] }).await;
        match commit {
            Ok(Commit::Done(_)) => {
                register.told(std::slice::from_ref(due), hour).await;
                untold.written(&due.id);
            }
            Err(Error::LeaseLost(lease)) => register.lost(lease).await,
            Ok(Commit::Lost(_)) | Err(_) => {}
        }
        commit
    }
}

/// How long to rest after a pass. Only the fence, whose change wakes it anyway, matters to one who does not lead.
fn rest(pass: Pass, until_look: Duration, backoff: &mut Backoff, unit: f64) -> Duration {
    match pass {
        Pass::Idle => LOOK,
        Pass::Told => {
            backoff.reset();
            until_look.max(LEAST_BACKOFF)
        }
        Pass::Lost => backoff.next(unit),
    }
}

/// Hours since 1970.
fn hour_now() -> u64 {
    SystemClock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs() / 3600
}
