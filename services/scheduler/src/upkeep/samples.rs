//! How far the store's history may be forgotten. Pure: it takes `now`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use weft_store::Revision;

/// Where the store stood, and when, oldest first; and how far it has forgotten.
#[derive(Debug, Default)]
pub(super) struct Samples {
    taken: VecDeque<(Instant, Revision)>,
    compacted: Revision,
}

impl Samples {
    /// The store stood at `revision` at `now` or later.
    pub(super) fn note(&mut self, revision: Revision, now: Instant) {
        if self.taken.back().is_some_and(|(_, last)| revision < *last) {
            // The store was restored from a backup: what was known of it says nothing of its new history.
            *self = Self::default();
        }
        self.taken.push_back((now, revision));
    }

    /// The newest revision that is at least `history` old, unless everything before it is forgotten already. Samples that
    /// are older than that one are dropped.
    pub(super) fn due(&mut self, history: Duration, now: Instant) -> Option<Revision> {
        let is_old = |sample: &(Instant, Revision)| now.saturating_duration_since(sample.0) >= history;
        while self.taken.get(1).is_some_and(is_old) {
            self.taken.pop_front();
        }
        let (_, revision) = *self.taken.front().filter(|sample| is_old(sample))?;
        (revision > self.compacted).then_some(revision)
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
        let mut samples = Samples::default();
        assert_eq!(samples.due(HISTORY, at(1000)), None, "nothing is known");
        samples.note(10, at(0));
        samples.note(20, at(100));
        assert_eq!(samples.due(HISTORY, at(299)), None);
        assert_eq!(samples.due(HISTORY, at(300)), Some(10));
        assert_eq!(samples.due(HISTORY, at(300)), Some(10), "not yet told that it is done");
        samples.compacted(10);
        assert_eq!(samples.due(HISTORY, at(399)), None);
        assert_eq!(samples.due(HISTORY, at(400)), Some(20));
        samples.compacted(20);
        samples.note(20, at(500));
        assert_eq!(samples.due(HISTORY, at(900)), None, "nothing has happened since");
    }

    #[test]
    fn a_restored_store_begins_anew() {
        let start = SystemClock::now();
        let mut samples = Samples::default();
        samples.note(1000, start);
        samples.compacted(900);
        samples.note(50, start + HISTORY);
        assert_eq!(samples.due(HISTORY, start + HISTORY), None, "1000 is of another history");
        assert_eq!(samples.due(HISTORY, start + 2 * HISTORY), Some(50), "and so is 900");
    }

    proptest! {
        /// Whatever the samples are: what is forgotten was old, is the newest that was, and never goes back.
        #[test]
        fn only_old_history_is_forgotten(steps in proptest::collection::vec((0u64..120, 0i64..50), 1..60)) {
            let start = SystemClock::now();
            let (mut samples, mut taken) = (Samples::default(), Vec::new());
            let (mut elapsed, mut revision, mut last) = (0, 1, 0);
            for (seconds, changes) in steps {
                elapsed += seconds;
                revision += changes;
                let now = start + Duration::from_secs(elapsed);
                samples.note(revision, now);
                taken.push((now, revision));
                let old = taken.iter().rev().find(|(at, _)| now.duration_since(*at) >= HISTORY).map(|(_, told)| *told);
                let due = samples.due(HISTORY, now);
                prop_assert_eq!(due, old.filter(|old| *old > last));
                if let Some(due) = due {
                    samples.compacted(due);
                    last = due;
                }
            }
        }
    }
}
