//! A model's configuration: read as Triton's `ModelConfig`, then checked for what Weft can honour.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use weft_engine::{Builtin, Source, Spec};
use weft_proto::inference::model_config::SchedulingChoice;
use weft_proto::inference::model_instance_group::Kind;
use weft_proto::inference::model_version_policy::PolicyChoice;
use weft_proto::inference::{ModelConfig, ModelDynamicBatching};
use weft_types::{ModelName, Version};

/// The most rows that a configuration may ask for in one execution.
const MAX_BATCH_SIZE: i32 = 65_536;

/// The most executions that a configuration may ask for at once.
const MAX_INSTANCES: i64 = 1024;

/// The longest delay that a configuration may ask requests to wait for company, in microseconds.
const MAX_QUEUE_DELAY_MICROS: u64 = 60_000_000;

/// What an engine reads the number of instances from.
const INSTANCES: &str = "instances";

/// The engine that a configuration means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Builtin,
    Tract,
}

impl Engine {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Tract => "tract",
        }
    }

    /// A repository written for Triton names ONNX Runtime: its models are run by the ONNX engine that there is.
    fn of(config: &ModelConfig) -> Option<Self> {
        let name = if config.backend.is_empty() { &config.platform } else { &config.backend };
        match name.as_str() {
            "builtin" => Some(Self::Builtin),
            "" | "tract" | "onnx" | "onnxruntime" | "onnxruntime_onnx" => Some(Self::Tract),
            _ => None,
        }
    }
}

/// The contract that configurations are read against.
pub(super) struct Schema(MessageDescriptor);

impl Schema {
    pub(super) fn load() -> Result<Self, String> {
        let pool = DescriptorPool::decode(weft_proto::DESCRIPTORS).map_err(|error| error.to_string())?;
        let message = pool.get_message_by_name("inference.ModelConfig");
        message.map(Self).ok_or_else(|| "this build lacks the configuration's contract".to_owned())
    }

    /// Reads `config.pbtxt`.
    pub(super) fn read_text(&self, text: &str) -> Result<ModelConfig, String> {
        let text = colons(text);
        let message = DynamicMessage::parse_text_format(self.0.clone(), &text).map_err(|error| error.to_string())?;
        message.transcode_to().map_err(|error| error.to_string())
    }

    /// Reads `config.toml`, which has the same fields.
    pub(super) fn read_toml(&self, text: &str) -> Result<ModelConfig, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
        let message = DynamicMessage::deserialize(self.0.clone(), table).map_err(|error| error.to_string())?;
        message.transcode_to().map_err(|error| error.to_string())
    }
}

/// Adds the colon that the text format lets one leave out before a list of messages, as most repositories do
/// (`input [ { ... } ]`): the reader insists on it.
fn colons(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    // The last character that is neither space nor comment: only a field's name ends in one of a word.
    let mut last = ' ';
    while let Some(char) = chars.next() {
        match char {
            '#' => {
                result.push(char);
                while let Some(comment) = chars.next_if(|next| *next != '\n') {
                    result.push(comment);
                }
                continue;
            }
            '"' | '\'' => {
                result.push(char);
                copy_string(char, &mut chars, &mut result);
            }
            '[' if last.is_ascii_alphanumeric() || last == '_' => result.push_str(": ["),
            _ => result.push(char),
        }
        if !char.is_whitespace() {
            last = char;
        }
    }
    result
}

/// Copies a string up to its closing quote; a quote after a backslash is none.
fn copy_string(quote: char, chars: &mut impl Iterator<Item = char>, result: &mut String) {
    let mut escaped = false;
    for char in chars {
        result.push(char);
        if char == quote && !escaped {
            return;
        }
        escaped = char == '\\' && !escaped;
    }
}

/// What a configuration comes to.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) config: ModelConfig,
    pub(super) engine: Engine,
    /// The model file's name in a version's folder.
    pub(super) file: String,
    pub(super) max_batch_size: usize,
    parameters: BTreeMap<String, String>,
}

