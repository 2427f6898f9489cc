use proptest::prelude::*;
use weft_types::SystemClock;

use super::judge::Sample;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn plan() -> Plan {
    let step = |percent| Step { percent, pause: MINUTE };
    Plan {
        steps: vec![step(5), step(25), step(50)],
        header_only: false,
        shadow: None,
        limits: Limits::default(),
        progress_deadline: 10 * MINUTE,
    }
}

/// As many calls of both as a stage wants, without failures.
fn good() -> Evidence {
    let sample = Sample { calls: 500, ..Sample::default() };
    Evidence { stable: sample.clone(), canary: sample }
}

fn ready(figures: Option<Evidence>) -> Seen<'static> {
    Seen { wanted: 2, stable_ready: 2, canary_ready: 2, figures, ..Seen::default() }
}

fn traffic(status: &Status) -> (u32, bool, u32) {
    let Traffic { canary_percent, header, shadow_percent } = status.traffic;
    (canary_percent, header, shadow_percent)
}

/// A rollout under way.
#[derive(Clone)]
struct Course {
    plan: Plan,
    status: Status,
    memory: Memory,
    now: Instant,
}

impl Course {
    fn new(plan: Plan) -> Self {
        let now = SystemClock::now();
        Self { plan, status: Status::default(), memory: Memory::new(now), now }
    }

    fn step(&mut self, intent: Intent, seen: &Seen<'_>) -> &Status {
        let next = decide(&self.plan, (intent, &self.status), &mut self.memory, seen, self.now);
        if (next.phase, next.step) != (self.status.phase, self.status.step) {
            self.memory = Memory::new(self.now);
        }
        self.status = next;
        &self.status
    }

    fn after(&mut self, pause: Duration, seen: &Seen<'_>) -> &Status {
        self.now += pause;
        self.step(Intent::Run, seen)
    }
}

#[test]
fn a_good_canary_goes_through_its_steps() {
    let shadow = Some(Step { percent: 100, pause: MINUTE });
    let mut course = Course::new(Plan { shadow, ..plan() });
    let one_of_two = Seen { canary_ready: 1, ..ready(None) };
    assert_eq!(course.step(Intent::Run, &one_of_two).message, "waiting for replicas: 1 of 2 replicas are ready");
    assert_eq!(traffic(&course.status), (0, false, 0), "a call before parity");
    assert_eq!(traffic(course.after(MINUTE, &ready(None))), (0, false, 100));
    assert_eq!(course.status.phase, Phase::Shadowing);
    for percent in [5, 25, 50] {
        let early = course.after(MINUTE - Duration::from_secs(1), &ready(Some(good()))).clone();
        assert_ne!(early.traffic.canary_percent, percent, "before its time");
        let on_time = course.after(Duration::from_secs(1), &ready(Some(good())));
        assert_eq!((on_time.phase, traffic(on_time)), (Phase::Canary, (percent, true, 0)));
    }
    assert_eq!(course.after(MINUTE, &ready(Some(good()))).phase, Phase::Promoted);
    assert_eq!(traffic(&course.status), (0, false, 0));
    // What is over stays as it is.
    let end = course.status.clone();
    assert_eq!(*course.step(Intent::Abort, &Seen { failed: Some("no"), ..ready(None) }), end);
}

#[test]
fn without_steps_all_calls_change_over_at_parity() {
    let mut course = Course::new(Plan { steps: Vec::new(), ..plan() });
    assert_eq!(course.step(Intent::Run, &Seen { canary_ready: 1, ..ready(None) }).phase, Phase::Loading);
    assert_eq!(course.step(Intent::Run, &ready(None)).phase, Phase::Promoted);
}

#[test]
fn a_header_canary_waits_for_a_hand() {
    let mut course = Course::new(Plan { steps: Vec::new(), header_only: true, ..plan() });
    assert_eq!(traffic(course.step(Intent::Run, &ready(None))), (0, true, 0));
    assert_eq!(course.after(100 * MINUTE, &ready(Some(good()))).message, "waiting to be promoted by hand");
    assert_eq!(course.step(Intent::Promote, &ready(None)).phase, Phase::Promoted);
}

