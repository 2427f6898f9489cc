//! Which free slots to propose.

use std::collections::BTreeSet;

use weft_saga::Hold;

use super::Known;
use crate::error::Missing;

/// The most slots of one worker in one pool that are looked at: a worker that offers more is taken at its word up to here.
const MAX_OFFER: u32 = 4096;

/// So many free slots of each pool, or none at all. The worker with the smallest part of its slots taken comes first, so that jobs are
/// spread; among its slots the choice is random, so that two schedulers seldom choose the same. `own` is not free, whatever is known.
pub(crate) fn choose(
    known: &Known,
    wanted: &[(String, u32)],
    own: &BTreeSet<(String, String, u32)>,
    random: u64,
) -> Result<Vec<Hold>, Missing> {
    let mut random = random;
    let mut given = own.clone();
    let mut chosen: BTreeSet<(String, String, u32)> = BTreeSet::new();
    for (pool, wanted) in wanted {
        let mut workers = free(known, pool, &given);
        let (total, offered) =
            workers.iter().fold((0, 0), |(free, offered), worker| (free + worker.free.len(), offered + worker.offered));
        if total < usize::try_from(*wanted).unwrap_or(usize::MAX) {
            let free = u32::try_from(total).unwrap_or(u32::MAX);
            return Err(Missing { pool: pool.clone(), wanted: *wanted, free, offered });
        }
        for _ in 0..*wanted {
            // Ties go by chance, so that the first worker is not always the first.
            random = mix(random);
            let turn = random;
            let emptiest =
                workers.iter_mut().filter(|worker| !worker.free.is_empty()).min_by_key(|worker| worker.rank(turn));
            let Some(worker) = emptiest else { break };
            random = mix(random);
            let index = usize::try_from(random % u64::try_from(worker.free.len()).unwrap_or(1)).unwrap_or(0);
            let number = worker.free.swap_remove(index);
            let slot = (pool.clone(), worker.name.to_owned(), number);
            given.insert(slot.clone());
            chosen.insert(slot);
        }
    }
    let hold = |(pool, worker, number)| Hold { pool, worker, number, confirmed: false };
    Ok(chosen.into_iter().map(hold).collect())
}

/// A worker with its free slots of a pool.
struct Free<'a> {
    name: &'a str,
    offered: u32,
    free: Vec<u32>,
}

impl Free<'_> {
    /// The part that is taken, in thousandths; then chance.
    fn rank(&self, turn: u64) -> (u64, u64) {
        let offered = u64::from(self.offered.max(1));
        let taken = offered.saturating_sub(u64::try_from(self.free.len()).unwrap_or(u64::MAX));
        let chance = self.name.bytes().fold(turn, |hash, byte| mix(hash ^ u64::from(byte)));
        (taken * 1000 / offered, chance)
    }
}

fn free<'a>(known: &'a Known, pool: &str, given: &BTreeSet<(String, String, u32)>) -> Vec<Free<'a>> {
    let offers = known.offers.iter().filter_map(|(worker, pools)| pools.get(pool).map(|count| (worker, *count)));
    let of_worker = |(worker, count): (&'a String, u32)| {
        let offered = count.min(MAX_OFFER);
        let is_free = |number: &u32| {
            let slot = (pool.to_owned(), worker.clone(), *number);
            !known.taken.contains_key(&slot) && !given.contains(&slot)
        };
        Free { name: worker, offered, free: (0..offered).filter(is_free).collect() }
    };
    offers.map(of_worker).collect()
}

/// The next of a row of numbers that look random (splitmix64).
const fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::Taken;
    use super::*;
    use proptest::prelude::*;

    fn known(offers: &[(&str, u32)], taken: &[(&str, u32)]) -> Known {
        let offer = |(worker, count): &(&str, u32)| ((*worker).to_owned(), [("gpu".to_owned(), *count)].into());
        let take = |(worker, number): &(&str, u32)| {
            (("gpu".to_owned(), (*worker).to_owned(), *number), Taken { since: 1, job: None })
        };
        Known { offers: offers.iter().map(offer).collect(), taken: taken.iter().map(take).collect() }
    }

    #[test]
    fn the_emptiest_worker_comes_first() {
        let known = known(&[("a", 2), ("b", 4)], &[("a", 0), ("b", 1)]);
        for random in 0..100 {
            let holds = choose(&known, &[("gpu".into(), 1)], &BTreeSet::new(), random).expect("there are free ones");
            assert_eq!(holds[0].worker, "b");
            let holds = choose(&known, &[("gpu".into(), 4)], &BTreeSet::new(), random).expect("there are free ones");
            assert_eq!(holds.iter().filter(|hold| hold.worker == "a").count(), 1);
        }
    }

    #[test]
    fn chance_decides_between_equals() {
        let known = known(&[("a", 2), ("b", 2)], &[]);
        let chosen: BTreeSet<(String, u32)> = (0..100)
            .flat_map(|random| {
                choose(&known, &[("gpu".into(), 1)], &BTreeSet::new(), random).expect("there are free ones")
            })
            .map(|hold| (hold.worker, hold.number))
            .collect();
        assert_eq!(chosen.len(), 4);
    }

    #[test]
    fn a_pool_that_is_wanted_twice_gives_other_slots() {
        let wanted = [("gpu".into(), 1), ("gpu".into(), 1)];
        for random in 0..100 {
            let holds = choose(&known(&[("a", 2)], &[]), &wanted, &BTreeSet::new(), random).expect("there are two");
            assert_eq!(holds.iter().map(|hold| hold.number).collect::<Vec<_>>(), [0, 1]);
        }
    }

    proptest! {
        /// What is proposed is offered, free, of the right number, and none twice; or it is said what is missing. What the job itself has
        /// is not free, also where nobody has told of it yet.
        #[test]
        fn proposals_are_free(a in 0u32..5, b in 0u32..5, taken in proptest::collection::btree_map((0usize..2, 0u32..5), 0u8..3, 0..6), wanted in 0u32..8, random: u64) {
            let names = ["a", "b"];
            let told = |(slot, told): (&(usize, u32), &u8)| (*told > 0).then_some((names[slot.0], slot.1));
            let known = known(&[("a", a), ("b", b)], &taken.iter().filter_map(told).collect::<Vec<_>>());
            let own = taken.iter().filter(|(_, told)| **told < 2);
            let own = own.map(|((worker, number), _)| ("gpu".to_owned(), names[*worker].to_owned(), *number)).collect();
            let taken: Vec<(&str, u32)> = taken.into_keys().map(|(worker, number)| (names[worker], number)).collect();
            let offered = |worker: &str| if worker == "a" { a } else { b };
            let used = taken.iter().filter(|(worker, number)| *number < offered(worker)).count();
            let free = usize::try_from(a + b).expect("small") - used;
            match choose(&known, &[("gpu".into(), wanted)], &own, random) {
                Ok(holds) => {
                    prop_assert_eq!(holds.len(), usize::try_from(wanted).expect("small"));
                    let slots: BTreeSet<(&str, u32)> = holds.iter().map(|hold| (hold.worker.as_str(), hold.number)).collect();
                    prop_assert_eq!(slots.len(), holds.len());
                    prop_assert!(slots.iter().all(|slot| slot.1 < offered(slot.0) && !taken.contains(slot)));
                }
                Err(missing) => {
                    prop_assert!(free < usize::try_from(wanted).expect("small"));
                    prop_assert_eq!(usize::try_from(missing.free).expect("small"), free);
                }
            }
        }
    }
}
