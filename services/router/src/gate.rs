//! The calls of this router to one model version: those under way, and those that wait for their turn.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tonic::Code;
use weft_policy::admit::{self, Asked, Band, Key, Limit, Line, Place, Refusal, Sample};
use weft_proto::duration;
use weft_proto::orca::Load;
use weft_proto::weft::router::v1::Admission;
use weft_telemetry::AdmissionMetrics;
use weft_types::{Deadline, Error, Reason, Result, SystemClock};

use crate::room::{Room, Taken};

/// The bounds of the wait that callers are told who are refused.
const PUSHBACK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));
/// One that waits, in the word that counts both.
const WAITING: u64 = 1 << 32;

pub(crate) struct Gate {
    /// Calls under way in the lower half, those that wait in the upper: in one word, so that a call that ends sees who began to wait
    /// before it, and one that begins to wait sees who ended before it.
    word: AtomicU64,
    /// Calls under way by band. One is counted here after it was in the word and leaves before: who is counted to wait in the word sees
    /// here who ended before that, and at worst a few calls fewer than there are.
    bands: [AtomicU32; Band::ALL.len()],
    limit: AtomicU32,
    replicas: AtomicU32,
    /// What a replica told last, two `f32`: the wait in seconds above, its fullness below; no numbers until one has.
    told: AtomicU64,
    /// Taken only while calls wait, for map operations and never across an await.
    state: Mutex<State>,
    metrics: AdmissionMetrics,
}

struct State {
    limit: Limit,
    /// Made when the first call waits.
    line: Option<Line<Waiter>>,
}

/// A call that waits.
struct Waiter {
    turn: oneshot::Sender<Result<Permit>>,
    band: Band,
    since: Instant,
    deadline: Deadline,
    _room: Taken,
}

/// A call's place among those under way. Dropping it gives it to the next.
#[must_use = "the place is given back when this is dropped"]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    band: Band,
    began: Instant,
    deadline: Deadline,
    is_good: Option<bool>,
}

/// A call's turn, to be waited for. Dropping it takes the call out of the line.
pub(crate) struct Turn {
    gate: Arc<Gate>,
    /// None once the turn has come.
    key: Option<Key>,
    turn: oneshot::Receiver<Result<Permit>>,
}

/// What is to be told to calls after the lock is given back: dropping a permit takes it again.
#[derive(Default)]
struct Told {
    granted: Vec<(Waiter, Permit)>,
    late: Vec<Waiter>,
}

const NOTHING: u64 = pack(f32::NAN, f32::NAN);

const fn pack(above: f32, below: f32) -> u64 {
    (above.to_bits() as u64) << 32 | below.to_bits() as u64
}

const fn in_flight(word: u64) -> u32 {
    word as u32
}

const fn waiting(word: u64) -> u32 {
    (word >> 32) as u32
}

