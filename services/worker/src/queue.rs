//! Requests that wait for one replica: bounded, most urgent first.
//!
//! A request is in the queue for as long as its caller holds the [`Ticket`]: dropping it takes the request out, or tells the
//! execution that has it that one caller less is waiting. So nothing is counted that must be counted back.

mod back;
mod bands;
mod ticket;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};
use weft_engine::{Inputs, Tensor};
use weft_policy::batch::{Decision, Waiting};
use weft_types::{Deadline, Error, Reason, SystemClock};

use crate::admit::PUSHBACK;
use crate::quarantine::Digest;
pub(crate) use bands::{Bands, Rule};
use ticket::Bounds;
pub(crate) use ticket::{Answer, Caller, Ticket, Timing};

/// The order of service: the derived order is the policy. The sequence breaks ties by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// 1 is served first.
    pub(crate) band: u64,
    /// Whether its tenant had more than its share of the band's places when it came: others' calls, whose deadlines may be far, would be
    /// overtaken for ever otherwise.
    pub(crate) is_over: bool,
    /// `None` where the order of arrival rules.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) sequence: u64,
}

/// What a request's place depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Urgency {
    /// 1 is served first.
    pub(crate) band: u64,
    pub(crate) deadline: Deadline,
    /// Who it is for, as a number: equal for equal names.
    pub(crate) tenant: u64,
}

/// A request on its way into the queue.
pub(crate) struct Request {
    pub(crate) inputs: Inputs,
    pub(crate) rows: usize,
    pub(crate) urgency: Urgency,
    /// Set where the input is suspected to end the model's process: it runs alone.
    pub(crate) suspect: Option<Digest>,
    /// Whether it came on a stream, which nobody sends to another worker.
    pub(crate) on_stream: bool,
    /// What holds for its band.
    pub(crate) rule: Rule,
}

/// A request as the executor takes it.
pub(crate) struct Work {
    rank: Rank,
    pub(crate) inputs: Inputs,
    pub(crate) rows: usize,
    bytes: usize,
    tenant: u64,
    pub(crate) deadline: Deadline,
    /// Set where it must run alone, and is to be cleared when nothing happens.
    pub(crate) suspect: Option<Digest>,
    on_stream: bool,
    pub(crate) caller: Arc<Caller>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Work {
    /// 1 is served first.
    pub(crate) const fn band(&self) -> u64 {
        self.rank.band
    }

    /// Whether another worker can have it. One whose input is suspected to end processes is better kept where that is known.
    pub(crate) const fn is_movable(&self) -> bool {
        !self.on_stream && self.suspect.is_none()
    }

    /// Answers a caller whose request was not executed. One that has gone meanwhile needs no answer.
    pub(crate) fn refuse(self, error: Error) {
        let now = SystemClock::now();
        let timing = Timing { queue: now.saturating_duration_since(self.caller.queued_at), ..Timing::default() };
        let _ = self.answer.send(Answer { outcome: Err(error.into()), timing });
    }

    /// Answers a caller whose place goes to a more urgent one. As long as it has waited, the queue has been full, about.
    fn displace(self, now: Instant) {
        let waited = now.saturating_duration_since(self.caller.queued_at);
        let error = Error::new(Reason::QueueFull, "the queue of the model is full of more urgent calls");
        self.refuse(error.retry_after(waited.clamp(PUSHBACK.0, PUSHBACK.1)));
    }

    /// Whether both can run in one execution: the same inputs, with the same types and the same shapes below the first axis.
    fn fits(&self, other: &Self) -> bool {
        fn alike(one: &Tensor, other: &Tensor) -> bool {
            one.name == other.name && one.datatype == other.datatype && one.shape.get(1..) == other.shape.get(1..)
        }
        self.suspect.is_none()
            && other.suspect.is_none()
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(|(one, other)| alike(one, other))
    }
}

/// The queue's bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Closed,
}

/// What the executor finds.
pub(crate) enum Next {
    /// Execute these together.
    Run(Vec<Work>),
    /// Ask again at this instant or when the queue has changed.
    Wait(Option<Instant>),
    /// Nothing is left and nothing will come.
    Closed,
}

/// The queue of one replica.
pub(crate) struct Queue {
    limits: Limits,
    /// Whether requests are served as they come, not by their deadlines.
    ordered: bool,
    // Held for map operations only, never across an await.
    state: Mutex<State>,
    /// Wakes the one executor loop; a wake-up that nobody awaits yet is kept.
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<Rank, Work>,
    /// What waits of each band; bounded by the number of bands.
    bands: BTreeMap<u64, Band>,
    bytes: usize,
    rows: usize,
    sequence: u64,
    closed: bool,
    /// Whether nothing is taken, or taken back, that another worker can have.
    gives_way: bool,
    /// Whether what comes back is not taken either.
    abandoned: bool,
}

