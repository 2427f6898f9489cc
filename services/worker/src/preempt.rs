//! Running executions that may have to make way: what the policy knows of them, and how they are told.
//!
//! The executor loop asks while every executor is busy. An execution that is told to stop is dropped like one that nobody waits for, keeps its
//! place until its engine has come to a yield point, and then puts its requests back where they waited.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use weft_policy::batch::Waiting;
use weft_policy::preempt::{self, Decision, Running, Takes, Urgent};
use weft_types::{Deadline, SystemClock};

use crate::queue::{Urgency, Work};
use crate::replica::Replica;

/// So many of those that wait are looked at: what comes after them has another decision before it.
const LINE: usize = 64;

/// After so long without another stop, half as long is expected.
const FADES: Duration = Duration::from_secs(5);

/// The band of what may not be stopped: nothing is more urgent.
const NEVER: u64 = 0;

const fn is_stoppable(running: &Running) -> bool {
    running.band != NEVER
}

/// The executions of one replica.
#[derive(Default)]
pub(crate) struct Executions {
    // Held for a look-up or a pass over those that run, never across an await.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// No more than there are executors.
    running: BTreeMap<u64, Entry>,
    /// How many of them have each band: mostly that is all that needs to be known.
    bands: BTreeMap<u64, usize>,
    next: u64,
    /// The one that was told to stop and has not ended.
    stopping: Option<u64>,
    /// Whether all are told to: the whole replica makes way.
    all_stop: bool,
    stop: Stop,
}

struct Entry {
    running: Running,
    /// Whether other workers can have all of its requests.
    is_movable: bool,
    told: CancellationToken,
}

/// How long the last ones took to stop, and when that was noted. Slower ones count at once, and fade: while it is thought that stopping takes
/// long nothing is stopped, and nothing could show that it no longer does.
#[derive(Default)]
struct Stop(Option<(Duration, Instant)>);

impl Stop {
    fn at(&self, now: Instant) -> Duration {
        let Some((stop, noted)) = self.0 else { return Duration::ZERO };
        let halves = now.saturating_duration_since(noted).as_secs_f64() / FADES.as_secs_f64();
        stop.mul_f64(0.5_f64.powf(halves))
    }

    fn note(&mut self, after: Duration, now: Instant) {
        self.0 = Some((after.max((self.at(now) * 7 + after) / 8), now));
    }
}

/// An execution's entry, until it is dropped.
pub(crate) struct Mark {
    executions: Arc<Executions>,
    id: u64,
    /// The most urgent of its requests.
    band: u64,
    told: CancellationToken,
}

impl Executions {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An execution went on for so long after it was told to stop, until `now`.
    pub(crate) fn stopped(&self, after: Duration, now: Instant) {
        self.lock().stop.note(after, now);
    }

    /// Tells all to stop that may be stopped and done elsewhere, and those that begin from now on.
    pub(crate) fn give_way(&self) {
        let mut table = self.lock();
        table.all_stop = true;
        table.running.values().filter(|entry| entry.stops_for_all()).for_each(|entry| entry.told.cancel());
    }

    /// Whether something runs that is less urgent than this band.
    fn has_below(&self, band: u64) -> bool {
        self.lock().bands.keys().next_back().is_some_and(|lowest| *lowest > band)
    }
}

impl Entry {
    const fn stops_for_all(&self) -> bool {
        self.is_movable && is_stoppable(&self.running)
    }
}

impl Table {
    fn decide(&self, waiting: &[Urgent], now: Instant) -> Decision {
        let running = self.running.values().map(|entry| entry.running);
        preempt::decide(waiting.iter().copied(), running, self.stop.at(now), now)
    }

    fn end(&mut self, id: u64) {
        if let Some(Entry { running, .. }) = self.running.remove(&id)
            && let Some(count) = self.bands.get_mut(&running.band)
        {
            *count -= 1;
            if *count == 0 {
                self.bands.remove(&running.band);
            }
        }
        self.stopping = self.stopping.filter(|stopping| *stopping != id);
    }
}

impl Mark {
    /// Waits until the execution has to stop.
    pub(crate) async fn stop(&self) {
        self.told.cancelled().await;
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.executions.lock().end(self.id);
    }
}

impl Replica {
    /// Notes an execution that begins. Where answers come in the order of requests nothing may be stopped, nor what runs alone.
    pub(crate) fn mark(&self, work: &[Work], now: Instant) -> Mark {
        let may_stop = !self.plan.ordered && work.iter().all(|work| work.suspect.is_none());
        let rows = work.iter().map(|work| work.rows).sum();
        let most_urgent = work.iter().map(Work::band).min().unwrap_or_default();
        let deadline =
            work.iter().map(|work| work.deadline).min().unwrap_or_else(|| Deadline::after(now, Duration::ZERO));
        let band = if may_stop { most_urgent } else { NEVER };
        let stops = work.iter().map(|work| work.caller.stops()).max().unwrap_or_default();
        let takes = self.takes(rows, most_urgent, now);
        let told = CancellationToken::new();
        let mut table = self.executions.lock();
        let id = table.next;
        table.next += 1;
        *table.bands.entry(band).or_default() += 1;
        let running = Running { id, band, began: now, deadline, stops, takes };
        let entry = Entry { running, is_movable: work.iter().all(Work::is_movable), told: told.clone() };
        if table.all_stop && entry.stops_for_all() {
            told.cancel();
        }
        table.running.insert(id, entry);
        drop(table);
        Mark { executions: Arc::clone(&self.executions), id, band: most_urgent, told }
    }