impl Settings {
    /// Checks a configuration and completes it; every mistake is told.
    pub(super) fn new(name: &ModelName, mut config: ModelConfig) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut parameters: BTreeMap<String, String> =
            config.parameters.iter().map(|(key, value)| (key.clone(), value.string_value.clone())).collect();
        if !config.name.is_empty() && config.name != name.as_str() {
            problems.push("name: differs from the folder's".to_owned());
        }
        let engine = Engine::of(&config);
        match engine {
            None => problems.push("backend: expected builtin, tract, onnx or onnxruntime".to_owned()),
            Some(Engine::Builtin) => check_builtin(name, &config, &parameters, &mut problems),
            Some(Engine::Tract) => {}
        }
        let max_batch_size = max_batch_size(&config, &mut problems);
        check_scheduling(&config, max_batch_size, &mut problems);
        if let Some(instances) = instances(&config, &mut problems) {
            parameters.insert(INSTANCES.to_owned(), instances.to_string());
        }
        let file = match config.default_model_filename.as_str() {
            "" => "model.onnx",
            name => name,
        };
        // The version's folder is added in front of it, so it must be nothing but a name.
        if file.contains(['/', '\\', '\0']) || file.starts_with('.') {
            problems.push("default_model_filename: expected a file name".to_owned());
        }
        let file = file.to_owned();
        let Some(engine) = engine.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        config.name = name.to_string();
        config.backend = engine.as_str().to_owned();
        Ok(Self { config, engine, file, max_batch_size, parameters })
    }

    /// The versions that the policy lets through: all of them, unless it says otherwise.
    pub(super) fn choose(&self, versions: impl DoubleEndedIterator<Item = Version>) -> Vec<Version> {
        let policy = self.config.version_policy.as_ref().and_then(|policy| policy.policy_choice.as_ref());
        match policy {
            None | Some(PolicyChoice::All(_)) => versions.collect(),
            // In Triton, 0 means the default of one.
            Some(PolicyChoice::Latest(latest)) => versions.rev().take(latest.num_versions.max(1) as usize).collect(),
            Some(PolicyChoice::Specific(specific)) => versions
                .filter(|version| specific.versions.iter().any(|wanted| u64::try_from(*wanted) == Ok(version.get())))
                .collect(),
        }
    }

    /// What the engine is to load.
    pub(super) fn spec(&self, name: &ModelName, source: Source) -> Spec {
        Spec {
            name: name.to_string(),
            source,
            max_batch_size: self.max_batch_size,
            parameters: self.parameters.clone(),
        }
    }
}

fn check_builtin(
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

fn max_batch_size(config: &ModelConfig, problems: &mut Vec<String>) -> usize {
    match usize::try_from(config.max_batch_size) {
        Ok(size) if config.max_batch_size <= MAX_BATCH_SIZE => size,
        _ => {
            problems.push(format!("max_batch_size: expected 0 to {MAX_BATCH_SIZE}"));
            0
        }
    }
}

fn check_scheduling(config: &ModelConfig, max_batch_size: usize, problems: &mut Vec<String>) {
    match &config.scheduling_choice {
        None => {}
        Some(SchedulingChoice::DynamicBatching(dynamic)) => check_dynamic(dynamic, max_batch_size, problems),
        Some(SchedulingChoice::SequenceBatching(_)) => problems.push("sequence_batching: is not offered".to_owned()),
        Some(SchedulingChoice::EnsembleScheduling(_)) => {
            problems.push("ensemble_scheduling: is not offered".to_owned());
        }
    }
    if config.model_transaction_policy.is_some_and(|policy| policy.decoupled) {
        problems.push("model_transaction_policy.decoupled: is not offered".to_owned());
    }
}

fn check_dynamic(dynamic: &ModelDynamicBatching, max_batch_size: usize, problems: &mut Vec<String>) {
    if max_batch_size == 0 {
        problems.push("dynamic_batching: needs a max_batch_size".to_owned());
    }
    let fits = |size: &i32| usize::try_from(*size).is_ok_and(|size| (1..=max_batch_size).contains(&size));
    if !dynamic.preferred_batch_size.iter().all(fits) {
        problems.push("dynamic_batching.preferred_batch_size: expected 1 to max_batch_size".to_owned());
    }
    if dynamic.max_queue_delay_microseconds > MAX_QUEUE_DELAY_MICROS {
        problems
            .push(format!("dynamic_batching.max_queue_delay_microseconds: expected at most {MAX_QUEUE_DELAY_MICROS}"));
    }
}

/// The instances of all groups together, if the configuration says.
fn instances(config: &ModelConfig, problems: &mut Vec<String>) -> Option<i64> {
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
