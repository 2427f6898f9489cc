//! Mistakes in definitions.

use weft_saga::{Definition, Effect, Join, Kind, Phase, Step};

use crate::build::{example, external, last, pivot, post, release, reserve, step, wait};

fn fields(steps: Vec<Step>) -> Vec<String> {
    let mistakes = Definition { steps, undo_budget: 600_000 }.check();
    mistakes.into_iter().map(|mistake| mistake.field.replacen("definition.", "", 1)).collect()
}

#[test]
fn each_mistake_is_told_with_its_field() {
    let cases: Vec<(Vec<Step>, &str)> = vec![
        (vec![], "steps"),
        (vec![step("a", &[]); 257], "steps"),
        (vec![step("a", &[]), step("a", &[])], "steps[1].name"),
        (vec![step("a b", &[])], "steps[0].name"),
        (vec![step("a", &[1])], "steps[0].needs[0]"),
        (vec![step("a", &[]), step("b", &[]), step("c", &[1, 0])], "steps[2].needs[1]"),
        (vec![step("a", &[]), step("b", &[0, 0])], "steps[1].needs[1]"),
        (vec![step("a", &[1]), step("b", &[0])], "steps"),
        (vec![Step { join: Join::Any, ..step("a", &[]) }], "steps[0].needs"),
        (vec![step("a", &[]), Step { join: Join::Quorum(2), ..step("b", &[0]) }], "steps[1].quorum"),
        (vec![step("a", &[]), Step { join: Join::Quorum(0), ..step("b", &[0]) }], "steps[1].quorum"),
        (vec![external("a", &[]), Step { join: Join::Any, ..step("b", &[0]) }], "steps[1].needs[0]"),
        (vec![pivot("a", &[]), pivot("b", &[0])], "steps[1].phase"),
        (vec![step("a", &[]), pivot("b", &[])], "steps[0].phase"),
        (vec![pivot("a", &[]), post("b", &[])], "steps[1].phase"),
        (vec![post("a", &[])], "steps[0].phase"),
        (vec![last("a", &[])], "steps"),
        (vec![last("a", &[]), step("b", &[0])], "steps[1].needs[0]"),
        (vec![Step { has_undo: false, ..external("a", &[]) }], "steps[0].undo"),
        (vec![Step { has_undo: true, ..step("a", &[]) }], "steps[0].undo"),
        (vec![Step { has_probe: true, ..wait("a", &[]) }], "steps[0].probe"),
        (vec![Step { effect: Effect::Pure, ..reserve("a", &[]) }], "steps[0].effect"),
        (vec![Step { effect: Effect::Reserve, ..step("a", &[]) }], "steps[0].effect"),
        (vec![Step { phase: Phase::Finally, ..reserve("a", &[]) }, step("b", &[])], "steps[0].phase"),
        (vec![step("a", &[]), release("b", 0)], "steps[1].action.release.step"),
        (vec![step("a", &[]), release("b", 7)], "steps[1].action.release.step"),
        (vec![reserve("a", &[]), Step { phase: Phase::Pre, ..release("b", 0) }], "steps[1].action.release.step"),
        (vec![reserve("a", &[]), Step { phase: Phase::Pivot, needs: vec![0], ..release("b", 0) }], "steps[1].phase"),
        (vec![Step { signal: None, ..wait("a", &[]) }], "steps[0].action.wait.name"),
        (vec![Step { effect: Effect::External, has_undo: true, ..wait("a", &[]) }], "steps[0].effect"),
        (vec![step("a", &[]), Step { refers: vec![0], ..step("b", &[]) }], "steps[1].needs"),
        (vec![Step { timeout: 0, ..step("a", &[]) }], "steps[0].timeout"),
        (vec![Step { parallelism: 65, ..step("a", &[]) }], "steps[0].parallelism"),
    ];
    for (steps, field) in cases {
        assert_eq!(fields(steps.clone()), [field], "{steps:#?}");
    }
}

