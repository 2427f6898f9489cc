//! What this worker could load: the models of its repository folder, and those built into the engines.
//!
//! The folder has Triton's layout: `<model>/<version>/model.onnx`, with an optional `<model>/config.pbtxt` or
//! `<model>/config.toml`. It is read once, at the start. An entry that cannot be served is left out with the reason;
//! nothing in the folder can keep the worker from starting. A model of the folder wins over a built-in one of its name.

mod config;
mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use weft_engine::{Builtin, Source, Spec, digits, estimate_bytes};
use weft_proto::inference::{ModelConfig, ModelDynamicBatching, model_config::SchedulingChoice};
use weft_types::{ModelName, Version};

use config::{Engine, Schema, Settings};
use files::{Folder, Root};

/// An entry of the repository that cannot be served, or not in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The name of the model's folder; empty when the repository itself is meant.
    pub model: String,
    /// What is wrong. It holds no absolute path.
    pub problem: String,
}

/// A version that could be loaded.
#[derive(Clone, Debug)]
pub struct VersionEntry {
    /// What the engine is to load.
    pub spec: Spec,
    /// The memory it is expected to take, in bytes.
    pub size_bytes: u64,
}

/// A model that could be loaded.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name.
    pub name: ModelName,
    /// The name of its engine.
    pub engine: String,
    /// Its configuration, as far as the repository says.
    pub config: ModelConfig,
    /// At least one.
    pub versions: BTreeMap<Version, VersionEntry>,
}

/// The models that a worker could load.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    offers: BTreeMap<ModelName, Offer>,
    problems: Vec<Problem>,
}

impl Repository {
    /// Reads the folder, if there is one, and adds the built-in models. It reads files, but never the models themselves.
    pub fn scan(dir: Option<&Path>) -> Self {
        let mut repository = Self::default();
        if let Some(dir) = dir {
            repository.scan_folder(dir);
        }
        for offer in builtin_offers() {
            repository.offers.entry(offer.name.clone()).or_insert(offer);
        }
        repository
    }

    /// The models, by name.
    pub fn models(&self) -> impl Iterator<Item = &Offer> {
        self.offers.values()
    }

    /// What was left out, and why.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn scan_folder(&mut self, dir: &Path) {
        let scan = || -> Result<_, String> {
            let root = Root::open(dir)?;
            let folders = root.folders()?;
            Ok((root, folders, Schema::load()?))
        };
        match scan() {
            Ok((root, folders, schema)) => folders.iter().for_each(|folder| self.scan_model(&root, folder, &schema)),
            Err(problem) => self.report("", problem),
        }
    }

    fn scan_model(&mut self, root: &Root, folder: &Folder, schema: &Schema) {
        let name: ModelName = match folder.name.parse() {
            Ok(name) => name,
            Err(error) => return self.report(&folder.name, format!("the name {error}")),
        };
        let settings = read_config(root, folder, schema).and_then(|config| Settings::new(&name, config));
        let settings = match settings {
            Ok(settings) => settings,
            Err(problems) => return problems.into_iter().for_each(|problem| self.report(&folder.name, problem)),
        };
        let (versions, problems) = versions(root, folder, &name, &settings);
        if versions.is_empty() && problems.is_empty() {
            self.report(&folder.name, "there is no version that its configuration allows".to_owned());
        }
        problems.into_iter().for_each(|problem| self.report(&folder.name, problem));
        if !versions.is_empty() {
            let engine = settings.engine.as_str().to_owned();
            self.offers.insert(name.clone(), Offer { name, engine, config: settings.config, versions });
        }
    }

    fn report(&mut self, model: &str, problem: String) {
        self.problems.push(Problem { model: model.to_owned(), problem });
    }
}

/// The model's configuration; one without any is served as it is, unbatched.
fn read_config(root: &Root, folder: &Folder, schema: &Schema) -> Result<ModelConfig, Vec<String>> {
    let pbtxt = root.text(folder, "config.pbtxt").map_err(|problem| vec![problem])?;
    let toml = root.text(folder, "config.toml").map_err(|problem| vec![problem])?;
    match (pbtxt, toml) {
        (Some(text), None) => schema.read_text(&text).map_err(|problem| vec![format!("config.pbtxt: {problem}")]),
        (None, Some(text)) => schema.read_toml(&text).map_err(|problem| vec![format!("config.toml: {problem}")]),
        (None, None) => Ok(ModelConfig::default()),
        (Some(_), Some(_)) => Err(vec!["there are both config.pbtxt and config.toml: keep one".to_owned()]),
    }
}

/// The versions that the configuration lets through, and what is wrong with others of them.
fn versions(
    root: &Root,
    folder: &Folder,
    name: &ModelName,
    settings: &Settings,
) -> (BTreeMap<Version, VersionEntry>, Vec<String>) {
    let folders = match root.versions(folder) {
        Ok(folders) => folders,
        Err(problem) => return (BTreeMap::new(), vec![problem]),
    };
    let (mut versions, mut problems) = (BTreeMap::new(), Vec::new());
    for version in settings.choose(folders.keys().copied()) {
        let source = match settings.engine {
            Engine::Builtin => Ok((Source::Builtin, 0)),
            Engine::Tract => root
                .model_file(&folders[&version], &settings.file)
                .map(|(path, length)| (Source::File(path), estimate_bytes(length, settings.max_batch_size))),
        };
        match source {
            Ok((source, size_bytes)) => {
                versions.insert(version, VersionEntry { spec: settings.spec(name, source), size_bytes });
            }
            Err(problem) => problems.push(format!("version {version}: {problem}")),
        }
    }
    (versions, problems)
}

/// `identity`, `sleep`, `fail` and `digits`, as version 1.
fn builtin_offers() -> impl Iterator<Item = Offer> {
    let without_weights = Builtin::MODELS.into_iter().filter_map(|name| {
        let config = ModelConfig { backend: Engine::Builtin.as_str().to_owned(), ..ModelConfig::default() };
        embedded(name, Engine::Builtin, config, (Source::Builtin, 0))
    });
    let config = ModelConfig {
        backend: Engine::Tract.as_str().to_owned(),
        max_batch_size: i32::try_from(digits::MAX_BATCH_SIZE).unwrap_or_default(),
        scheduling_choice: Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching::default())),
        ..ModelConfig::default()
    };
    let size_bytes = estimate_bytes(digits::MODEL.len() as u64, digits::MAX_BATCH_SIZE);
    let source = Source::Bytes(Bytes::from_static(digits::MODEL));
    without_weights.chain(embedded("digits", Engine::Tract, config, (source, size_bytes)))
}

fn embedded(name: &str, engine: Engine, config: ModelConfig, (source, size_bytes): (Source, u64)) -> Option<Offer> {
    let name: ModelName = name.parse().ok()?;
    let settings = Settings::new(&name, config).ok()?;
    let entry = VersionEntry { spec: settings.spec(&name, source), size_bytes };
    let versions = BTreeMap::from([(Version::new(1)?, entry)]);
    Some(Offer { name, engine: engine.as_str().to_owned(), config: settings.config, versions })
}