    /// Learns from an execution that ended by itself.
    pub(crate) fn learn(&self, mark: &Mark, rows: usize, took: Duration, ended: Instant) {
        let mut learned = self.learned();
        learned.latency.observe(rows, took, ended);
        if !self.plan.predictable {
            // Calls of one band have more in common than those of a model whose input says how long it takes.
            learned.bands.entry(mark.band).or_default().observe(rows, took, ended);
        }
    }

    /// Learns from an execution that was stopped: it would have taken longer.
    pub(crate) fn learn_stopped(&self, mark: &Mark, rows: usize, took: Duration, ended: Instant) {
        let mut learned = self.learned();
        learned.latency.observe_stopped(rows, took, ended);
        if !self.plan.predictable {
            // As the policy has it of what runs: it would have taken as long again. Else what is begun again seemed to be almost done.
            learned.bands.entry(mark.band).or_default().observe_stopped(rows, took.saturating_mul(2), ended);
        }
    }

    fn takes(&self, rows: usize, band: u64, now: Instant) -> Option<Takes> {
        let learned = self.learned();
        let latency = if self.plan.predictable { Some(&learned.latency) } else { learned.bands.get(&band) }?;
        Some(Takes { expected: latency.expect(rows, now)?, most: latency.at_most(rows, now)? })
    }

    /// Whether a request that would be late finds its place by preemption. It must be the first in line: others before it would take
    /// that place.
    pub(crate) fn makes_way(&self, rows: usize, urgency: Urgency, now: Instant) -> bool {
        let Urgency { band, deadline, .. } = urgency;
        if !self.executions.has_below(band) || self.queue.rows_before(urgency) > 0 {
            return false;
        }
        let takes = self.takes(rows, band, now);
        let urgent = Urgent { band, queued_at: now, deadline, ahead: Duration::ZERO, takes };
        self.executions.lock().decide(&[urgent], now) != Decision::Leave
    }

    /// The first in line with what they take.
    fn urgent(&self, now: Instant) -> Vec<Urgent> {
        let batch = self.plan.batching.max_batch_rows.max(1);
        let mut before = 0;
        let urgent = |one: Waiting| {
            let rounds = u32::try_from(before / batch).unwrap_or(u32::MAX);
            before += one.rows;
            let round = if rounds > 0 { self.takes(batch, one.band, now) } else { None };
            let executors = u32::try_from(self.executors).unwrap_or(u32::MAX);
            let ahead = round.map_or(Duration::ZERO, |round| round.expected.saturating_mul(rounds) / executors);
            let takes = self.takes(one.rows, one.band, now);
            Urgent { band: one.band, queued_at: one.queued_at, deadline: one.deadline, ahead, takes }
        };
        self.queue.first(LINE).into_iter().map(urgent).collect()
    }

    /// Stops an execution if the first in line needs its place. Returns when to ask again, if that is known.
    fn make_way(&self, now: Instant) -> Option<Instant> {
        if self.running() < self.executors {
            return None;
        }
        if !self.executions.has_below(self.queue.first_band()?) {
            return None;
        }
        let urgent = self.urgent(now);
        let mut table = self.executions.lock();
        if table.stopping.is_some() {
            return None;
        }
        match table.decide(&urgent, now) {
            Decision::Stop(id) => {
                table.stopping = Some(id);
                if let Some(entry) = table.running.get(&id) {
                    entry.told.cancel();
                }
                None
            }
            Decision::WaitUntil(at) => Some(at),
            Decision::Leave => None,
        }
    }
}

/// Waits until one more execution may run; has one stopped where what waits is more urgent and would be late.
pub(crate) async fn permit(replica: &Replica) -> Option<OwnedSemaphorePermit> {
    let permit = replica.permit();
    tokio::pin!(permit);
    loop {
        let wake = replica.make_way(SystemClock::now());
        tokio::select! {
            biased;
            permit = &mut permit => return permit,
            // Whoever takes the permit looks at the queue first, so this wake-up is not missed there.
            () = replica.queue.changed() => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(SystemClock::now).into()), if wake.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once and for all nothing with a tighter deadline would be stopped.
    #[test]
    fn a_slow_stop_is_forgotten_in_time() {
        let (mut stop, now) = (Stop::default(), SystemClock::now());
        assert_eq!(stop.at(now), Duration::ZERO);
        stop.note(Duration::from_millis(1200), now);
        assert_eq!(stop.at(now), Duration::from_millis(1200), "it counts at once");
        assert_eq!(stop.at(now + 2 * FADES), Duration::from_millis(300));
        assert!(stop.at(now + 10 * FADES) < Duration::from_millis(2));
        stop.note(Duration::ZERO, now + FADES);
        assert_eq!(stop.at(now + FADES), Duration::from_millis(525), "a faster one after it counts for an eighth");
    }
}
