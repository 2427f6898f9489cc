//! One worker, and one replica on it.

use std::cmp::Reverse;

use weft_types::Version;

use super::pool::Pool;
use super::{CPU, DeviceId, Holding, Obstacle, Offer, Priority, State, Wanted, Why, Worker};

/// A worker.
pub(super) struct Seat<'a> {
    pub(super) worker: &'a Worker,
    /// The number of its offers and of its zone.
    pub(super) catalog: usize,
    pub(super) zone: usize,
    /// The memory of its devices, in their order; one where it tells none.
    pub(super) memory: Vec<Pool>,
    pub(super) processors: Pool,
    /// Replicas that are there or promised.
    pub(super) replicas: usize,
    pub(super) held: Vec<usize>,
    /// The models of those that come when others have gone.
    pub(super) awaited: Vec<usize>,
    /// How many of them stay, by band.
    pub(super) staying: [usize; BANDS],
    /// Whether any goes.
    pub(super) goes: bool,
}

/// What nobody calls, and then one for each priority, the highest first.
const BANDS: usize = 4;

/// The band of what nobody calls.
pub(super) const UNUSED: usize = 0;

pub(super) fn band(wanted: &Wanted) -> usize {
    match (wanted.idle, wanted.priority) {
        (Some(_), _) => UNUSED,
        (None, Priority::Realtime) => 1,
        (None, Priority::Standard) => 2,
        (None, Priority::Batch) => 3,
    }
}

/// A replica on a registered worker: placed, still there, or promised by this plan.
pub(super) struct Held<'a> {
    /// `None` while it is only promised.
    pub(super) holding: Option<&'a Holding>,
    /// Promised to a worker that has it still, as what it was told to let go of.
    pub(super) again: bool,
    pub(super) seat: usize,
    pub(super) model: Option<usize>,
    pub(super) version: Version,
    pub(super) goal: Option<usize>,
    pub(super) band: usize,
    /// Whose memory it takes, and how much; none where its worker has no such device.
    pub(super) pool: Option<usize>,
    pub(super) size: u64,
    pub(super) cpu: u64,
    /// Whether it counts for its goal.
    pub(super) kept: bool,
    /// Whether something is beside it that it yields to.
    pub(super) shunned: bool,
    /// Why the plan removes it, or does not place it after all.
    pub(super) why: Option<Why>,
}

impl Held<'_> {
    pub(super) fn ready(&self) -> bool {
        self.holding.is_some_and(|holding| holding.state == State::Ready)
    }

    pub(super) fn failed(&self) -> bool {
        self.holding.is_some_and(|holding| holding.state == State::Failed)
    }

    pub(super) fn placed(&self) -> bool {
        self.holding.is_none_or(|holding| holding.placed)
    }

    /// Whether it is on its way out.
    pub(super) fn goes(&self) -> bool {
        !self.placed() || self.why.is_some()
    }

    /// Greater for what was placed later.
    pub(super) fn since(&self) -> u64 {
        self.holding.map_or(u64::MAX, |holding| holding.since)
    }
}

impl Seat<'_> {
    /// The pools of a kind, in the order of the devices.
    pub(super) fn pools(&self, kind: &str) -> impl Iterator<Item = usize> {
        let kind = if kind.is_empty() { CPU } else { kind };
        let devices = &self.worker.devices;
        (0..self.memory.len()).filter(move |pool| devices.get(*pool).is_none_or(|device| device.id.kind == kind))
    }

    /// The most that one device has free.
    pub(super) fn free(&self) -> u64 {
        self.memory.iter().map(Pool::free).max().unwrap_or(0)
    }

    /// Whether anything here could make way for a replica of the model, or does already: a quick look.
    pub(super) fn may_yield(&self, wanted: &Wanted, first: bool) -> bool {
        let from = band(wanted) + usize::from(!first);
        self.goes || self.staying[UNUSED] > 0 || self.staying[from..].iter().any(|count| *count > 0)
    }

    pub(super) fn open(&self) -> bool {
        !self.worker.draining && !self.worker.cordoned
    }

    pub(super) fn labelled(&self, wanted: &Wanted) -> bool {
        wanted.selector.iter().all(|(key, value)| self.worker.labels.get(key) == Some(value))
    }

    /// Whether it could take a replica if nothing else were there.
    pub(super) fn could_take(&self, wanted: &Wanted, offer: &Offer) -> bool {
        self.labelled(wanted) && self.pools(&offer.device_kind).any(|pool| self.memory[pool].holds(offer.size))
    }

    pub(super) fn pool_of(&self, device: Option<&DeviceId>, kind: &str) -> Option<usize> {
        let told = device.and_then(|told| self.worker.devices.iter().position(|device| device.id == *told));
        told.or_else(|| self.pools(kind).next())
    }
}

impl<'a> Seat<'a> {
    pub(super) fn new(worker: &'a Worker, catalog: usize, zone: usize) -> Self {
        let memory = match &*worker.devices {
            [] => vec![Pool::new(worker.memory)],
            devices => devices.iter().map(|device| Pool::new(device.memory)).collect(),
        };
        let processors = Pool::new(if worker.cpu_millis == 0 { u64::MAX } else { worker.cpu_millis });
        Self {
            worker,
            catalog,
            zone,
            memory,
            processors,
            replicas: 0,
            held: Vec::new(),
            awaited: Vec::new(),
            staying: [0; BANDS],
            goes: false,
        }
    }

    /// Takes in one more.
    pub(super) fn take(&mut self, held: &Held<'_>) {
        self.staying[held.band] += 1;
        self.processors.take(held.cpu);
        if let Some(pool) = held.pool {
            self.memory[pool].take(held.size);
        }
        self.replicas += 1;
    }

    /// The device of a kind with the most free memory, the first of equal ones.
    pub(super) fn roomiest(&self, kind: &str) -> Option<usize> {
        self.pools(kind).min_by_key(|pool| (Reverse(self.memory[*pool].free()), *pool))
    }

    /// Whether there is too little left for one more; what is on its way out has its memory already.
    pub(super) fn crowded(&self, held: Option<&Held<'_>>, offer: &Offer) -> Option<Obstacle> {
        let (cpu, memory) = match held {
            Some(held) => (
                self.processors.lack(held.cpu) > 0,
                held.pool.is_some_and(|pool| self.memory[pool].lack(held.size) > 0),
            ),
            None => (
                self.processors.free() < offer.cpu_millis,
                self.roomiest(&offer.device_kind).is_none_or(|pool| self.memory[pool].free() < offer.size),
            ),
        };
        if cpu { Some(Obstacle::Processors) } else { memory.then_some(Obstacle::Memory) }
    }
}