#[test]
fn hands_pause_promote_and_abort() {
    let mut course = Course::new(plan());
    course.step(Intent::Run, &ready(None));
    course.now += 5 * MINUTE;
    assert_eq!(course.step(Intent::Pause, &ready(Some(good()))).message, "paused by hand");
    assert_eq!(traffic(&course.status), (5, true, 0));
    assert_eq!(traffic(course.step(Intent::Run, &ready(Some(good())))), (25, true, 0));
    let promoted = |canary_ready| {
        let mut course = Course::new(plan());
        course.step(Intent::Promote, &Seen { canary_ready, ..ready(None) }).phase
    };
    assert_eq!((promoted(2), promoted(1)), (Phase::Promoted, Phase::Loading), "parity is for hands as well");
    let aborted = course.step(Intent::Abort, &ready(Some(good())));
    assert_eq!((aborted.phase, traffic(aborted)), (Phase::RolledBack, (0, false, 0)));
}

#[test]
fn what_does_not_load_or_come_is_rolled_back_with_the_reason() {
    let mut course = Course::new(plan());
    let failed = course.step(Intent::Run, &Seen { failed: Some("bad file"), ..Seen::default() });
    assert_eq!((failed.phase, failed.message.as_str()), (Phase::RolledBack, "it cannot be loaded: bad file"));
    let mut course = Course::new(plan());
    let missing = Seen { canary_ready: 1, lacking: Some("no memory"), ..ready(None) };
    course.step(Intent::Run, &missing);
    assert_eq!(course.after(10 * MINUTE - Duration::from_secs(1), &missing).phase, Phase::Loading);
    let told = "no progress within 600 s: 1 of 2 replicas are ready: no memory";
    assert_eq!(course.after(Duration::from_secs(1), &missing).message, told);
    assert_eq!(course.status.phase, Phase::RolledBack);
}

#[test]
fn replicas_that_are_lost_for_a_while_are_waited_for() {
    let mut course = Course::new(plan());
    course.step(Intent::Run, &ready(None));
    let lost = Seen { canary_ready: 1, ..ready(Some(good())) };
    assert_eq!(traffic(course.after(9 * MINUTE, &lost)), (5, true, 0));
    // Back for a moment, without figures: the stage is the same, and the next loss has a deadline of its own.
    course.after(5 * MINUTE, &ready(None));
    course.after(MINUTE, &lost);
    assert_eq!(course.after(9 * MINUTE, &lost).phase, Phase::Canary);
    assert_eq!(course.after(MINUTE, &lost).phase, Phase::RolledBack);
}

/// What a version did that took its worker with it nobody could count.
#[test]
fn a_stage_that_loses_replicas_of_the_canary_lasts_its_whole_time_after_that() {
    let mut course = Course::new(plan());
    course.step(Intent::Run, &ready(None));
    let (all, lost) = (ready(Some(good())), Seen { canary_ready: 1, ..ready(Some(good())) });
    course.after(MINUTE / 2, &all);
    course.after(MINUTE / 4, &lost);
    course.after(MINUTE / 4, &all);
    assert_eq!(course.after(MINUTE / 4, &all).traffic.canary_percent, 5, "promoted between two losses");
    assert_eq!(course.after(MINUTE / 4, &all).traffic.canary_percent, 5);
    assert_eq!(course.after(MINUTE / 4, &all).traffic.canary_percent, 25);
    // With fewer wanted, nothing is missing.
    course.after(MINUTE / 2, &all);
    let fewer = Seen { wanted: 1, stable_ready: 1, canary_ready: 1, ..all };
    assert_eq!(course.after(MINUTE / 2, &fewer).traffic.canary_percent, 50);
}

