//! The one form of a definition: with every default written out.

use prost_types::Duration;
use weft_proto::weft::jobs::v1::action::Kind;
use weft_proto::weft::jobs::v1::{Durability, Effect, JobDefinition, Join, Phase, Step};

const fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

const fn millis(millis: i32) -> Duration {
    Duration { seconds: 0, nanos: millis * 1_000_000 }
}

/// Writes the defaults out. What is wrong stays as it is.
pub(super) fn normalise(definition: &mut JobDefinition) {
    definition.undo_budget.get_or_insert(seconds(600));
    set(&mut definition.durability, Durability::Journaled.into());
    definition.steps.iter_mut().for_each(step);
}

fn set(value: &mut i32, default: i32) {
    if *value == 0 {
        *value = default;
    }
}

fn step(step: &mut Step) {
    set(&mut step.join, Join::All.into());
    set(&mut step.phase, Phase::Pre.into());
    if let Some(action) = &mut step.action {
        let effect = action.kind.as_ref().map_or(Effect::Pure, effect_of);
        set(&mut step.effect, effect.into());
        action.kind.iter_mut().for_each(act);
    }
    for action in [&mut step.undo, &mut step.probe].into_iter().flatten() {
        action.kind.iter_mut().for_each(act);
    }
    step.timeout.get_or_insert(seconds(30));
    let retry = step.retry.get_or_insert_default();
    if retry.max_attempts == 0 {
        retry.max_attempts = 3;
    }
    let initial = *retry.initial_backoff.get_or_insert(millis(100));
    let is_longer = (initial.seconds, initial.nanos) > (10, 0);
    retry.max_backoff.get_or_insert(if is_longer { initial } else { seconds(10) });
    if step.for_each.is_some() && step.parallelism == 0 {
        step.parallelism = 8;
    }
}

/// What an action changes where nothing is said about it. A foreign service may change something, for all that is known of it.
const fn effect_of(kind: &Kind) -> Effect {
    match kind {
        Kind::Call(_) | Kind::Load(_) | Kind::Unload(_) => Effect::External,
        Kind::Reserve(_) => Effect::Reserve,
        Kind::Infer(_) | Kind::Release(_) | Kind::Wait(_) | Kind::Compute(_) => Effect::Pure,
    }
}

fn act(kind: &mut Kind) {
    match kind {
        Kind::Load(load) if load.replicas == 0 => load.replicas = 1,
        Kind::Reserve(reserve) => {
            for pool in &mut reserve.pools {
                if pool.slots == 0 {
                    pool.slots = 1;
                }
            }
        }
        _ => {}
    }
}
