//! `manifest.sha256` in a model's folder: what its files must be, as `sha256sum` writes it.
//!
//! Where there is one, it binds: every file of a version is listed in it and is what it says, nothing is missing and nothing
//! is there besides. Links are refused, hard ones too, since what they lead to can be changed from elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use weft_engine::Source;
use weft_types::Version;

use super::files::unreadable;

/// Its name in a model's folder.
pub(super) const NAME: &str = "manifest.sha256";

/// The most files of one version.
const MAX_FILES: usize = 1024;
/// How deep folders of a version may be nested.
const MAX_DEPTH: usize = 8;
/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;

/// SHA-256, in lower-case hexadecimal digits.
type Hex = String;

/// A version whose files are what they must be.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Of the list of its files, which stands for all of them.
    pub(crate) digest: Hex,
    /// The model, as it was read.
    pub(crate) source: Source,
}

/// What a model's files must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    folder: PathBuf,
    /// By path relative to the folder, its parts joined by `/`.
    files: Arc<BTreeMap<String, Hex>>,
}

impl Manifest {
    pub(super) fn parse(folder: &Path, text: &str) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = |what| format!("{NAME}: line {}: {what}", at + 1);
            let (hex, path) =
                entry(line).ok_or_else(|| wrong("expected a SHA-256, two spaces and a path below the folder"))?;
            if files.insert(path, hex).is_some() {
                return Err(wrong("the file is listed twice"));
            }
        }
        Ok(Self { folder: folder.to_owned(), files: Arc::new(files) })
    }

    /// Compares the text of a file beside the versions, where it is listed; `None` when there is no such file.
    pub(super) fn check(&self, name: &str, text: Option<&str>) -> Result<(), String> {
        match (self.files.get(name), text) {
            (Some(expected), Some(text)) if hex(&Sha256::digest(text)) != *expected => {
                Err(format!("{name}: is not what {NAME} says"))
            }
            (Some(_), None) => Err(format!("{name}: is listed in {NAME} and missing")),
            _ => Ok(()),
        }
    }

    /// Reads every file of a version and compares it; blocks for as long as that takes. The model's own file comes back open: it
    /// may have another content under its name by the time it is loaded.
    pub(crate) fn verify(&self, version: Version, source: Source) -> Result<Verified, String> {
        let top = version.to_string();
        let mut found = BTreeMap::new();
        walk(&self.folder.join(&top), &top, 0, &mut found)?;
        let below = format!("{top}/");
        let (mut whole, mut model) = (Sha256::new(), None);
        for (path, expected) in self.files.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below)) {
            let file = found.remove(path).ok_or_else(|| format!("{path}: is listed in {NAME} and missing"))?;
            let (actual, open) = digest(&file).map_err(|problem| format!("{path}: {problem}"))?;
            if matches!(&source, Source::File(path) if *path == file) {
                model = Some(open);
            }
            if actual != *expected {
                return Err(format!("{path}: is not what {NAME} says"));
            }
            whole.update(format!("{actual}  {path}\n"));
        }
        if let Some(path) = found.into_keys().next() {
            return Err(format!("{path}: is not listed in {NAME}"));
        }
        let source = match (source, model) {
            (Source::File(_), Some(model)) => Source::Open(Arc::new(model)),
            (Source::File(_), None) => return Err(format!("the model's file is not one of those in {NAME}")),
            (other, _) => other,
        };
        Ok(Verified { digest: hex(&whole.finalize()), source })
    }
}

/// A digest and a path, as on one line; the mark `*` of binary mode means nothing.
fn entry(line: &str) -> Option<(Hex, String)> {
    let (hex, rest) = line.split_at_checked(64)?;
    let path = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *"))?;
    let path = path.strip_prefix("./").unwrap_or(path);
    let is_plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_plain && is_hex).then(|| (hex.to_ascii_lowercase(), path.to_owned()))
}

/// Every file below a folder, hidden ones too.
fn walk(folder: &Path, name: &str, depth: usize, found: &mut BTreeMap<String, PathBuf>) -> Result<(), String> {
    let told = |error: &std::io::Error| format!("{name}: {}", unreadable(error));
    if depth > MAX_DEPTH {
        return Err(format!("{name}: folders are nested too deep"));
    }
    let facts = folder.symlink_metadata().map_err(|error| told(&error))?;
    if !facts.is_dir() {
        return Err(format!("{name}: not a plain folder"));
    }
    for entry in fs::read_dir(folder).map_err(|error| told(&error))? {
        let entry = entry.map_err(|error| told(&error))?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        let facts = entry.path().symlink_metadata().map_err(|error| format!("{name}: {}", unreadable(&error)))?;
        if facts.is_dir() {
            walk(&entry.path(), &name, depth + 1, found)?;
            continue;
        }
        plain(&facts).map_err(|problem| format!("{name}: {problem}"))?;
        if found.insert(name, entry.path()).is_some() || found.len() > MAX_FILES {
            return Err(format!("a version may have {MAX_FILES} files of different names"));
        }
    }
    Ok(())
}

fn plain(facts: &Metadata) -> Result<(), &'static str> {
    match (facts.is_file(), facts.nlink()) {
        (true, 1) => Ok(()),
        (true, _) => Err("has more than one name: a hard link"),
        (false, _) => Err("not a plain file"),
    }
}

fn digest(path: &Path) -> Result<(Hex, File), String> {
    let mut file = File::open(path).map_err(|error| unreadable(&error))?;
    // What was looked at before may have been exchanged since: what is open is looked at again.
    plain(&file.metadata().map_err(|error| unreadable(&error))?)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk).map_err(|error| unreadable(&error))? {
            0 => return Ok((hex(&hash.finalize()), file)),
            length => hash.update(&chunk[..length]),
        }
    }
}

fn hex(bytes: &[u8]) -> Hex {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
