use super::*;

fn put(key: &str, bytes: usize) -> Op {
    Op::Put { key: key.into(), value: vec![0; bytes].into(), lease: None }
}

fn change(ops: Vec<Op>) -> Change {
    Change { ops, ..Change::default() }
}

#[test]
fn a_batch_is_bounded_in_operations_and_bytes() {
    let mut packing = Packing::default();
    for number in 0..MAX_OPS {
        assert_eq!(packing.take(&change(vec![put(&number.to_string(), 1)])), Fit::Yes);
    }
    assert_eq!(packing.take(&change(vec![put("one more", 1)])), Fit::Full);

    let mut packing = Packing::default();
    assert_eq!(packing.take(&change(vec![put("a", MAX_BYTES - 10)])), Fit::Yes);
    assert_eq!(packing.take(&change(vec![put("b", 20)])), Fit::Full);
    assert_eq!(packing.take(&change(vec![put("c", 2)])), Fit::Yes);
}

#[test]
fn what_fits_nowhere_else_goes_alone() {
    let many = change((0..MAX_OPS + 5).map(|number| put(&number.to_string(), 1)).collect());
    let mut packing = Packing::default();
    assert_eq!(packing.take(&many), Fit::Yes);
    assert_eq!(packing.take(&change(vec![put("other", 1)])), Fit::Full);
}

/// etcd refuses a key that is named twice; and a slot that one job gives back is free only after that.
#[test]
fn no_key_is_touched_twice() {
    let mut packing = Packing::default();
    assert_eq!(packing.take(&change(vec![put("job/1", 1), Op::Delete("slot".into())])), Fit::Yes);
    assert_eq!(packing.take(&change(vec![put("job/2", 1), put("slot", 1)])), Fit::Collides);
    assert_eq!(packing.take(&change(vec![put("job/3", 1)])), Fit::Yes);
}

const FENCE: Revision = 40;
const VERSION: i64 = 9;

fn position() -> Position {
    Position { owner: "own".into(), fence: FENCE, sequence: "seq".into(), version: VERSION }
}

fn entry(key: &str, create_revision: Revision, version: i64, value: &'static [u8]) -> Entry {
    let value = Bytes::from_static(value);
    Entry { key: key.into(), value, create_revision, mod_revision: create_revision, version, lease: None }
}

fn seen(fence: Revision, version: i64, value: &'static [u8], others: &[&str]) -> Seen {
    Seen {
        owner: (fence != 0).then(|| entry("own", fence, 1, b"")),
        sequence: (version != 0).then(|| entry("seq", 2, version, value)),
        others: others.iter().map(|key| ((*key).to_owned(), entry(key, 5, 1, b""))).collect(),
    }
}

/// Two changes that take a slot each; the second sending is without the first change.
fn sent() -> (Vec<Sending>, Vec<Change>) {
    let take = |slot: &str| Change {
        compares: vec![Compare::CreateRevision(slot.into(), 0)],
        ops: vec![put(slot, 1)],
        later: Vec::new(),
    };
    let sending =
        |id: &'static [u8], members: &[usize]| Sending { id: Bytes::from_static(id), members: members.to_vec() };
    (vec![sending(b"first", &[0, 1]), sending(b"second", &[1])], vec![take("slot/0"), take("slot/1")])
}

#[test]
fn the_sequence_tells_what_has_happened() {
    let (sendings, changes) = sent();
    let judge = |seen: Seen| judge(&position(), &sendings, &changes, &seen);
    for fence in [FENCE, FENCE + 1, 0] {
        assert_eq!(judge(seen(fence, VERSION + 1, b"first", &[])), Verdict::Happened(0), "an early copy came late");
        assert_eq!(judge(seen(fence, VERSION + 1, b"second", &[])), Verdict::Happened(1));
        assert_eq!(judge(seen(fence, VERSION + 1, b"whose", &[])), Verdict::Fenced);
    }
}

#[test]
fn a_lost_fence_ends_it() {
    let (sendings, changes) = sent();
    let judge = |seen: Seen| judge(&position(), &sendings, &changes, &seen);
    assert_eq!(judge(seen(FENCE + 1, VERSION, b"", &[])), Verdict::Fenced);
    assert_eq!(judge(seen(0, VERSION, b"", &[])), Verdict::Fenced);
    assert_eq!(judge(seen(FENCE + 1, VERSION + 2, b"first", &[])), Verdict::Fenced);
    // A log that has lost what was in it: the store was put back.
    assert_eq!(judge(seen(FENCE, VERSION - 1, b"", &[])), Verdict::Fenced);
    assert_eq!(judge(seen(FENCE, 0, b"", &[])), Verdict::Fenced);
}

#[test]
fn only_what_cannot_happen_is_left_out() {
    let (mut sendings, changes) = sent();
    assert_eq!(
        judge(&position(), &sendings, &changes, &seen(FENCE, VERSION, b"", &["slot/1"])),
        Verdict::Without(vec![1])
    );
    // The first change is not in the newest sending.
    assert_eq!(judge(&position(), &sendings, &changes, &seen(FENCE, VERSION, b"", &["slot/0"])), Verdict::Again);
    sendings.pop();
    assert_eq!(
        judge(&position(), &sendings, &changes, &seen(FENCE, VERSION, b"", &["slot/0"])),
        Verdict::Without(vec![0])
    );
    assert_eq!(judge(&position(), &sendings, &changes, &seen(FENCE, VERSION, b"", &[])), Verdict::Again);
}

#[test]
fn a_sending_compares_fence_and_sequence() {
    let (sendings, changes) = sent();
    let txn = sendings[1].txn(&position(), &changes);
    let expected = vec![
        Compare::CreateRevision("own".into(), FENCE),
        Compare::Version("seq".into(), VERSION),
        Compare::CreateRevision("slot/1".into(), 0),
    ];
    assert_eq!(txn.compares, expected);
    let keys: Vec<&str> = txn.ops.iter().map(Op::key).collect();
    assert_eq!(keys, ["seq", "slot/1"]);
}
