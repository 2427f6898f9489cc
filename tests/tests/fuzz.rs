//! What the fuzz targets assert holds for their seeds, which hold what fuzzing has found: `make fuzz` goes on from there.

#[path = "../fuzz/src/frame.rs"]
#[expect(unreachable_pub, reason = "a part of the fuzz targets' own crate")]
mod frame;
#[path = "../fuzz/src/headers.rs"]
#[expect(unreachable_pub, reason = "a part of the fuzz targets' own crate")]
mod headers;
#[path = "../fuzz/src/message.rs"]
#[expect(unreachable_pub, reason = "a part of the fuzz targets' own crate")]
mod message;

/// Every seed, cut short at every place, too: that is what a peer leaves that goes away.
fn hold(check: fn(&[u8]), seeds: &[Vec<u8>]) {
    assert!(!seeds.is_empty());
    seeds.iter().flat_map(|seed| (0..=seed.len()).map(|end| &seed[..end])).for_each(check);
}

#[test]
fn the_seeds_hold() {
    hold(frame::check, &frame::seeds());
    hold(message::check, &message::seeds());
    hold(headers::check, &headers::seeds());
}
