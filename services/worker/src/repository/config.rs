//! What a model's configuration comes to, checked for what Weft can honour.

use std::collections::BTreeMap;

use weft_engine::{Source, Spec};
use weft_proto::inference::ModelConfig;
use weft_proto::inference::model_version_policy::PolicyChoice;
use weft_types::{ModelName, Version};

use super::engine::{self, Engine};
use super::{check, fields};

/// What an engine reads the number of instances from.
pub(super) const INSTANCES: &str = "instances";

/// The processors that placement keeps for a replica: of no concern to engines.
pub(super) const CPUS: &str = "cpus";

/// What the choice of an engine looks at besides the configuration.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// Whether the model's folder holds a file of that ending.
    pub(super) holds: &'a dyn Fn(&str) -> bool,
    /// Whether the worker has that engine.
    pub(super) has: &'a dyn Fn(&str) -> bool,
}

/// What a configuration comes to.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) config: ModelConfig,
    pub(super) engine: Engine,
    /// The model file's name in a version's folder, if the configuration says.
    pub(super) file: Option<String>,
    pub(super) max_batch_size: usize,
    /// What of the configuration is not done although the model is served.
    pub(super) notes: Vec<&'static str>,
    /// The configuration names ONNX Runtime, which is not there.
    pub(super) is_second_best: bool,
    /// Thousandths of a processor that a replica is to have; 0 where that is left open.
    pub(super) cpu_millis: u32,
    parameters: BTreeMap<String, String>,
}

impl Settings {
    /// Checks a configuration and completes it; every mistake is told.
    pub(super) fn new(name: &ModelName, mut config: ModelConfig, around: Around<'_>) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut parameters: BTreeMap<String, String> =
            config.parameters.iter().map(|(key, value)| (key.clone(), value.string_value.clone())).collect();
        let cpu_millis = check::cpus(parameters.remove(CPUS).as_deref(), &mut problems);
        if !config.name.is_empty() && config.name != name.as_str() {
            problems.push("name: differs from the folder's".to_owned());
        }
        let choice = engine::choose(&config, around.holds, around.has);
        match choice.as_ref().map(|choice| choice.engine) {
            None => problems.push("backend: expected builtin, tract, onnx, onnxruntime or llama".to_owned()),
            Some(Engine::Builtin) => check::builtin(name, &config, &parameters, &mut problems),
            Some(Engine::Llama) => check::language(&parameters, &mut problems),
            Some(Engine::Tract | Engine::Onnxruntime) => {}
        }
        let streams = choice.as_ref().is_some_and(|choice| choice.engine == Engine::Llama);
        let max_batch_size = check::max_batch_size(&config, &mut problems);
        check::scheduling(&config, max_batch_size, streams, &mut problems);
        check::reshapes(&config, &mut problems);
        fields::refuse(&config, &mut problems);
        if let Some(instances) = check::instances(&config, &mut problems) {
            parameters.insert(INSTANCES.to_owned(), instances.to_string());
        }
        // The version's folder is added in front of it, so it must be nothing but a name.
        let file = Some(config.default_model_filename.clone()).filter(|file| !file.is_empty());
        if file.as_ref().is_some_and(|file| file.contains(['/', '\\', '\0']) || file.starts_with('.')) {
            problems.push("default_model_filename: expected a file name".to_owned());
        }
        let Some(choice) = choice.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        let engine::Choice { engine, is_second_best } = choice;
        config.name = name.to_string();
        config.backend = engine.as_str().to_owned();
        let notes = fields::notes(&config, engine);
        Ok(Self { config, engine, file, max_batch_size, notes, is_second_best, cpu_millis, parameters })
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
