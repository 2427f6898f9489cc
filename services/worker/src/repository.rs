//! What this worker could load: the models of its repository folder, and those built into the engines.
//!
//! The folder has Triton's layout: `<model>/<version>/model.onnx` or `model.gguf`, with an optional `<model>/config.pbtxt`,
//! `<model>/config.toml` and `<model>/manifest.sha256`. A plain `<model>.onnx` or `<model>.gguf` beside them is version 1 of a
//! model without configuration. It is read at the start, and again whenever it has
//! changed ([`mod@follow`]). An entry that cannot be served is left out with the reason;
//! nothing in the folder can keep the worker from starting. A model of the folder wins over a built-in one of its name.

mod check;
mod config;
mod engine;
mod fields;
mod files;
mod follow;
mod manifest;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use weft_engine::{Builtin, Source, Spec, digits};
use weft_proto::inference::{ModelConfig, ModelDynamicBatching, model_config::SchedulingChoice};
use weft_types::{ModelName, Version};

use config::{Around, Settings};
use engine::Engine;
use files::{Folder, Plain, Root};
pub(crate) use follow::{Facts, follow};
pub(crate) use manifest::Manifest;
use schema::Schema;

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
pub(crate) struct VersionEntry {
    /// What the engine is to load.
    pub(crate) spec: Spec,
    /// The memory it is expected to take, in bytes.
    pub(crate) size_bytes: u64,
    /// Thousandths of a processor that it is to have; 0 where that is left open.
    pub(crate) cpu_millis: u32,
    /// What its files must be, where the operator says.
    pub(crate) manifest: Option<Manifest>,
}

/// A model that could be loaded.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Its name.
    pub(crate) name: ModelName,
    /// The name of its engine.
    pub(crate) engine: String,
    /// Its configuration, as far as the repository says.
    pub(crate) config: ModelConfig,
    /// At least one.
    pub(crate) versions: BTreeMap<Version, VersionEntry>,
}

/// The models that a worker could load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repository {
    offers: BTreeMap<ModelName, Arc<Offer>>,
    problems: Vec<Problem>,
}

impl Repository {
    /// Reads the folder, if there is one, and adds the built-in models. It reads files, but never the models themselves.
    /// `engines` are those that the worker has.
    pub(crate) fn scan(dir: Option<&Path>, engines: &BTreeSet<&str>) -> Self {
        let mut repository = Self::default();
        if let Some(dir) = dir {
            repository.scan_folder(dir, engines);
        }
        for offer in builtin_offers() {
            repository.offers.entry(offer.name.clone()).or_insert(Arc::new(offer));
        }
        repository
    }