/// What a job can complete without must not stay behind: an effect in front of a branch that may lose.
#[test]
fn effects_are_not_in_branches_that_may_lose() {
    let any = |name: &str, needs: &[usize]| Step { join: Join::Any, ..step(name, needs) };
    let two = |name: &str, needs: &[usize]| Step { join: Join::Quorum(2), ..step(name, needs) };
    let cases: Vec<(Vec<Step>, &[&str])> = vec![
        // One model or the other, each behind an effect of its own, however far before.
        (vec![external("a", &[]), step("b", &[0]), step("c", &[]), any("d", &[1, 2])], &["steps[0].effect"]),
        (
            vec![
                external("a", &[]),
                step("b", &[0]),
                step("c", &[1]),
                external("d", &[]),
                step("e", &[3]),
                any("f", &[2, 4]),
            ],
            &["steps[0].effect", "steps[3].effect"],
        ),
        // Before both it serves whoever wins.
        (vec![external("a", &[]), step("b", &[0]), step("c", &[0]), any("d", &[1, 2])], &[]),
        // Two of three: what stands before two of them is before one that wins.
        (vec![external("a", &[]), step("b", &[0]), step("c", &[0]), step("d", &[]), two("e", &[1, 2, 3])], &[]),
        (
            vec![external("a", &[]), step("b", &[0]), step("c", &[]), step("d", &[]), two("e", &[1, 2, 3])],
            &["steps[0].effect"],
        ),
        // Another way to the end needs it as well, or the pivot does.
        (vec![external("a", &[]), step("b", &[0]), step("c", &[]), any("d", &[1, 2]), step("e", &[0])], &[]),
        (vec![external("a", &[]), step("b", &[0]), step("c", &[]), any("d", &[1, 2]), pivot("p", &[0, 3])], &[]),
        (
            vec![external("a", &[]), step("b", &[0]), step("c", &[]), any("d", &[1, 2]), pivot("p", &[3])],
            &["steps[0].effect"],
        ),
        // Slots are given back in any case, and what follows a join is behind it.
        (vec![reserve("a", &[]), step("b", &[0]), step("c", &[]), any("d", &[1, 2])], &[]),
        (vec![step("a", &[]), step("b", &[]), any("c", &[0, 1]), external("d", &[2])], &[]),
        (example().steps, &[]),
    ];
    for (steps, wrong) in cases {
        let definition = Definition { steps, undo_budget: 600_000 };
        let told = definition.check_branches().into_iter().map(|mistake| mistake.field.replacen("definition.", "", 1));
        assert_eq!(told.collect::<Vec<_>>(), wrong, "{definition:#?}");
        assert_eq!(definition.check(), [], "a job that has it already goes on");
    }
}

#[test]
fn numbers_of_retries_have_bounds() {
    let mut one = step("a", &[]);
    one.retry.max_attempts = 0;
    one.retry.max_backoff = 3_600_001;
    one.retry.initial_backoff = 0;
    one.retry.codes = vec!["UNAVAILABLE".to_owned(), "unavailable".to_owned()];
    let expected = ["max_attempts", "initial_backoff", "max_backoff", "codes[1]"];
    assert_eq!(fields(vec![one]), expected.map(|field| format!("steps[0].retry.{field}")));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let wrong = vec![
        Step { timeout: 0, ..external("a", &[]) },
        Step { has_undo: true, kind: Kind::Act, ..pivot("b", &[]) },
        post("b", &[]),
    ];
    assert_eq!(fields(wrong), ["steps[0].timeout", "steps[2].name", "steps[0].phase", "steps[2].phase"]);
    let budget = Definition { undo_budget: 0, ..example() }.check();
    assert_eq!(budget.len(), 1);
    assert_eq!(budget[0].to_string(), "definition.undo_budget: 0 ms: 1 s to 7 days");
}
