//! A rollout's record in the policy's terms. The API checks what it writes, but need not have written it: what cannot be meant is bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_policy::rollout::distribution::Distribution;
use weft_policy::rollout::judge::{Limits, Sample};
use weft_policy::rollout::{Intent, Phase, Plan, Status, Step, Traffic};
use weft_proto::from_duration;
use weft_proto::weft::control::v1::{
    Rollout, RolloutAnalysis, RolloutIntent, RolloutPhase, RolloutStatus, RolloutStep, RolloutStrategy,
};
use weft_proto::weft::metrics::v1::ModelSummary;
use weft_telemetry::status_name;
use weft_types::Version;

/// How long a stage lasts whose record does not say.
const PAUSE: Duration = Duration::from_secs(60);
/// How long replicas may be missing where the record does not say.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// Whether nothing more will happen, as with one that cannot be meant.
pub(crate) fn is_over(rollout: &Rollout) -> bool {
    pair(rollout).is_none() || phase(rollout).is_over()
}

/// Whether calls are split between its versions now, and may all be one version's soon.
pub(crate) fn is_split(rollout: &Rollout) -> bool {
    pair(rollout).is_some() && phase(rollout) == Phase::Canary
}

/// The version that answers calls which name none, but for the canary's share.
pub(crate) fn answers(rollout: &Rollout) -> u64 {
    if phase(rollout) == Phase::Promoted { rollout.canary } else { rollout.stable }
}

/// The versions that are to be served; none where the record cannot be meant.
pub(crate) fn versions(rollout: &Rollout) -> BTreeSet<Version> {
    let Some((stable, canary)) = pair(rollout) else { return BTreeSet::new() };
    match phase(rollout) {
        Phase::Promoted => [canary].into(),
        Phase::RolledBack => [stable].into(),
        Phase::Loading | Phase::Shadowing | Phase::Canary => [stable, canary].into(),
    }
}

/// The stable version and the canary.
pub(super) fn pair(rollout: &Rollout) -> Option<(Version, Version)> {
    Version::new(rollout.stable).zip(Version::new(rollout.canary)).filter(|(stable, canary)| stable != canary)
}

fn phase(rollout: &Rollout) -> Phase {
    match rollout.status.as_ref().map_or(RolloutPhase::Unspecified, RolloutStatus::phase) {
        RolloutPhase::Unspecified => Phase::Loading,
        RolloutPhase::Shadowing => Phase::Shadowing,
        RolloutPhase::Canary => Phase::Canary,
        RolloutPhase::Promoted => Phase::Promoted,
        RolloutPhase::RolledBack => Phase::RolledBack,
    }
}

pub(super) fn intent(rollout: &Rollout) -> Intent {
    match rollout.intent() {
        RolloutIntent::Unspecified => Intent::Run,
        RolloutIntent::Pause => Intent::Pause,
        RolloutIntent::Promote => Intent::Promote,
        RolloutIntent::Abort => Intent::Abort,
    }
}

pub(super) fn status(rollout: &Rollout) -> Status {
    let told = rollout.status.clone().unwrap_or_default();
    let traffic = Traffic {
        canary_percent: told.canary_percent.min(100),
        header: told.header,
        shadow_percent: told.shadow_percent.min(100),
    };
    let step = usize::try_from(told.step).unwrap_or(usize::MAX);
    Status { phase: phase(rollout), step, traffic, message: told.message }
}

/// The same as a record has it.
pub(super) fn told(status: &Status) -> RolloutStatus {
    let phase = match status.phase {
        Phase::Loading => RolloutPhase::Unspecified,
        Phase::Shadowing => RolloutPhase::Shadowing,
        Phase::Canary => RolloutPhase::Canary,
        Phase::Promoted => RolloutPhase::Promoted,
        Phase::RolledBack => RolloutPhase::RolledBack,
    };
    RolloutStatus {
        phase: phase.into(),
        step: u32::try_from(status.step).unwrap_or(u32::MAX),
        canary_percent: status.traffic.canary_percent,
        header: status.traffic.header,
        shadow_percent: status.traffic.shadow_percent,
        message: status.message.clone(),
    }
}