    /// The models, by name.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Offer> {
        self.offers.values().map(|offer| &**offer)
    }

    /// A model.
    pub(crate) fn get(&self, name: &ModelName) -> Option<Arc<Offer>> {
        self.offers.get(name).cloned()
    }

    /// What was left out, and why.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn scan_folder(&mut self, dir: &Path, engines: &BTreeSet<&str>) {
        let scan = || -> Result<_, String> {
            let root = Root::open(dir)?;
            let (folders, plain) =
                (root.folders()?, root.plain(&PLAIN.map(|engine| (engine.ending(), engine.longest_file())))?);
            Ok((Scan { root, schema: Schema::load()?, engines }, folders, plain))
        };
        match scan() {
            Ok((scan, folders, plain)) => {
                folders.iter().for_each(|folder| self.scan_model(&scan, folder));
                plain.into_iter().for_each(|plain| self.scan_plain(&scan, plain));
            }
            Err(problem) => self.report("", problem),
        }
    }

    fn scan_model(&mut self, scan: &Scan<'_>, folder: &Folder) {
        let name: ModelName = match folder.name.parse() {
            Ok(name) => name,
            Err(error) => return self.report(&folder.name, format!("the name {error}")),
        };
        let read = || -> Result<_, Vec<String>> {
            let manifest = read_manifest(&scan.root, folder).map_err(|problem| vec![problem])?;
            let config = read_config(scan, folder, manifest.as_ref())?;
            let holds = |ending: &str| scan.holds(folder, ending);
            let around = Around { holds: &holds, has: &|engine| scan.engines.contains(engine) };
            Ok((Settings::new(&name, config, around)?, manifest))
        };
        let (settings, manifest) = match read() {
            Ok(read) => read,
            Err(problems) => return problems.into_iter().for_each(|problem| self.report(&folder.name, problem)),
        };
        let (versions, problems) = versions(&scan.root, folder, (&name, &settings), manifest.as_ref());
        if versions.is_empty() && problems.is_empty() {
            self.report(&folder.name, "there is no version that its configuration allows".to_owned());
        }
        problems.into_iter().for_each(|problem| self.report(&folder.name, problem));
        if !versions.is_empty() {
            self.offer(name, settings, versions);
        }
    }

    fn scan_plain(&mut self, scan: &Scan<'_>, plain: Plain) {
        let offered = (|| {
            let name: ModelName = plain.name.parse().map_err(|error| format!("the name {error}"))?;
            if self.offers.contains_key(&name) {
                return Err(format!("{}.{}: there is another model of this name", plain.name, plain.ending));
            }
            let (path, length) = plain.file?;
            let (holds, has) = (|ending: &str| ending == plain.ending, |engine: &str| scan.engines.contains(engine));
            let settings = Settings::new(&name, ModelConfig::default(), Around { holds: &holds, has: &has });
            let settings = settings.map_err(|problems| problems.join("; "))?;
            Ok((name, settings, path, length))
        })();
        match offered {
            Ok((name, settings, path, length)) => {
                let entry = entry(&name, &settings, (path, length), None);
                let versions = Version::new(1).map(|version| (version, entry)).into_iter().collect();
                self.offer(name, settings, versions);
            }
            Err(problem) => self.report(&plain.name, problem),
        }
    }

    fn offer(&mut self, name: ModelName, settings: Settings, versions: BTreeMap<Version, VersionEntry>) {
        if settings.is_second_best {
            tracing::warn!(model = %name, "served by tract: ONNX Runtime, which its configuration names, is not there");
        }
        for note in &settings.notes {
            tracing::info!(model = %name, note, "a field of the configuration is not followed");
        }
        let engine = settings.engine.as_str().to_owned();
        let offer = Offer { name: name.clone(), engine, config: settings.config, versions };
        self.offers.insert(name, Arc::new(offer));
    }

    fn report(&mut self, model: &str, problem: String) {
        self.problems.push(Problem { model: model.to_owned(), problem });
    }
}

/// Engines whose models may lie directly in the repository, by the ending of their files.
const PLAIN: [Engine; 2] = [Engine::Onnxruntime, Engine::Llama];

/// What a scan has at hand.
struct Scan<'a> {
    root: Root,
    schema: Schema,
    engines: &'a BTreeSet<&'a str>,
}

impl Scan<'_> {
    /// Whether any version in the folder has a file of that ending. What cannot be read is told later.
    fn holds(&self, folder: &Folder, ending: &str) -> bool {
        let versions = self.root.versions(folder).unwrap_or_default();
        let mut names = versions.values().flat_map(|version| self.root.names(version).unwrap_or_default());
        names.any(|name| has_ending(&name, ending))
    }
}

fn has_ending(name: &str, ending: &str) -> bool {
    Path::new(name).extension().is_some_and(|own| own == ending)
}

fn read_manifest(root: &Root, folder: &Folder) -> Result<Option<Manifest>, String> {
    let text = root.text(folder, manifest::NAME)?;
    text.map(|text| Manifest::parse(folder.path(), &text)).transpose()
}

