//! The calls of one priority band, by tenant: start-time fair queueing (Goyal, Vin & Cheng, 1996) between tenants that wait, and of each the
//! call with the earliest deadline, or with the latest where many come too late.
//!
//! All calls of a line want the same model version, so each counts as one: what it costs beside another model is not compared here.

use std::collections::BTreeMap;

use weft_types::Deadline;

/// Tenants that wait at once and are told apart. Further ones share the places of those that are there (APF in Kubernetes deals tenants to a fixed
/// number of queues for the same end): a caller that makes tenants up takes nothing but a place among these.
pub(super) const TENANTS: usize = 64;

/// Where a call stands among those of its tenant.
pub(super) type Rank = (Deadline, u64);

#[derive(Debug)]
struct Tenant<T> {
    id: u64,
    /// The virtual time at which its next call may start.
    start: u64,
    calls: BTreeMap<Rank, T>,
}

/// The tenants of a band that wait, or have just been served.
#[derive(Debug)]
pub(super) struct Tenants<T> {
    all: Vec<Tenant<T>>,
    /// The start of the call that was served last.
    virtual_time: u64,
    len: usize,
}

impl<T> Default for Tenants<T> {
    fn default() -> Self {
        Self { all: Vec::new(), virtual_time: 0, len: 0 }
    }
}

impl<T> Tenants<T> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Who waits under this id: itself, or the tenant whose place it shares.
    fn place(&self, id: u64) -> Option<usize> {
        let known = self.all.iter().position(|tenant| tenant.id == id);
        known.or_else(|| (self.all.len() >= TENANTS).then(|| (id % TENANTS as u64) as usize))
    }

    /// How many calls of a tenant wait.
    pub(super) fn of(&self, id: u64) -> usize {
        self.place(id).and_then(|place| self.all.get(place)).map_or(0, |tenant| tenant.calls.len())
    }

    /// How many calls of a tenant would be served before one with this deadline.
    pub(super) fn before(&self, id: u64, deadline: Deadline) -> usize {
        let tenant = self.place(id).and_then(|place| self.all.get(place));
        tenant.map_or(0, |tenant| match tenant.calls.last_key_value() {
            // The usual case: deadlines come in order.
            Some(((last, _), _)) if *last <= deadline => tenant.calls.len(),
            _ => tenant.calls.range(..(deadline, u64::MAX)).count(),
        })
    }

    /// Whether another call would give a tenant more places than it would have if all tenants that wait had as many.
    pub(super) fn is_above_share(&self, id: u64) -> bool {
        let (own, waiting) = (self.of(id), self.all.iter().filter(|tenant| !tenant.calls.is_empty()).count());
        let tenants = waiting + usize::from(own == 0);
        tenants > 1 && (own + 1) * tenants > self.len + 1
    }

    /// Adds a call; returns the id that it waits under.
    pub(super) fn push(&mut self, id: u64, rank: Rank, call: T) -> u64 {
        let virtual_time = self.virtual_time;
        if self.all.len() >= TENANTS {
            self.all.retain(|tenant| !tenant.calls.is_empty() || tenant.start > virtual_time);
        }
        let place = self.place(id).unwrap_or_else(|| {
            self.all.push(Tenant { id, start: 0, calls: BTreeMap::new() });
            self.all.len() - 1
        });
        let tenant = &mut self.all[place];
        if tenant.calls.is_empty() {
            // Who did not wait has saved nothing up; who has just been served is not first again by coming anew.
            tenant.start = tenant.start.max(virtual_time);
        }
        tenant.calls.insert(rank, call);
        self.len += 1;
        tenant.id
    }

    /// Takes out the next call.
    pub(super) fn pop(&mut self, latest_first: bool) -> Option<(u64, Rank, T)> {
        let waiting = self.all.iter_mut().filter(|tenant| !tenant.calls.is_empty());
        let next = waiting.min_by_key(|tenant| tenant.start)?;
        let (rank, call) = if latest_first { next.calls.pop_last() } else { next.calls.pop_first() }?;
        self.virtual_time = next.start;
        next.start += 1;
        self.len -= 1;
        Some((next.id, rank, call))
    }

    /// Gives back what its tenant was charged for a call that was taken out and not served.
    pub(super) fn refund(&mut self, id: u64) {
        if let Some(tenant) = self.all.iter_mut().find(|tenant| tenant.id == id) {
            tenant.start = tenant.start.saturating_sub(1);
        }
    }

    /// Takes out a certain call.
    pub(super) fn remove(&mut self, id: u64, rank: &Rank) -> Option<T> {
        let taken = self.all.iter_mut().find(|tenant| tenant.id == id)?.calls.remove(rank)?;
        self.len -= 1;
        Some(taken)
    }

    /// Takes out the call that can wait longest of the tenant with the most, if that has more than `than`.
    pub(super) fn displace(&mut self, than: usize) -> Option<T> {
        let most = self.all.iter_mut().max_by_key(|tenant| tenant.calls.len())?;
        let (_, call) = (most.calls.len() > than).then(|| most.calls.pop_last())??;
        self.len -= 1;
        Some(call)
    }
}
