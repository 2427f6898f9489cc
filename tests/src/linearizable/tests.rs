use proptest::prelude::*;

use super::*;

fn read(value: u64, invoked: u64, returned: u64) -> Call {
    Call { effect: Effect::Read(value), invoked, returned: Some(returned) }
}

fn swap(from: u64, to: u64, invoked: u64, returned: u64) -> Call {
    Call { effect: Effect::Swap(from, to), invoked, returned: Some(returned) }
}

fn unknown(from: u64, to: u64, invoked: u64) -> Call {
    Call { effect: Effect::Swap(from, to), invoked, returned: None }
}

#[test]
fn histories_that_can_have_happened() {
    let good: [(&str, &[Call]); 9] = [
        ("nothing at all", &[]),
        ("one after the other", &[swap(0, 1, 0, 1), read(1, 2, 3), swap(1, 2, 4, 5), read(2, 6, 7)]),
        ("a read beside a write sees the old value", &[swap(0, 1, 0, 10), read(0, 2, 3), read(1, 4, 5)]),
        ("the order of returns does not matter", &[swap(1, 2, 0, 20), swap(0, 1, 0, 30), read(2, 31, 32)]),
        ("an unknown write happened", &[unknown(0, 1, 0), read(1, 5, 6)]),
        ("an unknown write happened late", &[unknown(0, 1, 0), read(0, 5, 6), read(1, 7, 8)]),
        ("an unknown write never happened", &[unknown(0, 1, 0), read(0, 5, 6), swap(0, 2, 7, 8), read(2, 9, 10)]),
        ("unknown writes build on each other", &[unknown(0, 1, 0), unknown(1, 2, 1), read(2, 5, 6)]),
        ("calls that touch in time are beside each other", &[swap(0, 1, 0, 5), read(0, 5, 6)]),
    ];
    for (what, history) in good {
        assert_eq!(check(0, history), Ok(()), "{what}");
    }
}

#[test]
fn histories_that_cannot_have_happened() {
    let bad: [(&str, &[Call]); 7] = [
        ("a stale read", &[swap(0, 1, 0, 1), read(0, 2, 3)]),
        ("a read of what nobody wrote", &[read(7, 0, 1)]),
        ("a lost update", &[swap(0, 1, 0, 10), swap(0, 2, 0, 10)]),
        ("a value that comes and goes", &[swap(0, 1, 0, 10), read(1, 2, 3), read(0, 4, 5)]),
        ("an effect before its cause", &[read(1, 0, 1), swap(0, 1, 2, 3)]),
        ("an unknown write before it began", &[read(1, 0, 1), unknown(0, 1, 2)]),
        ("a late write over a newer one", &[swap(0, 1, 0, 1), swap(1, 2, 2, 9), swap(1, 3, 4, 5), read(3, 6, 7)]),
    ];
    for (what, history) in bad {
        assert!(check(0, history).is_err(), "{what}");
    }
}

#[test]
fn a_violation_names_the_calls_that_do_not_fit() {
    let history = [swap(0, 1, 0, 1), swap(1, 2, 2, 3), read(1, 4, 5), read(2, 6, 7)];
    let violation = check(0, &history).expect_err("the first read is stale");
    assert_eq!(violation, Violation { explained: 2, value: 2, stuck: vec![read(1, 4, 5)] });
}

/// As long as what the tests record, with outcomes that stay unknown.
#[test]
fn a_long_history_is_no_search() {
    let mut history = Vec::new();
    for step in 0..3000 {
        history.push(swap(step, step + 1, 10 * step, 10 * step + 15));
        history.push(read(step + 1, 10 * step, 10 * step + 18));
        if step % 300 == 0 {
            history.push(unknown(step, step + 10_000, 10 * step));
        }
    }
    assert_eq!(check(0, &history), Ok(()));
    history[4001].effect = Effect::Read(7);
    assert!(check(0, &history).is_err());
}

/// Every order of the calls, by brute force.
fn explained(value: u64, left: &[Call]) -> bool {
    if left.iter().all(|call| call.returned.is_none()) {
        return true;
    }
    (0..left.len()).any(|index| {
        let mut rest = left.to_vec();
        let call = rest.remove(index);
        let is_next = rest.iter().all(|other| other.returned.is_none_or(|returned| returned >= call.invoked));
        let after = match call.effect {
            Effect::Read(seen) if seen == value => value,
            Effect::Swap(found, left) if found == value => left,
            _ => return false,
        };
        is_next && explained(after, &rest)
    })
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = (any::<bool>(), 0u64..3, 0u64..3, 0u64..8, proptest::option::weighted(0.8, 1u64..5));
    let call = call.prop_map(|(reads, from, to, invoked, length)| Call {
        effect: if reads { Effect::Read(from) } else { Effect::Swap(from, to) },
        invoked,
        returned: length.map(|length| invoked + length),
    });
    proptest::collection::vec(call, 0..7)
}

proptest! {
    #[test]
    fn the_search_agrees_with_brute_force(history in calls()) {
        prop_assert_eq!(check(0, &history).is_ok(), explained(0, &history));
    }
}
