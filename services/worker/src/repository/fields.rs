//! Fields that Triton follows and Weft does not. Those that would change the answers are refused; the others are noted.

use weft_proto::inference::model_config::SchedulingChoice;
use weft_proto::inference::model_sequence_batching::StrategyChoice;
use weft_proto::inference::model_version_policy::PolicyChoice;
use weft_proto::inference::{ModelConfig, ModelInstanceGroup};

use super::config::{CPUS, INSTANCES};
use super::engine::Engine;

/// What no engine here does, by the name of the field.
pub(super) fn refuse(config: &ModelConfig, problems: &mut Vec<String>) {
    let (inputs, outputs) = (&config.input, &config.output);
    let has_operations =
        config.model_operations.as_ref().is_some_and(|operations| !operations.op_library_filename.is_empty());
    let has_agents = config.model_repository_agents.as_ref().is_some_and(|agents| !agents.agents.is_empty());
    let fields = [
        (!config.runtime.is_empty(), "runtime"),
        (!config.batch_input.is_empty(), "batch_input"),
        (!config.batch_output.is_empty(), "batch_output"),
        (inputs.iter().any(|input| input.allow_ragged_batch), "input.allow_ragged_batch"),
        (inputs.iter().any(|input| input.is_shape_tensor), "input.is_shape_tensor"),
        (inputs.iter().any(|input| input.is_non_linear_format_io), "input.is_non_linear_format_io"),
        (outputs.iter().any(|output| output.is_shape_tensor), "output.is_shape_tensor"),
        (outputs.iter().any(|output| output.is_non_linear_format_io), "output.is_non_linear_format_io"),
        (config.instance_group.iter().any(|group| group.passive), "instance_group.passive"),
        (has_operations, "model_operations.op_library_filename"),
        (has_agents, "model_repository_agents"),
    ];
    let found = fields.into_iter().filter(|(is_there, _)| *is_there);
    problems.extend(found.map(|(_, field)| format!("{field}: is not offered")));
}

/// What is read and not followed, since the answers are the same without.
pub(super) fn notes(config: &ModelConfig, engine: Engine) -> Vec<&'static str> {
    let has_parameters = config.parameters.keys().any(|key| ![INSTANCES, CPUS].contains(&key.as_str()));
    let caches = config.response_cache.as_ref().is_some_and(|cache| cache.enable);
    let notes = [
        (config.optimization.is_some(), "optimization is not used: the engine's own kernels and settings are"),
        (!config.model_warmup.is_empty(), "model_warmup is not used: each load is warmed with made-up input"),
        (caches, "response_cache is not used: every call is computed"),
        (
            lets_several_through(config),
            "version_policy lets several versions through: the latest is served unless others are asked for",
        ),
        (
            matches!(engine, Engine::Tract | Engine::Onnxruntime) && has_parameters,
            "parameters are not used: this engine has none",
        ),
        (config.instance_group.iter().any(says_more_than_count), "instance_group: nothing but count is used"),
        (
            limits_sequences(config),
            "max_candidate_sequences and minimum_slot_utilization are not used: sequences have bounds of their own",
        ),
        (
            config.output.iter().any(|output| !output.label_filename.is_empty()),
            "output.label_filename is not used: classification is not offered",
        ),
        (!config.cc_model_filenames.is_empty(), "cc_model_filenames is not used: every machine loads the same file"),
        (
            !config.metric_tags.is_empty() || config.model_metrics.is_some(),
            "metric_tags and model_metrics are not used: the metrics are Weft's own",
        ),
    ];
    notes.into_iter().filter_map(|(applies, note)| applies.then_some(note)).collect()
}

fn lets_several_through(config: &ModelConfig) -> bool {
    match config.version_policy.as_ref().and_then(|policy| policy.policy_choice.as_ref()) {
        Some(PolicyChoice::All(_)) => true,
        Some(PolicyChoice::Latest(latest)) => latest.num_versions > 1,
        Some(PolicyChoice::Specific(specific)) => specific.versions.len() > 1,
        None => false,
    }
}

/// A group's name and kind say nothing that matters here: kinds that do are refused.
fn says_more_than_count(group: &ModelInstanceGroup) -> bool {
    let count =
        ModelInstanceGroup { name: group.name.clone(), kind: group.kind, count: group.count, ..Default::default() };
    *group != count
}

fn limits_sequences(config: &ModelConfig) -> bool {
    let Some(SchedulingChoice::SequenceBatching(batching)) = &config.scheduling_choice else { return false };
    match &batching.strategy_choice {
        Some(StrategyChoice::Direct(direct)) => direct.minimum_slot_utilization > 0.0,
        Some(StrategyChoice::Oldest(oldest)) => oldest.max_candidate_sequences > 0,
        None => false,
    }
}
