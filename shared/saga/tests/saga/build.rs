//! Definitions in a few words.

use weft_saga::{Definition, Effect, Join, Kind, Phase, Retry, Step};

/// A pure step before the pivot that waits for all of `needs`.
pub(crate) fn step(name: &str, needs: &[usize]) -> Step {
    Step {
        name: name.to_owned(),
        needs: needs.to_vec(),
        join: Join::All,
        effect: Effect::Pure,
        phase: Phase::Pre,
        kind: Kind::Act,
        has_undo: false,
        has_probe: false,
        retry: Retry { max_attempts: 2, initial_backoff: 100, max_backoff: 1_000, codes: Vec::new() },
        timeout: 1_000,
        deadline_weight: 0,
        is_ruled: false,
        parallelism: 8,
        refers: Vec::new(),
        signal: None,
    }
}

/// With an effect, and an undo where it may be undone.
pub(crate) fn external(name: &str, needs: &[usize]) -> Step {
    Step { effect: Effect::External, has_undo: true, ..step(name, needs) }
}

pub(crate) fn pivot(name: &str, needs: &[usize]) -> Step {
    Step { effect: Effect::External, phase: Phase::Pivot, ..step(name, needs) }
}

pub(crate) fn post(name: &str, needs: &[usize]) -> Step {
    Step { effect: Effect::External, phase: Phase::Post, ..step(name, needs) }
}

pub(crate) fn last(name: &str, needs: &[usize]) -> Step {
    Step { effect: Effect::External, phase: Phase::Finally, ..step(name, needs) }
}

pub(crate) fn reserve(name: &str, needs: &[usize]) -> Step {
    Step { effect: Effect::Reserve, kind: Kind::Reserve, ..step(name, needs) }
}

pub(crate) fn release(name: &str, of: usize) -> Step {
    Step { kind: Kind::Release(of), phase: Phase::Finally, ..step(name, &[]) }
}

pub(crate) fn wait(name: &str, needs: &[usize]) -> Step {
    Step { kind: Kind::Wait, signal: Some(name.to_owned()), timeout: 5_000, ..step(name, needs) }
}

/// A definition that has been checked.
pub(crate) fn definition(steps: Vec<Step>) -> Definition {
    let definition = Definition { steps, undo_budget: 600_000 };
    assert_eq!(definition.check(), Vec::new());
    definition
}

/// Try, load, infer by three at once, publish, confirm; give back in the end.
pub(crate) fn example() -> Definition {
    definition(vec![
        reserve("gpu", &[]),
        external("load", &[0]),
        step("a", &[1]),
        step("b", &[1]),
        step("c", &[1]),
        Step { join: Join::Quorum(2), ..step("join", &[2, 3, 4]) },
        Step { has_probe: true, ..pivot("publish", &[5]) },
        post("confirm", &[6]),
        release("give-back", 0),
        last("notify", &[]),
    ])
}
