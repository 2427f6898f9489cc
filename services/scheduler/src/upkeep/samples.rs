//! How far the store's history may be forgotten. Pure: it takes `now`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weft_store::Revision;

/// Where the store stood, and when, oldest first; and how far it has forgotten.
#[derive(Debug)]
pub(super) struct Samples {
    /// How long history is kept.
    history: Duration,
    taken: VecDeque<(Instant, Revision)>,
    compacted: Revision,
}

impl Samples {
    pub(super) const fn new(history: Duration) -> Self {
        Self { history, taken: VecDeque::new(), compacted: 0 }
    }

    /// The store stood at `revision` at `now` or before. Samples that can never be due again are dropped, by those who
    /// never ask what is due as well.
    pub(super) fn note(&mut self, revision: Revision, now: Instant) {
        if self.taken.back().is_some_and(|(_, last)| revision < *last) {
            // The store was restored from a backup: what was known of it says nothing of its new history.
            *self = Self::new(self.history);
        }
        self.taken.push_back((now, revision));
        self.prune(now);
    }

    /// The newest revision that is at least `history` old, unless everything before it is forgotten already.
    pub(super) fn due(&mut self, now: Instant) -> Option<Revision> {
        self.prune(now);
        let (_, revision) = *self.taken.front().filter(|(at, _)| self.is_old(*at, now))?;
        (revision > self.compacted).then_some(revision)
    }

    /// Of the samples that are old, only the newest is of use.
    fn prune(&mut self, now: Instant) {
        while self.taken.get(1).is_some_and(|(at, _)| self.is_old(*at, now)) {
            self.taken.pop_front();
        }
    }

    fn is_old(&self, at: Instant, now: Instant) -> bool {
        now.saturating_duration_since(at) >= self.history
    }

    /// The store has forgotten what came before `revision`.
    pub(super) fn compacted(&mut self, revision: Revision) {
        self.compacted = revision;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_types::SystemClock;

    use super::*;

    const HISTORY: Duration = Duration::from_secs(300);

    #[test]
    fn forgets_what_is_old_enough_and_once() {
        let start = SystemClock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut samples = Samples::new(HISTORY);
        assert_eq!(samples.due(at(1000)), None, "nothing is known");
        samples.note(10, at(0));
        samples.note(20, at(100));
        assert_eq!(samples.due(at(299)), None);
        assert_eq!(samples.due(at(300)), Some(10));
        assert_eq!(samples.due(at(300)), Some(10), "not yet told that it is done");
        samples.compacted(10);
        assert_eq!(samples.due(at(399)), None);
        assert_eq!(samples.due(at(400)), Some(20));
        samples.compacted(20);
        samples.note(20, at(500));
        assert_eq!(samples.due(at(900)), None, "nothing has happened since");
    }

    #[test]
    fn a_restored_store_begins_anew() {
        let start = SystemClock::now();
        let mut samples = Samples::new(HISTORY);
        samples.note(1000, start);
        samples.compacted(900);
        samples.note(50, start + HISTORY);
        assert_eq!(samples.due(start + HISTORY), None, "1000 is of another history");
        assert_eq!(samples.due(start + 2 * HISTORY), Some(50), "and so is 900");
    }

    proptest! {
        /// Whatever the samples are: what is forgotten was old, is the newest that was, and never goes back.
        #[test]
        fn only_old_history_is_forgotten(steps in proptest::collection::vec((0u64..120, 0i64..50), 1..60)) {
            let start = SystemClock::now();
            let (mut samples, mut taken) = (Samples::new(HISTORY), Vec::new());
            let (mut elapsed, mut revision, mut last) = (0, 1, 0);
            for (seconds, changes) in steps {
                elapsed += seconds;
                revision += changes;
                let now = start + Duration::from_secs(elapsed);
                samples.note(revision, now);
                let old = samples.taken.iter().filter(|(at, _)| now.duration_since(*at) >= HISTORY).count();
                prop_assert!(old <= 1, "a follower, which asks nothing, keeps {old} samples of no use");
                taken.push((now, revision));
                let old = taken.iter().rev().find(|(at, _)| now.duration_since(*at) >= HISTORY).map(|(_, told)| *told);
                let due = samples.due(now);
                prop_assert_eq!(due, old.filter(|old| *old > last));
                if let Some(due) = due {
                    samples.compacted(due);
                    last = due;
                }
            }
        }
    }
}
