//! Inputs that are suspected to end the model's process, and those known to.
//!
//! A process that holds a model can be ended by what it is asked to compute: then every caller of that moment fails, and the
//! same input sent again fails them all again. So each input that was in a lost execution is a suspect: it runs alone from then
//! on, which clears the innocent, and after [`LOSSES`] of them it is refused, until [`REMEMBERED_FOR`] after the last. Nothing is
//! computed for this before the first loss, and little for an input that does not look like a marked one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use weft_engine::Tensor;
use weft_types::{Error, ModelName, Reason, Version};

/// Lost executions after which an input is refused.
const LOSSES: u32 = 3;
/// Inputs remembered for each version of a model; beyond it, the one blamed longest ago is forgotten, suspects first.
const REMEMBERED: usize = 1024;

/// How long a mark stays without another loss: also the innocent that nobody sends again are forgotten.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// The most bytes of a tensor that its sketch reads, half of them from each end.
const SKETCHED: usize = 4096;

/// Tells inputs apart. The derived order puts those of one sketch together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest {
    /// Over a part of the bytes, so that it costs the same for every size.
    sketch: [u8; 32],
    /// Over all of them.
    whole: [u8; 32],
}

impl Digest {
    pub(crate) fn of(inputs: &[Tensor]) -> Self {
        Self { sketch: Self::sketch(inputs), whole: Self::hash(inputs, |data| [data, &[]]) }
    }

    fn sketch(inputs: &[Tensor]) -> [u8; 32] {
        Self::hash(inputs, |data| match data.len() > SKETCHED {
            true => [&data[..SKETCHED / 2], &data[data.len() - SKETCHED / 2..]],
            false => [data, &[]],
        })
    }

    /// SHA-256 over an input's names, types, shapes and what `parts` takes of the bytes.
    fn hash(inputs: &[Tensor], parts: impl Fn(&[u8]) -> [&[u8]; 2]) -> [u8; 32] {
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
            parts(&tensor.data).into_iter().for_each(&mut add);
        }
        hash.finalize().into()
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

/// What the sender of a refused input is told. The request is well formed: it is the model's runtime that fails on it.
pub(crate) fn refusal() -> Error {
    Error::new(Reason::ModelFailed, "this input has ended the model's process several times: it is not executed again")
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    losses: u32,
    /// Of the last loss.
    at: Instant,
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
    pub(crate) fn judge(&self, inputs: &[Tensor], now: Instant) -> Standing {
        if !self.is_used.load(Ordering::Acquire) {
            return Standing::Clear;
        }
        let sketch = Digest::sketch(inputs);
        let all = Digest { sketch, whole: [0; 32] }..=Digest { sketch, whole: [u8::MAX; 32] };
        {
            let mut marks = self.marks();
            self.forget(&mut marks, now);
            if marks.range(all).next().is_none() {
                return Standing::Clear;
            }
        }
        let digest = Digest::of(inputs);
        match self.marks().get(&digest) {
            None => Standing::Clear,
            Some(mark) if mark.losses < LOSSES => Standing::Suspect(digest),
            Some(_) => Standing::Refused,
        }
    }

    /// This input was in a lost execution; says whether it is refused from now on.
    pub(crate) fn blame(&self, digest: Digest, at: Instant) -> bool {
        let mut marks = self.marks();
        self.forget(&mut marks, at);
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

    fn forget(&self, marks: &mut BTreeMap<Digest, Mark>, now: Instant) {
        marks.retain(|_, mark| now.saturating_duration_since(mark.at) < REMEMBERED_FOR);
        self.is_used.store(!marks.is_empty(), Ordering::Release);
    }

    /// This suspect was executed and ended nothing.
    pub(crate) fn clear(&self, digest: Digest) {
        let mut marks = self.marks();
        marks.remove(&digest);
        self.is_used.store(!marks.is_empty(), Ordering::Release);
    }

    /// How many inputs are refused.
    pub(crate) fn count(&self, now: Instant) -> usize {
        let mut marks = self.marks();
        self.forget(&mut marks, now);
        marks.values().filter(|mark| mark.losses >= LOSSES).count()
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
    use weft_types::SystemClock;

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
        let (quarantine, inputs, now) = (Quarantine::default(), [input("X", &[2], b"ab")], SystemClock::now());
        let digest = Digest::of(&inputs);
        assert_eq!(quarantine.judge(&inputs, now), Standing::Clear);
        assert!(!quarantine.blame(digest, now) && !quarantine.blame(digest, now));
        assert_eq!(quarantine.judge(&inputs, now), Standing::Suspect(digest));
        quarantine.clear(digest);
        assert_eq!(quarantine.judge(&inputs, now), Standing::Clear);
        assert_eq!([(); 3].map(|()| quarantine.blame(digest, now)), [false, false, true]);
        assert_eq!(quarantine.judge(&inputs, now), Standing::Refused);
        assert_eq!(quarantine.count(now), 1);
        assert_eq!(quarantine.judge(&[input("X", &[2], b"xy")], now), Standing::Clear);
    }

    #[test]
    fn marks_and_refusals_expire() {
        let (quarantine, now) = (Quarantine::default(), SystemClock::now());
        let [guilty, suspect] = [[input("X", &[2], b"ab")], [input("X", &[2], b"xy")]];
        assert_eq!([(); 3].map(|()| quarantine.blame(Digest::of(&guilty), now)), [false, false, true]);
        let later = now + REMEMBERED_FOR / 2;
        quarantine.blame(Digest::of(&suspect), later);
        assert_eq!(quarantine.judge(&guilty, later), Standing::Refused);
        let later = now + REMEMBERED_FOR;
        assert_eq!(quarantine.judge(&guilty, later), Standing::Clear);
        assert_eq!(quarantine.judge(&suspect, later), Standing::Suspect(Digest::of(&suspect)));
        assert_eq!(quarantine.count(later + REMEMBERED_FOR), 0);
        assert!(!quarantine.is_used.load(Ordering::Acquire), "nothing is computed any more");
    }

    /// Large inputs that differ in the middle only share a sketch, and are told apart all the same.
    #[test]
    fn what_only_looks_like_a_suspect_is_clear() {
        let (quarantine, now) = (Quarantine::default(), SystemClock::now());
        let large = |mark: u8| {
            let mut data = vec![0; 4 * SKETCHED];
            data[2 * SKETCHED] = mark;
            [Tensor { data: data.into(), ..input("X", &[4 * SKETCHED], b"") }]
        };
        quarantine.blame(Digest::of(&large(1)), now);
        assert_eq!(Digest::sketch(&large(1)), Digest::sketch(&large(2)));
        assert_eq!(quarantine.judge(&large(2), now), Standing::Clear);
        assert_eq!(quarantine.judge(&large(1), now), Standing::Suspect(Digest::of(&large(1))));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_guilty_stay_longest() {
        let (quarantine, guilty, now) = (Quarantine::default(), numbered(u32::MAX), SystemClock::now());
        assert_eq!([(); 3].map(|()| quarantine.blame(guilty, now)), [false, false, true]);
        for number in 0..2 * u32::try_from(REMEMBERED).expect("small") {
            quarantine.blame(numbered(number), now + Duration::from_nanos(number.into()));
        }
        assert_eq!(quarantine.marks().len(), REMEMBERED);
        assert_eq!(quarantine.count(now), 1);
        assert!(!quarantine.marks().contains_key(&numbered(0)), "the oldest suspect goes first");
    }
}
