use proptest::prelude::*;

use super::*;
use crate::definition::{Effect, Kind, Retry};
use crate::job::{Item, JobState};

fn step(name: &str, needs: Vec<usize>) -> Step {
    Step {
        name: name.to_owned(),
        needs,
        join: Join::All,
        effect: Effect::Pure,
        phase: Phase::Pre,
        kind: Kind::Act,
        has_undo: false,
        has_probe: false,
        retry: Retry { max_attempts: 3, initial_backoff: 100, max_backoff: 10_000, codes: Vec::new() },
        timeout: 30_000,
        deadline_weight: 0,
        is_ruled: false,
        parallelism: 8,
        refers: Vec::new(),
        signal: None,
    }
}

fn job(steps: Vec<Node>) -> Job {
    Job {
        state: JobState::Running,
        revision: 1,
        paused: false,
        stuck: None,
        failure: None,
        decided: false,
        created_at: 0,
        deadline: 0,
        undo_since: None,
        ended_at: None,
        takeovers: 0,
        steps,
        signals: Vec::new(),
    }
}

fn node(states: &[(StepState, u32)]) -> Node {
    let items = states.iter().map(|(state, attempts)| Item { state: *state, attempts: *attempts, ..Item::default() });
    Node { ruled: true, items: items.collect() }
}

const STATES: [StepState; 10] = [
    StepState::Idle,
    StepState::Started,
    StepState::Probing,
    StepState::Done,
    StepState::FailedClean,
    StepState::Unknown,
    StepState::Skipped,
    StepState::Undoing,
    StepState::Undone,
    StepState::Stuck,
];

#[test]
fn a_job_is_drawn_with_its_states() {
    let mut steps = vec![step("load", vec![]), step("infer", vec![0]), step("publish", vec![0, 1])];
    steps.push(step("free", vec![]));
    steps[2].phase = Phase::Pivot;
    steps[2].join = Join::Any;
    steps[3].phase = Phase::Finally;
    let definition = Definition { steps, undo_budget: 600_000 };
    let done = (StepState::Done, 1);
    let job = job(vec![node(&[done]), node(&[done, (StepState::Started, 1)]), node(&[(StepState::Started, 2)])]);
    let chart = render(&definition, &job);
    let lines: Vec<&str> = chart.lines().map(str::trim).collect();
    assert_eq!(
        lines[..8],
        [
            "flowchart TD",
            "s0[\"load<br/>done\"]:::done",
            "s1[\"infer<br/>running, 1 of 2 done\"]:::running",
            "s2{{\"publish<br/>running, attempt 2\"}}:::running",
            "s3([\"free<br/>waiting\"]):::waiting",
            "s0 --> s1",
            "s0 -- any --> s2",
            "s1 -- any --> s2",
        ]
    );
    assert_eq!(edges(&chart, &["load", "infer", "publish", "free"]), Ok(vec![vec![], vec![0], vec![0, 1], vec![]]));
}

#[test]
fn what_asks_for_attention_is_what_a_step_shows() {
    let colour = |states: &[StepState]| {
        let definition = Definition { steps: vec![step("a", vec![])], undo_budget: 0 };
        let states: Vec<_> = states.iter().map(|state| (*state, 1)).collect();
        let chart = render(&definition, &job(vec![node(&states)]));
        chart.lines().nth(1).and_then(|line| line.rsplit(":::").next().map(str::to_owned)).expect("a node")
    };
    assert_eq!(colour(&STATES), "stuck");
    assert_eq!(colour(&[StepState::Done, StepState::FailedClean]), "failed");
    assert_eq!(colour(&[StepState::Done, StepState::Idle]), "waiting");
    assert_eq!(colour(&[StepState::Skipped, StepState::Done]), "done");
    assert_eq!(colour(&[]), "waiting");
    let chart = render(&Definition { steps: vec![], undo_budget: 0 }, &job(vec![]));
    for (standing, _) in Standing::ALL {
        assert!(chart.contains(&format!("classDef {} ", standing.as_str())), "{standing:?} has no style");
    }
}

