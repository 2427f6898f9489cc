//! Requests that come back into the queue, and a look at the first ones.

use weft_policy::batch::Waiting;

use super::{Queue, Rank, Work};

impl Queue {
    /// The band of the request that is served next, unless it must run alone.
    pub(crate) fn first_band(&self) -> Option<u64> {
        let state = self.lock();
        let (rank, work) = state.waiting.first_key_value()?;
        work.suspect.is_none().then_some(rank.band)
    }

    /// The first requests, in the order of service whatever fits together.
    pub(crate) fn first(&self, count: usize) -> Vec<Waiting> {
        let waiting = |(rank, work): (&Rank, &Work)| {
            let Work { rows, deadline, ref caller, .. } = *work;
            Waiting { rows, band: rank.band, deadline, queued_at: caller.queued_at }
        };
        self.lock().waiting.iter().take(count).map(waiting).collect()
    }

    /// Takes requests back whose execution was stopped, each to its old place and whatever the bounds say: they were within them
    /// before. Also while it takes nothing new; what it does not take is given back, which is all once it was abandoned, and what another
    /// worker can have once it gives way.
    pub(crate) fn put_back(&self, work: Vec<Work>) -> Vec<Work> {
        let gone = {
            let mut state = self.lock();
            let stays = |work: &Work| !(state.abandoned || (state.gives_way && work.is_movable()));
            let (work, gone): (Vec<Work>, Vec<Work>) = work.into_iter().partition(stays);
            // Who leaves says so before he looks for his place here: he is seen now, or finds it.
            for work in work.into_iter().filter(|work| work.caller.left().is_none()) {
                work.caller.stop();
                state.bytes += work.bytes;
                state.rows += work.rows;
                state.bands.entry(work.rank.band).or_default().add(work.tenant);
                state.waiting.insert(work.rank, work);
            }
            gone
        };
        self.changed.notify_one();
        gone
    }
}
