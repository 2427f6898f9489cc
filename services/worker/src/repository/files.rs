//! Reading the repository's folder, and nothing outside it.
//!
//! Every path is resolved before it is used, links included, and must lie within the folder. What is read is bounded,
//! and must be a plain file: a pipe or a device would hold up the start for ever.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use weft_types::Version;

/// The longest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// The most entries of one folder that are looked at.
pub(super) const MAX_ENTRIES: usize = 4096;

/// The repository's folder, resolved.
pub(super) struct Root(PathBuf);

/// A folder within the repository, resolved.
pub(super) struct Folder {
    /// The name it is found under, which need not be valid.
    pub(super) name: String,
    path: PathBuf,
}

/// A model file directly in the repository.
pub(super) struct Plain {
    /// The model's name, which need not be valid.
    pub(super) name: String,
    pub(super) ending: &'static str,
    /// Its path and length.
    pub(super) file: Result<(PathBuf, u64), String>,
}

impl Folder {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Root {
    pub(super) fn open(dir: &Path) -> Result<Self, String> {
        let root =
            dir.canonicalize().map_err(|error| format!("the models folder cannot be read ({})", error.kind()))?;
        if root.is_dir() { Ok(Self(root)) } else { Err("the models folder is not a folder".to_owned()) }
    }

    /// The models' folders, by name. Files and hidden entries are none.
    pub(super) fn folders(&self) -> Result<Vec<Folder>, String> {
        let is_file = |folder: &Folder| folder.path.is_file();
        Ok(list(&self.0)?.into_iter().filter(|folder| !is_file(folder)).collect())
    }

    /// The versions' folders. As in Triton, a folder whose name is no number, or begins with 0, is not a version.
    pub(super) fn versions(&self, model: &Folder) -> Result<BTreeMap<Version, PathBuf>, String> {
        let folders = list(&self.inside(&model.path)?)?;
        let version =
            |folder: Folder| Some((folder.name.parse().ok().filter(|_| !folder.name.starts_with('0'))?, folder.path));
        Ok(folders.into_iter().filter_map(version).collect())
    }

    /// The names of what a folder within the repository holds, but for hidden entries.
    pub(super) fn names(&self, folder: &Path) -> Result<Vec<String>, String> {
        Ok(entries(&self.inside(folder)?)?.into_iter().map(|entry| entry.name).collect())
    }

    /// Model files that lie directly in the repository, resolved: the model's name, the file's ending, its path and length. A
    /// file that cannot be taken is told with its name.
    pub(super) fn plain(&self, endings: &[(&'static str, u64)]) -> Result<Vec<Plain>, String> {
        let mut plain = Vec::new();
        for entry in entries(&self.0)?.into_iter().filter(|entry| !entry.is_folder) {
            let ending = entry.name.rsplit_once('.').and_then(|(name, ending)| {
                let known = endings.iter().find(|known| known.0 == ending)?;
                Some((name.to_owned(), *known))
            });
            let Some((name, (ending, longest))) = ending else { continue };
            let file = self.file(&entry.path, longest).map_err(|problem| format!("{}: {problem}", entry.name));
            plain.push(Plain { name, ending, file });
        }
        Ok(plain)
    }

    /// The text of a file in a model's folder, if there is one.
    pub(super) fn text(&self, model: &Folder, name: &str) -> Result<Option<String>, String> {
        let path = model.path.join(name);
        if matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let read = || -> Result<String, String> {
            let (path, _) = self.file(&path, MAX_CONFIG_BYTES)?;
            let mut text = String::new();
            let file = fs::File::open(path).map_err(|error| unreadable(&error))?;
            file.take(MAX_CONFIG_BYTES).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
            Ok(text)
        };
        read().map(Some).map_err(|problem| format!("{name}: {problem}"))
    }

    /// A version's model file, resolved, and its length.
    pub(super) fn model_file(&self, version: &Path, name: &str, longest: u64) -> Result<(PathBuf, u64), String> {
        self.file(&version.join(name), longest).map_err(|problem| format!("{name}: {problem}"))
    }

    fn file(&self, path: &Path, longest: u64) -> Result<(PathBuf, u64), String> {
        let path = self.inside(path)?;
        let facts = path.metadata().map_err(|error| unreadable(&error))?;
        match facts.len() {
            _ if !facts.is_file() => Err("not a plain file".to_owned()),
            length if length > longest => Err(format!("longer than {longest} bytes")),
            length => Ok((path, length)),
        }
    }

    fn inside(&self, path: &Path) -> Result<PathBuf, String> {
        let path = path.canonicalize().map_err(|error| unreadable(&error))?;
        if path.starts_with(&self.0) { Ok(path) } else { Err("a link leads out of the repository".to_owned()) }
    }
}

fn list(dir: &Path) -> Result<Vec<Folder>, String> {
    let folders = entries(dir)?.into_iter().filter(|entry| entry.is_folder || entry.is_link);
    Ok(folders.map(|entry| Folder { name: entry.name, path: entry.path }).collect())
}

/// Something in a folder.
struct Entry {
    name: String,
    path: PathBuf,
    is_folder: bool,
    /// A link is kept, to be followed or refused where it is used; what it leads to need not exist.
    is_link: bool,
}

/// What a folder holds, by name, but for hidden entries.
fn entries(dir: &Path) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (at, entry) in fs::read_dir(dir).map_err(|error| unreadable(&error))?.enumerate() {
        if at >= MAX_ENTRIES {
            return Err(format!("the folder has more than {MAX_ENTRIES} entries"));
        }
        let entry = entry.map_err(|error| unreadable(&error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(|error| unreadable(&error))?;
        if !name.starts_with('.') {
            entries.push(Entry { name, path: entry.path(), is_folder: kind.is_dir(), is_link: kind.is_symlink() });
        }
    }
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(entries)
}

pub(super) fn unreadable(error: &std::io::Error) -> String {
    format!("cannot be read ({})", error.kind())
}
