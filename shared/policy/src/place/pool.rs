//! What replicas take shares of.

/// A device's memory in bytes, or a worker's threads in thousandths of one.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    capacity: u64,
    /// Taken or promised. What goes still counts: it is there until the worker has let go.
    used: u64,
    /// The part of `used` that goes.
    going: u64,
    /// Promised to replicas that come when others have gone.
    reserved: u64,
}

impl Pool {
    pub(super) const fn new(capacity: u64) -> Self {
        Self { capacity, used: 0, going: 0, reserved: 0 }
    }

    /// Whether so much would fit if nothing else were there.
    pub(super) const fn holds(&self, share: u64) -> bool {
        share <= self.capacity
    }

    /// What will be taken when all that goes has gone and all that waits has come.
    const fn later(&self) -> u64 {
        self.used.saturating_sub(self.going).saturating_add(self.reserved)
    }

    /// What a new replica may take, now and later.
    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used.max(self.later()))
    }

    /// How much more would have to go for `share` more to fit later.
    pub(super) const fn lack(&self, share: u64) -> u64 {
        self.later().saturating_add(share).saturating_sub(self.capacity)
    }

    /// Whether more is there than fits, although some of it goes.
    pub(super) const fn is_overfull(&self) -> bool {
        self.lack(0) > 0
    }

    pub(super) const fn take(&mut self, share: u64) {
        self.used = self.used.saturating_add(share);
    }

    /// What was promised a moment ago is not taken.
    pub(super) const fn give_back(&mut self, share: u64) {
        self.used = self.used.saturating_sub(share);
    }

    /// A part of what is taken is on its way out.
    pub(super) const fn release(&mut self, share: u64) {
        self.going = self.going.saturating_add(share);
    }

    /// A part of what was on its way out stays.
    pub(super) const fn retain(&mut self, share: u64) {
        self.going = self.going.saturating_sub(share);
    }

    pub(super) const fn reserve(&mut self, share: u64) {
        self.reserved = self.reserved.saturating_add(share);
    }
}