/// Else the last one that serves of a version whose replicas were lost would be enough for all calls.
#[test]
fn as_many_are_needed_as_the_stable_version_had_and_shall_have() {
    let mut course = Course::new(Plan { steps: Vec::new(), ..plan() });
    let seen = |wanted, stable_ready, canary_ready| Seen { wanted, stable_ready, canary_ready, ..Seen::default() };
    course.step(Intent::Run, &seen(6, 6, 0));
    assert_eq!(course.step(Intent::Run, &seen(6, 1, 1)).message, "waiting for replicas: 1 of 6 replicas are ready");
    assert_eq!(course.step(Intent::Promote, &seen(6, 0, 5)).phase, Phase::Loading);
    assert_eq!(course.clone().step(Intent::Run, &seen(2, 0, 2)).phase, Phase::Promoted, "no more are wanted now");
    assert_eq!(course.step(Intent::Run, &seen(6, 0, 6)).phase, Phase::Promoted);
}

#[test]
fn a_hand_promotes_whatever_the_figures_are() {
    let mut course = Course::new(plan());
    course.step(Intent::Run, &ready(None));
    let bad = Evidence { canary: Sample { calls: 500, errors: 500, ..Sample::default() }, ..good() };
    let short = Seen { canary_ready: 1, ..ready(Some(bad.clone())) };
    assert_eq!(course.step(Intent::Promote, &short).phase, Phase::Canary, "it waits for the replica");
    assert_eq!(course.step(Intent::Promote, &ready(Some(bad))).phase, Phase::Promoted);
}

/// Nobody calls it, so neither version has replicas: nothing is missing, however long that lasts, and whatever stage it sleeps in.
#[test]
fn a_model_that_sleeps_is_waited_for() {
    let mut course = Course::new(plan());
    let asleep = Seen { wanted: 0, stable_ready: 0, canary_ready: 0, ..ready(Some(good())) };
    let woken = Seen { wanted: 1, ..asleep.clone() };
    for phase in [Phase::Loading, Phase::Canary] {
        course.after(9 * MINUTE, &woken);
        assert_eq!(course.after(60 * MINUTE, &asleep).message, "waiting until replicas are wanted");
        // A call wakes it: from then on they are missing.
        course.after(MINUTE, &woken);
        assert_eq!(course.after(9 * MINUTE, &woken).phase, phase);
        course.step(Intent::Run, &ready(None));
    }
    course.after(MINUTE, &woken);
    assert_eq!(course.after(10 * MINUTE, &woken).phase, Phase::RolledBack);
}

#[test]
fn without_figures_or_calls_it_waits_and_says_so() {
    let mut course = Course::new(plan());
    course.step(Intent::Run, &ready(None));
    assert_eq!(course.after(60 * MINUTE, &ready(None)).message, "waiting for figures: no metrics service tells any");
    let few = Evidence { canary: Sample { calls: 99, ..Sample::default() }, ..good() };
    assert_eq!(course.after(MINUTE, &ready(Some(few))).message, "waiting for calls: 99 of 100");
    let few = Evidence { stable: Sample { calls: 7, ..Sample::default() }, ..good() };
    assert_eq!(course.after(MINUTE, &ready(Some(few))).message, "waiting for calls: 7 of 100");
    assert_eq!(course.after(MINUTE, &ready(Some(good()))).traffic.canary_percent, 25);
}

#[test]
fn a_canary_that_fails_altogether_is_found_after_its_first_calls() {
    let mut course = Course::new(plan());
    course.step(Intent::Run, &ready(None));
    let stable = Sample { calls: 200, ..Sample::default() };
    for (sample, told) in [
        (Sample { calls: 8, errors: 8, ..Sample::default() }, "errors: 100.00 % of its 8 calls, 0.00 % of"),
        (Sample { calls: 9, misses: 9, ..Sample::default() }, "deadline misses: 100.00 % of its 9 calls"),
    ] {
        let (mut memory, evidence) = (course.memory.clone(), Evidence { stable: stable.clone(), canary: sample });
        let seen = ready(Some(evidence));
        let found = decide(&course.plan, (Intent::Pause, &course.status), &mut memory, &seen, course.now);
        assert!(found.phase == Phase::RolledBack && found.message.starts_with(told), "{found:?}");
    }
}