impl Gate {
    pub(crate) fn new(metrics: AdmissionMetrics, now: Instant) -> Self {
        let limit = Limit::new(1, now);
        Self {
            word: AtomicU64::new(0),
            bands: Default::default(),
            limit: AtomicU32::new(limit.calls()),
            replicas: AtomicU32::new(1),
            told: AtomicU64::new(NOTHING),
            state: Mutex::new(State { limit, line: None }),
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a call, if there is one and nobody waits who is as urgent.
    pub(crate) fn try_enter(self: &Arc<Self>, band: Band, deadline: Deadline, now: Instant) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Relaxed);
        let enter = |word: u64| (waiting(word) == 0 && in_flight(word) < limit).then(|| word + 1);
        let entered = self.word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).is_ok() || self.pass(band);
        entered.then(|| self.permit(band, deadline, now))
    }

    /// Takes a place beside calls that are less urgent, if only those are in the way.
    fn pass(&self, band: Band) -> bool {
        if !self.is_open_to(band, self.limit.load(Ordering::Relaxed)) {
            return false;
        }
        let state = self.lock();
        let is_first = state.line.as_ref().is_none_or(|line| !line.has_from(band));
        let passes = is_first && self.is_open_to(band, state.limit.calls());
        self.word.fetch_add(u64::from(passes), Ordering::AcqRel);
        passes
    }

    fn is_open_to(&self, band: Band, limit: u32) -> bool {
        admit::open_to(limit, self.under_way()).is_some_and(|lowest| band <= lowest)
    }

    fn under_way(&self) -> [u32; Band::ALL.len()] {
        self.bands.each_ref().map(|calls| calls.load(Ordering::Acquire))
    }

    /// The permit of a call that is counted in the word.
    fn permit(self: &Arc<Self>, band: Band, deadline: Deadline, began: Instant) -> Permit {
        self.bands[band as usize].fetch_add(1, Ordering::AcqRel);
        Permit { gate: Arc::clone(self), band, began, deadline, is_good: None }
    }

    /// Whether calls wait.
    pub(crate) fn is_busy(&self) -> bool {
        waiting(self.word.load(Ordering::Relaxed)) > 0
    }

    /// Takes a call into the line, or says at once why not.
    pub(crate) fn wait(self: &Arc<Self>, asked: Asked, bytes: usize, room: &Arc<Room>, now: Instant) -> Result<Turn> {
        let target_wait = room.target_wait;
        let (room, missing) = room.take(bytes);
        let (sender, turn) = oneshot::channel();
        let Asked { band, deadline, .. } = asked;
        let waiter = Waiter { turn: sender, band, since: now, deadline, _room: room };
        let mut told = Told::default();
        let (Place { outcome, displaced }, wait) = {
            let mut state = self.lock();
            let places = state.limit.calls();
            let line = state.line.get_or_insert_with(|| Line::new(target_wait, places, now));
            let place = line.push(asked, (waiter, bytes), missing, now);
            let (came, went) = (u64::from(place.outcome.is_ok()), place.displaced.len() as u64);
            let wait = line.wait();
            self.word.fetch_add((came * WAITING).wrapping_sub(went * WAITING), Ordering::AcqRel);
            // Those who ended before this call was counted did not see it.
            self.serve(&mut state, &mut told, now);
            (place, wait)
        };
        told.tell(self);
        displaced.into_iter().for_each(|waiter| self.refuse(waiter, Refusal::Full, wait));
        match outcome {
            Ok(key) => {
                self.metrics.add_queued(band.as_str(), 1);
                Ok(Turn { gate: Arc::clone(self), key: Some(key), turn })
            }
            Err((refusal, _)) => {
                self.metrics.record_shed(band.as_str(), refusal.as_str());
                Err(refused(refusal, wait))
            }
        }
    }

    /// Gives free places to those that wait.
    fn serve(self: &Arc<Self>, state: &mut State, told: &mut Told, now: Instant) {
        let (limit, Some(line)) = (state.limit.calls(), &mut state.line) else { return };
        // While somebody waits, nobody as urgent enters but here.
        while !line.is_empty()
            && let Some(lowest) = admit::open_to(limit, self.under_way())
        {
            let late = told.late.len();
            let next = line.pop(lowest, &mut told.late, now);
            let went = (told.late.len() - late) as u64 + u64::from(next.is_some());
            if went == 0 {
                // Only the less urgent wait.
                break;
            }
            let change = u64::from(next.is_some()).wrapping_sub(went * WAITING);
            self.word.fetch_add(change, Ordering::AcqRel);
            told.granted.extend(next.map(|waiter| {
                let permit = self.permit(waiter.band, waiter.deadline, now);
                (waiter, permit)
            }));
        }
    }

    /// A call has ended.
    fn leave(self: &Arc<Self>, permit: &Permit) {
        self.bands[permit.band as usize].fetch_sub(1, Ordering::AcqRel);
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        if waiting(before) == 0 {
            return;
        }
        let now = SystemClock::now();
        let expired = || permit.deadline.expired(now).then_some(false);
        let mut told = Told::default();
        {
            let mut state = self.lock();
            if let Some(is_good) = permit.is_good.or_else(expired) {
                let told = self.told.load(Ordering::Relaxed);
                let [wait, load] = [told >> 32, told].map(|half| Some(f32::from_bits(half as u32)));
                let sample = Sample { began: permit.began, in_flight: in_flight(before), is_good, wait, load };
                let before = state.limit.calls();
                state.limit.observe(&sample, now);
                self.note_limit(&state.limit);
                if state.limit.calls() > before {
                    let places = state.limit.calls();
                    state.line.iter_mut().for_each(|line| line.forget_pace(places));
                }
            }
            self.serve(&mut state, &mut told, now);
        }
        told.tell(self);
    }

    fn note_limit(&self, limit: &Limit) {
        if self.limit.swap(limit.calls(), Ordering::Relaxed) != limit.calls() {
            self.metrics.record_limit(limit.calls());
        }
    }

    /// A replica has told of its load.
    pub(crate) fn hear(&self, load: &Load) {
        let told = |value: Option<f64>| value.map_or(f32::NAN, |value| value as f32);
        let packed = pack(told(load.wait_ms.map(|wait| wait / 1e3)), told(load.fullness));
        if packed != NOTHING {
            self.told.store(packed, Ordering::Relaxed);
        }
    }

    /// There are so many replicas now.
    pub(crate) fn resize(self: &Arc<Self>, replicas: usize, now: Instant) {
        let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
        if self.replicas.swap(replicas, Ordering::Relaxed) == replicas {
            return;
        }
        let mut told = Told::default();
        {
            let mut state = self.lock();
            state.limit.resize(replicas, now);
            self.note_limit(&state.limit);
            self.serve(&mut state, &mut told, now);
        }
        told.tell(self);
    }

    /// A call waits no longer.
    fn forget(&self, key: &Key) {
        let gone = {
            let mut state = self.lock();
            let gone = state.line.as_mut().and_then(|line| line.remove(key, SystemClock::now()));
            self.word.fetch_sub(u64::from(gone.is_some()) * WAITING, Ordering::AcqRel);
            gone
        };
        drop(gone);
    }

    fn refuse(&self, waiter: Waiter, refusal: Refusal, wait: Duration) {
        self.metrics.record_shed(waiter.band.as_str(), refusal.as_str());
        let error = if refusal == Refusal::Infeasible { too_late() } else { refused(refusal, wait) };
        // Whoever has gone meanwhile needs no answer.
        let _ = waiter.turn.send(Err(error));
    }

    /// What is told of it.
    pub(crate) fn view(&self) -> Admission {
        let word = self.word.load(Ordering::Relaxed);
        let state = self.lock();
        let of = |band| state.line.as_ref().map_or(0, |line| line.of_band(band) as u32);
        Admission {
            limit: self.limit.load(Ordering::Relaxed),
            in_flight: in_flight(word),
            critical: of(Band::Critical),
            default: of(Band::Default),
            sheddable: of(Band::Sheddable),
            wait: state.line.as_ref().map(|line| duration(line.wait().min(Duration::from_secs(86_400)))),
            stands: state.line.as_ref().is_some_and(Line::stands),
        }
    }
}

