//! Which part of the arena a buffer gets: numbers only.
//!
//! Each size class (a power of two) has a region of its own, so that nothing is ever fragmented: a slot that was free is as good as
//! any other of its class. The regions together are far larger than the limit; that costs nothing, because the file is sparse and what
//! is counted against the limit is the pages that have been touched, not the places that exist.

use std::collections::VecDeque;
use std::ops::Range;

/// What memory is touched and given back in.
pub(super) const PAGE: u64 = 4096;

/// A page of a huge mapping; classes from this size on are aligned to it.
pub(super) const HUGE_PAGE: u64 = 2 << 20;

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is larger than the whole arena.
    Never,
    /// Others have to be given back first.
    Now,
}

/// How an arena is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes in buffers.
    pub in_use: u64,
    /// Bytes of free slots whose pages are kept for the next buffer.
    pub kept: u64,
    /// The most that has been in use.
    pub high_water: u64,
    /// Buffers, since given back, that found all their pages there.
    pub hits: u64,
    /// Buffers, since given back, some of whose pages had to be made.
    pub misses: u64,
    /// Requests that had to wait, or were refused for good.
    pub refusals: u64,
}

impl Statistics {
    /// Of two arenas together; the most in use is then no more than this.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            in_use: self.in_use + other.in_use,
            kept: self.kept + other.kept,
            high_water: self.high_water + other.high_water,
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            refusals: self.refusals + other.refusals,
        }
    }
}

/// A part of the arena in use. It must be given back to the [`Slots`] it was taken from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot {
    class: usize,
    offset: u64,
    /// Pages that were there when it was taken.
    found: u64,
    /// What is counted against the limit.
    charged: u64,
}

impl Slot {
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

#[derive(Debug)]
struct Class {
    region: Range<u64>,
    size: u64,
    /// Where the first slot that was never used begins.
    fresh: u64,
    /// Free slots with the bytes of each whose pages are kept; the most recently used is last.
    free: VecDeque<(u64, u64)>,
}

/// The slots of one arena.
#[derive(Debug)]
pub(super) struct Slots {
    limit: u64,
    keep: u64,
    classes: Vec<Class>,
    statistics: Statistics,
}

impl Slots {
    /// Slots of which at most `limit` bytes are in use, and at most half as many are kept once free.
    pub(super) fn new(limit: u64) -> Self {
        let limit = limit.max(PAGE).next_multiple_of(PAGE);
        let (mut classes, mut start, mut size) = (Vec::new(), 0u64, PAGE);
        loop {
            if size >= HUGE_PAGE {
                start = start.next_multiple_of(HUGE_PAGE);
            }
            // A buffer takes more than half of its slot, so twice the limit holds every slot that can be in use.
            let end = start + (limit * 2).next_multiple_of(size);
            classes.push(Class { region: start..end, size, fresh: start, free: VecDeque::new() });
            if size >= limit {
                break;
            }
            (start, size) = (end, size * 2);
        }
        Self { limit, keep: limit / 2, classes, statistics: Statistics::default() }
    }

    /// The most bytes in use at once.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The length of the whole file.
    pub(super) fn span(&self) -> u64 {
        self.classes.last().map_or(0, |class| class.region.end)
    }

    /// Where slots of at least a huge page begin.
    pub(super) fn huge(&self) -> Option<u64> {
        self.classes.iter().find(|class| class.size >= HUGE_PAGE).map(|class| class.region.start)
    }

    pub(super) fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Takes a slot of at least this length. Pages that have to go for it are added to `released`.
    pub(super) fn take(&mut self, length: u64, released: &mut Vec<Range<u64>>) -> Result<Slot, Refusal> {
        let slot = self.find(length, released);
        match &slot {
            Ok(slot) => {
                let statistics = &mut self.statistics;
                statistics.in_use += slot.charged;
                statistics.high_water = statistics.high_water.max(statistics.in_use);
            }
            Err(_) => self.statistics.refusals += 1,
        }
        slot
    }

    fn find(&mut self, length: u64, released: &mut Vec<Range<u64>>) -> Result<Slot, Refusal> {
        let need = length.max(1).checked_next_multiple_of(PAGE).ok_or(Refusal::Never)?;
        if need > self.limit {
            return Err(Refusal::Never);
        }
        let at = self.classes.iter().position(|class| class.size >= need).ok_or(Refusal::Never)?;
        if self.statistics.in_use + need > self.limit {
            return Err(Refusal::Now);
        }
        let (offset, mut found) = self.classes[at].pop().ok_or(Refusal::Now)?;
        self.statistics.kept -= found;
        if self.statistics.in_use + found.max(need) > self.limit {
            released.push(offset..offset + found);
            found = 0;
        }
        let charged = found.max(need);
        self.evict(self.limit - self.statistics.in_use - charged, released);
        Ok(Slot { class: at, offset, found, charged })
    }

    /// Counts a slot for no more than what was used of it: the rest of its pages were never touched.
    pub(super) fn shrink(&mut self, slot: &mut Slot, used: u64) {
        let charged = used.next_multiple_of(PAGE).max(slot.found).min(slot.charged);
        self.statistics.in_use -= slot.charged - charged;
        slot.charged = charged;
    }

    /// Gives a slot back. Pages that are not kept are added to `released`.
    #[expect(clippy::needless_pass_by_value, reason = "a slot that was given back must not be used again")]
    pub(super) fn give(&mut self, slot: Slot, released: &mut Vec<Range<u64>>) {
        let statistics = &mut self.statistics;
        statistics.in_use -= slot.charged;
        statistics.kept += slot.charged;
        let was_there = slot.found >= slot.charged;
        *(if was_there { &mut statistics.hits } else { &mut statistics.misses }) += 1;
        self.classes[slot.class].free.push_back((slot.offset, slot.charged));
        self.evict(self.keep, released);
    }

