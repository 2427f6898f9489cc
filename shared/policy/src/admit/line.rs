//! The calls that wait beyond the limit, and who is refused instead.

use std::time::{Duration, Instant};

use weft_types::Deadline;

use super::standing::Step;
use super::tenants::{Rank, Tenants};
use super::{Band, Standing};

/// A call that would wait.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Its priority band.
    pub band: Band,
    /// Who it is for, as a number: equal for equal names.
    pub tenant: u64,
    /// When it must be answered.
    pub deadline: Deadline,
    /// The least that the call takes once it has its place; zero while that is not known.
    pub needs: Duration,
}

/// What is missing for one more call to wait, over all lines together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Calls that must go first.
    pub calls: usize,
    /// Bytes that must go first.
    pub bytes: usize,
}

/// Why a call does not wait, or waits no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is no room, or it went to a more urgent call or to a tenant with fewer.
    Full,
    /// The queue stands, and the call is of the lowest band or its tenant has more than its share.
    Shed,
    /// Its turn would come too late to answer it in time.
    Infeasible,
}

impl Refusal {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Shed => "shed",
            Self::Infeasible => "infeasible",
        }
    }
}

/// Where a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    band: Band,
    tenant: u64,
    rank: Rank,
}

impl Key {
    /// The band of the call.
    pub const fn band(&self) -> Band {
        self.band
    }
}

/// What became of a call that asked to wait.
#[derive(Debug)]
pub struct Place<T> {
    /// Where it waits, or why it does not, with what was to wait.
    pub outcome: Result<Key, (Refusal, T)>,
    /// Calls that are refused in its favour.
    pub displaced: Vec<T>,
}

/// The calls that wait for one model version, each standing for a `T`.
#[derive(Debug)]
pub struct Line<T> {
    bands: [Tenants<Held<T>>; 3],
    standing: Standing,
    /// When a call was last found to come too late.
    late: Option<Instant>,
    sequence: u64,
}

#[derive(Debug)]
struct Held<T> {
    call: T,
    bytes: usize,
    needs: Duration,
}

/// After a call came too late, the latest are served first for so long: those with the earliest deadlines would be too late one after the
/// other (adaptive LIFO, Maurer, "Fail at Scale", 2015).
const LATE: Duration = Duration::from_millis(100);
/// One call more does not send more away than these.
const DISPLACED: usize = 64;

impl<T> Line<T> {
    /// An empty line in which nobody should wait for longer than `target` for long, for so many places.
    pub fn new(target: Duration, places: u32, now: Instant) -> Self {
        let bands = [Tenants::default(), Tenants::default(), Tenants::default()];
        Self { bands, standing: Standing::new(target, places as usize, now), late: None, sequence: 0 }
    }

    /// How many calls wait.
    pub fn len(&self) -> usize {
        self.bands.iter().map(Tenants::len).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many calls of a band wait.
    pub fn of_band(&self, band: Band) -> usize {
        self.bands[band as usize].len()
    }

    /// Whether somebody waits who is at least as urgent.
    pub fn has_from(&self, band: Band) -> bool {
        self.bands.iter().take(band as usize + 1).any(|calls| calls.len() > 0)
    }

    /// How long those that wait take to be served.
    pub fn wait(&self) -> Duration {
        self.standing.wait(self.len())
    }

    /// More calls may be under way from now on: they will be served faster than they were, nobody knows yet how much.
    pub fn forget_pace(&mut self, places: u32) {
        self.standing.forget_pace(places as usize);
    }

    /// Whether the queue stands.
    pub const fn stands(&self) -> bool {
        self.standing.stands()
    }

    fn latest_first(&self, now: Instant) -> bool {
        self.late.is_some_and(|late| now.saturating_duration_since(late) < LATE)
    }

    /// A call asks to wait. `missing` is the room that it lacks.
    pub fn push(&mut self, asked: Asked, (call, bytes): (T, usize), missing: Room, now: Instant) -> Place<T> {
        self.standing.observe(Step::Came(self.len()), now);
        if let Some(refusal) = self.refuses(&asked, now) {
            return Place { outcome: Err((refusal, call)), displaced: Vec::new() };
        }
        let (displaced, freed) = self.make_room(&asked, missing);
        if freed.calls < missing.calls || freed.bytes < missing.bytes {
            return Place { outcome: Err((Refusal::Full, call)), displaced };
        }
        let rank = (asked.deadline, self.sequence);
        self.sequence += 1;
        let held = Held { call, bytes, needs: asked.needs };
        let tenant = self.bands[asked.band as usize].push(asked.tenant, rank, held);
        Place { outcome: Ok(Key { band: asked.band, tenant, rank }), displaced }
    }

    /// Why a call is refused at once, if it is.
    fn refuses(&mut self, asked: &Asked, now: Instant) -> Option<Refusal> {
        let band = &self.bands[asked.band as usize];
        // The least: other tenants of the band take their turns besides.
        let above: usize = self.bands.iter().take(asked.band as usize).map(Tenants::len).sum();
        let own = if self.latest_first(now) { 0 } else { band.before(asked.tenant, asked.deadline) };
        let needed = self.standing.wait(above + own).saturating_add(asked.needs);
        if needed > asked.deadline.remaining(now) {
            self.late = Some(now);
            return Some(Refusal::Infeasible);
        }
        let sheds = asked.band == Band::Sheddable || (asked.band == Band::Default && band.is_above_share(asked.tenant));
        (sheds && self.standing.stands() && self.standing.is_over(self.len())).then_some(Refusal::Shed)
    }

    /// Sends away calls of lower bands, then of tenants of the same band that have more.
    fn make_room(&mut self, asked: &Asked, missing: Room) -> (Vec<T>, Room) {
        let (mut displaced, mut freed) = (Vec::new(), Room::default());
        for band in Band::ALL.into_iter().rev().take_while(|band| *band >= asked.band) {
            while (freed.calls < missing.calls || freed.bytes < missing.bytes) && displaced.len() < DISPLACED {
                let calls = &mut self.bands[band as usize];
                let than = if band > asked.band { 0 } else { calls.of(asked.tenant) + 1 };
                let Some(held) = calls.displace(than) else { break };
                freed = Room { calls: freed.calls + 1, bytes: freed.bytes.saturating_add(held.bytes) };
                displaced.push(held.call);
            }
        }
        (displaced, freed)
    }

    /// The next call to be served, of this band or above. Those whose turn has come too late are put into `late`.
    pub fn pop(&mut self, lowest: Band, late: &mut Vec<T>, now: Instant) -> Option<T> {
        loop {
            let latest_first = self.latest_first(now);
            let calls = self.bands.iter_mut().take(lowest as usize + 1).find(|calls| calls.len() > 0)?;
            let (tenant, (deadline, _), held) = calls.pop(latest_first)?;
            if deadline.expired(now) || held.needs > deadline.remaining(now) {
                calls.refund(tenant);
                late.push(held.call);
                self.late = Some(now);
                continue;
            }
            self.standing.observe(Step::Served(self.len()), now);
            return Some(held.call);
        }
    }

    /// Takes out a call that no longer waits.
    pub fn remove(&mut self, key: &Key, now: Instant) -> Option<T> {
        let held = self.bands[key.band as usize].remove(key.tenant, &key.rank)?;
        self.standing.observe(Step::Left(self.len()), now);
        Some(held.call)
    }
}

#[cfg(test)]
mod tests;
