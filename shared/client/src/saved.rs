//! The snapshot of the mesh on this process's own disk, from which it serves when it starts while the store is away.

mod format;
mod keeper;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use weft_store::{Change, Revision};
use weft_types::SystemClock;

use crate::Mesh;

/// Unfinished files that are older than this were left by a process that ended while it wrote.
const ABANDONED: Duration = Duration::from_secs(600);

/// Where a process keeps its snapshot of the mesh, and what was found there when it started.
pub struct SavedFile {
    path: PathBuf,
    cluster: String,
    restored: Option<Restored>,
}

/// What was found in the file.
pub(crate) struct Restored {
    /// Its records, as if the store had just told them.
    pub(crate) changes: Vec<Change>,
    pub(crate) revision: Revision,
    /// The time since the store had confirmed them, by the wall clock.
    pub(crate) age: Duration,
}

impl SavedFile {
    /// Reads the file, if there is one. One that cannot be used is left alone, with a warning, until it is written anew.
    pub async fn open(path: PathBuf, cluster: &str) -> Self {
        let (from, ours) = (path.clone(), cluster.to_owned());
        let now = SystemClock::wall();
        let read = move || {
            remove_abandoned(&from, now);
            format::read(&from, &ours, now)
        };
        let restored = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(restored)) => restored,
            Ok(Err(unusable)) => {
                tracing::warn!(file = %path.display(), reason = %unusable, "the saved snapshot cannot be used: starting without it");
                None
            }
            // The runtime ends, or the reader panicked, which is no reason not to start.
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "the saved snapshot was not read: starting without it");
                None
            }
        };
        if let Some(restored) = &restored {
            let (records, revision, age) = (restored.changes.len(), restored.revision, restored.age);
            tracing::info!(file = %path.display(), records, revision, ?age, "found a saved snapshot");
        }
        Self { path, cluster: cluster.to_owned(), restored }
    }

    /// Whether a snapshot was found that a process can start from.
    pub const fn is_usable(&self) -> bool {
        self.restored.is_some()
    }

    pub(crate) fn take(&mut self) -> Option<Restored> {
        self.restored.take()
    }

    /// Keeps the file up to date until `end`.
    pub(crate) fn keep(self, mesh: Mesh, end: CancellationToken) -> impl Future<Output = ()> + Send {
        keeper::Keeper::new(self.path, self.cluster, mesh).run(end)
    }
}

/// The folder and the name of a path; a path without a folder is in the working directory.
fn parts(path: &Path) -> (&Path, String) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    (folder, path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Removes what writers of this file left behind when they were killed.
fn remove_abandoned(path: &Path, now: SystemTime) {
    let (folder, name) = parts(path);
    let prefix = format!(".{name}.");
    let is_old = |entry: &std::fs::DirEntry| {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED))
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        if found.starts_with(&prefix) && found.ends_with(".tmp") && is_old(&entry) {
            // Somebody else may have removed it: all the same.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