    /// Drops pages of free slots, the largest first, until at most `most` bytes are kept.
    fn evict(&mut self, most: u64, released: &mut Vec<Range<u64>>) {
        if self.statistics.kept <= most {
            return;
        }
        for class in self.classes.iter_mut().rev() {
            for (offset, kept) in class.free.iter_mut().filter(|(_, kept)| *kept > 0) {
                self.statistics.kept -= *kept;
                released.push(*offset..*offset + *kept);
                *kept = 0;
                if self.statistics.kept <= most {
                    return;
                }
            }
        }
    }
}

impl Class {
    /// The most recently used free slot, whose pages and cache lines are likely there; else one that was never used.
    fn pop(&mut self) -> Option<(u64, u64)> {
        if let Some(free) = self.free.pop_back() {
            return Some(free);
        }
        let offset = self.fresh;
        let end = offset + self.size;
        (end <= self.region.end).then(|| {
            self.fresh = end;
            (offset, 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 1 << 20;

    #[derive(Clone, Debug)]
    enum Step {
        Take(u64),
        Give(usize),
        Shrink(usize, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u32..21).prop_flat_map(|power| 0..=(1u64 << power)).prop_map(Step::Take),
            3 => any::<usize>().prop_map(Step::Give),
            1 => (any::<usize>(), 0..LIMIT).prop_map(|(at, used)| Step::Shrink(at, used)),
        ];
        proptest::collection::vec(step, 1..400)
    }

    proptest! {
        #[test]
        fn buffers_never_overlap_and_stay_within_the_limit(steps in steps()) {
            let mut slots = Slots::new(LIMIT);
            let mut held: Vec<(Slot, u64)> = Vec::new();
            // The pages that a kernel would hold, by their number: a buffer is written to its final length only.
            let mut pages = BTreeSet::new();
            let within = |slot: &Slot, length: u64| slot.offset / PAGE..(slot.offset + length).div_ceil(PAGE);
            let mut any_shrunk = false;
            for step in steps {
                let mut released = Vec::new();
                match step {
                    Step::Take(length) => {
                        let before = slots.statistics().in_use;
                        match slots.take(length, &mut released) {
                            Ok(slot) => {
                                let end = slot.offset + length;
                                prop_assert!(slot.offset % 64 == 0 && end <= slots.span());
                                let apart = |(other, length): &(Slot, u64)| end <= other.offset || other.offset + length <= slot.offset;
                                prop_assert!(held.iter().all(apart), "overlap");
                                held.push((slot, length));
                            }
                            Err(refusal) => {
                                prop_assert_eq!(refusal, Refusal::Now);
                                let fits = before + length.max(1).next_multiple_of(PAGE) <= LIMIT;
                                // Shrunk slots leave bytes free, but not places of their class.
                                prop_assert!(!fits || any_shrunk, "refused although there is room");
                            }
                        }
                    }
                    Step::Give(at) if !held.is_empty() => {
                        let (slot, length) = held.swap_remove(at % held.len());
                        pages.extend(within(&slot, length));
                        slots.give(slot, &mut released);
                    }
                    Step::Shrink(at, used) if !held.is_empty() => {
                        let at = at % held.len();
                        let (slot, length) = &mut held[at];
                        *length = used.min(*length);
                        slots.shrink(slot, *length);
                        any_shrunk = true;
                    }
                    Step::Give(_) | Step::Shrink(..) => {}
                }
                for range in released {
                    (range.start / PAGE..range.end / PAGE).for_each(|page| { pages.remove(&page); });
                    let apart = |(slot, length): &(Slot, u64)| range.end <= slot.offset || slot.offset + length <= range.start;
                    // The slot that was just taken is not written yet: its pages may go.
                    let written = held.len().saturating_sub(1);
                    prop_assert!(held[..written].iter().all(apart), "released under a buffer");
                }
                let fresh = held.iter().flat_map(|(slot, length)| within(slot, *length)).filter(|page| !pages.contains(page));
                let touched = (fresh.count() + pages.len()) as u64 * PAGE;
                let statistics = slots.statistics();
                prop_assert!(statistics.in_use + statistics.kept <= LIMIT && statistics.kept <= LIMIT / 2, "{:?}", statistics);
                prop_assert!(touched <= statistics.in_use + statistics.kept, "{} bytes, {:?}", touched, statistics);
            }
            held.into_iter().for_each(|(slot, _)| slots.give(slot, &mut Vec::new()));
            prop_assert_eq!(slots.statistics().in_use, 0);
        }
    }

    #[test]
    fn what_can_never_fit_is_told_apart() {
        let mut slots = Slots::new(LIMIT);
        assert_eq!(slots.take(LIMIT + 1, &mut Vec::new()), Err(Refusal::Never));
        assert_eq!(slots.take(u64::MAX, &mut Vec::new()), Err(Refusal::Never));
        let whole = slots.take(LIMIT, &mut Vec::new()).unwrap();
        assert_eq!(slots.take(1, &mut Vec::new()), Err(Refusal::Now));
        slots.give(whole, &mut Vec::new());
        assert!(slots.take(1, &mut Vec::new()).is_ok());
    }

    #[test]
    fn a_steady_state_makes_no_pages() {
        let mut slots = Slots::new(LIMIT);
        for _ in 0..1000 {
            let pair = [100_000, 30_000].map(|length| slots.take(length, &mut Vec::new()).unwrap());
            let mut released = Vec::new();
            pair.into_iter().for_each(|slot| slots.give(slot, &mut released));
            assert_eq!(released, []);
        }
        assert_eq!((slots.statistics().misses, slots.statistics().hits), (2, 1998));
    }
}
