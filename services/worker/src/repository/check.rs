//! What a configuration may ask for. Every mistake is told by the name of its field.

use std::collections::BTreeMap;

use weft_engine::Builtin;
use weft_proto::inference::model_config::SchedulingChoice;
use weft_proto::inference::model_instance_group::Kind;
use weft_proto::inference::model_queue_policy::TimeoutAction;
use weft_proto::inference::model_sequence_batching::StrategyChoice;
use weft_proto::inference::{ModelConfig, ModelDynamicBatching, ModelQueuePolicy};
use weft_types::ModelName;

use crate::error::presentable;
use crate::sequence;

/// The most rows that a configuration may ask for in one execution.
const MAX_BATCH_SIZE: i32 = 65_536;
/// The most executions that a configuration may ask for at once.
const MAX_INSTANCES: i64 = 1024;
/// The most processors that a configuration may ask for.
const MAX_CPUS: f64 = 1024.0;
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

/// Thousandths of a processor; 0 where nothing is said.
pub(super) fn cpus(text: Option<&str>, problems: &mut Vec<String>) -> u32 {
    let Some(text) = text else { return 0 };
    match text.trim().parse::<f64>() {
        // Checked just before, so that nothing is cut off.
        Ok(cpus) if (0.001..=MAX_CPUS).contains(&cpus) => (cpus * 1000.0).round() as u32,
        _ => {
            problems.push(format!("parameters[\"cpus\"]: expected processors, 0.001 to {MAX_CPUS}"));
            0
        }
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

/// Each `reshape` must have as many elements as the `dims` that it stands for, whatever the free axes turn out to be.
pub(super) fn reshapes(config: &ModelConfig, problems: &mut Vec<String>) {
    let inputs = config.input.iter().map(|input| ("input", &input.dims, &input.reshape));
    let outputs = config.output.iter().map(|output| ("output", &output.dims, &output.reshape));
    for (side, dims, reshape) in inputs.chain(outputs) {
        if let Some(reshape) = reshape
            && (segments(dims).is_none() || segments(dims) != segments(&reshape.shape))
        {
            problems.push(format!(
                "{side}.reshape: expected as many elements as dims, and its free axes in the same places"
            ));
        }
    }
}

/// The elements before, between and after the free axes; `None` for axes that there cannot be.
fn segments(dims: &[i64]) -> Option<Vec<i64>> {
    let mut segments = vec![1_i64];
    for axis in dims {
        match (*axis, segments.last_mut()) {
            (-1, _) => segments.push(1),
            (size @ 1.., Some(last)) => *last = last.checked_mul(size)?,
            _ => return None,
        }
    }
    Some(segments)
}

/// A language model's own parameters: any other is a slip of the pen.
pub(super) fn language(parameters: &BTreeMap<String, String>, problems: &mut Vec<String>) {
    const KNOWN: [&str; 6] = ["context", "slots", "kv_tokens", "queue", "batch_tokens", "saved_mib"];
    let unknown = parameters.keys().filter(|key| !KNOWN.contains(&key.as_str()));
    problems.extend(
        unknown.map(|key| format!("parameters[\"{}\"]: a language model has {}", presentable(key), KNOWN.join(", "))),
    );
}