/// The requests of a band.
#[derive(Default)]
struct Band {
    requests: usize,
    /// How many of each tenant, none of them zero.
    tenants: HashMap<u64, usize>,
}

impl Band {
    fn add(&mut self, tenant: u64) {
        self.requests += 1;
        *self.tenants.entry(tenant).or_default() += 1;
    }

    fn remove(&mut self, tenant: u64) {
        self.requests -= 1;
        if let Entry::Occupied(mut entry) = self.tenants.entry(tenant) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Whether one more of this tenant is more than its share.
    fn is_over(&self, tenant: u64) -> bool {
        let own = self.tenants.get(&tenant).copied().unwrap_or(0);
        let tenants = self.tenants.len() + usize::from(own == 0);
        (own + 1) * tenants > self.requests + 1
    }
}

impl State {
    fn take(&mut self, rank: &Rank) -> Option<Work> {
        let work = self.waiting.remove(rank)?;
        self.bytes -= work.bytes;
        self.rows -= work.rows;
        if let Some(band) = self.bands.get_mut(&rank.band) {
            band.remove(work.tenant);
        }
        Some(work)
    }

    /// Takes out, from the end, as many of lower bands, and of tenants with more than their share, as one more request of this size
    /// needs; `None` when that is not enough.
    fn make_room(&mut self, limits: Limits, next: &Rank, bytes: usize) -> Option<Vec<Work>> {
        let (mut count, mut held, mut last) = (self.waiting.len(), self.bytes, self.waiting.iter().rev());
        let mut displaced = Vec::new();
        // A request larger than the byte limit still goes into an empty queue: the message limit bounds it already.
        while count >= limits.requests || (count > 0 && held.saturating_add(bytes) > limits.bytes) {
            let (rank, work) = last.next().filter(|(rank, _)| (rank.band, rank.is_over) > (next.band, next.is_over))?;
            (count, held) = (count - 1, held - work.bytes);
            displaced.push(*rank);
        }
        Some(displaced.iter().filter_map(|rank| self.take(rank)).collect())
    }

