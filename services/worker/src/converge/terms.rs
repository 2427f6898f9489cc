//! Whose placements count. Pure.
//!
//! Each placement carries the epoch of the leader that wrote it. The store refuses what a leader of the past writes, as
//! every write compares its fence; this is the second lock on the same door, for a writer that forgot to compare.

use std::collections::{BTreeMap, BTreeSet};

use weft_client::Record;
use weft_proto::weft::state::v1::{Leader, Placement};

use super::plan::Key;

/// The newest term of a scheduler that this worker knows of, and what it has refused.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// The revision at which the term began; zero before any.
    newest: i64,
    /// The revision of each refused record, so that each is told once.
    refused: BTreeMap<Key, i64>,
}

/// What a worker's placements ask for.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// What it shall hold.
    pub(super) wanted: BTreeSet<Key>,
    /// What makes way, together with what runs there.
    pub(super) yielding: BTreeSet<Key>,
    /// What is refused for the first time.
    pub(super) refusals: Vec<Refusal>,
}

/// A placement that a leader of the past wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) key: Key,
    /// The writer's epoch.
    pub(super) epoch: u64,
    /// The term that had begun before it wrote.
    pub(super) term: i64,
}

impl Terms {
    /// Takes note of who leads. Between two terms nobody does, and the last one goes on to count.
    ///
    /// The present leader's term counts, not the greatest one ever seen: a store that was restored from a backup counts
    /// from an earlier revision again, and its leaders must be obeyed.
    pub(super) fn observe(&mut self, leader: Option<&Record<Leader>>) {
        if let Some(leader) = leader {
            self.newest = leader.create_revision;
        }
    }

    /// Parts this worker's placements.
    pub(super) fn sort<'a>(&mut self, own: impl Iterator<Item = (Key, &'a Record<Placement>)>) -> Sorted {
        let (mut sorted, mut refused) = (Sorted::default(), BTreeMap::new());
        for (key, placement) in own {
            if !placement.is_stale(self.newest) {
                let set = if placement.value.yields { &mut sorted.yielding } else { &mut sorted.wanted };
                set.insert(key);
                continue;
            }
            if self.refused.get(&key) != Some(&placement.mod_revision) {
                sorted.refusals.push(Refusal { key: key.clone(), epoch: placement.value.epoch, term: self.newest });
            }
            refused.insert(key, placement.mod_revision);
        }
        self.refused = refused;
        sorted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_types::Version;

    use super::*;

    fn key(number: u64) -> Key {
        ("m".parse().expect("a name"), Version::new(number).expect("a version"))
    }

    fn leader(term: i64) -> Record<Leader> {
        Record { value: Leader::default(), create_revision: term, mod_revision: term }
    }

    fn placement(epoch: i64, revision: i64) -> Record<Placement> {
        let value = Placement { epoch: u64::try_from(epoch).expect("not negative"), ..Placement::default() };
        Record { value, create_revision: revision, mod_revision: revision }
    }

    #[test]
    fn only_a_late_write_of_the_past_is_stale() {
        let cases = [
            // No term is known yet: nothing can be told apart.
            (0, 7, 0, false),
            (5, 7, 0, false),
            // Written before the term began.
            (5, 7, 10, false),
            (0, 7, 10, false),
            // Written by this term, or by one that this worker has not seen yet.
            (10, 11, 10, false),
            (12, 13, 10, false),
            // Written after the term began, by the one before or by nobody.
            (5, 11, 10, true),
            (9, 11, 10, true),
            (0, 11, 10, true),
        ];
        for (epoch, revision, term, stale) in cases {
            assert_eq!(placement(epoch, revision).is_stale(term), stale, "{epoch} at {revision} in {term}");
        }
        let value = Placement { epoch: u64::MAX, ..Placement::default() };
        let odd = Record { value, create_revision: 11, mod_revision: 11 };
        assert!(!odd.is_stale(10));
    }

    #[test]
    fn a_term_counts_until_the_next_one_and_each_refusal_is_told_once() {
        let mut terms = Terms::default();
        let late = placement(5, 11);
        let mut sort = |leader: Option<&Record<Leader>>, record: &Record<Placement>| {
            terms.observe(leader);
            let Sorted { wanted, yielding, refusals } = terms.sort([(key(1), record)].into_iter());
            assert_eq!(yielding.len(), 0);
            (wanted.len(), refusals.len())
        };
        assert_eq!(sort(None, &late), (1, 0));
        assert_eq!(sort(Some(&leader(10)), &late), (0, 1));
        assert_eq!(sort(None, &late), (0, 0), "remembered between the terms, and told already");
        assert_eq!(sort(None, &placement(5, 12)), (0, 1), "another write");
        assert_eq!(sort(Some(&leader(20)), &placement(10, 12)), (1, 0), "the term before wrote it in its time");
        assert_eq!(sort(Some(&leader(4)), &placement(4, 6)), (1, 0), "the store was restored from a backup");
    }

    #[test]
    fn what_makes_way_is_not_wanted() {
        let mut terms = Terms::default();
        terms.observe(Some(&leader(10)));
        let yields = |epoch| {
            let mut placement = placement(epoch, 11);
            placement.value.yields = true;
            placement
        };
        let (stays, goes, late) = (placement(10, 11), yields(10), yields(5));
        let sorted = terms.sort([(key(1), &stays), (key(2), &goes), (key(3), &late)].into_iter());
        assert_eq!((sorted.wanted, sorted.yielding), (BTreeSet::from([key(1)]), BTreeSet::from([key(2)])));
        assert_eq!(sorted.refusals.len(), 1);
    }

    proptest! {
        /// A history of terms: what a leader wrote in its own term is obeyed, at whatever later time it is looked at; what
        /// it wrote after its successor's term had begun is not, from the moment that this is known.
        #[test]
        fn in_any_history_leaders_are_obeyed_in_their_time_only(
            lengths in proptest::collection::vec(2i64..20, 1..8),
            writer in any::<prop::sample::Index>(),
            looker in any::<prop::sample::Index>(),
            offset in 1i64..40,
        ) {
            let begins: Vec<i64> = lengths.iter().scan(0, |at, length| { *at += length; Some(*at) }).collect();
            let writer = writer.index(begins.len());
            let epoch = begins[writer];
            let revision = epoch + offset;
            // Who led when it was written, and who leads when the worker looks, which is not before that.
            let then = begins.iter().rposition(|begin| *begin < revision).expect("the writer's own at least");
            let now = then + looker.index(begins.len() - then);
            prop_assume!(!begins.contains(&revision));
            let mut terms = Terms::default();
            for begin in &begins[..=then] {
                terms.observe(Some(&leader(*begin)));
            }
            let record = placement(epoch, revision);
            let Sorted { wanted, refusals, .. } = terms.sort([(key(1), &record)].into_iter());
            prop_assert_eq!(wanted.len(), usize::from(writer == then));
            prop_assert_eq!(refusals.len(), usize::from(writer != then));
            for begin in &begins[then..=now] {
                terms.observe(Some(&leader(*begin)));
            }
            let wanted = terms.sort([(key(1), &record)].into_iter()).wanted;
            if writer == then {
                prop_assert_eq!(wanted.len(), 1, "written in its time, valid for ever");
            }
        }
    }
}
