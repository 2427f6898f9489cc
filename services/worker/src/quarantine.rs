//! Inputs that are suspected to end the model's process, and those known to.
//!
//! A process that holds a model can be ended by what it is asked to compute: then every caller of that moment fails, and the
//! same input sent again fails them all again. So each input that was in a lost execution is a suspect: it runs alone from then
//! on, which clears the innocent, and after [`LOSSES`] of them it is refused. Nothing is computed for this before the first loss.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use weft_engine::Tensor;
use weft_types::{ModelName, Version};

/// Lost executions after which an input is refused.
const LOSSES: u32 = 3;
/// Inputs remembered for each version of a model; beyond it, the one blamed longest ago is forgotten, suspects first.
const REMEMBERED: usize = 1024;

/// SHA-256 over an input's names, types, shapes and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(inputs: &[Tensor]) -> Self {
        let mut hash = Sha256::new();
        // Every part goes with its length, so that no two inputs read alike.
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for tensor in inputs {
            add(tensor.name.as_bytes());
            add(tensor.datatype.as_str().as_bytes());
            let shape: Vec<u8> = tensor.shape.iter().flat_map(|axis| (*axis as u64).to_le_bytes()).collect();
            add(&shape);
            add(&tensor.data);
        }
        Self(hash.finalize().into())
    }
}

/// What is known of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Clear,
    /// It was in a lost execution: it must run alone.
    Suspect(Digest),
    /// It is not executed again.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    losses: u32,
    /// Grows with each loss.
    at: u64,
}

/// The suspects of one version of a model; it outlives the replicas that they end.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    /// Whether anything is remembered: what every request asks first.
    is_used: AtomicBool,
    // Held for map operations only, never across an await.
    marks: Mutex<BTreeMap<Digest, Mark>>,
    changed: Arc<Notify>,
}

impl Quarantine {
    fn marks(&self) -> MutexGuard<'_, BTreeMap<Digest, Mark>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a request stands. Costs a load where nothing was ever lost.
    pub(crate) fn judge(&self, inputs: &[Tensor]) -> Standing {
        if !self.is_used.load(Ordering::Acquire) {
            return Standing::Clear;
        }
        let digest = Digest::of(inputs);
        match self.marks().get(&digest) {
            None => Standing::Clear,
            Some(mark) if mark.losses < LOSSES => Standing::Suspect(digest),
            Some(_) => Standing::Refused,
        }
    }

    /// This input was in a lost execution; says whether it is refused from now on.
    pub(crate) fn blame(&self, digest: Digest) -> bool {
        let mut marks = self.marks();
        let at = marks.values().map(|mark| mark.at).max().map_or(0, |at| at.saturating_add(1));
        if marks.len() >= REMEMBERED && !marks.contains_key(&digest) {
            let oldest =
                marks.iter().min_by_key(|(_, mark)| (mark.losses >= LOSSES, mark.at)).map(|(digest, _)| *digest);
            oldest.and_then(|oldest| marks.remove(&oldest));
        }
        let mark = marks.entry(digest).or_insert(Mark { losses: 0, at });
        (mark.losses, mark.at) = (mark.losses.saturating_add(1), at);
        let is_refused = mark.losses == LOSSES;
        self.is_used.store(true, Ordering::Release);
        drop(marks);
        self.changed.notify_one();
        is_refused
    }

    /// This suspect was executed and ended nothing.
    pub(crate) fn clear(&self, digest: Digest) {
        let mut marks = self.marks();
        marks.remove(&digest);
        self.is_used.store(!marks.is_empty(), Ordering::Release);
    }

    /// How many inputs are refused.
    pub(crate) fn count(&self) -> usize {
        self.marks().values().filter(|mark| mark.losses >= LOSSES).count()
    }
}

/// The quarantines of all versions that were loaded since the worker started: as many as its repository has at most.
#[derive(Debug, Default)]
pub(crate) struct Quarantines {
    // Held for a look-up, never across an await.
    versions: Mutex<BTreeMap<(ModelName, Version), Arc<Quarantine>>>,
    changed: Arc<Notify>,
}

impl Quarantines {
    /// That of a version.
    pub(crate) fn of(&self, key: &(ModelName, Version)) -> Arc<Quarantine> {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Quarantine { changed: Arc::clone(&self.changed), ..Quarantine::default() });
        Arc::clone(versions.entry(key.clone()).or_insert_with(fresh))
    }

    /// Waits until an input was blamed, since the last wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weft_engine::DataType;

    use super::*;

    fn input(name: &str, shape: &[usize], data: &'static [u8]) -> Tensor {
        Tensor { name: name.into(), datatype: DataType::Uint8, shape: shape.to_vec(), data: Bytes::from_static(data) }
    }

    fn numbered(number: u32) -> Digest {
        Digest::of(&[Tensor { data: number.to_le_bytes().to_vec().into(), ..input("X", &[4], b"") }])
    }

    #[test]
    fn every_part_of_an_input_counts() {
        let cases = [
            vec![input("X", &[2], b"ab")],
            vec![input("XY", &[2], b"ab")],
            vec![input("X", &[1, 2], b"ab")],
            vec![input("X", &[2], b"ac")],
            vec![Tensor { datatype: DataType::Int8, ..input("X", &[2], b"ab") }],
            vec![input("X", &[1], b"a"), input("X", &[1], b"b")],
            vec![],
        ];
        let digests: std::collections::BTreeSet<Digest> = cases.iter().map(|case| Digest::of(case)).collect();
        assert_eq!(digests.len(), cases.len());
        assert_eq!(Digest::of(&cases[0]), Digest::of(&cases[0].clone()));
    }

    #[test]
    fn three_losses_make_a_refusal_and_a_success_clears() {
        let (quarantine, inputs) = (Quarantine::default(), [input("X", &[2], b"ab")]);
        let digest = Digest::of(&inputs);
        assert_eq!(quarantine.judge(&inputs), Standing::Clear);
        assert!(!quarantine.blame(digest) && !quarantine.blame(digest));
        assert_eq!(quarantine.judge(&inputs), Standing::Suspect(digest));
        quarantine.clear(digest);
        assert_eq!(quarantine.judge(&inputs), Standing::Clear);
        assert_eq!([(); 3].map(|()| quarantine.blame(digest)), [false, false, true]);
        assert_eq!(quarantine.judge(&inputs), Standing::Refused);
        assert_eq!(quarantine.count(), 1);
        assert_eq!(quarantine.judge(&[input("X", &[2], b"xy")]), Standing::Clear);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_guilty_stay_longest() {
        let (quarantine, guilty) = (Quarantine::default(), numbered(u32::MAX));
        assert_eq!([(); 3].map(|()| quarantine.blame(guilty)), [false, false, true]);
        for number in 0..2 * u32::try_from(REMEMBERED).expect("small") {
            quarantine.blame(numbered(number));
        }
        assert_eq!(quarantine.marks().len(), REMEMBERED);
        assert_eq!(quarantine.count(), 1);
        assert!(!quarantine.marks().contains_key(&numbered(0)), "the oldest suspect goes first");
    }
}
