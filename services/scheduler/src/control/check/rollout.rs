//! What a rollout's strategy may say; what it does not say is written into it, so that the record shows what holds.

use std::ops::RangeInclusive;
use std::time::Duration;

use weft_policy::rollout::judge::Limits;
use weft_proto::weft::control::v1::{RolloutAnalysis, RolloutStep, RolloutStrategy};
use weft_proto::{duration, from_duration};
use weft_types::Result;

use super::invalid;
use super::route::{MAX_MATCHES, metadata_match};

const MAX_STEPS: usize = 20;
/// The shares of a rollout for which nobody has named any (Flagger's and Argo's examples lie about there).
const STEPS: [u32; 3] = [5, 25, 50];
/// How long a step lasts by default: enough for some sixty reports, few enough that somebody waits for it.
const PAUSE: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// As Kubernetes has it for deployments.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);
const PROGRESS_DEADLINES: RangeInclusive<Duration> = Duration::from_secs(1)..=MAX_PAUSE;

/// A strategy with everything that it leaves open; without one, the default steps.
pub(in crate::control) fn strategy(told: Option<RolloutStrategy>) -> Result<RolloutStrategy> {
    let default = || RolloutStrategy {
        steps: STEPS.map(|percent| RolloutStep { percent, pause: None }).to_vec(),
        ..RolloutStrategy::default()
    };
    let mut strategy = told.unwrap_or_else(default);
    if strategy.steps.len() > MAX_STEPS {
        return Err(invalid("strategy.steps", format_args!("must be at most {MAX_STEPS}")));
    }
    if strategy.header_only && !strategy.steps.is_empty() {
        return Err(invalid("strategy.steps", "must be empty where header_only is set"));
    }
    let mut least = 1;
    for (index, one) in strategy.steps.iter_mut().enumerate() {
        step(&format!("strategy.steps[{index}]"), one, least..=99)?;
        least = one.percent + 1;
    }
    strategy.shadow.as_mut().map_or(Ok(()), |shadow| step("strategy.shadow", shadow, 1..=100))?;
    if strategy.matches.len() > MAX_MATCHES {
        return Err(invalid("strategy.matches", format_args!("must be at most {MAX_MATCHES}")));
    }
    let mut matches = strategy.matches.iter().enumerate();
    matches.try_for_each(|(index, one)| metadata_match(&format!("strategy.matches[{index}]"), one))?;
    strategy.analysis = Some(analysis(strategy.analysis.unwrap_or_default())?);
    let deadline = strategy.progress_deadline.as_ref().map_or(Some(PROGRESS_DEADLINE), from_duration);
    let deadline = deadline.filter(|deadline| PROGRESS_DEADLINES.contains(deadline));
    let deadline = deadline.ok_or_else(|| invalid("strategy.progress_deadline", "must be 1 s to 24 h"))?;
    strategy.progress_deadline = Some(duration(deadline));
    Ok(strategy)
}

fn step(field: &str, step: &mut RolloutStep, percents: RangeInclusive<u32>) -> Result<()> {
    if !percents.contains(&step.percent) {
        let (least, most) = (percents.start(), percents.end());
        return Err(invalid(&format!("{field}.percent"), format_args!("must be {least} to {most}")));
    }
    let pause = step.pause.as_ref().map_or(Some(PAUSE), from_duration).filter(|pause| *pause <= MAX_PAUSE);
    let pause = pause.ok_or_else(|| invalid(&format!("{field}.pause"), "must be 0 to 24 h"))?;
    step.pause = Some(duration(pause));
    Ok(())
}

