//! Which scheduler shall own which shard: highest random weight (Thaler and Ravishankar, 1998).
//!
//! Each scheduler computes it alone from the members that it sees. When one leaves, only its shards move.

/// The member that shall own `shard`; `None` without members.
pub(crate) fn desired<'a>(members: impl Iterator<Item = &'a str>, shard: u8) -> Option<&'a str> {
    members.max_by_key(|member| (weight(member, shard), *member))
}

/// Must never change: schedulers of two builds have to agree.
fn weight(member: &str, shard: u8) -> u64 {
    // FNV-1a over both, then the finaliser of splitmix64, since FNV alone mixes the last byte badly.
    let bytes = member.bytes().chain([0, shard]);
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(members: &[&str]) -> Vec<usize> {
        let owner = |shard| desired(members.iter().copied(), shard);
        members.iter().map(|member| (0..=255).filter(|shard| owner(*shard) == Some(*member)).count()).collect()
    }

    #[test]
    fn shards_are_spread() {
        for members in [&["s-0", "s-1"][..], &["s-0", "s-1", "s-2"], &["a", "b", "c", "d", "e"]] {
            let fair = 256 / members.len();
            assert!(
                shares(members).iter().all(|share| (fair / 2..=fair * 3 / 2).contains(share)),
                "{:?}",
                shares(members)
            );
        }
        assert_eq!(desired([].into_iter(), 0), None);
    }

    #[test]
    fn only_the_shards_of_who_leaves_move() {
        let all = ["s-0", "s-1", "s-2"];
        for shard in 0..=255 {
            let before = desired(all.into_iter(), shard).expect("there are members");
            let after = desired(["s-0", "s-2"].into_iter(), shard).expect("there are members");
            assert!(before == after || before == "s-1", "shard {shard} went from {before} to {after}");
        }
    }
}
