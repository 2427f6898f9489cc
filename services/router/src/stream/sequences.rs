//! Where the sequences of one stream are.

use std::collections::HashMap;

use weft_policy::Affinity;
use weft_types::{Version, WorkerId};

use crate::identify::Wanted;

/// As many as a worker keeps of one model.
const MOST: usize = 16_384;

/// The workers that the sequences of a stream were last sent to, until they end. When there are too many of them, all are
/// forgotten: then each goes to where it would begin, which is the same place unless replicas have come or gone.
#[derive(Default)]
pub(super) struct Sequences(HashMap<Key, WorkerId>);

type Key = (Affinity, Option<Version>);

fn key(wanted: &Wanted<'_>) -> Option<Key> {
    Some((wanted.affinity(wanted.name)?, wanted.version))
}

impl Sequences {
    /// The worker that has the sequence of a request.
    pub(super) fn worker(&self, wanted: &Wanted<'_>) -> Option<&WorkerId> {
        self.0.get(&key(wanted)?)
    }

    /// Notes where a request goes.
    pub(super) fn note(&mut self, wanted: &Wanted<'_>, worker: &WorkerId) {
        let Some(key) = key(wanted) else { return };
        if self.0.get(&key) != Some(worker) {
            if self.0.len() >= MOST {
                self.0.clear();
            }
            self.0.insert(key, worker.clone());
        }
    }

    /// Forgets a sequence whose last request has been sent.
    pub(super) fn end(&mut self, wanted: &Wanted<'_>) {
        if let Some(key) = key(wanted) {
            self.0.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::frame::Sequence;
    use weft_types::{Deadline, SystemClock};

    use super::*;

    fn wanted(sequence: u64) -> Wanted<'static> {
        Wanted {
            name: "m",
            version: None,
            id: "",
            deadline: Deadline::after(SystemClock::now(), std::time::Duration::from_secs(60)),
            sequence: Some(Sequence::Number(sequence)),
            ends_sequence: false,
            priority: 0,
            unit: 0.0,
            metadata: None,
            message: &[],
            request: weft_proto::message::Payload::default(),
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_ends_with_the_sequence() {
        let mut sequences = Sequences::default();
        let worker: WorkerId = "w-1".parse().expect("a name");
        for sequence in 1..=3 * MOST as u64 {
            sequences.note(&wanted(sequence), &worker);
            assert!(sequences.0.len() <= MOST && sequences.worker(&wanted(sequence)) == Some(&worker));
        }
        let last = wanted(3 * MOST as u64);
        sequences.end(&last);
        assert_eq!(sequences.worker(&last), None);
        sequences.note(&Wanted { sequence: None, ..wanted(1) }, &worker);
        assert_eq!(sequences.worker(&Wanted { sequence: None, ..wanted(1) }), None);
    }
}