    /// The first `depth` requests that can run with the most urgent one; where order rules, only those right behind it.
    fn front(&self, depth: usize, ordered: bool) -> Vec<(Rank, Waiting)> {
        let Some(first) = self.waiting.values().next() else { return Vec::new() };
        let rest = self.waiting.iter().skip(1);
        let alike = rest.take_while(|(_, work)| !ordered || work.fits(first)).filter(|(_, work)| work.fits(first));
        self.waiting
            .iter()
            .take(1)
            .chain(alike)
            .take(depth)
            .map(|(rank, work)| {
                let Work { rows, deadline, ref caller, .. } = *work;
                let waiting = Waiting { rows, band: rank.band, deadline, queued_at: caller.queued_at };
                (*rank, waiting)
            })
            .collect()
    }
}

impl Queue {
    pub(crate) fn new(limits: Limits, ordered: bool) -> Self {
        Self { limits, ordered, state: Mutex::default(), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request, or says at once why not.
    pub(crate) fn push(self: &Arc<Self>, request: Request, now: Instant) -> Result<Ticket, Refusal> {
        let Request { inputs, rows, urgency, suspect, on_stream, rule } = request;
        let Urgency { band, deadline, tenant } = urgency;
        let bytes: usize = inputs.iter().map(|tensor| tensor.data.len()).sum();
        let mut state = self.lock();
        if state.closed || (state.gives_way && !on_stream) {
            return Err(Refusal::Closed);
        }
        let of_band = state.bands.get(&band).map_or(0, |band| band.requests);
        if rule.requests.is_some_and(|most| of_band >= most) {
            return Err(Refusal::Full);
        }
        let rank = self.rank(urgency, &state);
        let displaced = state.make_room(self.limits, &rank, bytes).ok_or(Refusal::Full)?;
        let caller = Arc::new(Caller::new(now));
        let (answer, receiver) = oneshot::channel();
        state.sequence += 1;
        state.bytes += bytes;
        state.rows += rows;
        state.bands.entry(band).or_default().add(tenant);
        let caller_of = Arc::clone(&caller);
        let work = Work { rank, inputs, rows, bytes, tenant, deadline, suspect, on_stream, caller: caller_of, answer };
        state.waiting.insert(rank, work);
        drop(state);
        displaced.into_iter().for_each(|work| work.displace(now));
        self.changed.notify_one();
        let start_by = rule.timeout.and_then(|timeout| now.checked_add(timeout));
        Ok(Ticket::new(Arc::clone(self), rank, Bounds { deadline, start_by }, (caller, receiver)))
    }

    /// The place of one more request.
    fn rank(&self, Urgency { band, deadline, tenant }: Urgency, state: &State) -> Rank {
        let is_over = !self.ordered && state.bands.get(&band).is_some_and(|band| band.is_over(tenant));
        Rank { band, is_over, deadline: (!self.ordered).then_some(deadline), sequence: state.sequence }
    }

    /// Takes a request out, if it still waits.
    fn remove(&self, rank: &Rank) -> Option<Work> {
        self.lock().take(rank)
    }

    /// Asks `decide` about the front of the queue, at most `depth` requests, and does as it says.
    /// It is also told how many wait besides.
    pub(crate) fn next(&self, depth: usize, mut decide: impl FnMut(&[Waiting], usize) -> Decision) -> Next {
        let mut late = Vec::new();
        let next = {
            let mut state = self.lock();
            let (mut ranks, mut waiting): (Vec<Rank>, Vec<Waiting>) = (Vec::new(), Vec::new());
            loop {
                // What is answered early leaves the rest of the front as it was, unless another request now leads.
                if state.waiting.keys().next() != ranks.first() {
                    (ranks, waiting) = state.front(depth, self.ordered).into_iter().unzip();
                }
                if waiting.is_empty() && state.closed {
                    break Next::Closed;
                }
                match decide(&waiting, state.waiting.len().saturating_sub(waiting.len())) {
                    Decision::Run(count) => {
                        break Next::Run(ranks.iter().take(count).filter_map(|rank| state.take(rank)).collect());
                    }
                    Decision::GiveUp(indices) => {
                        late.extend(indices.iter().filter_map(|index| state.take(ranks.get(*index)?)));
                        without(&mut ranks, &indices);
                        without(&mut waiting, &indices);
                    }
                    // What must run alone waits for nobody.
                    Decision::WaitUntil(_)
                        if state.waiting.values().next().is_some_and(|first| first.suspect.is_some()) =>
                    {
                        break Next::Run(ranks.first().and_then(|rank| state.take(rank)).into_iter().collect());
                    }
                    Decision::WaitUntil(instant) => break Next::Wait(Some(instant)),
                    Decision::Idle => break Next::Wait(None),
                }
            }
        };
        let now = SystemClock::now();
        for work in late {
            let error = if work.deadline.expired(now) { ticket::expired_waiting() } else { ticket::hopeless() };
            work.refuse(error);
        }
        next
    }

    /// Waits until a request has come or the queue was closed, since the last wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes nothing new from now on; what waits is still served.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Closes, and answers everything that waits with this refusal.
    pub(crate) fn abandon(&self, error: &Error) {
        let waiting = {
            let mut state = self.lock();
            (state.closed, state.abandoned) = (true, true);
            (state.bytes, state.rows) = (0, 0);
            state.bands.clear();
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().for_each(|work| work.refuse(error.clone()));
        self.changed.notify_one();
    }

    /// Takes nothing from now on that another worker can have, and answers what waits of that with this refusal. The rest is still served.
    pub(crate) fn give_way(&self, error: &Error) {
        let gone: Vec<Work> = {
            let mut state = self.lock();
            state.gives_way = true;
            let movable = state.waiting.iter().filter(|(_, work)| work.is_movable()).map(|(rank, _)| *rank);
            let movable: Vec<Rank> = movable.collect();
            movable.iter().filter_map(|rank| state.take(rank)).collect()
        };
        gone.into_iter().for_each(|work| work.refuse(error.clone()));
        self.changed.notify_one();
    }

    /// How many requests wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How many requests wait, and with how many rows.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.rows)
    }

    /// How many rows would be served before such a request.
    pub(crate) fn rows_before(&self, urgency: Urgency) -> usize {
        let state = self.lock();
        let next = self.rank(urgency, &state);
        match state.waiting.last_key_value() {
            // The usual case: deadlines come in order, and everything that waits goes first.
            Some((last, _)) if *last < next => state.rows,
            _ => state.waiting.range(..next).map(|(_, work)| work.rows).sum(),
        }
    }
}

/// Takes out what is at these indices, which rise.
fn without<T>(items: &mut Vec<T>, indices: &[usize]) {
    let (mut at, mut out) = (0, indices.iter().peekable());
    items.retain(|_| {
        let stays = out.next_if_eq(&&at).is_none();
        at += 1;
        stays
    });
}

#[cfg(test)]
mod tests;