/// The model's configuration; one without any is served as it is, unbatched. It is what its manifest says before it is parsed.
fn read_config(scan: &Scan<'_>, folder: &Folder, manifest: Option<&Manifest>) -> Result<ModelConfig, Vec<String>> {
    let schema = &scan.schema;
    let read = |name: &str| {
        let text = scan.root.text(folder, name)?;
        manifest.map_or(Ok(()), |manifest| manifest.check(name, text.as_deref()))?;
        Ok(text)
    };
    let pbtxt = read("config.pbtxt").map_err(|problem: String| vec![problem])?;
    let toml = read("config.toml").map_err(|problem| vec![problem])?;
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
    (name, settings): (&ModelName, &Settings),
    manifest: Option<&Manifest>,
) -> (BTreeMap<Version, VersionEntry>, Vec<String>) {
    let folders = match root.versions(folder) {
        Ok(folders) => folders,
        Err(problem) => return (BTreeMap::new(), vec![problem]),
    };
    let (mut versions, mut problems) = (BTreeMap::new(), Vec::new());
    for version in settings.choose(folders.keys().copied()) {
        let source = match settings.engine {
            Engine::Builtin => Ok(builtin_entry(name, settings)),
            _ => model_file(root, &folders[&version], settings)
                .map(|file| entry(name, settings, file, manifest.cloned())),
        };
        match source {
            Ok(entry) => drop(versions.insert(version, entry)),
            Err(problem) => problems.push(format!("version {version}: {problem}")),
        }
    }
    (versions, problems)
}

/// The file of a version: the one that the configuration names, the usual one, or for language models, whose files have names of
/// their own, the only one of its kind.
fn model_file(root: &Root, version: &Path, settings: &Settings) -> Result<(PathBuf, u64), String> {
    let engine = settings.engine;
    let usual = engine.default_file().to_owned();
    let name = match &settings.file {
        Some(name) => name.clone(),
        None if engine == Engine::Llama => {
            let names = root.names(version)?;
            let mut own = names.iter().filter(|name| has_ending(name, engine.ending()));
            match (names.contains(&usual), own.next(), own.next()) {
                (false, Some(only), None) => only.clone(),
                (false, Some(_), Some(_)) => {
                    return Err("there are several model files: default_model_filename must name one".to_owned());
                }
                _ => usual,
            }
        }
        None => usual,
    };
    root.model_file(version, &name, engine.longest_file())
}

fn entry(
    name: &ModelName,
    settings: &Settings,
    (path, length): (PathBuf, u64),
    manifest: Option<Manifest>,
) -> VersionEntry {
    let size_bytes = settings.engine.estimate_bytes(length, settings.max_batch_size);
    let cpu_millis = settings.cpu_millis;
    VersionEntry { spec: settings.spec(name, Source::File(path)), size_bytes, cpu_millis, manifest }
}

fn builtin_entry(name: &ModelName, settings: &Settings) -> VersionEntry {
    let cpu_millis = settings.cpu_millis;
    VersionEntry { spec: settings.spec(name, Source::Builtin), size_bytes: 0, cpu_millis, manifest: None }
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
    let size_bytes = Engine::Tract.estimate_bytes(digits::MODEL.len() as u64, digits::MAX_BATCH_SIZE);
    let source = Source::Bytes(Bytes::from_static(digits::MODEL));
    without_weights.chain(embedded("digits", Engine::Tract, config, (source, size_bytes)))
}

fn embedded(name: &str, engine: Engine, config: ModelConfig, (source, size_bytes): (Source, u64)) -> Option<Offer> {
    let name: ModelName = name.parse().ok()?;
    let settings = Settings::new(&name, config, Around { holds: &|_| false, has: &|_| false }).ok()?;
    let entry = VersionEntry { spec: settings.spec(&name, source), size_bytes, cpu_millis: 0, manifest: None };
    let versions = BTreeMap::from([(Version::new(1)?, entry)]);
    Some(Offer { name, engine: engine.as_str().to_owned(), config: settings.config, versions })
}
