//! Rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998): every replica has a
//! preference value for every key, and the highest takes it. When a replica goes, only its own keys move; when one comes, it
//! takes over its share and nothing else moves. Routers that see the same replicas agree without talking.

/// What calls that belong together have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Affinity(u64);

impl Affinity {
    /// The affinity of a sequence of a model's or route's requests, or of the calls that bring the same key.
    pub fn of(name: &str, sequence: impl Key) -> Self {
        // The length keeps a name that ends like a sequence begins from meaning the same.
        let hash = fold(fold(OFFSET, name.as_bytes()), &(name.len() as u64).to_le_bytes());
        Self(spread(sequence.fold_into(hash)))
    }

    /// How much a replica suits it, the more the better.
    pub(crate) const fn preference(self, identity: u64) -> u64 {
        spread(self.0 ^ identity)
    }

    /// A number in `[0, 1)` that is the same for all its calls, for choices that are otherwise drawn.
    pub fn unit(self) -> f64 {
        // 53 bits are what a double holds exactly.
        (spread(self.0) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What names a sequence.
pub trait Key {
    /// Continues the hash with this key.
    fn fold_into(self, hash: u64) -> u64;
}

impl Key for u64 {
    fn fold_into(self, hash: u64) -> u64 {
        fold(hash, &self.to_le_bytes())
    }
}

impl Key for &[u8] {
    fn fold_into(self, hash: u64) -> u64 {
        // A text of eight bytes is not the number of the same bytes.
        fold(fold(hash, &[1]), self)
    }
}

impl Key for &str {
    fn fold_into(self, hash: u64) -> u64 {
        self.as_bytes().fold_into(hash)
    }
}

/// What stands for a replica's name in [`super::Candidate::identity`].
pub fn identity(name: &str) -> u64 {
    spread(fold(OFFSET, name.as_bytes()))
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a: the same in every build and process, which the standard library does not promise of its own.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of the number, which FNV's do not.
const fn spread(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::super::{Candidate, choose};
    use super::*;

    fn named(names: &[u16]) -> Vec<Candidate> {
        let candidate = |name: &u16| Candidate { identity: identity(&format!("w-{name}")), ..Candidate::default() };
        names.iter().map(candidate).collect()
    }

    fn chosen(names: &[u16], sequence: u64, seed: u64) -> u16 {
        let affinity = Affinity::of("m", sequence);
        let index = choose(named(names).into_iter(), Some(affinity), &mut StdRng::seed_from_u64(seed));
        names[index.expect("there are candidates")]
    }

    fn names() -> impl Strategy<Value = Vec<u16>> {
        proptest::collection::btree_set(any::<u16>(), 2..20).prop_map(|names| names.into_iter().collect())
    }

    proptest! {
        /// Neither chance, nor the order in which replicas are listed, nor their load decides.
        #[test]
        fn every_router_chooses_alike(names in names(), sequence: u64, seeds: (u64, u64), turn in 0usize..20) {
            let mut turned = names.clone();
            turned.rotate_left(turn % names.len());
            prop_assert_eq!(chosen(&names, sequence, seeds.0), chosen(&turned, sequence, seeds.1));
        }

        /// When one of the replicas goes, only the sequences that it had move, and they are back when it is.
        #[test]
        fn only_the_sequences_of_the_one_that_goes_move(names in names(), gone in 0usize..20, sequence: u64) {
            let gone = names[gone % names.len()];
            let left: Vec<u16> = names.iter().copied().filter(|name| *name != gone).collect();
            let before = chosen(&names, sequence, 0);
            let after = chosen(&left, sequence, 0);
            prop_assert!(before == gone || before == after, "{} to {} though {} went", before, after, gone);
        }

        #[test]
        fn a_unit_is_below_one(sequence: u64) {
            prop_assert!((0.0..1.0).contains(&Affinity::of("m", sequence).unit()));
        }
    }

    /// Sequences spread evenly, and differently for each model: each replica's share within five standard deviations.
    #[test]
    fn sequences_spread_evenly() {
        const SEQUENCES: u64 = 20_000;
        for count in [2u16, 3, 7, 16] {
            let names: Vec<u16> = (0..count).collect();
            let mut taken = vec![0u64; names.len()];
            (0..SEQUENCES).for_each(|sequence| taken[usize::from(chosen(&names, sequence, 0))] += 1);
            let share = SEQUENCES as f64 / f64::from(count);
            let tolerance = 5.0 * (share * (1.0 - 1.0 / f64::from(count))).sqrt();
            assert!(taken.iter().all(|taken| (*taken as f64 - share).abs() < tolerance), "{taken:?}");
        }
    }

    #[test]
    fn names_and_sequences_do_not_run_into_each_other() {
        let all = [
            Affinity::of("m", "s"),
            Affinity::of("ms", ""),
            Affinity::of("m", 0),
            Affinity::of("m", "\0\0\0\0\0\0\0\0"),
            Affinity::of("n", "s"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one));
        }
    }

    /// The mapping is part of what routers of different builds agree on: it must not change by accident.
    #[test]
    fn the_mapping_stays() {
        assert_eq!(identity("w-1"), 0xae54_f0f3_843e_fd1d);
        assert_eq!(Affinity::of("m", 7), Affinity(0xfc74_0b46_058c_2ff6));
        assert_eq!(Affinity::of("m", "s"), Affinity(0xb61a_b691_f4c0_27f5));
    }
}
