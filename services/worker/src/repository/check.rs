//! What a configuration may ask for. Every mistake is told by the name of its field.

use std::collections::BTreeMap;

use weft_engine::Builtin;
use weft_proto::inference::model_config::SchedulingChoice;
use weft_proto::inference::model_instance_group::Kind;
use weft_proto::inference::model_queue_policy::TimeoutAction;
use weft_proto::inference::model_sequence_batching::StrategyChoice;
use weft_proto::inference::{ModelConfig, ModelDynamicBatching, ModelQueuePolicy};
use weft_types::ModelName;

use crate::sequence;

/// The most rows that a configuration may ask for in one execution.
const MAX_BATCH_SIZE: i32 = 65_536;
/// The most executions that a configuration may ask for at once.
const MAX_INSTANCES: i64 = 1024;
/// The longest that a configuration may ask requests to wait, in microseconds.
const MAX_DELAY_MICROS: u64 = 60_000_000;
/// The most priority levels.
pub(super) const MAX_LEVELS: u64 = 255;

pub(super) fn builtin(
    name: &ModelName,
    config: &ModelConfig,
    parameters: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) {
    let model = parameters.get("model").map_or(name.as_str(), String::as_str);
    if !Builtin::MODELS.contains(&model) {
        let known = Builtin::MODELS.join(", ");
        problems.push(format!("parameters[\"model\"]: expected one of {known}"));
    }
    if config.max_batch_size != 0 {
        problems.push("max_batch_size: a builtin model does not batch".to_owned());
    }
}

pub(super) fn max_batch_size(config: &ModelConfig, problems: &mut Vec<String>) -> usize {
    match usize::try_from(config.max_batch_size) {
        Ok(size) if config.max_batch_size <= MAX_BATCH_SIZE => size,
        _ => {
            problems.push(format!("max_batch_size: expected 0 to {MAX_BATCH_SIZE}"));
            0
        }
    }
}

/// `streams` tells whether the engine answers a request many times, as language models do.
pub(super) fn scheduling(config: &ModelConfig, max_batch_size: usize, streams: bool, problems: &mut Vec<String>) {
    match &config.scheduling_choice {
        None => {}
        Some(SchedulingChoice::DynamicBatching(batching)) => dynamic(batching, max_batch_size, problems),
        Some(SchedulingChoice::SequenceBatching(_)) if streams => {
            problems.push("sequence_batching: a language model keeps its sequences itself".to_owned());
        }
        Some(SchedulingChoice::SequenceBatching(batching)) => {
            let (sizes, delay_micros) = match &batching.strategy_choice {
                Some(StrategyChoice::Oldest(oldest)) => {
                    (oldest.preferred_batch_size.as_slice(), oldest.max_queue_delay_microseconds)
                }
                Some(StrategyChoice::Direct(direct)) => (&[][..], direct.max_queue_delay_microseconds),
                None => (&[][..], 0),
            };
            batches("sequence_batching", (sizes, delay_micros), max_batch_size, problems);
            sequence::check(config, batching, problems);
        }
        Some(SchedulingChoice::EnsembleScheduling(_)) => {
            problems.push("ensemble_scheduling: is not offered".to_owned());
        }
    }
    if config.model_transaction_policy.is_some_and(|policy| policy.decoupled) && !streams {
        problems.push("model_transaction_policy.decoupled: is not offered".to_owned());
    }
}

fn dynamic(dynamic: &ModelDynamicBatching, max_batch_size: usize, problems: &mut Vec<String>) {
    if max_batch_size == 0 {
        problems.push("dynamic_batching: needs a max_batch_size".to_owned());
    }
    let sizes = dynamic.preferred_batch_size.as_slice();
    batches("dynamic_batching", (sizes, dynamic.max_queue_delay_microseconds), max_batch_size, problems);
    priorities(dynamic, problems);
    let own = dynamic.priority_queue_policy.values();
    let mut policies = dynamic.default_queue_policy.iter().chain(own);
    let delays = |policy: &ModelQueuePolicy| policy.timeout_action() == TimeoutAction::Delay;
    if policies.any(delays) {
        problems.push("dynamic_batching queue policy timeout_action: only REJECT is offered".to_owned());
    }
}

/// What both kinds of batches have in common; `section` is the one that says it.
fn batches(section: &str, (sizes, delay_micros): (&[i32], u64), max_batch_size: usize, problems: &mut Vec<String>) {
    let fits = |size: &i32| usize::try_from(*size).is_ok_and(|size| (1..=max_batch_size).contains(&size));
    if !sizes.iter().all(fits) {
        problems.push(format!("{section}.preferred_batch_size: expected 1 to max_batch_size"));
    }
    if delay_micros > MAX_DELAY_MICROS {
        problems.push(format!("{section}.max_queue_delay_microseconds: expected at most {MAX_DELAY_MICROS}"));
    }
}

fn priorities(dynamic: &ModelDynamicBatching, problems: &mut Vec<String>) {
    let levels = dynamic.priority_levels;
    if levels > MAX_LEVELS {
        problems.push(format!("dynamic_batching.priority_levels: expected at most {MAX_LEVELS}"));
    }
    if levels > 0 && !(1..=levels).contains(&dynamic.default_priority_level) {
        problems.push("dynamic_batching.default_priority_level: expected 1 to priority_levels".to_owned());
    }
    if levels > 0 && !dynamic.priority_queue_policy.keys().all(|level| (1..=levels).contains(level)) {
        problems.push("dynamic_batching.priority_queue_policy: expected keys from 1 to priority_levels".to_owned());
    }
    if levels > 1 && dynamic.preserve_ordering {
        problems.push("dynamic_batching.preserve_ordering: contradicts priority_levels".to_owned());
    }
}

/// The instances of all groups together, if the configuration says.
pub(super) fn instances(config: &ModelConfig, problems: &mut Vec<String>) -> Option<i64> {
    if config.instance_group.iter().any(|group| group.kind() == Kind::Gpu) {
        problems.push("instance_group.kind: no engine of this build uses a GPU".to_owned());
    }
    // A group that gives no count has one instance.
    let total = config.instance_group.iter().map(|group| i64::from(group.count).max(1)).sum();
    if total > MAX_INSTANCES || config.instance_group.iter().any(|group| group.count < 0) {
        problems.push(format!("instance_group.count: expected 1 to {MAX_INSTANCES} together"));
        return None;
    }
    (total > 0).then_some(total)
}

/// Fields that are read and not followed, since the answers are the same without.
pub(super) fn notes(config: &ModelConfig) -> Vec<&'static str> {
    let accelerators =
        config.optimization.as_ref().and_then(|optimization| optimization.execution_accelerators.as_ref());
    let notes = [
        (
            accelerators.is_some_and(|accelerators| {
                !(accelerators.cpu_execution_accelerator.is_empty()
                    && accelerators.gpu_execution_accelerator.is_empty())
            }),
            "optimization.execution_accelerators is not used: the engine's own kernels are",
        ),
        (!config.model_warmup.is_empty(), "model_warmup is not used: each load is warmed with made-up input"),
        (
            config.response_cache.as_ref().is_some_and(|cache| cache.enable),
            "response_cache is not used: every call is computed",
        ),
    ];
    notes.into_iter().filter_map(|(applies, note)| applies.then_some(note)).collect()
}