pub(super) fn plan(strategy: &RolloutStrategy) -> Plan {
    let step = |step: &RolloutStep| Step {
        percent: step.percent.min(100),
        pause: step.pause.as_ref().and_then(from_duration).unwrap_or(PAUSE),
    };
    Plan {
        steps: strategy.steps.iter().map(step).collect(),
        header_only: strategy.header_only,
        shadow: strategy.shadow.as_ref().map(step),
        limits: limits(&strategy.analysis.unwrap_or_default()),
        progress_deadline: strategy.progress_deadline.as_ref().and_then(from_duration).unwrap_or(PROGRESS_DEADLINE),
    }
}

fn limits(told: &RolloutAnalysis) -> Limits {
    let default = Limits::default();
    let within = |told: Option<f64>, default: f64, least: f64, most: f64| {
        told.filter(|told| told.is_finite()).unwrap_or(default).clamp(least, most)
    };
    Limits {
        max_error_increase: within(told.max_error_increase, default.max_error_increase, 0.0, 1.0),
        max_miss_increase: within(told.max_miss_increase, default.max_miss_increase, 0.0, 1.0),
        max_latency_ratio: within(told.max_latency_ratio, default.max_latency_ratio, 1.0, 100.0),
        min_calls: told.min_calls.unwrap_or(default.min_calls).max(1),
        confidence: within(told.confidence, default.confidence, 0.5, 0.999_999),
    }
}

/// What a version did, as the metrics service tells.
pub(super) fn sample(told: &ModelSummary) -> Sample {
    let named = |code| told.errors.get(status_name(code)).copied().unwrap_or(0);
    let misses = named(tonic::Code::DeadlineExceeded);
    let failed: u64 = told.errors.values().fold(0, |sum, count| sum.saturating_add(*count));
    // A caller that goes away says nothing about the version, for it or against it.
    let cancelled = named(tonic::Code::Cancelled);
    let (calls, errors) =
        (told.calls.saturating_sub(cancelled), failed.saturating_sub(misses).saturating_sub(cancelled));
    let durations = told
        .durations
        .as_ref()
        .and_then(|told| Distribution::try_new(told.scale, told.offset, told.counts.clone(), told.zeros));
    Sample { calls, errors: errors.min(calls), misses: misses.min(calls), durations: durations.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_cannot_be_meant_is_bounded() {
        let analysis = RolloutAnalysis {
            max_error_increase: Some(f64::NAN),
            max_latency_ratio: Some(-3.0),
            min_calls: Some(0),
            confidence: Some(7.0),
            ..RolloutAnalysis::default()
        };
        let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let strategy = RolloutStrategy {
            steps: vec![RolloutStep { percent: 4_000, pause: negative }],
            analysis: Some(analysis),
            progress_deadline: negative,
            ..RolloutStrategy::default()
        };
        let plan = plan(&strategy);
        assert_eq!(
            (plan.steps[0].percent, plan.steps[0].pause, plan.progress_deadline),
            (100, PAUSE, PROGRESS_DEADLINE)
        );
        let limits = plan.limits;
        assert_eq!((limits.max_error_increase, limits.max_latency_ratio, limits.min_calls), (0.01, 1.0, 1));
        assert!(limits.confidence < 1.0);
        for (stable, canary) in [(0, 1), (1, 0), (2, 2)] {
            assert!(versions(&Rollout { stable, canary, ..Rollout::default() }).is_empty());
        }
    }

    #[test]
    fn statuses_read_back() {
        for phase in [Phase::Loading, Phase::Shadowing, Phase::Canary, Phase::Promoted, Phase::RolledBack] {
            let traffic = Traffic { canary_percent: 5, header: true, shadow_percent: 7 };
            let known = Status { phase, step: 3, traffic, message: "why".to_owned() };
            assert_eq!(status(&Rollout { status: Some(told(&known)), ..Rollout::default() }), known);
        }
    }

    #[test]
    fn failures_are_told_apart_and_no_more_than_calls() {
        let errors = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let told = ModelSummary {
            calls: 10,
            errors: errors(&[("INTERNAL", 2), ("UNAVAILABLE", 1), ("DEADLINE_EXCEEDED", 3), ("CANCELLED", 1)]),
            ..ModelSummary::default()
        };
        let known = sample(&told);
        assert_eq!((known.calls, known.errors, known.misses, known.durations.count()), (9, 3, 3, 0));
        let odd = ModelSummary { calls: 1, errors: errors(&[("INTERNAL", u64::MAX), ("UNKNOWN", 9)]), ..told };
        assert_eq!((sample(&odd).errors, sample(&odd).misses), (1, 0));
    }
}