fn sample() -> impl Strategy<Value = Sample> {
    (0u64..5_000, any::<u64>(), any::<u64>(), prop::collection::vec(0u64..500, 0..20)).prop_map(
        |(calls, errors, misses, counts)| Sample {
            calls,
            errors: errors % (calls + 1),
            misses: misses % (calls + 1),
            durations: judge_durations(counts),
        },
    )
}

fn judge_durations(counts: Vec<u64>) -> super::distribution::Distribution {
    super::distribution::Distribution::try_new(0, -10, counts, 0).expect("sound")
}

fn seen() -> impl Strategy<Value = Seen<'static>> {
    let figures = prop::option::of((sample(), sample()).prop_map(|(stable, canary)| Evidence { stable, canary }));
    let failed = prop::sample::select(vec![None, None, None, None, None, Some("planted")]);
    (0usize..4, 0usize..4, failed, figures).prop_map(|(stable_ready, canary_ready, failed, figures)| Seen {
        stable_ready,
        canary_ready,
        failed,
        figures,
        ..ready(None)
    })
}

proptest! {
    /// Whatever is seen and wanted: no call before parity, never more than the step's share, stages only go forward, and what is over
    /// stays. Without figures the share does not grow.
    #[test]
    fn shares_are_bounded_and_stages_go_forward(
        course in prop::collection::vec((seen(), 0u64..200, 0usize..12), 1..60),
        header_only: bool,
        shadowed: bool,
    ) {
        let shadow = shadowed.then_some(Step { percent: 30, pause: MINUTE });
        let plan = Plan { header_only, shadow, steps: if header_only { Vec::new() } else { plan().steps }, ..plan() };
        let mut rollout = Course::new(plan);
        for (seen, seconds, intent) in course {
            let before = rollout.status.clone();
            let intent = [Intent::Pause, Intent::Promote, Intent::Abort].get(intent).copied().unwrap_or_default();
            rollout.now += Duration::from_secs(seconds);
            let after = rollout.step(intent, &seen).clone();
            let parity = seen.canary_ready >= seen.stable_ready.max(1);
            let shares = |status: &Status| (status.traffic.canary_percent, status.traffic.shadow_percent);
            prop_assert!((before.phase, before.step) <= (after.phase, after.step) || after.phase.is_over());
            prop_assert!(!before.phase.is_over() || before == after);
            prop_assert!(parity || after.phase == before.phase || after.phase == Phase::RolledBack);
            let allowed = rollout.plan.steps.get(after.step).map_or(0, |step| step.percent);
            let allowed = if after.phase == Phase::Canary { allowed } else { 0 };
            prop_assert!(shares(&after).0 <= allowed);
            prop_assert_eq!(shares(&after).1, if after.phase == Phase::Shadowing { 30 } else { 0 });
            let grew = shares(&after).0 > shares(&before).0 && before.phase != Phase::Loading;
            prop_assert!(!grew || seen.figures.is_some(), "promoted without figures");
            let by_hand = matches!(intent, Intent::Abort | Intent::Promote);
            let blind = seen.figures.is_none() && seen.failed.is_none() && parity && before.phase != Phase::Loading;
            prop_assert!(!blind || by_hand || after.phase == before.phase, "decided without figures");
        }
    }

    /// More failures never make a canary better.
    #[test]
    fn worse_figures_are_not_judged_better(stable in sample(), canary in sample(), more in 1u64..500) {
        let judged = |canary: &Sample| {
            let evidence = Evidence { stable: stable.clone(), canary: canary.clone() };
            let terms = Terms { limits: &Limits::default(), stages: 3, ending: true, now: SystemClock::now() };
            matches!(Looks::default().judge(&terms, &evidence, None), Verdict::Worse(_))
        };
        let canary = Sample { errors: canary.errors.min(canary.calls.saturating_sub(more)), ..canary };
        let worse = Sample { errors: (canary.errors + more).min(canary.calls), ..canary.clone() };
        prop_assert!(!judged(&canary) || judged(&worse));
    }
}