#[test]
fn reads_what_people_write() {
    let chart = "
        %% the whole of it
        graph LR; load --> a & b:::hot --->|both| join{Join them}
        join -- when it is good --> publish-it([\"publish\"]) %% the pivot
        classDef hot fill:#f00
        class a,b hot; style a fill:#fff
        class --> publish-it; alone
    ";
    let steps = ["load", "a", "b", "join", "publish", "class", "alone"];
    let expected: Vec<Vec<usize>> = vec![vec![], vec![0], vec![0], vec![1, 2], vec![3, 5], vec![], vec![]];
    assert_eq!(edges(chart, &steps), Ok(expected));
}

#[test]
fn the_last_label_of_a_node_counts() {
    assert_eq!(edges("flowchart TD; x[b]; x[a] --> b", &["a", "b"]), Ok(vec![vec![], vec![0]]));
}

#[test]
fn mistakes_are_told_with_their_place() {
    let cases = [
        ("", (1, 1), "expected 'flowchart"),
        ("sequenceDiagram", (1, 1), "expected 'flowchart"),
        ("---\ntitle: a\n---\nflowchart TD", (1, 1), "expected 'flowchart"),
        ("flowchart up", (1, 11), "expected a direction"),
        ("flowchart TD a", (1, 14), "expected '-->'"),
        ("flowchart TD\n  a --- b", (2, 5), "other links"),
        ("flowchart TD\n  a -.-> b", (2, 5), "other links"),
        ("flowchart TD\n  a[\"\u{e9}\"] --- b", (2, 10), "other links"),
        ("flowchart TD\n  a ==> b", (2, 5), "other links"),
        ("flowchart TD\n  a <--> b", (2, 5), "other links"),
        ("flowchart TD\n  a --x b", (2, 5), "other links"),
        ("flowchart TD\n  a -- text b", (2, 5), "other links"),
        ("flowchart TD\n  a -->|text b", (2, 5), "does not end with '|'"),
        ("flowchart TD\n  a -->", (2, 8), "expected a node"),
        ("flowchart TD\n  a & --> b", (2, 7), "expected a node"),
        ("flowchart TD\n  a[\"b] --> b", (2, 4), "does not end with ']'"),
        ("flowchart TD\n  a[b --> b", (2, 4), "does not end with ']'"),
        ("flowchart TD\n  a::: --> b", (2, 7), "name of a class"),
        ("flowchart TD\n  subgraph one\n  a --> b\n  end", (2, 3), "subgraphs"),
        ("flowchart TD\n  a --> b\n  end", (3, 3), "subgraphs"),
        ("flowchart TD\n  click a call()", (2, 3), "not understood"),
        ("flowchart TD\n  a --> c", (2, 9), "'c' is not a step"),
        ("flowchart TD\n  a --> c[D] --> b", (2, 9), "'c' is not a step"),
        ("flowchart TD\n  a --> c[a]", (2, 10), "a second node for the step 'a'"),
        ("flowchart TD\n  a & b --> b", (2, 9), "'b' would wait for itself"),
        ("flowchart TD\n  a\n", (2, 1), "'b' is not in the chart"),
        ("flowchart TD\n  \u{e9} --> b", (2, 3), "expected a node"),
    ];
    for (chart, at, problem) in cases {
        let error = edges(chart, &["a", "b"]).expect_err(chart);
        assert!(error.problem.contains(problem), "{chart:?}: {error}");
        assert_eq!((error.line, error.column), at, "{chart:?}: {error}");
    }
    let long = format!("flowchart TD\n{}", "%".repeat(64 * 1024));
    assert!(edges(&long, &[]).is_err());
}

#[test]
fn no_name_ends_its_label() {
    for name in
        ["\"]; evil", "a<br/>b", "#quot;", "`code`", "end", "]]>", "--> x", "<script>", "a\nb", "%%", "s1", "\u{202e}"]
    {
        let definition = Definition { steps: vec![step("first", vec![]), step(name, vec![0])], undo_budget: 0 };
        let chart = render(&definition, &job(vec![]));
        let label = chart.lines().nth(2).and_then(|line| line.split('"').nth(1)).expect("a label");
        let inside = label.strip_suffix("<br/>waiting").expect("name and state");
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || " _-.#;".contains(letter);
        assert!(inside.chars().all(is_plain), "{name:?}: {label}");
        assert_eq!(edges(&chart, &["first", name]), Ok(vec![vec![], vec![0]]), "{name:?}:\n{chart}");
    }
}

fn names() -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof!["[A-Za-z0-9_-]{1,8}", "s[0-9]", ".{1,6}", "[\"#;<>&`\\]\\[(){}|%\n -]{1,6}"];
    prop::collection::hash_set(name, 1..10).prop_map(|names| names.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_drawn_is_read_again(names in names(), bits in any::<u64>(), states in prop::collection::vec(0..10_usize, 10)) {
        let drawn = |from: usize, to: usize| bits >> ((from * 7 + to * 13) % 64) & 1 == 1;
        let steps: Vec<Step> = names.iter().enumerate().map(|(index, name)| {
            let mut step = step(name, (0..index).filter(|before| drawn(*before, index)).collect());
            step.phase = [Phase::Pre, Phase::Pivot, Phase::Post, Phase::Finally][index % 4];
            step.join = [Join::All, Join::Any, Join::Quorum(1)][index % 3];
            step
        }).collect();
        let nodes = states.iter().map(|state| node(&[(STATES[*state], 1)])).collect();
        let needs: Vec<Vec<usize>> = steps.iter().map(|step| step.needs.clone()).collect();
        let chart = render(&Definition { steps, undo_budget: 0 }, &job(nodes));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        prop_assert_eq!(edges(&chart, &names), Ok(needs), "{}", chart);
    }

    /// Whatever the text, it is read or refused with a place in it.
    #[test]
    fn any_text_is_read_or_refused(text in "(flowchart TD\n)?[ab\\[\\](){}\"#;&|>:%<= \n-]{0,80}") {
        if let Err(error) = edges(&text, &["a", "b"]) {
            let line = text.lines().nth(error.line - 1).unwrap_or_default();
            prop_assert!(error.column <= line.chars().count() + 1, "{}", error);
        }
    }
}