fn analysis(told: RolloutAnalysis) -> Result<RolloutAnalysis> {
    let limits = Limits::default();
    let number = |field: &str, told: Option<f64>, default: f64, range: RangeInclusive<f64>| {
        let value = told.unwrap_or(default);
        let (least, most) = (*range.start(), *range.end());
        let problem = format_args!("must be {least} to {most}");
        // A NaN is in no range.
        if range.contains(&value) {
            Ok(Some(value))
        } else {
            Err(invalid(&format!("strategy.analysis.{field}"), problem))
        }
    };
    let min_calls = told.min_calls.unwrap_or(limits.min_calls);
    if !(1..=1_000_000).contains(&min_calls) {
        return Err(invalid("strategy.analysis.min_calls", "must be 1 to 1000000"));
    }
    Ok(RolloutAnalysis {
        max_error_increase: number(
            "max_error_increase",
            told.max_error_increase,
            limits.max_error_increase,
            0.0..=1.0,
        )?,
        max_miss_increase: number("max_miss_increase", told.max_miss_increase, limits.max_miss_increase, 0.0..=1.0)?,
        max_latency_ratio: number("max_latency_ratio", told.max_latency_ratio, limits.max_latency_ratio, 1.0..=100.0)?,
        min_calls: Some(min_calls),
        confidence: number("confidence", told.confidence, limits.confidence, 0.5..=0.999_999)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::weft::control::v1::MetadataMatch;
    use weft_types::Reason;

    fn steps(percents: &[u32]) -> RolloutStrategy {
        let step = |percent: &u32| RolloutStep { percent: *percent, pause: None };
        RolloutStrategy { steps: percents.iter().map(step).collect(), ..RolloutStrategy::default() }
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn bad_strategies_name_their_field() {
        let judged = |analysis| RolloutStrategy { analysis: Some(analysis), ..steps(&[1]) };
        let paused = |pause| RolloutStrategy { steps: vec![RolloutStep { percent: 1, pause }], ..steps(&[]) };
        let limits = RolloutAnalysis::default;
        let table: [(RolloutStrategy, &str); 20] = [
            (steps(&[0]), "strategy.steps[0].percent"),
            (steps(&[100]), "strategy.steps[0].percent"),
            (steps(&[5, 5]), "strategy.steps[1].percent"),
            (steps(&[5, u32::MAX]), "strategy.steps[1].percent"),
            (steps(&(1..=21).collect::<Vec<_>>()), "strategy.steps"),
            (RolloutStrategy { header_only: true, ..steps(&[1]) }, "strategy.steps"),
            (paused(seconds(-1)), "strategy.steps[0].pause"),
            (paused(seconds(86_401)), "strategy.steps[0].pause"),
            (
                RolloutStrategy { shadow: Some(RolloutStep { percent: 101, pause: None }), ..steps(&[]) },
                "strategy.shadow.percent",
            ),
            (RolloutStrategy { matches: vec![MetadataMatch::default(); 5], ..steps(&[]) }, "strategy.matches"),
            (RolloutStrategy { matches: vec![MetadataMatch::default()], ..steps(&[]) }, "strategy.matches[0].key"),
            (RolloutStrategy { progress_deadline: seconds(0), ..steps(&[]) }, "strategy.progress_deadline"),
            (RolloutStrategy { progress_deadline: seconds(i64::MAX), ..steps(&[]) }, "strategy.progress_deadline"),
            (
                judged(RolloutAnalysis { max_error_increase: Some(f64::NAN), ..limits() }),
                "strategy.analysis.max_error_increase",
            ),
            (
                judged(RolloutAnalysis { max_error_increase: Some(-0.1), ..limits() }),
                "strategy.analysis.max_error_increase",
            ),
            (
                judged(RolloutAnalysis { max_miss_increase: Some(1.1), ..limits() }),
                "strategy.analysis.max_miss_increase",
            ),
            (
                judged(RolloutAnalysis { max_latency_ratio: Some(f64::INFINITY), ..limits() }),
                "strategy.analysis.max_latency_ratio",
            ),
            (judged(RolloutAnalysis { min_calls: Some(0), ..limits() }), "strategy.analysis.min_calls"),
            (judged(RolloutAnalysis { min_calls: Some(u64::MAX), ..limits() }), "strategy.analysis.min_calls"),
            (judged(RolloutAnalysis { confidence: Some(1.0), ..limits() }), "strategy.analysis.confidence"),
        ];
        for (bad, field) in table {
            let error = strategy(Some(bad.clone())).expect_err(field);
            assert_eq!((error.reason(), error.field()), (Reason::InvalidRequest, Some(field)), "{bad:?}");
        }
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let filled = strategy(None).expect("sound");
        let told: Vec<_> = filled.steps.iter().map(|step| (step.percent, step.pause)).collect();
        assert_eq!(told, [(5, seconds(60)), (25, seconds(60)), (50, seconds(60))]);
        assert_eq!(filled.progress_deadline, seconds(600));
        let analysis = filled.analysis.expect("filled in");
        assert_eq!(
            (analysis.max_latency_ratio, analysis.min_calls, analysis.confidence),
            (Some(1.25), Some(100), Some(0.99))
        );
        let own = RolloutAnalysis { max_error_increase: Some(0.0), min_calls: Some(7), ..RolloutAnalysis::default() };
        let kept = strategy(Some(RolloutStrategy { analysis: Some(own), ..steps(&[1, 99]) })).expect("sound");
        assert_eq!(kept.analysis.and_then(|kept| kept.min_calls.zip(kept.max_error_increase)), Some((7, 0.0)));
        assert_eq!(strategy(Some(steps(&[]))).expect("all at once").steps, []);
    }
}