/// What a caller is told whose turn has not come in time.
pub(crate) fn too_late() -> Error {
    Error::new(Reason::DeadlineInQueue, "the deadline was near before it was the call's turn")
}

/// What a caller is told who is refused when it comes.
fn refused(refusal: Refusal, wait: Duration) -> Error {
    // By then about what waits now has been served.
    let wait = wait.clamp(PUSHBACK.0, PUSHBACK.1);
    match refusal {
        Refusal::Full => Error::new(Reason::QueueFull, "too many calls wait for the model").retry_after(wait),
        Refusal::Shed => Error::new(Reason::Overloaded, "the model is overloaded").retry_after(wait),
        Refusal::Infeasible => Error::new(Reason::DeadlineInfeasible, "the call's turn would come too late"),
    }
}

impl Told {
    fn tell(self, gate: &Gate) {
        for (waiter, permit) in self.granted {
            gate.metrics.record_wait(waiter.band.as_str(), permit.began.saturating_duration_since(waiter.since));
            // Whoever has gone meanwhile gives its place to the next.
            let _ = waiter.turn.send(Ok(permit));
        }
        self.late.into_iter().for_each(|waiter| gate.refuse(waiter, Refusal::Infeasible, Duration::ZERO));
    }
}

impl Permit {
    /// The call has ended with this code. One that its caller gave up, or that failed for what it was, tells nothing of the load.
    pub(crate) fn end(mut self, code: Code) {
        self.is_good = match code {
            Code::Ok => Some(true),
            Code::DeadlineExceeded | Code::ResourceExhausted => Some(false),
            _ => None,
        };
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        Arc::clone(&self.gate).leave(self);
    }
}

impl Future for Turn {
    type Output = Result<Permit>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(turn) = Pin::new(&mut self.turn).poll(context) else { return Poll::Pending };
        self.end();
        Poll::Ready(turn.unwrap_or_else(|_| Err(Error::new(Reason::Draining, "the router is shutting down"))))
    }
}

impl Turn {
    /// The key of the call, if it still counts as one that waits.
    fn end(&mut self) -> Option<Key> {
        let key = self.key.take()?;
        self.gate.metrics.add_queued(key.band().as_str(), -1);
        Some(key)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(key) = self.end() {
            self.gate.forget(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    /// A call has ended, and has not yet come to the lock under which its place is given to those who wait: it is theirs already.
    // What it uses is named within: benchmarks take this file as it is, without its tests.
    #[test]
    fn a_place_that_is_just_given_back_is_not_taken_from_who_waits() {
        use futures_util::FutureExt as _;
        use weft_telemetry::Scope;
        use weft_types::Version;

        use super::*;

        let now = SystemClock::now();
        let deadline = Deadline::after(now, Duration::from_secs(3_600));
        let version = Version::new(1).expect("not zero");
        let metrics = Scope::disabled().metrics().admission(&"m".parse().expect("a name"), version);
        let gate = Arc::new(Gate::new(metrics, now));
        let room = Arc::new(Room::new(10, 1_000, Duration::from_millis(25)));
        let enter = |band| gate.try_enter(band, deadline, now);
        let mut held: Vec<Permit> = std::iter::from_fn(|| enter(Band::Default)).collect();
        let asked = Asked { band: Band::Default, tenant: 0, deadline, needs: Duration::ZERO };
        let turn = gate.wait(asked, 0, &room, now).expect("there is room");
        gate.bands[Band::Default as usize].fetch_sub(1, Ordering::AcqRel);
        assert!(enter(Band::Default).is_none(), "it is overtaken");
        assert!(enter(Band::Critical).is_some());
        gate.bands[Band::Default as usize].fetch_add(1, Ordering::AcqRel);
        held.pop();
        assert!(turn.now_or_never().is_some_and(|turn| turn.is_ok()));
    }
}
